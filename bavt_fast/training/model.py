"""The joint network: a language model, a value head, and heads that only the training uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

__all__ = ["JointModel"]


def value_head(hidden_size: int, outputs: int = 1) -> nn.Sequential:
    """``Linear(H, 2H) -> ReLU -> Linear(2H, outputs)``: with one output ``ResidualValuePredictor.predictor``."""
    return nn.Sequential(nn.Linear(hidden_size, 2 * hidden_size), nn.ReLU(), nn.Linear(2 * hidden_size, outputs))


class JointModel(nn.Module):
    """A causal language model and a value head on the same hidden states, trained together.

    ``successors`` has a number of steps for each kind of state: for these kinds the training also asks, of every step,
    whether the state behind it is alive. What the layers learn for that, the value head can use; the successor heads
    themselves are left behind with the training.
    """

    def __init__(self, config: PretrainedConfig, successors: Mapping[int, int] | None = None) -> None:
        super().__init__()
        # On sequences of 20 tokens the eager attention is twice as fast as the fused one of the CPU.
        self.lm: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        self.head = value_head(config.hidden_size)
        self.successor_heads = nn.ModuleDict(
            {str(kind): value_head(config.hidden_size, steps) for kind, steps in (successors or {}).items()}
        )
        with torch.no_grad():
            self.lm.get_input_embeddings().weight.normal_(0.0, 0.02)

    @property
    def device(self) -> torch.device:
        device: torch.device = self.lm.device
        return device

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The last layer's hidden states behind the final norm, (batch, length, H), of ids int (batch, length)."""
        hidden: torch.Tensor = self.lm.model(input_ids=ids, use_cache=False).last_hidden_state
        return hidden

    def read(
        self,
        hidden: torch.Tensor,
        value_positions: tuple[int, ...],
        step_start: int,
        successor_kinds: tuple[int, ...] = (),
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor | None]]:
        """What hidden states (batch, length, H) say: logits of the tokens from ``step_start`` on, value logits and the
        successors' logits at ``value_positions``.

        Returns (batch, length - step_start, vocabulary), (batch, positions), and for each position (batch, steps of its
        kind), or None for kind 0.
        """
        at = hidden[:, list(value_positions)]
        successors = [
            self.successor_heads[str(kind)](at[:, place]) if kind else None
            for place, kind in enumerate(successor_kinds)
        ]
        return self.lm.lm_head(hidden[:, step_start - 1 : -1]), self.head(at).squeeze(-1), successors

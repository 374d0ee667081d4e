"""The joint network: a language model plus a value head."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PretrainedConfig

__all__ = ["JointModel"]


def value_head(hidden_size: int) -> nn.Sequential:
    """``Linear(H, 2H) -> ReLU -> Linear(2H, 1)``: the shape of ``ResidualValuePredictor.predictor``."""
    return nn.Sequential(nn.Linear(hidden_size, 2 * hidden_size), nn.ReLU(), nn.Linear(2 * hidden_size, 1))


class JointModel(nn.Module):
    """A causal language model and a value head on the same hidden states, trained together."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__()
        # On sequences of 20 tokens the eager attention is twice as fast as the fused one of the CPU.
        self.lm: Any = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        self.head = value_head(config.hidden_size)
        with torch.no_grad():
            self.lm.get_input_embeddings().weight.normal_(0.0, 0.02)

    def forward(
        self, ids: torch.Tensor, value_positions: tuple[int, ...], step_start: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits of the tokens from ``step_start`` on, and value logits at ``value_positions``.

        ids: int64 (batch, length). Returns (batch, length - step_start, vocabulary) and (batch, positions).
        """
        hidden = self.lm.model(input_ids=ids, use_cache=False).last_hidden_state
        values = self.head(hidden[:, list(value_positions)]).squeeze(-1)
        return self.lm.lm_head(hidden[:, step_start - 1 : -1]), values

"""Critics that read hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn

from bavt_fast.protocols import Node

__all__ = ["HiddenStateCritic"]


class HiddenStateCritic:
    """A value head on the hidden state of each step's last token, which the generator hands over with the step.

    Args:
        head: maps ``(rows, H)`` to ``(rows, 1)``, such as `ResidualValuePredictor`; it is put into eval mode.
        predicts: "value", "residual", or "logit" for a head whose sigmoid is the value.
    """

    def __init__(self, head: nn.Module, predicts: Literal["value", "residual", "logit"] = "residual") -> None:
        if predicts not in ("value", "residual", "logit"):
            raise ValueError(f"predicts: expected 'value', 'residual' or 'logit', got {predicts!r}")
        self.head = head.eval()
        self.predicts: Literal["value", "residual"] = "residual" if predicts == "residual" else "value"
        self._sigmoid = predicts == "logit"

    @torch.no_grad()
    def score(self, candidates: Sequence[Node]) -> list[float]:
        """One call of the head for all candidates. Raises TypeError where a step carries no hidden state."""
        if not candidates:
            return []
        states: list[Any] = [None if node.step is None else node.step.hidden for node in candidates]
        if any(state is None for state in states):
            raise TypeError(
                "critic: a step without a hidden state; use a generator that sets Step.hidden, such as TorchGenerator"
            )
        hidden = torch.stack(states)
        weight = next(self.head.parameters(), None)  # a head without parameters takes the states as they are
        outputs = self.head(hidden if weight is None else hidden.to(weight.device, weight.dtype)).float().squeeze(-1)
        return (outputs.sigmoid() if self._sigmoid else outputs).tolist()

"""The recipe's critic head, apart from `bavt_fast.recipe.search` so that the search alone never imports torch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bavt_fast.critics.value_head import ResidualValuePredictor

__all__ = ["CriticHead"]


class CriticHead(nn.Module):
    """Scores a trajectory's text by the residual value of its embedding.

    Quirk: it encodes the whole text anew for every score, one at a time. The engine's critic reads the hidden
    state that the generator's own forward pass left behind, for a whole wave at once.

    Args:
        model: has ``encode(text) -> Tensor`` of shape (1, H). An ``nn.Module`` becomes a submodule.
        hidden_dim: H.
    """

    def __init__(self, model: Any, hidden_dim: int = 768) -> None:
        super().__init__()
        self.model = model
        self.value_predictor = ResidualValuePredictor(hidden_dim)

    def estimate_residual_value(self, trajectory_text: str) -> float:
        """``value_predictor(model.encode(trajectory_text))`` as a float, computed without gradients.

        Raises:
            TypeError: ``model.encode`` returned no tensor.
            ValueError: it is not one row of H numbers.
        """
        with torch.no_grad():
            embedding = self.model.encode(trajectory_text)
            if not isinstance(embedding, Tensor):
                raise TypeError(f"model.encode: expected a Tensor, got {type(embedding).__name__}")
            value: Tensor = self.value_predictor(embedding)
        if value.numel() != 1:
            raise ValueError(
                f"model.encode: expected shape (1, {embedding.shape[-1]}), got {tuple(embedding.shape)}; "
                "pool the tokens of the text into one row"
            )
        return float(value.item())

"""The torch half of the drop-in surface: the recipe's value predictor and critic head.

Apart from `bavt_fast.recipe.search` so that the search alone never imports torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["CriticHead", "ResidualValuePredictor"]


class ResidualValuePredictor(nn.Module):
    """The critic MLP, Linear(H, 2H) -> ReLU -> Linear(2H, 1), in an ``nn.Sequential`` called `predictor`.

    State-dict keys: ``predictor.0.weight`` (2H, H), ``predictor.0.bias`` (2H,), ``predictor.2.weight``
    (1, 2H), ``predictor.2.bias`` (1,). Parameters are drawn in that order, so a seeded construction gives the
    recipe's weights.

    On CUDA, in eval mode and with gradients off, `forward` runs the fused kernel
    `bavt_fast.kernels.critic_mlp`; everywhere else plain torch, with the same result up to rounding.

    Quirk: a module starts in training mode, as every ``nn.Module`` does, and the fused kernel waits for
    ``.eval()``. The critics of `bavt_fast.searcher` score a whole wave in one call and need no such switch.

    Args:
        hidden_dim: H, the width of the embeddings.
    """

    def __init__(self, hidden_dim: int = 768) -> None:
        super().__init__()
        self.hidden_dim = hidden_dim
        self.predictor = nn.Sequential(nn.Linear(hidden_dim, hidden_dim * 2), nn.ReLU(), nn.Linear(hidden_dim * 2, 1))

    def forward(self, context_embeddings: Tensor) -> Tensor:
        """(batch, H) -> (batch, 1), in the dtype of the embeddings.

        Raises:
            ValueError: the last dimension of `context_embeddings` is not H.
        """
        if context_embeddings.shape[-1:] != (self.hidden_dim,):
            raise ValueError(
                f"context_embeddings must have shape (batch, {self.hidden_dim}), got "
                f"{tuple(context_embeddings.shape)}; build the head with hidden_dim set to the model's width"
            )
        weights = self._fused_weights(context_embeddings)
        if weights is not None:
            from bavt_fast.kernels import critic_mlp

            return critic_mlp(context_embeddings, *weights)
        result: Tensor = self.predictor(context_embeddings)
        return result

    def _fused_weights(self, context_embeddings: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """The kernel's weights where it does what the layers would: no gradients or autocast, layers as built and
        without hooks, which pruning uses. None elsewhere."""
        if (
            not context_embeddings.is_cuda
            or context_embeddings.dim() != 2
            or self.training
            or torch.is_grad_enabled()
            or torch.is_autocast_enabled()
        ):
            return None
        layers: list[Any] = list(self.predictor)
        if [type(layer) for layer in layers] != [nn.Linear, nn.ReLU, nn.Linear]:
            return None
        if any(layer._forward_hooks or layer._forward_pre_hooks for layer in layers):
            return None
        first, _, last = layers
        if first.bias is None or last.bias is None:
            return None
        return first.weight, first.bias, last.weight, last.bias


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
            ValueError: its shape is not (1, H).
        """
        with torch.no_grad():
            embedding = self.model.encode(trajectory_text)
            if not isinstance(embedding, Tensor):
                raise TypeError(f"model.encode must return a Tensor, got {type(embedding).__name__}")
            value: Tensor = self.value_predictor(embedding)
        if value.numel() != 1:
            raise ValueError(
                f"model.encode must return shape (1, {embedding.shape[-1]}), got {tuple(embedding.shape)}; "
                "pool the tokens of the text into one row"
            )
        return float(value.item())

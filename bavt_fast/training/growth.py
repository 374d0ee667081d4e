"""A larger model that computes what a smaller one does, to go on from (Chen et al. 2016, "Net2Net")."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

__all__ = ["take_weights"]

_LAYER = re.compile(r"(?:^|\.)layers\.\d+\.")
_ENDS = ("o_proj.weight", "down_proj.weight")
"""Of a layer: the matrices behind which its branches end."""


@torch.no_grad()
def take_weights(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives a Llama the weights of one that has as many or fewer layers, and as wide or narrower MLPs.

    A new layer and a new unit add nothing at first: the matrix behind them is zero there. The rest of them stays as the
    model has it, and the training makes something of it.

    Raises:
        RuntimeError: the weights are of another kind of model, or of one that is wider or has more layers.
    """
    own = model.state_dict()
    unknown = state.keys() - own.keys()
    missing = {name for name in own.keys() - state.keys() if not _LAYER.search(name)}
    if unknown or missing:
        raise RuntimeError(f"weights: expected those of the model, got others: {sorted(unknown | missing)[:4]}")
    for name, weight in own.items():
        given = state.get(name)
        if given is None:
            if name.endswith(_ENDS):
                weight.zero_()
            continue
        places = tuple(slice(size) for size in given.shape)
        fits = weight.ndim == given.ndim and weight[places].shape == given.shape
        if not fits or (weight.shape != given.shape and "mlp." not in name):
            raise RuntimeError(f"{name}: expected at most {tuple(weight.shape)}, got {tuple(given.shape)}")
        if name.endswith(_ENDS):
            weight.zero_()
        weight[places] = given

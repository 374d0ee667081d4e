"""The critic MLP in plain torch: what the kernels must agree with, and what carries gradients."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bavt_fast.kernels.critic_checks import check_tensors

__all__ = ["MAX_VALUE", "MIN_VALUE", "critic_mlp_reference", "gather_rows", "quantize_w1"]

MIN_VALUE = 1e-6
MAX_VALUE = 1.0
"""Default bounds of a node's value V: above zero, so that V^(1/r) stays a weight, and at most one."""


def gather_rows(hidden: Tensor, index: Tensor | None) -> Tensor:
    """The rows to score, (rows, H): all of a 2-D `hidden`, or those that `index` picks.

    Shapes:
        hidden (source, H), index (rows,): row r is ``hidden[index[r]]``.
        hidden (rows, length, H), index (rows,): row r is ``hidden[r, index[r]]``, e.g. each sequence's last
        token.
    Negative positions count from the end.
    """
    if index is None:
        return hidden
    if hidden.dim() == 2:
        return hidden[index]
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), index]


def critic_mlp_reference(
    hidden: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    index: Tensor | None = None,
    w1_scale: Tensor | None = None,
    parent_value: Tensor | None = None,
    value_range: tuple[float, float] = (MIN_VALUE, MAX_VALUE),
) -> Tensor:
    """Linear -> ReLU -> Linear in the dtype of `hidden`, (rows, 1); arguments as in `critic_mlp`."""
    if w1_scale is not None:
        w1 = (w1.to(torch.float32) * w1_scale[:, None]).to(hidden.dtype)
    activation = functional.relu(functional.linear(gather_rows(hidden, index), w1, b1))
    residual = functional.linear(activation, w2, b2)
    if parent_value is None:
        return residual
    wide = torch.promote_types(torch.float32, residual.dtype)
    value = parent_value[:, None].to(wide) + residual.to(wide)
    return value.clamp(*value_range).to(parent_value.dtype)


def quantize_w1(w1: Tensor) -> tuple[Tensor, Tensor]:
    """int8 weights and their scales, for the `w1_scale` argument of `critic_mlp`: half the bytes of bf16.

    Symmetric, one scale per unit (row of `w1`): ``w1 ~ quantized * scale[:, None]`` with
    ``scale = max |w1[unit]| / 127``. The rounding error of a weight is at most half its unit's scale.

    Args:
        w1: (2H, H), any floating dtype.

    Returns:
        quantized (2H, H) int8 and scale (2H,) float32.

    Raises:
        TypeError: `w1` is not a tensor.
        ValueError: `w1` is not a floating 2-D tensor.
    """
    check_tensors(w1=w1)
    if w1.dim() != 2 or not w1.is_floating_point():
        raise ValueError(
            f"w1: expected a floating (2H, H) tensor, got {w1.dtype} of shape {tuple(w1.shape)}; "
            "pass the first layer's weight"
        )
    full = w1.detach().to(torch.float32)
    scale = full.abs().amax(dim=1) / 127.0
    step = torch.where(scale > 0.0, scale, torch.ones_like(scale))
    quantized = (full / step[:, None]).round().clamp(-127, 127).to(torch.int8)
    return quantized, scale

"""Checks of the critic kernel's arguments; every error names the argument and the likely fix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["check_arguments", "check_impl", "check_range", "check_tensors"]

_OPTIONAL = ("index", "w1_scale", "parent_value")


def check_impl(impl: str) -> None:
    """Raises ValueError unless `impl` is one of the three names."""
    if impl not in ("auto", "torch", "triton"):
        raise ValueError(f"impl: expected 'auto', 'torch' or 'triton', got {impl!r}")


def check_tensors(**tensors: Any) -> None:
    """Raises TypeError for anything but tensors; None passes for `index`, `w1_scale` and `parent_value`."""
    for name, tensor in tensors.items():
        if isinstance(tensor, Tensor) or (tensor is None and name in _OPTIONAL):
            continue
        raise TypeError(f"{name}: expected a Tensor{' or None' * (name in _OPTIONAL)}, got {type(tensor).__name__}")


def check_range(value_range: Any) -> None:
    """Raises TypeError unless `value_range` is a tuple or a list of two numbers."""
    if isinstance(value_range, (tuple, list)) and len(value_range) == 2:
        low, high = value_range
        # Plain numbers first: torch.compile cannot trace hasattr of those that it makes symbolic.
        if isinstance(low, (int, float)) and isinstance(high, (int, float)):
            return
        if hasattr(low, "__float__") and hasattr(high, "__float__"):
            return
    raise TypeError(f"value_range: expected two numbers, (lowest, highest), got {value_range!r:.80}")


def check_arguments(
    hidden: Tensor,
    w1: Tensor,
    b1: Tensor,
    w2: Tensor,
    b2: Tensor,
    index: Tensor | None,
    w1_scale: Tensor | None,
    parent_value: Tensor | None,
    value_range: tuple[float, float],
) -> None:
    """Checks shapes, dtypes and devices; reads no element, so it never waits for a GPU.

    Raises:
        ValueError: a shape, a dtype, a device or the range is wrong.
    """
    _check_hidden(hidden, index)
    hidden_size = hidden.shape[-1]
    units = 2 * hidden_size
    _check_shape("w1", w1, (units, hidden_size), "pass the first layer's weight, (out_features, in_features)")
    _check_shape("b1", b1, (units,), "pass the first layer's bias")
    _check_shape("w2", w2, (1, units), "pass the second layer's weight, (1, in_features)")
    _check_shape("b2", b2, (1,), "pass the second layer's bias")
    _check_weight_dtypes(hidden, w1, b1, w2, b2, w1_scale)
    rows = hidden.shape[0] if index is None else index.shape[0]
    if parent_value is not None:
        _check_shape("parent_value", parent_value, (rows,), "pass V of each row's parent")
        if not parent_value.is_floating_point():
            raise ValueError(f"parent_value: expected a floating dtype, got {parent_value.dtype}")
    if not value_range[0] <= value_range[1]:
        raise ValueError(f"value_range: expected (lowest, highest), got {value_range}")
    others = {
        "w1": w1,
        "b1": b1,
        "w2": w2,
        "b2": b2,
        "index": index,
        "w1_scale": w1_scale,
        "parent_value": parent_value,
    }
    for name, tensor in others.items():
        if tensor is not None and tensor.device != hidden.device:
            raise ValueError(
                f"{name}: expected the device of hidden, {hidden.device}, got {tensor.device}; "
                f"move it with .to({str(hidden.device)!r})"
            )


def _check_hidden(hidden: Tensor, index: Tensor | None) -> None:
    if not hidden.is_floating_point():
        raise ValueError(f"hidden: expected a floating dtype, got {hidden.dtype}")
    if index is None:
        if hidden.dim() != 2:
            raise ValueError(
                f"hidden: expected shape (rows, H), got {tuple(hidden.shape)}; pass index= to pick one "
                "position of each sequence of a (rows, length, H) tensor"
            )
        return
    if hidden.dim() not in (2, 3):
        raise ValueError(
            f"hidden: expected shape (source, H) or (rows, length, H) with index, got {tuple(hidden.shape)}"
        )
    if index.dim() != 1 or index.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"index: expected a 1-D int32 or int64 tensor, got {index.dtype} of shape {tuple(index.shape)}"
        )
    if hidden.dim() == 3 and index.shape[0] != hidden.shape[0]:
        raise ValueError(
            f"index: expected one position per sequence of hidden, {hidden.shape[0]}, got {index.shape[0]}"
        )


def _check_weight_dtypes(
    hidden: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, w1_scale: Tensor | None
) -> None:
    if w1_scale is not None:
        if w1.dtype != torch.int8:
            raise ValueError(f"w1: expected int8 with w1_scale, got {w1.dtype}; see quantize_w1")
        _check_shape("w1_scale", w1_scale, (2 * hidden.shape[-1],), "pass the scale that quantize_w1 returned")
        if w1_scale.dtype != torch.float32:
            raise ValueError(f"w1_scale: expected float32, got {w1_scale.dtype}")
    elif w1.dtype == torch.int8:
        raise ValueError("w1_scale: expected a Tensor with an int8 w1, got None; pass the scale of quantize_w1")
    named = {"b1": b1, "w2": w2, "b2": b2} if w1_scale is not None else {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    for name, tensor in named.items():
        if tensor.dtype != hidden.dtype:
            raise ValueError(
                f"{name}: expected the dtype of hidden, {hidden.dtype}, got {tensor.dtype}; "
                "convert one of them with .to(dtype)"
            )


def _check_shape(name: str, tensor: Tensor, shape: tuple[int, ...], fix: str) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(tensor.shape)}; {fix}")

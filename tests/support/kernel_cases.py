"""Inputs and error measures that the tests of the critic kernel share."""

from __future__ import annotations

import torch
from torch import Tensor

from bavt_fast.kernels import critic_mlp_reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def critic_arguments(
    rows: int, hidden_size: int, dtype: torch.dtype, seed: int = 0, device: str = "cpu"
) -> tuple[Tensor, ...]:
    """(hidden, w1, b1, w2, b2) with the scales of a trained layer, rounded to `dtype`."""
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator, dtype=torch.float64, device=device)).to(dtype)

    units = 2 * hidden_size
    return (
        normal(rows, hidden_size),
        normal(units, hidden_size, scale=hidden_size**-0.5),
        normal(units, scale=0.1),
        normal(1, units, scale=units**-0.5),
        normal(1) + (3.0 if rows <= 2 else 0.0),  # one or two results that cancel to nearly zero measure luck
    )


def exact(arguments: tuple[Tensor, ...], index: Tensor | None = None) -> Tensor:
    """The result in float64, from the rounded arguments."""
    hidden, w1, b1, w2, b2 = (tensor.to(torch.float64) for tensor in arguments)
    return critic_mlp_reference(hidden, w1, b1, w2, b2, index)


def relative_error(result: Tensor, expected: Tensor) -> float:
    """||result - expected|| / ||expected|| in float64; NaN when the result holds one."""
    expected = expected.to(torch.float64)
    return float((result.to(torch.float64) - expected).norm() / expected.norm())


def allowed_error(arguments: tuple[Tensor, ...], expected: Tensor, index: Tensor | None = None) -> float:
    """1e-6 in fp32; else 1.5 times the error of plain torch in the same low precision.

    On one or two rows torch's last rounding can be exact by luck, so there the allowance is at least the half
    unit in the last place that any right answer may be off.
    """
    if arguments[0].dtype == torch.float32:
        return 1e-6
    naive = 1.5 * relative_error(critic_mlp_reference(*arguments, index), expected)
    return max(naive, torch.finfo(arguments[0].dtype).eps / 2) if len(expected) <= 2 else naive

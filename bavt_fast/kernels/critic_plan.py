"""Launches, and repeated calls: both launches of a call, prepared once for all calls of the same layout.

``kernel[grid](...)`` looks at every argument of every launch to find the compiled kernel, and building those
arguments takes as long again: together several times what a few rows take on the GPU. What that work depends on is
the layout of the tensors, so a call whose layout was seen before goes straight to the compiled kernels.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Launch", "Plan", "PreparedLaunch", "layout"]


def layout(tensors: Sequence[Tensor | None]) -> Hashable:
    """All that the checks, the tiling and triton's specialisation read of `tensors`: everything but the numbers in
    them and, beyond its alignment to 16 bytes, where they lie."""
    return tuple(
        None if tensor is None else (tensor.dtype, tensor.device, tensor.shape, tensor.stride(), tensor.data_ptr() % 16)
        for tensor in tensors
    )


@dataclass(frozen=True)
class Launch:
    """One kernel launch: ``kernel[grid](**arguments, **options)``."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    options: dict[str, Any]

    def run(self) -> Any:
        """Launches it; returns the compiled kernel, None in the interpreter."""
        return self.kernel[self.grid](**self.arguments, **self.options)


class PreparedLaunch:
    """A compiled kernel with its grid and every argument that is no tensor.

    Args:
        launch: the launch that compiled the kernel.
        compiled: what `Launch.run` returned.
        tensors: names of the parameters that each call brings, a prefix of the kernel's parameters.
    """

    def __init__(self, launch: Launch, compiled: Any, tensors: Sequence[str]) -> None:
        names = [parameter.name for parameter in launch.kernel.params]
        if names[: len(tensors)] != list(tensors):
            raise ValueError(f"tensors: expected the first parameters of the kernel, {names}, got {list(tensors)}")
        arguments = [launch.arguments[name] for name in names]
        self._launch = compiled[(*launch.grid, 1, 1)[:3]]
        self._constants = tuple(arguments[len(tensors) :])
        # A descriptor holds the address of its tensor, so each call needs its own.
        self._descriptors = [
            (place, type(argument).from_tensor, argument.block_shape)
            for place, argument in enumerate(arguments)
            if hasattr(argument, "block_shape")
        ]

    def __call__(self, *tensors: Tensor | None) -> None:
        operands: list[Any] = list(tensors)
        for place, from_tensor, block in self._descriptors:
            operands[place] = from_tensor(operands[place], block)
        self._launch(*operands, *self._constants)


@dataclass(frozen=True)
class Plan:
    """Both stages for one layout of a call.

    Attributes:
        tiles: unit tiles, the partial sums per row.
        rows: of the call.
        out_dtype: of the result.
        takes_scale: whether stage 1 has a parameter for `w1_scale`; the many-rows kernel has none.
        stage_1, stage_2: the launches.
    """

    tiles: int
    rows: int
    out_dtype: torch.dtype
    takes_scale: bool
    stage_1: PreparedLaunch
    stage_2: PreparedLaunch

    def run(
        self,
        hidden: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        index: Tensor | None,
        w1_scale: Tensor | None,
        parent_value: Tensor | None,
    ) -> Tensor:
        """The result, (rows, 1), on the current stream of the tensors' device."""
        if hidden.is_cuda and hidden.device.index != torch.cuda.current_device():
            with torch.cuda.device(hidden.device):
                return self.run(hidden, w1, b1, w2, b2, index, w1_scale, parent_value)
        partial = hidden.new_empty((self.tiles, self.rows), dtype=torch.float32)
        out = hidden.new_empty((self.rows, 1), dtype=self.out_dtype)
        if self.takes_scale:
            self.stage_1(hidden, index, w1, w1_scale, b1, w2, partial)
        else:
            self.stage_1(hidden, index, w1, b1, w2, partial)
        self.stage_2(partial, b2, parent_value, out)
        return out

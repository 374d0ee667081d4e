"""From a call's tensors to kernel launches.

Apart from the kernels so that the same launches can be run, compiled for a GPU that is not there, and listed.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from bavt_fast.kernels import critic_triton
from bavt_fast.kernels.critic_config import Config, Kind
from bavt_fast.kernels.critic_plan import Launch, Plan, PreparedLaunch

__all__ = [
    "CriticCall",
    "finish_launch",
    "kind_of",
    "run_fused",
    "stage_1_launch",
    "unit_tiles",
    "usable_config",
]

_GROUP_ROWS = 8
_INTERPRETED = bool(triton.knobs.runtime.interpret)


@dataclass(frozen=True)
class CriticCall:
    """The tensors of one call, checked; `hidden` and `w1` have unit stride in the last dimension, the rest is
    contiguous. Shapes as in `critic_mlp`.
    """

    hidden: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor
    index: Tensor | None = None
    w1_scale: Tensor | None = None
    parent_value: Tensor | None = None

    @property
    def rows(self) -> int:
        return self.hidden.shape[0] if self.index is None else self.index.shape[0]

    @property
    def hidden_size(self) -> int:
        return self.hidden.shape[-1]

    def row_strides(self) -> tuple[int, int, int]:
        """(outer stride, inner stride, inner size): row r starts at element r * outer + index[r] * inner."""
        if self.index is None:
            return self.hidden.stride(0), 0, 0
        if self.hidden.dim() == 2:
            return 0, self.hidden.stride(0), self.hidden.shape[0]
        return self.hidden.stride(0), self.hidden.stride(1), self.hidden.shape[1]


def kind_of(dtype: torch.dtype, quantized: bool, allow_tf32: bool) -> Kind:
    """The table's kind for hidden states of `dtype`, weights in int8 or not, and torch's setting for tf32."""
    if quantized:
        return "int8"
    if dtype != torch.float32:
        return "half"
    return "tf32" if allow_tf32 else "fp32"


def run_fused(
    call: CriticCall, config: Config, out: Tensor, value_range: tuple[float, float], allow_tf32: bool
) -> Plan | None:
    """Runs both stages on the current stream, filling `out` (rows, 1).

    Returns the plan for further calls of the same layout; None in the interpreter, which compiles nothing.
    """
    config = usable_config(call, config)
    partial = call.hidden.new_empty((unit_tiles(config, call.hidden_size), call.rows), dtype=torch.float32)
    # The interpreter truncates where a GPU rounds to nearest, so there torch does the last rounding.
    result = torch.empty_like(out, dtype=torch.float32) if _INTERPRETED and out.dtype == torch.bfloat16 else out
    on_device = torch.cuda.device(out.device) if out.is_cuda else contextlib.nullcontext()
    stage_1 = stage_1_launch(call, config, partial, allow_tf32)
    stage_2 = finish_launch(call, config, partial, result, value_range)
    with on_device:
        compiled = stage_1.run(), stage_2.run()
        if None not in compiled:
            return _plan(call, partial, out, (stage_1, stage_2), compiled)
    if result is not out:
        out.copy_(result)
    return None


def _plan(
    call: CriticCall, partial: Tensor, out: Tensor, launches: tuple[Launch, Launch], compiled: tuple[Any, Any]
) -> Plan:
    """The two launches without their tensors."""
    takes_scale = "w1_scale" in launches[0].arguments
    stage_1_tensors = ["hidden", "index", "w1", *(["w1_scale"] if takes_scale else []), "b1", "w2", "partial"]
    return Plan(
        tiles=partial.shape[0],
        rows=call.rows,
        out_dtype=out.dtype,
        takes_scale=takes_scale,
        stage_1=PreparedLaunch(launches[0], compiled[0], stage_1_tensors),
        stage_2=PreparedLaunch(launches[1], compiled[1], ["partial", "b2", "parent_value", "out"]),
    )


def usable_config(call: CriticCall, config: Config) -> Config:
    """`config`, with smaller tiles where rows cannot be copied 16 bytes at a time.

    Copies of single elements go through registers, and tiles made for asynchronous copies would spill them.
    """
    strides = (call.hidden_size, *call.row_strides()[:2], call.w1.stride(0))
    aligned = all(stride % 16 == 0 for stride in strides)
    if config.kernel == "vector" or (aligned and (call.hidden.data_ptr() | call.w1.data_ptr()) % 16 == 0):
        return config
    return replace(
        config,
        block_rows=min(config.block_rows, 64),
        block_units=min(config.block_units, 64),
        block_k=min(config.block_k, 32),
        num_stages=2,
    )


def unit_tiles(config: Config, hidden_size: int) -> int:
    """Tiles of units, which is the number of partial sums per row."""
    return int(triton.cdiv(2 * hidden_size, _fit(config.block_units, 2 * hidden_size)))


def stage_1_launch(call: CriticCall, config: Config, partial: Tensor, allow_tf32: bool) -> Launch:
    """The launch that fills `partial` (unit tiles, rows), fp32.

    Raises:
        ValueError: int8 weights with the "many" kernel, which has no path for them.
    """
    tiles = unit_tiles(config, call.hidden_size)
    row_blocks = triton.cdiv(call.rows, config.block_rows)
    arguments = _stage_1_arguments(call, config, partial)
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages, "enable_fp_fusion": True}
    if config.kernel == "vector":
        return Launch(critic_triton.vector_kernel, (call.rows, tiles), arguments, options)

    arguments |= {
        "BLOCK_ROWS": config.block_rows,
        "PRECISION": "tf32" if allow_tf32 else "ieee",
        "WIDEN": _INTERPRETED and call.hidden.dtype == torch.bfloat16,
    }
    if config.kernel == "few":
        return Launch(critic_triton.few_rows_kernel, (row_blocks, tiles), arguments, options)

    if arguments.pop("w1_scale") is not None:
        raise ValueError("config: the many-rows kernel takes no int8 weights; use a 'vector' or 'few' one")
    arguments |= {"GROUP_ROWS": _GROUP_ROWS} | _many_rows_operands(call, config, arguments["BLOCK_K"])
    return Launch(critic_triton.many_rows_kernel, (row_blocks * tiles,), arguments, options)


def _stage_1_arguments(call: CriticCall, config: Config, partial: Tensor) -> dict[str, Any]:
    """What every kernel of stage 1 takes."""
    outer_stride, inner_stride, inner_size = call.row_strides()
    return {
        "hidden": call.hidden,
        "index": call.index,
        "w1": call.w1,
        "w1_scale": call.w1_scale,
        "b1": call.b1,
        "w2": call.w2,
        "partial": partial,
        "rows": call.rows,
        "outer_stride": outer_stride,
        "inner_stride": inner_stride,
        "inner_size": inner_size,
        "w1_stride": call.w1.stride(0),
        "HIDDEN": call.hidden_size,
        "BLOCK_UNITS": _fit(config.block_units, 2 * call.hidden_size),
        "BLOCK_K": _fit(config.block_k, call.hidden_size),
        "STAGES": config.num_stages,
        "START_STAGE_2": _overlaps(config),
    }


def _many_rows_operands(call: CriticCall, config: Config, block_k: int) -> dict[str, Any]:
    """`hidden` and `w1` for the many-rows kernel: descriptors where the configuration and the layout allow
    it.
    """
    hidden_is_descriptor = config.descriptors and call.index is None and _fits_descriptor(call.hidden)
    w1_is_descriptor = config.descriptors and _fits_descriptor(call.w1)
    block_units = _fit(config.block_units, 2 * call.hidden_size)
    return {
        "hidden": TensorDescriptor.from_tensor(call.hidden, [config.block_rows, block_k])
        if hidden_is_descriptor
        else call.hidden,
        "w1": TensorDescriptor.from_tensor(call.w1, [block_units, block_k]) if w1_is_descriptor else call.w1,
        "HIDDEN_IS_DESCRIPTOR": hidden_is_descriptor,
        "W1_IS_DESCRIPTOR": w1_is_descriptor,
    }


def finish_launch(
    call: CriticCall, config: Config, partial: Tensor, out: Tensor, value_range: tuple[float, float]
) -> Launch:
    """The launch that reduces `partial` (unit tiles, rows) into `out` (rows, 1)."""
    tiles, rows = partial.shape
    # A few rows: small programs, for latency. Many rows: wider ones, for coalesced reads. Of the kernel alone and
    # not of the rows, so that all calls of a table entry share what `warmup` compiled for one of them.
    block_rows = {"vector": 1, "few": 8, "many": 16}[config.kernel]
    block_tiles = min(triton.next_power_of_2(tiles), 2048 // block_rows)
    arguments = {
        "partial": partial,
        "b2": call.b2,
        "parent_value": call.parent_value,
        "out": out,
        "rows": rows,
        "value_min": float(value_range[0]),
        "value_max": float(value_range[1]),
        "TILES": tiles,
        "BLOCK_ROWS": block_rows,
        "BLOCK_TILES": block_tiles,
        "AWAIT_STAGE_1": _overlaps(config),
    }
    options = {"num_warps": 4, "enable_fp_fusion": True} | ({"launch_pdl": True} if _overlaps(config) else {})
    return Launch(critic_triton.finish_kernel, (triton.cdiv(rows, block_rows),), arguments, options)


def _overlaps(config: Config) -> bool:
    """Whether stage 2 is launched early: in the interpreter, which has no such instruction, it is not."""
    return config.overlap and not _INTERPRETED


def _fit(block: int, size: int) -> int:
    """`block`, or the next power of two of a smaller `size`; at least 16, which the matrix instructions
    need.
    """
    return int(min(block, max(16, triton.next_power_of_2(size))))


def _fits_descriptor(matrix: Tensor) -> bool:
    """Whether the tensor memory accelerator can load it: base and row stride in multiples of 16 bytes."""
    stride_bytes = matrix.stride(0) * matrix.element_size()
    return stride_bytes > 0 and stride_bytes % 16 == 0 and matrix.data_ptr() % 16 == 0

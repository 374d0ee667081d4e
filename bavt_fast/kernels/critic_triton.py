"""The Triton kernels of the critic MLP.

For each row h of the hidden states (H numbers) the critic computes

    out = b2 + sum over units u < 2H of  w2[u] * relu(b1[u] + sum over k < H of  w1[u, k] * h[k])

A *unit* is one of the 2H neurons of the first layer; its weights are one row of `w1` (2H, H). The (rows, 2H)
activations are never written: every program computes a tile of rows x units, applies bias, ReLU and `w2` to
the fp32 accumulator, and stores only the tile's sum over its units.

    stage 1   grid (row blocks, unit tiles)                 partial (unit tiles, rows) fp32
              vector_kernel / few_rows_kernel / many_rows_kernel
    stage 2   grid (row blocks)                             out (rows,)
              finish_kernel: sum of the partials, b2, clip

With START_STAGE_2 the programs of stage 1 let stage 2 be launched as soon as all of them have begun, so that its
launch costs no time after them; stage 2 then waits for the end of stage 1 (AWAIT_STAGE_1) before it reads anything.

The ReLU needs the whole sum over k, so only the units are split over programs, never k. Both stages add in an
order that the shape fixes, without atomics, so the same inputs give the same bits.

Stage 1 has three forms, which differ in what bounds them:

- `vector_kernel`: one row per program; a matrix-vector product in registers. Bound by reading `w1`.
- `few_rows_kernel`: units are the M side of the matrix instruction and rows its N side, which may be as small
  as 8 or 16, so a few rows waste little; a deep pipeline keeps many bytes of `w1` in flight. Bound by reading
  `w1`.
- `many_rows_kernel`: rows are the M side, so that the sum over units stays inside four neighbouring lanes;
  large tiles, optionally loaded by the tensor memory accelerator. Bound by the matrix units.

NaN and infinity propagate as in torch. Padding is the trap there: a unit past the end has zero weights, and
zero times an infinite hidden state is NaN, so such units are masked after the sum and not only when loaded.
"""

# mypy: ignore-errors
# A kernel is compiled by triton, whose language has no static types.

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

__all__ = ["few_rows_kernel", "finish_kernel", "many_rows_kernel", "vector_kernel"]


@triton.jit
def _row_offsets(index, row, rows, outer_stride, inner_stride, inner_size):
    """Element offset of each row's hidden state, and whether it may be read.

    Row r is ``hidden[r]`` without an index, and position ``index[r]`` of an axis of `inner_size` with one
    (negative counts from the end). A position out of range may not be read.
    """
    readable = row < rows
    offset = row.to(tl.int64) * outer_stride
    if index is not None:
        position = tl.load(index + row, mask=readable, other=0).to(tl.int64)
        position = tl.where(position < 0, position + inner_size, position)
        readable = readable & (position >= 0) & (position < inner_size)
        offset += position * inner_stride
    return offset, readable


@triton.jit
def _unit_parameters(w1_scale, b1, w2, unit, UNITS: tl.constexpr):
    """fp32 scale, bias and outgoing weight of each unit; zero past the last one."""
    valid = unit < UNITS
    bias = tl.load(b1 + unit, mask=valid, other=0.0).to(tl.float32)
    weight = tl.load(w2 + unit, mask=valid, other=0.0).to(tl.float32)
    scale = tl.full(unit.shape, 1.0, tl.float32)
    if w1_scale is not None:
        scale = tl.load(w1_scale + unit, mask=valid, other=0.0)
    return scale, bias, weight


@triton.jit
def _dot(a, b, total, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """``total + a @ b`` in the dtype of b; with WIDEN in fp32, since the interpreter has no bf16 product."""
    if WIDEN:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a.to(b.dtype), b, total, input_precision=PRECISION)


@triton.jit
def _weighted_relu(pre_activation, weight, valid):
    """weight * relu(pre_activation), NaN kept, zero where the unit is padding."""
    activation = tl.maximum(pre_activation, 0.0, propagate_nan=tl.PropagateNan.ALL)
    return tl.where(valid, activation * weight, 0.0)


@triton.jit
def _store_partial(partial, tile, row, rows, readable, total):
    """``partial[tile, row] = total``; NaN for a row whose index was out of range."""
    total = tl.where(readable, total, float("nan"))
    tl.store(partial + tile.to(tl.int64) * rows + row, total, mask=row < rows)


@triton.jit(do_not_specialize=["rows", "inner_size"])
def vector_kernel(
    hidden, index, w1, w1_scale, b1, w2, partial,
    rows, outer_stride, inner_stride, inner_size, w1_stride,
    HIDDEN: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
    START_STAGE_2: tl.constexpr,
):  # fmt: skip
    """One row, BLOCK_UNITS units: products summed in registers. Grid (rows, unit tiles)."""
    if START_STAGE_2:
        gdc_launch_dependents()
    UNITS: tl.constexpr = 2 * HIDDEN
    row = tl.program_id(0) + tl.arange(0, 1)
    tile = tl.program_id(1)
    unit = tile * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS)
    offset, readable = _row_offsets(index, row, rows, outer_stride, inner_stride, inner_size)

    k = tl.arange(0, BLOCK_K)
    hidden_at = hidden + offset + k
    w1_at = w1 + unit.to(tl.int64)[:, None] * w1_stride + k[None, :]
    valid = unit < UNITS
    total = tl.zeros((BLOCK_UNITS, BLOCK_K), tl.float32)
    for start in tl.range(0, HIDDEN, BLOCK_K, num_stages=STAGES):
        inside = k < HIDDEN - start
        h = tl.load(hidden_at + start, mask=inside & readable, other=0.0)
        w = tl.load(w1_at + start, mask=valid[:, None] & inside[None, :], other=0.0)
        total += w.to(tl.float32) * h.to(tl.float32)[None, :]

    scale, bias, weight = _unit_parameters(w1_scale, b1, w2, unit, UNITS)
    pre_activation = tl.sum(total, axis=1) * scale + bias
    _store_partial(partial, tile, row, rows, readable, tl.sum(_weighted_relu(pre_activation, weight, valid)))


@triton.jit(do_not_specialize=["rows", "inner_size"])
def few_rows_kernel(
    hidden, index, w1, w1_scale, b1, w2, partial,
    rows, outer_stride, inner_stride, inner_size, w1_stride,
    HIDDEN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    START_STAGE_2: tl.constexpr,
):  # fmt: skip
    """A tile of units x rows, streaming `w1`. Grid (row blocks, unit tiles)."""
    if START_STAGE_2:
        gdc_launch_dependents()
    UNITS: tl.constexpr = 2 * HIDDEN
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    tile = tl.program_id(1)
    unit = tile * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS)
    offset, readable = _row_offsets(index, row, rows, outer_stride, inner_stride, inner_size)

    k = tl.arange(0, BLOCK_K)
    hidden_at = hidden + offset[None, :] + k[:, None]
    w1_at = w1 + unit.to(tl.int64)[:, None] * w1_stride + k[None, :]
    valid = unit < UNITS
    total = tl.zeros((BLOCK_UNITS, BLOCK_ROWS), tl.float32)
    for start in tl.range(0, HIDDEN, BLOCK_K, num_stages=STAGES):
        inside = k < HIDDEN - start
        w = tl.load(w1_at + start, mask=valid[:, None] & inside[None, :], other=0.0)
        h = tl.load(hidden_at + start, mask=inside[:, None] & readable[None, :], other=0.0)
        total = _dot(w, h, total, PRECISION, WIDEN)

    scale, bias, weight = _unit_parameters(w1_scale, b1, w2, unit, UNITS)
    pre_activation = total * scale[:, None] + bias[:, None]
    contribution = _weighted_relu(pre_activation, weight[:, None], valid[:, None])
    _store_partial(partial, tile, row, rows, readable, tl.sum(contribution, axis=0))


@triton.jit
def _grouped_tile(program, row_blocks, UNIT_TILES: tl.constexpr, GROUP_ROWS: tl.constexpr):
    """(row block, unit tile) of a program; GROUP_ROWS row blocks share a tile of `w1` while the L2 has it."""
    group_size = GROUP_ROWS * UNIT_TILES
    first = program // group_size * GROUP_ROWS
    height = tl.minimum(row_blocks - first, GROUP_ROWS)
    return first + program % group_size % height, program % group_size // height


@triton.jit(do_not_specialize=["rows", "inner_size"])
def many_rows_kernel(
    hidden, index, w1, b1, w2, partial,
    rows, outer_stride, inner_stride, inner_size, w1_stride,
    HIDDEN: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_UNITS: tl.constexpr, BLOCK_K: tl.constexpr,
    GROUP_ROWS: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr, WIDEN: tl.constexpr,
    HIDDEN_IS_DESCRIPTOR: tl.constexpr, W1_IS_DESCRIPTOR: tl.constexpr,
    START_STAGE_2: tl.constexpr,
):  # fmt: skip
    """A tile of rows x units on the matrix units. Grid (row blocks x unit tiles,).

    `hidden` and `w1` are pointers or, where the flags say so, tensor descriptors with blocks
    (BLOCK_ROWS, BLOCK_K) and (BLOCK_UNITS, BLOCK_K). A descriptor of `hidden` excludes an index.
    """
    if START_STAGE_2:
        gdc_launch_dependents()
    UNITS: tl.constexpr = 2 * HIDDEN
    UNIT_TILES: tl.constexpr = (UNITS + BLOCK_UNITS - 1) // BLOCK_UNITS
    row_block, tile = _grouped_tile(tl.program_id(0), tl.cdiv(rows, BLOCK_ROWS), UNIT_TILES, GROUP_ROWS)
    row = row_block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    unit = tile * BLOCK_UNITS + tl.arange(0, BLOCK_UNITS)
    offset, readable = _row_offsets(index, row, rows, outer_stride, inner_stride, inner_size)

    k = tl.arange(0, BLOCK_K)
    valid = unit < UNITS
    total = tl.zeros((BLOCK_ROWS, BLOCK_UNITS), tl.float32)
    for start in tl.range(0, HIDDEN, BLOCK_K, num_stages=STAGES):
        inside = k < HIDDEN - start
        if HIDDEN_IS_DESCRIPTOR:
            h = hidden.load([row_block * BLOCK_ROWS, start])
        else:
            hidden_at = hidden + offset[:, None] + (start + k)[None, :]
            h = tl.load(hidden_at, mask=readable[:, None] & inside[None, :], other=0.0)
        if W1_IS_DESCRIPTOR:
            w = w1.load([tile * BLOCK_UNITS, start])
        else:
            w1_at = w1 + unit.to(tl.int64)[:, None] * w1_stride + (start + k)[None, :]
            w = tl.load(w1_at, mask=valid[:, None] & inside[None, :], other=0.0)
        total = _dot(h, w.T, total, PRECISION, WIDEN)

    _, bias, weight = _unit_parameters(None, b1, w2, unit, UNITS)
    contribution = _weighted_relu(total + bias[None, :], weight[None, :], valid[None, :])
    _store_partial(partial, tile, row, rows, readable, tl.sum(contribution, axis=1))


@triton.jit(do_not_specialize=["rows"])
def finish_kernel(
    partial, b2, parent_value, out, rows, value_min, value_max,
    TILES: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_TILES: tl.constexpr, AWAIT_STAGE_1: tl.constexpr,
):  # fmt: skip
    """out = b2 + sum of the partials; with `parent_value`, clip(parent + out). Grid (row blocks,)."""
    if AWAIT_STAGE_1:  # launched while stage 1 still runs; all of it has ended, and is visible, after this
        gdc_wait()
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    tile = tl.arange(0, BLOCK_TILES)
    inside = row < rows
    total = tl.zeros((BLOCK_TILES, BLOCK_ROWS), tl.float32)
    for start in range(0, TILES, BLOCK_TILES):
        at = partial + (start + tile).to(tl.int64)[:, None] * rows + row[None, :]
        total += tl.load(at, mask=(start + tile < TILES)[:, None] & inside[None, :], other=0.0)
    result = tl.sum(total, axis=0) + tl.load(b2).to(tl.float32)
    if parent_value is not None:
        result += tl.load(parent_value + row, mask=inside, other=0.0).to(tl.float32)
        result = tl.clamp(result, value_min, value_max, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + row, result.to(out.dtype.element_ty), mask=inside)

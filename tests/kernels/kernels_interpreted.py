"""The Triton kernels on CPU tensors. `test_kernels_interpreter` runs this file with TRITON_INTERPRET=1.

Not collected by itself: the variable must be set before triton is imported, so it needs a process of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from kernel_cases import DTYPES, allowed_error, critic_arguments, exact, relative_error
from torch import Tensor

from bavt_fast.kernels import critic_mlp, critic_mlp_reference, quantize_w1, warmup
from bavt_fast.kernels.critic_config import Config, Entry
from bavt_fast.kernels.critic_launch import (
    CriticCall,
    finish_launch,
    stage_1_launch,
    unit_tiles,
    usable_config,
)
from bavt_fast.kernels.critic_plan import Launch
from bavt_fast.kernels.critic_table import ENTRIES
from tools.critic_kernel import tune

OP = torch.ops.bavt_fast.critic_mlp.default
# One small tiling of each kernel, and of both ways in which the third loads; all leave ragged edges below.
VECTOR = Config("vector", 1, 32, 64, 4, 2)
FEW = Config("few", 16, 32, 64, 4, 2)
MANY = Config("many", 32, 64, 64, 4, 2)
DESCRIPTORS = Config("many", 32, 64, 64, 4, 2, descriptors=True)
TILINGS = {"vector": VECTOR, "few": FEW, "many": MANY, "descriptors": DESCRIPTORS}


def some_rows(name: str, count: int) -> int:
    """So many rows for a tiling, fewer where each is a program: the interpreter runs one after the other."""
    return count if TILINGS[name].block_rows > 1 else count // 5


def fused(config: Config, arguments: tuple[Tensor, ...], **options: Tensor) -> Tensor:
    """Both stages with `config`, into poisoned memory; fp32 results (rows, 1)."""
    call = CriticCall(*arguments, **options)
    partial = torch.full((unit_tiles(config, call.hidden_size), call.rows), float("nan"))
    out = torch.full((call.rows, 1), float("nan"))
    stage_1_launch(call, config, partial, allow_tf32=False).run()
    finish_launch(call, config, partial, out, (0.0, 1.0)).run()
    return out


# Numbers


# A large H takes many seconds here: each dtype and number of rows comes with some of them, and not in every pair.
ROWS = (1, 2, 17, 129)
LARGE = ((1, 577), (2, 768), (17, 1023), (129, 577), (1, 768), (129, 768))
CASES = [
    *((rows, hidden_size, dtype) for rows in ROWS for hidden_size in (64, 67, 96) for dtype in DTYPES),
    *(pytest.param(*large, DTYPES[i % len(DTYPES)], marks=pytest.mark.slow) for i, large in enumerate(LARGE)),
]


@pytest.mark.parametrize(("rows", "hidden_size", "dtype"), CASES)
def test_against_float64(rows: int, hidden_size: int, dtype: Any) -> None:
    arguments = critic_arguments(rows, hidden_size, dtype, seed=rows)
    expected = exact(arguments)
    out = critic_mlp(*arguments, impl="triton")
    assert out.shape == (rows, 1)
    assert out.dtype == dtype
    assert relative_error(out, expected) < allowed_error(arguments, expected)


def distinct_tilings() -> list[Entry]:
    """One entry of the table for each combination of kind and tiling."""
    return list({(entry.kind, entry.config): entry for entry in ENTRIES}.values())


@pytest.mark.parametrize("entry", distinct_tilings(), ids=str)
def test_every_tiling_of_the_table_fills_poisoned_memory(entry: Entry) -> None:
    dtype = torch.float32 if entry.kind in ("fp32", "tf32") else torch.bfloat16
    hidden, w1, *rest = critic_arguments(entry.config.block_rows + 1, 80, dtype)
    if entry.kind == "int8":
        quantized, scale = quantize_w1(w1)
        out = fused(entry.config, (hidden, quantized, *rest), w1_scale=scale)
        w1 = quantized.to(torch.float64) * scale.to(torch.float64)[:, None]
    else:
        out = fused(entry.config, (hidden, w1, *rest))
    assert relative_error(out, exact((hidden, w1, *rest))) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_int8_weights(dtype: Any) -> None:
    hidden, w1, *rest = critic_arguments(20, 96, dtype)
    quantized, scale = quantize_w1(w1)
    out = critic_mlp(hidden, quantized, *rest, w1_scale=scale, impl="triton")
    dequantized = (hidden, quantized.to(torch.float64) * scale.to(torch.float64)[:, None], *rest)
    limit = 1e-6 if dtype == torch.float32 else torch.finfo(dtype).eps
    assert relative_error(out, exact(dequantized)) < limit
    assert relative_error(out, exact((hidden, w1, *rest))) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parent_values_are_added_and_clipped(dtype: Any) -> None:
    arguments = critic_arguments(37, 96, dtype)
    parent = torch.linspace(0.0, 1.0, 37)
    parent[3] = float("nan")
    value = critic_mlp(*arguments, parent_value=parent, value_range=(0.25, 0.75), impl="triton")
    expected = (parent[:, None] + exact(arguments)).clamp(0.25, 0.75).to(torch.float32)
    assert value.dtype == torch.float32
    assert torch.allclose(value, expected, atol=1e-6, equal_nan=True)
    assert value.isnan().sum() == 1
    assert critic_mlp(*arguments, parent_value=parent.to(torch.float16), impl="triton").dtype == torch.float16


@pytest.mark.parametrize("name", TILINGS)
def test_a_repeat_gives_the_same_bits(name: str) -> None:
    arguments = critic_arguments(some_rows(name, 40), 200, torch.float32)
    assert torch.equal(fused(TILINGS[name], arguments), fused(TILINGS[name], arguments))


# NaN and infinity


def special(place: str, value: float, rows: int, hidden_size: int) -> tuple[Tensor, ...]:
    hidden, w1, b1, w2, b2 = critic_arguments(rows, hidden_size, torch.float32)
    w2 = w2.abs()  # so that infinities add up to infinity; with both signs every special value would end as NaN
    target = {"hidden": hidden[5], "w1": w1[7], "b1": b1, "w2": w2[0], "b2": b2}[place]
    target[-1] = value
    return hidden, w1, b1, w2, b2


@pytest.mark.parametrize("name", TILINGS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", ["hidden", "w1", "b1", "w2", "b2"])
def test_nan_and_infinity_propagate_as_in_torch(place: str, value: float, name: str) -> None:
    # 2H and H are no multiples of the tiles, so that padding meets the infinite row too.
    arguments = special(place, value, some_rows(name, 35), 72)
    out, expected = fused(TILINGS[name], arguments), critic_mlp_reference(*arguments)
    assert torch.equal(out.isnan(), expected.isnan())
    torch.testing.assert_close(out, expected, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rows", [1, 5, 70])
def test_nan_and_infinity_in_low_precision(rows: int, dtype: Any, value: float) -> None:
    hidden, w1, b1, w2, b2 = critic_arguments(rows, 72, dtype)
    arguments = (hidden, w1, b1, w2.abs(), b2)
    hidden[-1, 3] = value
    out, expected = critic_mlp(*arguments, impl="triton"), critic_mlp_reference(*arguments)
    assert expected[-1].isnan().all() or expected[-1].isinf().all()
    torch.testing.assert_close(out, expected, equal_nan=True, rtol=0.05, atol=0.05)


# Layouts


@pytest.mark.parametrize("name", TILINGS)
def test_any_row_stride(name: str) -> None:
    _, *weights = critic_arguments(1, 96, torch.float32)
    generator = torch.Generator().manual_seed(7)
    rows = some_rows(name, 34)
    wide = torch.randn(2 * rows, 200, generator=generator)
    stride = int(torch.randint(97, 400, (), generator=generator))
    views = {
        "every second row": wide[::2, :96],
        "an offset of one element": wide[:rows, 1:97],
        "overlapping rows": wide.flatten().as_strided((rows, 96), (3, 1)),
        "one row, repeated": wide[:1, :96].expand(rows, 96),
        f"a random stride, {stride}": wide.flatten().as_strided((rows, 96), (stride, 1), storage_offset=5),
    }
    for label, hidden in views.items():
        expected = exact((hidden, *weights))
        assert relative_error(fused(TILINGS[name], (hidden, *weights)), expected) < 1e-6, label


@pytest.mark.parametrize("name", TILINGS)
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_an_index_gathers_rows_and_positions(dtype: Any, name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    _, *weights = critic_arguments(1, 64, torch.float32)
    count = some_rows(name, 36)
    states = torch.randn(count, 5, 130, generator=generator)[:, :, 1:65]
    position = torch.randint(-5, 5, (count,), generator=generator).to(dtype)
    expected = exact((states, *weights), position.to(torch.int64))
    assert relative_error(fused(TILINGS[name], (states, *weights), index=position), expected) < 1e-6

    flat = torch.randn(11, 80, generator=generator)[:, :64]
    rows = torch.randint(-11, 11, (some_rows(name, 50),), generator=generator).to(dtype)
    expected = exact((flat, *weights), rows.to(torch.int64))
    assert relative_error(fused(TILINGS[name], (flat, *weights), index=rows), expected) < 1e-6


@pytest.mark.parametrize("name", TILINGS)
def test_an_index_out_of_range_gives_nan_for_its_row_alone(name: str) -> None:
    hidden, *weights = critic_arguments(6, 64, torch.float32)
    index = torch.tensor([0, 6, 5, -7, -6, 2**40])
    out = fused(TILINGS[name], (hidden, *weights), index=index)
    assert out[:, 0].isnan().tolist() == [False, True, False, True, False, True]
    assert relative_error(out[[0, 2, 4]], exact((hidden[[0, 5, 0]], *weights))) < 1e-6


def test_strided_weights_and_columns_are_right() -> None:
    hidden, w1, b1, w2, b2 = critic_arguments(5, 64, torch.float32)
    expected = exact((hidden, w1, b1, w2, b2))
    strided = (
        hidden.T.contiguous().T,
        w1.T.contiguous().T,
        b1[:, None].expand(-1, 3).contiguous()[:, 1],
        w2.T.expand(-1, 2).contiguous()[:, 1][None, :],
        b2,
    )
    assert [tensor.is_contiguous() for tensor in strided] == [False, False, False, False, True]
    assert relative_error(critic_mlp(*strided, impl="triton"), expected) < 1e-6
    padded = torch.full((128, 80), float("nan"))[:, :64].copy_(w1)
    assert padded.stride() == (80, 1)
    assert relative_error(critic_mlp(hidden, padded, b1, w2, b2, impl="triton"), expected) < 1e-6


# The op and what surrounds it


def test_an_empty_batch_launches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Launch, "run", lambda self: pytest.fail("a kernel was launched"))
    arguments = critic_arguments(0, 64, torch.float32)
    assert critic_mlp(*arguments, impl="triton").shape == (0, 1)


def test_requires_grad_under_no_grad_is_fused() -> None:
    arguments = critic_arguments(3, 64, torch.float32)
    arguments[1].requires_grad_()
    with torch.no_grad():
        out = critic_mlp(*arguments, impl="triton")
    assert relative_error(out, exact(tuple(tensor.detach() for tensor in arguments))) < 1e-6
    with pytest.raises(ValueError, match="has no backward"):
        critic_mlp(*arguments, impl="triton")


def test_unfused_dtypes_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"hidden is torch\.float64"):
        critic_mlp(*critic_arguments(3, 64, torch.float64), impl="triton")


def test_opcheck_with_the_kernels() -> None:
    arguments = critic_arguments(3, 64, torch.float32)
    options = {"impl": "triton", "index": torch.tensor([2, 0]), "parent_value": torch.rand(2)}
    torch.library.opcheck(OP, arguments, options)


def test_compile_runs_the_kernels_in_one_graph() -> None:
    compiled = torch.compile(
        lambda *a: critic_mlp(*a, impl="triton") * 2, fullgraph=True, backend="aot_eager", dynamic=True
    )
    for rows in (2, 5):
        arguments = critic_arguments(rows, 64, torch.float32)
        assert relative_error(compiled(*arguments), 2 * exact(arguments)) < 1e-6


def test_warmup_launches_what_the_calls_will_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    launches: list[Launch] = []
    monkeypatch.setattr(Launch, "run", lambda self: launches.append(self))
    warmup([(3, 64), (200, 64)], torch.float32, "cpu", index=True, parent_value=True, impl="triton")
    warmup([(3, 64)], torch.float32, "cpu", quantized=True, impl="triton")
    names = [launch.kernel.fn.__name__ for launch in launches]
    assert names == ["few_rows_kernel", "finish_kernel", "many_rows_kernel", "finish_kernel", *names[:2]]
    assert launches[0].arguments["index"] is not None
    assert launches[1].arguments["parent_value"] is not None
    assert launches[4].arguments["w1"].dtype == torch.int8


def test_tf32_is_asked_for_only_when_allowed() -> None:
    call = CriticCall(*critic_arguments(3, 64, torch.float32))
    partial = torch.empty(unit_tiles(FEW, 64), 3)
    for allowed, precision in ((False, "ieee"), (True, "tf32")):
        assert stage_1_launch(call, FEW, partial, allow_tf32=allowed).arguments["PRECISION"] == precision


def test_descriptors_are_used_only_where_the_layout_allows_them() -> None:
    def flags(hidden: Tensor, w1: Tensor, index: Tensor | None = None) -> tuple[bool, bool]:
        _, _, b1, w2, b2 = critic_arguments(1, hidden.shape[-1], torch.float32)
        call = CriticCall(hidden, w1, b1, w2, b2, index)
        partial = torch.empty(unit_tiles(DESCRIPTORS, call.hidden_size), call.rows)
        arguments = stage_1_launch(call, DESCRIPTORS, partial, allow_tf32=False).arguments
        return arguments["HIDDEN_IS_DESCRIPTOR"], arguments["W1_IS_DESCRIPTOR"]

    hidden, w1 = torch.empty(40, 64), torch.empty(128, 64)
    assert flags(hidden, w1) == (True, True)
    assert flags(hidden, w1, torch.zeros(9, dtype=torch.int64)) == (False, True), "an index gathers by pointers"
    assert flags(torch.empty(40, 66)[:, :64], w1) == (False, True), "a row stride of 264 bytes"
    assert flags(torch.empty(40, 68)[:, 1:65], w1) == (False, True), "a base off by 4 bytes"
    assert flags(hidden[:1].expand(40, 64), w1) == (False, True), "a row stride of zero"
    assert flags(torch.empty(40, 63), torch.empty(126, 63)) == (False, False)


def test_tiles_shrink_only_where_rows_are_not_aligned() -> None:
    big = Config("many", 128, 256, 64, 8, 4, descriptors=True)

    def usable(hidden: Tensor, config: Config = big) -> Config:
        hidden_size = hidden.shape[-1]
        return usable_config(CriticCall(hidden, *critic_arguments(1, hidden_size, torch.float32)[1:]), config)

    assert usable(torch.empty(4, 64)) == big
    assert usable(torch.empty(4, 80)[:, :64]) == big
    small = Config("many", 64, 64, 32, 8, 2, descriptors=True)
    assert usable(torch.empty(4, 72)) == small
    assert usable(torch.empty(4, 65)[:, :64]) == small
    assert usable(torch.empty(4, 80)[:, 1:65]) == small
    assert usable(torch.empty(4, 72), VECTOR) == VECTOR, "its loads go to registers anyway"


@pytest.mark.parametrize("kind", ["half", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("tf32", "int8"))])
def test_the_tuner_keeps_a_tiling_that_works(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def uncaptured(function: Any, sets: Any) -> Any:
        return lambda: [function(*inputs) for inputs in sets]

    def once(run: Any, *_: Any, samples: int) -> list[float]:
        run()
        return [1e-6]

    monkeypatch.setattr(tune, "captured", uncaptured)
    monkeypatch.setattr(tune, "sample", once)
    monkeypatch.setattr(tune, "input_sets", lambda rows, size, dtype, _: [critic_arguments(rows, size, dtype)])
    entry = Entry(80, kind, 17, 64, False, FEW, "predicted")
    tuned = tune.tune_entry(entry, torch.device("cpu"), "measured")
    assert tuned == replace(entry, source="measured"), "equally fast: the tiling of the table stays"

    monkeypatch.setattr(tune, "MAX_ERROR", {kind: 0.0})
    with pytest.raises(RuntimeError, match="no tiling works"):
        tune.tune_entry(entry, torch.device("cpu"), "measured")


def test_the_many_rows_kernel_refuses_int8() -> None:
    hidden, w1, *rest = critic_arguments(3, 64, torch.float32)
    quantized, scale = quantize_w1(w1)
    with pytest.raises(ValueError, match="takes no int8"):
        fused(MANY, (hidden, quantized, *rest), w1_scale=scale)

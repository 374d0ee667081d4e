"""Decoding by passes of fixed shapes gives what plain passes give: kernel by kernel, and in recorded graphs."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from model_families import build_model, build_tokenizer  # noqa: E402
from random_steps import steps_of  # noqa: E402
from recorded_graphs import RecordedGraph, as_on_a_gpu  # noqa: E402

from bavt_fast.generators import kv_cache, static_decode  # noqa: E402
from bavt_fast.generators.static_decode import StaticDecoder  # noqa: E402
from bavt_fast.generators.torch_model import TorchGenerator  # noqa: E402
from bavt_fast.protocols import StepRequest  # noqa: E402


def make(family: str, static: bool, **options: Any) -> TorchGenerator:
    generator = TorchGenerator(build_model(family), build_tokenizer(), delimiter=("e", "a"), **options)
    if static:
        batch = generator._scheduler.batch  # type: ignore[attr-defined]
        batch.static = StaticDecoder(batch.forward, capture=False)
    return generator


@pytest.mark.parametrize(
    "family", ["llama", "qwen3", "gpt2", "opt", "gemma2", "mistral", "mixtral", "deepseek_v3", "bloom"]
)
def test_fixed_shapes_give_the_same_steps(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_decode, "_COLUMNS", (32, 48, 64, 96, 128))
    monkeypatch.setattr(static_decode, "_SPARE", 2)
    generator = make(family, True)
    batch = generator._scheduler.batch  # type: ignore[attr-defined]
    used = []
    decode = batch.static.decode
    batch.static.decode = lambda *arguments: used.append(1) or decode(*arguments)
    found, expected = steps_of(generator), steps_of(make(family, False))
    assert [step.token_ids for step in found] == [step.token_ids for step in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.hidden, other.hidden, rtol=1e-3, atol=1e-4)
    assert batch.static.is_on == (family != "bloom")  # ALiBi is made from masks of its own
    assert bool(used) == (family not in ("bloom", "gemma2", "mistral"))  # two with windows shorter than the contexts


def test_a_model_that_cannot_be_captured_goes_without() -> None:
    generator = make("llama", True)

    def fail(*_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    batch = generator._scheduler.batch  # type: ignore[attr-defined]
    batch.static._make = fail
    with pytest.warns(UserWarning, match="no CUDA graph can be captured .*not permitted"):
        [[step]] = generator.propose([StepRequest("the fox ", 1)], [1], [6])
    assert step.token_ids == make("llama", False).propose([StepRequest("the fox ", 1)], [1], [6])[0][0].token_ids  # type: ignore[union-attr]
    generator.propose([StepRequest("the fox ", 2)], [1], [6])  # said once


def test_graphs_that_give_other_numbers_are_not_used() -> None:
    generator = make("llama", True)
    static = generator._scheduler.batch.static  # type: ignore[attr-defined]
    decode = static.decode
    static.decode = lambda *arguments: tuple(part + 1.0 for part in decode(*arguments))
    with pytest.warns(UserWarning, match="other logits"):
        [[step]] = generator.propose([StepRequest("the fox ", 1)], [1], [6])
    assert step.token_ids == make("llama", False).propose([StepRequest("the fox ", 1)], [1], [6])[0][0].token_ids  # type: ignore[union-attr]
    assert not static.is_on


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma", "gpt2", "opt", "qwen3", "deepseek_v3", "mistral"])
@pytest.mark.parametrize("graphs", [True, False])
def test_what_a_gpu_runs_gives_the_same_steps(family: str, graphs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static_decode, "_COLUMNS", (32, 48, 64, 96, 128))
    monkeypatch.setattr(static_decode, "_SPARE", 2)
    expected = steps_of(make(family, False))
    generator = as_on_a_gpu(family, monkeypatch, graphs)
    before = RecordedGraph.live
    found = steps_of(generator)
    static = generator._scheduler.batch.static  # type: ignore[attr-defined]
    assert [step.token_ids for step in found] == [step.token_ids for step in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.hidden, other.hidden, rtol=1e-3, atol=1e-4)
        assert one.log_probability == pytest.approx(other.log_probability, rel=1e-3)
    if graphs:
        assert static.is_on
        assert (RecordedGraph.live > before + 3) == (family != "mistral")  # its window is shorter than the contexts


def test_rows_are_moved_when_they_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    moves: list[int] = []
    move = kv_cache.KeyValueWindow._move_to
    monkeypatch.setattr(kv_cache.KeyValueWindow, "_move_to", lambda *arguments: moves.append(1) or move(*arguments))
    generator = make("llama", True)
    generator.propose([StepRequest("the fox ", seed) for seed in range(6)], [1] * 6, [40] * 6)
    assert generator.statistics().decode_passes > 20
    assert len(moves) < 6


def test_a_row_that_is_done_goes_no_further_than_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is read after four tokens, and a place behind the last one ends a program on a GPU."""
    generator = as_on_a_gpu("gpt2", monkeypatch, without_replacement=False)
    places = []
    untimed = generator._scheduler.forward.untimed

    def watched(ids: Any, mask: Any, positions: Any, *rest: Any) -> Any:
        places.append(int(positions.max()))
        return untimed(ids, mask, positions, *rest)

    generator._scheduler.batch.static = None  # type: ignore[attr-defined]
    monkeypatch.setattr(generator._scheduler.forward, "untimed", watched)
    text = "the fox ran " * 20
    expected = make("gpt2", False)
    for cut in range(5):
        request = StepRequest(text + "x" * cut, cut)
        length = len(generator._ids_of(request.node))
        assert 256 - length < 20
        [[step]] = generator.propose([request], [1], [99])
        [[other]] = expected.propose([request], [1], [99])
        assert step.token_ids == other.token_ids
    assert max(places) < 256


def test_a_model_that_waits_for_the_device_goes_without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = as_on_a_gpu("llama", monkeypatch)
    layer = generator.model.model.layers[0]
    layer.register_forward_pre_hook(lambda _, inputs: print(float(inputs[0].sum())))
    graphs = RecordedGraph.live
    with pytest.warns(UserWarning, match="no CUDA graph can be captured .*not permitted"):
        [[step]] = generator.propose([StepRequest("the fox ", 1)], [1], [6])
    assert step.token_ids == make("llama", False).propose([StepRequest("the fox ", 1)], [1], [6])[0][0].token_ids  # type: ignore[union-attr]
    assert RecordedGraph.live == graphs  # it was not tried: what a failed capture leaves behind cannot be mended


def test_passes_ahead_of_a_search_are_the_ones_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = as_on_a_gpu("llama", monkeypatch)
    generator.warm_up(8, 60)
    passes = generator._scheduler.batch.static._passes  # type: ignore[attr-defined]
    [(size, made)] = passes.items()
    assert size == (8, 128)
    steps = generator.propose([StepRequest("the fox ", seed) for seed in range(8)], [1] * 8, [2] * 8)
    assert generator._scheduler.batch.static._passes[size] is made  # type: ignore[attr-defined]
    expected = make("llama", False).propose([StepRequest("the fox ", seed) for seed in range(8)], [1] * 8, [2] * 8)
    assert [row[0].token_ids for row in steps] == [row[0].token_ids for row in expected]  # type: ignore[union-attr]


def test_buckets_are_those_that_passes_take() -> None:
    found = static_decode.buckets(6, 90, 200)
    assert found == [(rows, tokens) for tokens in (224, 160, 96) for rows in (6, 4, 2, 1)]
    assert static_decode.buckets(1, 10, 10) == [(1, 96)]


def test_logits_that_are_no_numbers_do_not_turn_graphs_off(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = as_on_a_gpu("llama", monkeypatch)
    generator.model.lm_head.weight.data.fill_(float("nan"))
    [broken] = generator.propose([StepRequest("the fox ", 1)], [1], [6])
    assert isinstance(broken, Exception)
    static = generator._scheduler.batch.static  # type: ignore[attr-defined]
    assert static.is_on


@pytest.mark.parametrize("static", [True, False])
def test_a_row_that_is_not_finite_leaves_nothing_to_others(static: bool) -> None:
    """Its keys and values lie in columns that a mask hides from the row that comes after it."""

    def with_a_hole(is_static: bool) -> TorchGenerator:
        generator = make("llama", is_static)
        [broken_id] = generator.tokenizer("Q", add_special_tokens=False)["input_ids"]
        generator.model.get_input_embeddings().weight.data[broken_id] = float("nan")
        return generator

    generator = with_a_hole(static)
    long, short = "the fox ran over the hill Q and ", "and so "
    for _ in range(2):
        requests = [StepRequest(long, 1), StepRequest(long + "b", 2), StepRequest(long + "ab", 3)]
        assert all(isinstance(row, Exception) for row in generator.propose(requests, [1] * 3, [5] * 3))
        requests = [StepRequest(short, 1), StepRequest(short + "ran over the ", 2)]
        found = generator.propose(requests, [1] * 2, [8] * 2)
        expected = with_a_hole(False).propose(requests, [1] * 2, [8] * 2)
        for row, other in zip(found, expected, strict=True):
            assert not isinstance(row, Exception), row
            assert not isinstance(other, Exception)
            assert row[0].token_ids == other[0].token_ids

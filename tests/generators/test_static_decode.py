"""Decoding by passes of fixed shapes gives what plain passes give. Here without CUDA graphs: kernel by kernel."""

from __future__ import annotations

import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from model_families import build_model, build_tokenizer  # noqa: E402

from bavt_fast.generators import static_decode  # noqa: E402
from bavt_fast.generators.static_decode import StaticDecoder  # noqa: E402
from bavt_fast.generators.torch_model import TorchGenerator  # noqa: E402
from bavt_fast.protocols import Node, StepRequest  # noqa: E402


def make(family: str, static: bool, **options: Any) -> TorchGenerator:
    generator = TorchGenerator(build_model(family), build_tokenizer(), delimiter=("e", "a"), **options)
    if static:
        batch = generator._scheduler.batch  # type: ignore[attr-defined]
        batch.static = StaticDecoder(batch.forward, capture=False)
    return generator


def steps_of(generator: TorchGenerator) -> list[Any]:
    """A random tree, several asks at once."""
    random_ = random.Random(3)
    nodes, told = [Node(None, "the fox ran over the hill ")], []
    for _ in range(12):
        picked = [random_.choice(nodes) for _ in range(random_.randrange(1, 6))]
        requests = [StepRequest(node, random_.getrandbits(60)) for node in picked]
        limits = [random_.randrange(2, 9) for _ in picked]
        for node, row in zip(picked, generator.propose(requests, [1] * len(picked), limits), strict=True):
            assert isinstance(row, list)
            told += row
            nodes += [Node(None, None, node, step) for step in row if not step.is_cut]
    return told


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

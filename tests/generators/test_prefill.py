"""Prompts that are computed in the rows that will decode them."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from tiny_models import tiny_model  # noqa: E402

from bavt_fast.generators.contexts import Context, Row  # noqa: E402
from bavt_fast.generators.decode_batch import DecodeBatch  # noqa: E402
from bavt_fast.generators.kv_cache import KeyValueWindow, Layout  # noqa: E402
from bavt_fast.generators.torch_model import TorchGenerator  # noqa: E402
from bavt_fast.protocols import GenerationError, StepRequest  # noqa: E402
from bavt_fast.tasks.countdown.training.model import build_tokenizer  # noqa: E402

TOKENIZER = build_tokenizer()
DIGITS = tuple("13579")


def make(model: Any = None, **options: Any) -> TorchGenerator:
    return TorchGenerator(model or tiny_model(), TOKENIZER, **{"delimiter": DIGITS, "max_batch": 16, **options})


def prompts_of(seed: int, count: int) -> list[str]:
    """Of many lengths; some begin alike."""
    random_ = random.Random(seed)
    return [f"Target: {random_.choice((7, 24))} " + "5 " * random_.randrange(30) + str(n) for n in range(count)]


def ids_of(rows: Any) -> list[Any]:
    return [str(row) if isinstance(row, Exception) else [step.token_ids for step in row] for row in rows]


def ask(generator: TorchGenerator, prompts: list[str], counts: list[int] | None = None, limit: int = 8) -> Any:
    requests = [StepRequest(prompt, number) for number, prompt in enumerate(prompts)]
    return generator.propose(requests, counts or [1] * len(prompts), [limit] * len(prompts))


@pytest.mark.parametrize("seed", range(6))
def test_it_gives_what_prompts_apart_give(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waves that find an empty batch, a growing one and a full one, with few prompt tokens at a time and many."""
    tokens = (64, 4096)[seed % 2]
    counts = [random.Random(seed).choice((1, 1, 3)) for _ in range(30)]
    rounds = [prompts_of(seed, 30), prompts_of(seed + 100, 30), prompts_of(seed, 30)]
    here, apart = (make(max_batch=(16, 64)[seed % 3 == 0]) for _ in range(2))
    for generator in (here, apart):
        generator._scheduler.prefill_tokens = tokens  # type: ignore[attr-defined]
    got = [ask(here, prompts, counts) for prompts in rounds]
    monkeypatch.setattr(DecodeBatch, "has_room", lambda *_: False)
    wanted = [ask(apart, prompts, counts) for prompts in rounds]
    assert [ids_of(rows) for rows in got] == [ids_of(rows) for rows in wanted]
    rows, others = ([row for rows in found for row in rows] for found in (got, wanted))
    for row, other in zip(rows, others, strict=True):
        for step, expected in zip(row, other, strict=True):
            torch.testing.assert_close(step.hidden, expected.hidden, rtol=1e-3, atol=1e-4)


def test_a_first_wave_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    copied = [0]
    place = KeyValueWindow.place

    def counted(self: Any, rows: Any) -> None:
        copied[0] += sum(count for _, _, pieces in rows for _, count in pieces)
        place(self, rows)

    monkeypatch.setattr(KeyValueWindow, "place", counted)
    prompts = [f"{number} 5 6 7" for number in range(2, 10)]
    generator = make(delimiter="))))")
    ask(generator, prompts)
    assert generator.statistics().computed_prompt_tokens == sum(len(TOKENIZER(p)["input_ids"]) for p in prompts)
    assert copied[0] == 0


def nan_at(model: Any, text: str, raises: bool) -> None:
    """The states of one token are not finite; as an option, the head refuses such ones, when all layers are done."""
    (token,) = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    model.get_input_embeddings().weight.data[token] = float("nan")

    def refuse(_: Any, inputs: Any) -> None:
        if raises and not inputs[0].isfinite().all():
            raise RuntimeError("not finite")

    model.get_output_embeddings().register_forward_pre_hook(refuse)


@pytest.mark.parametrize("raises", [False, True])
def test_what_is_not_finite_leaves_nothing_behind(raises: bool) -> None:
    """Neither in the rows that were computed with it, nor in those that take its place, nor in what others share."""
    model = tiny_model()
    head = torch.nn.Linear(model.config.hidden_size, model.config.vocab_size, bias=False)
    model.set_output_embeddings(head)
    nan_at(model, ":", raises)
    head.weight.data[TOKENIZER(":", add_special_tokens=False)["input_ids"]] = 0.0
    head.weight.data *= 50.0  # so that nobody draws that token
    long = "5 6 7 8 9 2 4 6 5 2 7 8 9 2 4 6 5 2 "
    prompts = [long[::-1].strip() + " : 8", long + "4", long + "7", "8 6", "2", "7 5 6", "5", "8"]
    requests = [StepRequest(prompt, number) for number, prompt in enumerate(prompts)]
    generator, fresh = (make(model, max_batch=4, delimiter="))))") for _ in range(2))
    rows = generator.propose(requests, [1] * 8, [12] * 8)
    assert isinstance(rows[0], GenerationError)
    for _ in range(2):
        wanted = fresh.propose(requests[1:], [1] * 7, [12] * 7)
        assert all(isinstance(row, list) for row in wanted)
        failed = sum(isinstance(row, GenerationError) for row in rows[1:])
        assert failed <= (3 if raises else 0), "those that were in the pass that raised"
        for row, other in zip(rows[1:], wanted, strict=True):
            assert isinstance(row, GenerationError) or ids_of([row]) == ids_of([other])
        rows = [rows[0], *generator.propose(requests[1:], [1] * 7, [12] * 7)]
        raises = False


def test_a_row_that_has_drawn_tokens_does_not_take_the_place_of_its_prompt() -> None:
    """It left the batch for want of memory, and needs the states of what it has drawn as well."""
    forward: Any = SimpleNamespace(device=torch.device("cpu"))
    batch = DecodeBatch(forward, Layout([(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1, 1))]))
    context = Context((5, 6, 7), [], [])
    first, resumes = Row(context, 0, 0, 3), Row(context, 1, 1, 5)
    stays = Row(Context((1, 2, 3, 4, 5, 6), [], []), 0, 2, 6)

    def states(length: int) -> Any:
        numbers = torch.arange(1.0, 1.0 + length)
        return [([numbers.view(1, 1, -1, 1).expand(2, -1, -1, -1)], length)]

    batch.change([], [(first, states(3)), (stays, states(6))])
    first.ids = (5, 6, 7)
    batch.change([first], [])
    batch.change([], [(resumes, states(5))])
    (kept,) = batch.window.read(resumes.slot, 5, 0, 5)
    assert kept[0, 0, :, 0].tolist() == [1, 2, 3, 4, 5]

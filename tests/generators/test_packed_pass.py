"""Prompts beside rows that decode, in one pass: the same as plain passes with every family, or not done."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from model_families import LETTERS, build_model, build_tokenizer, families, fresh_pass  # noqa: E402
from tiny_models import tiny_model  # noqa: E402

from bavt_fast.generators.decode_batch import DecodeBatch  # noqa: E402
from bavt_fast.generators.forward import Forward  # noqa: E402
from bavt_fast.generators.packed_pass import PackedPass  # noqa: E402
from bavt_fast.generators.static_decode import window_of  # noqa: E402
from bavt_fast.generators.torch_model import TorchGenerator  # noqa: E402
from bavt_fast.protocols import Sampling, Step, StepRequest  # noqa: E402

GREEDY = Sampling(temperature=0.0)
TIE = 1e-3
"""Of two logits closer than this, rounding may make either the larger one."""


def packed_of(generator: TorchGenerator) -> PackedPass:
    packed: PackedPass = generator._scheduler.batch.packed  # type: ignore[attr-defined]
    assert packed is not None
    return packed


def make(model: Any, **options: Any) -> TorchGenerator:
    """Whose models are so small that nothing would be packed for its worth."""
    generator = TorchGenerator(model, build_tokenizer(), **{"store_bytes": 0, **options})
    packed_of(generator)._most_compared = 10**9
    return generator


def stagger(generator: TorchGenerator, prompts: list[str], limit: int, at_once: int = 4) -> list[Step]:
    """A greedy step after each prompt. Most begin while others are under way: they have different limits."""
    waiting = list(range(len(prompts)))
    steps: dict[int, Step] = {}
    while len(steps) < len(prompts):
        while waiting and len(prompts) - len(waiting) - len(steps) < at_once:
            ticket = waiting.pop(0)
            request = StepRequest(prompts[ticket], ticket, sampling=GREEDY)
            generator.submit([ticket], [request], [1], [2 + (5 * ticket) % limit])
        for ticket, answer in generator.collect():
            assert not isinstance(answer, Exception), answer
            (steps[ticket],) = answer
    return [steps[ticket] for ticket in range(len(prompts))]


def letters(random: np.random.Generator, most: int) -> str:
    return "".join(random.choice(list(LETTERS[1:]), int(random.integers(2, most + 1))))


def assert_greedy(model: Any, prompt: str, step: Step) -> None:
    """Against passes over the whole text, without a cache."""
    context = build_tokenizer()(prompt)["input_ids"]
    count = len(step.token_ids)
    logits, hidden = fresh_pass(model, [*context, *step.token_ids[:-1]], count)
    chosen = logits[range(count), list(step.token_ids)]
    assert bool((chosen >= logits[:, : 3 + len(LETTERS)].amax(1) - TIE).all())
    torch.testing.assert_close(step.hidden, hidden[-1], rtol=1e-4, atol=1e-4)


def count_packed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many prompts each packed pass has had."""
    counts: list[int] = []
    decode = PackedPass.decode

    def counted(packed: PackedPass, window: Any, tokens: Any, lengths: Any, prompts: Any) -> Any:
        counts.append(len(prompts))
        return decode(packed, window, tokens, lengths, prompts)

    monkeypatch.setattr(PackedPass, "decode", counted)
    return counts


@pytest.mark.parametrize("name", families("plain"))
def test_every_family_draws_what_it_draws_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = count_packed(monkeypatch)
    model = build_model(name)
    generator = make(model)
    random = np.random.default_rng(0)
    prompts = [letters(random, 9) for _ in range(24)]
    for prompt, step in zip(prompts, stagger(generator, prompts, 7), strict=True):
        assert_greedy(model, prompt, step)
    if window_of(model.config) < 16:  # too small for most of the rows
        return
    if packed_of(generator).is_on:
        assert len(counts) > 5
        assert max(counts) > 1
    else:
        assert len(counts) <= 1


def test_what_is_known_to_be_packed() -> None:
    """So that a change of transformers which turns it off is seen."""
    for name in ("llama", "qwen2", "gpt2"):
        generator = make(build_model(name))
        stagger(generator, ["abc", "de", "fgh", "a", "bb"], 5, at_once=2)
        assert packed_of(generator).is_on, name


def test_it_is_only_done_where_it_costs_less_than_a_pass_of_its_own() -> None:
    forward = Forward(*_facts(tiny_model()))
    packed = PackedPass(forward, forward.layout())
    packed._most_compared = 16 * 208
    assert packed.suits(8, 24, [8])  # 8 rows of 25 keys, and 8 of a prompt
    assert not packed.suits(9, 24, [8])
    assert not packed.suits(8, 24, [8, 1])
    assert not packed.suits(1, 5000, [1])
    packed.is_on = False
    assert not packed.suits(1, 1, [1])


def _facts(model: Any) -> tuple[Any, Any]:
    from bavt_fast.generators.model_checks import check_model

    return model, check_model(model, build_tokenizer())


def test_never_through_a_wrapper_that_compiles_every_shape() -> None:
    wrapped = torch.compile(build_model("llama"), backend="eager")
    assert not packed_of(make(wrapped)).is_on


def test_never_beyond_a_window_of_attention() -> None:
    model = build_model("mistral")
    packed = packed_of(make(model))
    window = model.config.sliding_window
    assert packed.suits(2, window - 1, [1])
    assert not packed.suits(2, window, [1])
    assert packed.suits(2, 1, [window - 1])
    assert not packed.suits(2, 1, [window])


class Changed:
    """A model whose packed passes are changed by `change`: (arguments of forward) -> None."""

    def __init__(self, model: Any, change: Callable[[dict[str, Any]], None]) -> None:
        forward = model.forward
        self.packed = 0

        def changed(*args: Any, **kwargs: Any) -> Any:
            mask = kwargs.get("attention_mask")
            if mask is not None and mask.dim() == 4:
                self.packed += 1
                change(kwargs)
            return forward(*args, **kwargs)

        model.forward = changed


def _see_all(arguments: dict[str, Any]) -> None:
    arguments["attention_mask"] = torch.zeros_like(arguments["attention_mask"])


def _forget_positions(arguments: dict[str, Any]) -> None:
    arguments["position_ids"] = torch.arange(arguments["input_ids"].shape[1])[None]


def _fail(arguments: dict[str, Any]) -> None:
    raise NotImplementedError("no masks of that shape")


@pytest.mark.parametrize("change", [_see_all, _forget_positions, _fail])
def test_a_model_that_cannot_is_driven_by_plain_passes(change: Callable[[dict[str, Any]], None]) -> None:
    model = build_model("llama")
    plain = build_model("llama")
    changed = Changed(model, change)
    generator = make(model)
    random = np.random.default_rng(1)
    prompts = [letters(random, 9) for _ in range(12)]
    for prompt, step in zip(prompts, stagger(generator, prompts, 6), strict=True):
        assert_greedy(plain, prompt, step)
    assert changed.packed == 1
    assert not packed_of(generator).is_on


def test_a_window_that_the_configuration_does_not_name_is_noticed() -> None:
    """Rows twice as long as any that were compared are compared again."""
    model = build_model("llama")
    plain = build_model("llama")

    def hide_what_is_far(arguments: dict[str, Any]) -> None:
        if int(arguments["position_ids"].max()) > 14:
            _see_all(arguments)

    changed = Changed(model, hide_what_is_far)
    generator = make(model)
    random = np.random.default_rng(2)
    stagger(generator, [letters(random, 3) for _ in range(12)], 3, at_once=3)
    assert packed_of(generator).is_on
    assert changed.packed
    prompts = ["".join(random.choice(list(LETTERS[1:]), 20)) for _ in range(6)]
    for prompt, step in zip(prompts, stagger(generator, prompts, 6), strict=True):
        assert_greedy(plain, prompt, step)
    assert not packed_of(generator).is_on


def test_nothing_is_lost_where_memory_runs_out_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model("llama")
    generator = make(model, store_bytes=10_000)
    decode_beside = DecodeBatch.decode_beside
    failures = [0]

    def fail_once(batch: DecodeBatch, *args: Any) -> Any:
        failures[0] += 1
        if failures[0] == 2:
            raise MemoryError
        return decode_beside(batch, *args)

    monkeypatch.setattr(DecodeBatch, "decode_beside", fail_once)
    random = np.random.default_rng(3)
    prompts = [letters(random, 9) for _ in range(12)]
    for prompt, step in zip(prompts, stagger(generator, prompts, 6), strict=True):
        assert_greedy(model, prompt, step)
    assert failures[0] >= 2


def test_prompts_under_way_end_with_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = make(build_model("llama"))

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(PackedPass, "decode", interrupted)
    generator.submit([0], [StepRequest("abc", 0, sampling=GREEDY)], [1], [9])
    generator._scheduler.advance()
    generator.submit([1], [StepRequest("de", 0, sampling=GREEDY)], [1], [9])
    with pytest.raises(KeyboardInterrupt):
        generator.collect()
    assert {ticket for ticket, _ in generator.collect()} == {0, 1}
    assert generator.collect() == []


def test_prompts_beside_rows_are_counted_like_others() -> None:
    """Each was computed once, and its row has a place in the pass."""
    generator = make(build_model("llama"), max_batch=4)
    prompts = ["abcd", "bc", "dddd", "ef", "ab", "gh"]
    stagger(generator, prompts, 6)
    statistics = generator.statistics()
    assert statistics.computed_prompt_tokens == sum(map(len, prompts))
    assert statistics.row_passes <= statistics.wanted_row_passes <= 4 * statistics.decode_passes


def test_masks_of_rows_are_given_once_they_are_known_to_be_taken() -> None:
    """And not for rows longer than those that were compared, or than a window."""
    generator = make(build_model("llama"))
    packed = packed_of(generator)
    assert packed.mask_of_rows([3, 1]) is None
    packed._checked = 6
    mask = packed.mask_of_rows([3, 1])
    assert mask is not None
    assert (mask == 0).tolist() == [[[[True, True, True, True]]], [[[False, False, True, True]]]]
    assert packed.mask_of_rows([7, 1]) is None
    packed._longest = 3
    assert packed.mask_of_rows([3, 1]) is None
    packed.is_on = False
    assert packed.mask_of_rows([2, 1]) is None


def test_a_pass_that_gives_no_numbers_does_not_agree() -> None:
    one = torch.ones(2, 5)
    cut = one.masked_fill(torch.arange(5) == 4, -torch.inf)
    for found, expected, agrees in (
        (one, one, True),
        (cut, cut, True),
        (one * torch.nan, one, False),
        (cut * 3, cut, False),
    ):
        assert packed_of(make(build_model("llama"))).check([found], [expected], 5) is agrees

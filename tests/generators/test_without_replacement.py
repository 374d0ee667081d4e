"""Sampling without replacement: exact, on a vocabulary that can be enumerated."""

from __future__ import annotations

import math
from collections import Counter

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_models import forward, softmax, tiny_vocabulary_model  # noqa: E402
from tiny_tokenizers import word_tokenizer  # noqa: E402

from bavt_fast.generators.sampling import NEW_MASS  # noqa: E402
from bavt_fast.generators.torch_model import TorchGenerator  # noqa: E402
from bavt_fast.protocols import Sampling, Step, StepRequest  # noqa: E402

SIZE = 5
STOP = 0  # the token "."


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small() -> TorchGenerator:
    return TorchGenerator(tiny_vocabulary_model(SIZE), word_tokenizer([".", "a", "b", "c", "d"]), delimiter=".")


def all_steps(generator: TorchGenerator, prompt: list[int], limit: int) -> dict[tuple[int, ...], float]:
    """Every step of at most ``limit`` tokens with its probability, by enumeration."""
    found: dict[tuple[int, ...], float] = {}
    growing: dict[tuple[int, ...], float] = {(): 1.0}
    for length in range(1, limit + 1):
        longer: dict[tuple[int, ...], float] = {}
        for start, mass in growing.items():
            probabilities = softmax(forward(generator.model, prompt + list(start))[0] / generator.temperature)
            for token in range(SIZE):
                step, p = (*start, token), mass * float(probabilities[token])
                ends = token == STOP and any(start)  # a delimiter with nothing before it ends nothing
                (found if ends or length == limit else longer)[step] = p
        growing = longer
    assert sum(found.values()) == pytest.approx(1.0)
    return found


def chi_square_is_plausible(
    counts: Counter[tuple[int, ...]], expected: dict[tuple[int, ...], float], draws: int
) -> bool:
    """Pearson's statistic within 5 standard deviations of its mean; rare outcomes are pooled."""
    common = [step for step, p in expected.items() if p * draws >= 8]
    pairs = [(counts[step], expected[step] * draws) for step in common]
    pairs.append((draws - sum(n for n, _ in pairs), draws - sum(e for _, e in pairs)))
    statistic = sum((n - e) ** 2 / e for n, e in pairs if e > 1)
    freedom = len(pairs) - 1
    return bool(statistic < freedom + 5 * math.sqrt(2 * freedom))


def draw_steps(generator: TorchGenerator, tried: tuple[Step, ...], draws: int, limit: int) -> list[Step]:
    return list(generator.propose([StepRequest("a b", seed=9, tried=tried)], [draws], [limit])[0])


def test_first_samples_follow_the_softmax(small: TorchGenerator) -> None:
    steps = draw_steps(small, (), 4000, limit=3)
    expected = all_steps(small, [1, 2], limit=3)
    assert chi_square_is_plausible(Counter(s.token_ids for s in steps), expected, 4000)
    for step in steps[:50]:
        assert math.prod(step.token_probabilities) == pytest.approx(expected[step.token_ids], rel=1e-4)


def test_what_was_tried_is_taken_out_exactly(small: TorchGenerator) -> None:
    """The distribution after some steps were tried is the model's, conditioned on none of them."""
    expected = all_steps(small, [1, 2], limit=3)
    likeliest = sorted(expected, key=lambda step: -expected[step])
    tried_ids = [*likeliest[:12:2], likeliest[40]]
    sampled = {s.token_ids: s for s in draw_steps(small, (), 6000, limit=3)}
    tried = tuple(sampled[ids] for ids in tried_ids)
    left = 1.0 - sum(expected[ids] for ids in tried_ids)
    conditional = {ids: p / left for ids, p in expected.items() if ids not in tried_ids}
    steps = draw_steps(small, tried, 4000, limit=3)
    counts = Counter(step.token_ids for step in steps)
    assert not set(counts) & set(tried_ids)
    assert chi_square_is_plausible(counts, conditional, 4000)
    assert not chi_square_is_plausible(counts, expected, 4000)  # the test can tell


def test_tried_steps_never_come_again_and_all_are_found(small: TorchGenerator) -> None:
    """One at a time until nothing is left: every step once, but for what weighs less than the threshold."""
    expected = all_steps(small, [1, 2], limit=2)
    tried: tuple[Step, ...] = ()
    for seed in range(2 * len(expected)):
        found = small.propose([StepRequest("a b", seed, tried)], [1], [2])[0]
        if not found:
            break
        tried += (found[0],)
    ids = [step.token_ids for step in tried]
    assert len(set(ids)) == len(ids)
    assert sum(expected[step] for step in ids) > 1 - 2 * NEW_MASS
    assert small.propose([StepRequest("a b", 1, tried)], [3], [2]) == [[]]


def test_the_steps_of_one_ask_may_repeat_each_other_but_not_those_of_earlier_ones(small: TorchGenerator) -> None:
    sampling = Sampling(temperature=0.0)
    first = small.propose([StepRequest("a b", 9, sampling=sampling)], [3], [2])[0]
    assert len({step.token_ids for step in first}) == 1
    assert len(first) == 3
    tried = (first[0],)  # all that there is at temperature 0
    assert small.propose([StepRequest("a b", 9, tried=tried, sampling=sampling)], [3], [2]) == [[]]
    again = small.propose([StepRequest("a b", 9, tried=tried)], [200], [2])[0]
    assert first[0].token_ids not in {step.token_ids for step in again}


@pytest.mark.parametrize("kind", ["twice", "inside one that was cut short"])
def test_what_is_tried_twice_is_taken_out_once(small: TorchGenerator, kind: str) -> None:
    """Steps of one ask may be equal, and a step may begin with one that a smaller limit has cut short."""
    expected = all_steps(small, [1, 2], limit=3)
    likeliest = max((step for step in expected if len(step) == 3), key=lambda step: expected[step])
    whole = next(step for step in draw_steps(small, (), 6000, limit=3) if step.token_ids == likeliest)
    begun = next(step for step in draw_steps(small, (), 6000, limit=2) if step.token_ids == likeliest[:2])
    tried, gone = ((whole, whole), likeliest) if kind == "twice" else ((whole, begun), likeliest[:2])
    firsts = dict.fromkeys([ids[:1] for ids in expected], 0.0)
    for ids, p in expected.items():
        firsts[ids[:1]] += 0.0 if ids[: len(gone)] == gone else p
    steps = draw_steps(small, tried, 4000, limit=3)
    assert gone not in {step.token_ids[: len(gone)] for step in steps}
    shares = {ids: p / sum(firsts.values()) for ids, p in firsts.items()}
    assert chi_square_is_plausible(Counter(step.token_ids[:1] for step in steps), shares, 4000)


def test_with_replacement_what_was_tried_does_not_matter(small: TorchGenerator) -> None:
    generator = TorchGenerator(small.model, small.tokenizer, delimiter=".", without_replacement=False)
    tried = tuple(draw_steps(generator, (), 50, limit=2))
    again = draw_steps(generator, tried, 50, limit=2)
    assert [step.token_ids for step in tried] == [step.token_ids for step in again]


def test_steps_of_other_generators_do_not_matter(small: TorchGenerator) -> None:
    """A tried step without tokens takes nothing out, nor one of other tokens or without a probability for each."""
    probable = {"token_probabilities": (0.5, 0.5)}
    others = [{}, {"token_ids": (1, SIZE), **probable}, {"token_ids": (1, -1), **probable}]
    others.append({"token_ids": (1, 2, 0), **probable})
    tried = tuple(Step("a .", 2, **fields) for fields in others)  # type: ignore[arg-type]
    assert draw_steps(small, tried, 5, 3)[0].token_ids == draw_steps(small, (), 5, 3)[0].token_ids

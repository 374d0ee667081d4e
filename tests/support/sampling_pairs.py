"""Two samplers with the same rows, and rows to try them on: torch's and one that is to draw as it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bavt_fast.generators.sampling import (
    BROKEN,
    DELIMITER,
    END,
    EXHAUSTED,
    LIMIT,
    RUNNING,
    Drawn,
    Sampler,
    SamplingRules,
)

CPU = torch.device("cpu")
HIDDEN = 3
INF, NAN = float("inf"), float("nan")
ENDS: list[tuple[list[float], dict[str, Any], int]] = [
    ([NAN, 0.0], {}, BROKEN),
    ([0.0, INF], {}, BROKEN),
    ([-INF, -INF], {}, BROKEN),
    ([3e38, 1.0], {"temperature": 0.1}, BROKEN),  # infinite once it is divided
    ([-INF, 5.0], {}, LIMIT),
    ([0.0], {}, LIMIT),
    ([0.0], {"tried": [([0], [1.0])]}, EXHAUSTED),
    ([0.0, 0.0], {"tried": [([0], [0.5]), ([1], [0.5])]}, EXHAUSTED),
    ([0.0, 0.0], {"tried": [([0], [0.5]), ([0, 1], [0.5, 0.5])]}, LIMIT),
]
"""Logits of a row, its rules, and how it ends."""


class Pair:
    """Both samplers, with the same rows."""

    def __init__(self, other: type[Sampler], size: int, ends: list[int], named: np.ndarray, states: int = 4) -> None:
        random = np.random.default_rng(size)
        table = random.integers(0, states, (states, size)).astype(np.int32)
        self.both = [kind(table, 1, ends, named, CPU) for kind in (Sampler, other)]

    def open(self, rules: list[SamplingRules]) -> list[int]:
        numbers = [sampler.open(rules, [-1] * len(rules)) for sampler in self.both]
        assert numbers[0] == numbers[1]
        return numbers[0]

    def draw(self, numbers: list[int], logits: Any) -> None:
        hidden = torch.randn(len(numbers), HIDDEN)
        at = np.asarray(numbers, dtype=np.int64)
        for sampler in self.both:
            sampler.draw(torch.as_tensor(at), at, logits, hidden)

    def drawn(self, numbers: list[int]) -> list[list[Drawn]]:
        records = torch.tensor(numbers)
        plain, other = self.both
        assert other.standing(records).read() == [row.reason for row in other.drawn(numbers)]
        assert other.tokens(records) == [list(row.tokens) for row in other.drawn(numbers)]
        return [plain.drawn(numbers), other.drawn(numbers)]


def assert_alike(expected: Drawn, found: Drawn) -> None:
    assert found.tokens == expected.tokens
    assert found.reason == expected.reason
    assert found.probabilities == pytest.approx(expected.probabilities, rel=3e-3, abs=1e-12)
    assert found.log_probability == pytest.approx(expected.log_probability, rel=1e-3, abs=1e-3)
    assert torch.equal(found.hidden, expected.hidden)


def random_rules(random: np.random.Generator, size: int, named: np.ndarray) -> SamplingRules:
    """With settings of every kind; the steps tried before begin in the same ways over and over."""
    few = random.permutation(np.flatnonzero(named))[:2].tolist()
    tried = [
        ([int(random.choice(few)) for _ in range(length)], random.uniform(0.2, 1.0, length).tolist())
        for length in random.integers(1, 4, random.integers(0, 4))
    ]
    return SamplingRules(
        int(random.integers(2**62)),
        int(random.integers(5)),
        int(random.integers(1, 6)),
        temperature=float(random.choice([0.0, 0.2, 0.7, 1.0, 1.0, 3.0])),
        top_p=float(random.choice([1.0, 1.0, 0.95, 0.5, 1e-6, 1e-46])),
        top_k=int(random.choice([0, 0, 1, 3, 10 * size])),
        min_p=float(random.choice([0.0, 0.0, 0.05, 1.0])),
        tried=[] if random.random() < 0.5 else tried,
    )


def random_logits(random: np.random.Generator, rows: int, size: int) -> np.ndarray:
    logits = random.normal(0.0, random.choice([0.1, 2.0, 10.0, 300.0]), (rows, size))
    if random.random() < 0.3:
        logits[random.random((rows, size)) < 0.3] = -np.inf  # of some rows all
    if random.random() < 0.2:
        logits = np.round(logits)  # ties
    if random.random() < 0.2:
        logits[random.integers(rows), random.integers(size)] = random.choice([np.nan, np.inf])
    return logits.astype(np.float32)


def check_draws(other: type[Sampler], seed: int, rules: Any = random_rules) -> None:
    """Whole rows, with others that start and end beside them."""
    random = np.random.default_rng(seed)
    size = int(random.choice([1, 2, 15, 255, 256, 257, 1016, 3000]))
    named = random.random(size) < random.choice([0.7, 1.0])
    named[random.integers(size)] = True
    ends = random.choice(size, min(size, 2), replace=False).tolist()
    pair = Pair(other, size, ends, named)
    running: list[int] = []
    apart = total = 0
    for _ in range(12):
        if random.random() < 0.6:
            running += pair.open([rules(random, size, named) for _ in range(random.integers(1, 5))])
        if not running:
            continue
        pair.draw(running, torch.from_numpy(random_logits(random, len(running), size)))
        for number, expected, found in zip(running, *pair.drawn(running), strict=True):
            if expected.tokens != found.tokens or expected.reason != found.reason:
                apart += 1  # the number fell next to the border of two tokens, or a border next to a threshold
            else:
                assert_alike(expected, found)
            total += 1
            if RUNNING not in (expected.reason, found.reason) or expected.tokens != found.tokens:
                running = [other for other in running if other != number]
                for sampler in pair.both:
                    sampler.close([number])
    assert apart <= 0.02 * total + 1


def one_row(other: type[Sampler], logits: list[float], rule: SamplingRules, named: Any = None) -> Drawn:
    size = len(logits)
    pair = Pair(other, size, [], np.ones(size, dtype=bool) if named is None else np.asarray(named), states=1)
    numbers = pair.open([rule])
    pair.draw(numbers, torch.tensor([logits]))
    (expected,), (found,) = pair.drawn(numbers)
    assert_alike(expected, found)
    return found


INF, NAN = float("inf"), float("nan")


def check_end(other: type[Sampler], logits: list[float], rule: dict[str, Any], reason: int) -> None:
    found = one_row(other, logits, SamplingRules(3, 0, 1, **rule))
    assert found.reason == reason
    assert len(found.tokens) == (reason == LIMIT)


def check_texts_end(other: type[Sampler]) -> None:
    """At the end of the text, and at stop strings."""
    table = np.array([[0, 1, 1]] * 2, dtype=np.int32)
    reasons = []
    for token in range(3):
        sampler = other(table, 1, [2], np.ones(3, dtype=bool), CPU)
        numbers = np.asarray(sampler.open([SamplingRules(0, 0, 9)], [-1]))
        logits = torch.full((1, 3), -INF)
        logits[0, token] = 0.0
        sampler.draw(torch.as_tensor(numbers), numbers, logits, torch.zeros(1, HIDDEN))
        reasons += sampler.standing(torch.as_tensor(numbers)).read()
    assert reasons == [RUNNING, DELIMITER, END]


def check_rounding(other: type[Sampler], rows: int) -> None:
    """Plain rows differ only where a number falls within rounding of a border: next to never."""
    random = np.random.default_rng(0)
    apart = 0
    for size in (7, 1016, 20_000):
        pair = Pair(other, size, [], np.ones(size, dtype=bool))
        numbers = pair.open([SamplingRules(seed, 0, 9, temperature=0.7) for seed in range(rows)])
        pair.draw(numbers, torch.from_numpy(random.normal(0, 3, (rows, size)).astype(np.float32)))
        apart += sum(a.tokens != b.tokens for a, b in zip(*pair.drawn(numbers), strict=True))
    assert apart <= 1


def check_ended_row(other: type[Sampler]) -> None:
    """It stays as it is."""
    sampler = other(np.zeros((2, 5), dtype=np.int32), 1, [], np.ones(5, dtype=bool), CPU)
    numbers = np.asarray(sampler.open([SamplingRules(0, 0, 1)], [-1]))
    records = torch.as_tensor(numbers)
    for _ in range(3):
        sampler.draw(records, numbers, torch.zeros(1, 5), torch.zeros(1, HIDDEN))
        assert sampler.standing(records).read() == [LIMIT]
    (row,) = sampler.drawn(numbers.tolist())
    assert (len(row.tokens), row.reason) == (1, LIMIT)

"""Native drawing against the same in torch: the same tokens, probabilities and ends from the same logits."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from bavt_fast.generators.host_sampling import HostSampler, sampler_on  # noqa: E402
from bavt_fast.generators.sampling import (  # noqa: E402
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
PROGRAMS = int(os.environ.get("BAVT_FUZZ_EXAMPLES", "60"))
HIDDEN = 3


class Pair:
    """Both samplers, with the same rows."""

    def __init__(self, size: int, ends: list[int], named: np.ndarray, states: int = 4) -> None:
        random = np.random.default_rng(size)
        table = random.integers(0, states, (states, size)).astype(np.int32)
        self.both = [kind(table, 1, ends, named, CPU) for kind in (Sampler, HostSampler)]

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
        plain, native = self.both
        assert native.standing(records).read() == [row.reason for row in native.drawn(numbers)]
        assert native.tokens(records) == [list(row.tokens) for row in native.drawn(numbers)]
        return [plain.drawn(numbers), native.drawn(numbers)]


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
        top_p=float(random.choice([1.0, 1.0, 0.95, 0.5, 1e-6])),
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


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_rows_are_drawn_as_torch_draws_them(seed: int) -> None:
    """Whole rows, with others that start and end beside them."""
    random = np.random.default_rng(seed)
    size = int(random.choice([1, 2, 15, 255, 256, 257, 1016, 3000]))
    named = random.random(size) < random.choice([0.7, 1.0])
    named[random.integers(size)] = True
    ends = random.choice(size, min(size, 2), replace=False).tolist()
    pair = Pair(size, ends, named)
    running: list[int] = []
    apart = total = 0
    for _ in range(12):
        if random.random() < 0.6:
            running += pair.open([random_rules(random, size, named) for _ in range(random.integers(1, 5))])
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


def test_rounding_seldom_tells_them_apart() -> None:
    """Plain rows differ only where a number falls within rounding of a border: next to never."""
    random = np.random.default_rng(0)
    apart = 0
    for size in (7, 1016, 20_000):
        pair = Pair(size, [], np.ones(size, dtype=bool))
        numbers = pair.open([SamplingRules(seed, 0, 9, temperature=0.7) for seed in range(200)])
        pair.draw(numbers, torch.from_numpy(random.normal(0, 3, (200, size)).astype(np.float32)))
        apart += sum(a.tokens != b.tokens for a, b in zip(*pair.drawn(numbers), strict=True))
    assert apart <= 1


def one_row(logits: list[float], rule: SamplingRules, named: Any = None) -> Drawn:
    size = len(logits)
    pair = Pair(size, [], np.ones(size, dtype=bool) if named is None else np.asarray(named), states=1)
    numbers = pair.open([rule])
    pair.draw(numbers, torch.tensor([logits]))
    (expected,), (found,) = pair.drawn(numbers)
    assert_alike(expected, found)
    return found


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("logits", "rule", "reason"),
    [
        ([NAN, 0.0], {}, BROKEN),
        ([0.0] * 40 + [NAN], {"temperature": 0.0}, BROKEN),
        ([0.0, INF], {}, BROKEN),
        ([-INF, -INF], {}, BROKEN),
        ([-INF] * 300, {"temperature": 0.0}, BROKEN),
        ([3e38, 1.0], {"temperature": 0.1}, BROKEN),  # infinite once it is divided
        ([-INF, 5.0], {}, LIMIT),
        ([0.0], {}, LIMIT),
        ([0.0], {"top_p": 0.5, "top_k": 1, "min_p": 1.0}, LIMIT),
        ([0.0], {"tried": [([0], [1.0])]}, EXHAUSTED),
        ([0.0, 0.0], {"tried": [([0], [0.5]), ([1], [0.5])]}, EXHAUSTED),
        ([0.0, 0.0], {"tried": [([0], [0.5]), ([0, 1], [0.5, 0.5])]}, LIMIT),
        ([0.0, 9.0], {"temperature": 0.0, "tried": [([1], [1.0])]}, EXHAUSTED),
        ([0.0, 9.0], {"temperature": 0.0, "tried": [([0], [1.0])]}, LIMIT),
    ],
)
def test_how_a_row_ends(logits: list[float], rule: dict[str, Any], reason: int) -> None:
    found = one_row(logits, SamplingRules(3, 0, 1, **rule))
    assert found.reason == reason
    assert len(found.tokens) == (reason == LIMIT)


def test_ends_of_the_text_and_stop_strings() -> None:
    table = np.array([[0, 1, 1]] * 2, dtype=np.int32)
    reasons = []
    for token in range(3):
        sampler = HostSampler(table, 1, [2], np.ones(3, dtype=bool), CPU)
        numbers = np.asarray(sampler.open([SamplingRules(0, 0, 9)], [-1]))
        logits = torch.full((1, 3), -INF)
        logits[0, token] = 0.0
        sampler.draw(torch.as_tensor(numbers), numbers, logits, torch.zeros(1, HIDDEN))
        reasons += sampler.standing(torch.as_tensor(numbers)).read()
    assert reasons == [RUNNING, DELIMITER, END]


def test_ids_without_a_name_are_never_drawn_whatever_their_logits_are() -> None:
    named = [True, False, False, True]
    for seed in range(20):
        assert one_row([0.0, NAN, INF, 0.0], SamplingRules(seed, 0, 1), named=named).tokens in ((0,), (3,))


def test_a_row_that_has_ended_stays_as_it_is() -> None:
    sampler = HostSampler(np.zeros((2, 5), dtype=np.int32), 1, [], np.ones(5, dtype=bool), CPU)
    numbers = np.asarray(sampler.open([SamplingRules(0, 0, 1)], [-1]))
    for _ in range(3):
        sampler.draw(torch.as_tensor(numbers), numbers, torch.zeros(1, 5), torch.zeros(1, HIDDEN))
    (row,) = sampler.drawn(numbers.tolist())
    assert (len(row.tokens), row.reason) == (1, LIMIT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_logits_of_every_type_and_layout(dtype: Any) -> None:
    logits = torch.randn(6, 2, 300).to(dtype)[:, -1]
    pair = Pair(300, [], np.ones(300, dtype=bool))
    numbers = pair.open([SamplingRules(seed, 0, 1) for seed in range(6)])
    pair.draw(numbers, logits)
    for expected, found in zip(*pair.drawn(numbers), strict=True):
        assert_alike(expected, found)


def test_records_out_of_range_and_arrays_that_do_not_fit_are_refused() -> None:
    sampler = HostSampler(np.zeros((2, 5), dtype=np.int32), 1, [], np.ones(5, dtype=bool), CPU)
    sampler.open([SamplingRules(0, 0, 1)], [-1])
    drawer = sampler._drawer
    good = np.zeros((1, 5), dtype=np.float32)
    for record in (-1, 8):
        with pytest.raises(ValueError, match="records: expected numbers below 8"):
            drawer.draw(np.array([record]), good)
    for shape in ((1, 4), (2, 5), (5,)):
        with pytest.raises(ValueError, match="logits: expected an array of shape"):
            drawer.draw(np.array([0]), np.zeros(shape, dtype=np.float32))
    with pytest.raises(TypeError, match="logits: expected a contiguous array of float32"):
        drawer.draw(np.array([0]), good.astype(np.float64))
    with pytest.raises(TypeError, match="logits: expected a contiguous array of float32"):
        drawer.draw(np.array([0]), np.zeros((1, 10), dtype=np.float32)[:, ::2])


def test_where_each_is_used() -> None:
    arguments = (np.zeros((2, 5), dtype=np.int32), 1, [], np.ones(5, dtype=bool))
    assert type(sampler_on(CPU, *arguments)) is HostSampler
    assert type(sampler_on(torch.device("meta"), *arguments)) is Sampler

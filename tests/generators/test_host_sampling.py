"""Native drawing against the same in torch: the same tokens, probabilities and ends from the same logits."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sampling_pairs import HIDDEN, Pair, assert_alike, check_draws, one_row  # noqa: E402

from bavt_fast.generators.host_sampling import HostSampler, sampler_on  # noqa: E402
from bavt_fast.generators.sampling import (  # noqa: E402
    BROKEN,
    DELIMITER,
    END,
    EXHAUSTED,
    LIMIT,
    RUNNING,
    Sampler,
    SamplingRules,
)

CPU = torch.device("cpu")
INF, NAN = float("inf"), float("nan")
PROGRAMS = int(os.environ.get("BAVT_FUZZ_EXAMPLES", "60"))


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_rows_are_drawn_as_torch_draws_them(seed: int) -> None:
    check_draws(HostSampler, seed)


def test_rounding_seldom_tells_them_apart() -> None:
    """Plain rows differ only where a number falls within rounding of a border: next to never."""
    random = np.random.default_rng(0)
    apart = 0
    for size in (7, 1016, 20_000):
        pair = Pair(HostSampler, size, [], np.ones(size, dtype=bool))
        numbers = pair.open([SamplingRules(seed, 0, 9, temperature=0.7) for seed in range(200)])
        pair.draw(numbers, torch.from_numpy(random.normal(0, 3, (200, size)).astype(np.float32)))
        apart += sum(a.tokens != b.tokens for a, b in zip(*pair.drawn(numbers), strict=True))
    assert apart <= 1


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
    found = one_row(HostSampler, logits, SamplingRules(3, 0, 1, **rule))
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
        assert one_row(HostSampler, [0.0, NAN, INF, 0.0], SamplingRules(seed, 0, 1), named=named).tokens in ((0,), (3,))


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
    pair = Pair(HostSampler, 300, [], np.ones(300, dtype=bool))
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

"""Native drawing against the same in torch: the same tokens, probabilities and ends from the same logits."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sampling_pairs import (  # noqa: E402
    ENDS,
    INF,
    NAN,
    Pair,
    assert_alike,
    check_draws,
    check_end,
    check_ended_row,
    check_rounding,
    check_texts_end,
    one_row,
)

from bavt_fast.generators.host_sampling import HostSampler, sampler_on  # noqa: E402
from bavt_fast.generators.sampling import (  # noqa: E402
    BROKEN,
    EXHAUSTED,
    LIMIT,
    Sampler,
    SamplingRules,
)

CPU = torch.device("cpu")
PROGRAMS = int(os.environ.get("BAVT_FUZZ_EXAMPLES", "60"))


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_rows_are_drawn_as_torch_draws_them(seed: int) -> None:
    check_draws(HostSampler, seed)


def test_rounding_seldom_tells_them_apart() -> None:
    check_rounding(HostSampler, 200)


@pytest.mark.parametrize(
    ("logits", "rule", "reason"),
    [
        *ENDS,
        ([0.0] * 40 + [NAN], {"temperature": 0.0}, BROKEN),
        ([-INF] * 300, {"temperature": 0.0}, BROKEN),
        ([0.0], {"top_p": 0.5, "top_k": 1, "min_p": 1.0}, LIMIT),
        ([0.0, 9.0], {"temperature": 0.0, "tried": [([1], [1.0])]}, EXHAUSTED),
        ([0.0, 9.0], {"temperature": 0.0, "tried": [([0], [1.0])]}, LIMIT),
    ],
)
def test_how_a_row_ends(logits: list[float], rule: dict[str, Any], reason: int) -> None:
    check_end(HostSampler, logits, rule, reason)


@pytest.mark.parametrize(
    ("rule", "like"),
    [
        ({"top_p": 1e-46}, {"top_k": 1}),
        ({"top_p": 1e-46, "top_k": 3, "min_p": 1e-3}, {"top_k": 1}),
        ({"top_p": 1.0 - 1e-12}, {}),
        ({"min_p": 1e-46}, {}),
        ({"top_k": 10**400}, {}),
        ({"temperature": 1e300}, {"temperature": 3e38}),
    ],
)
@pytest.mark.filterwarnings("error")
def test_settings_past_what_float32_holds(rule: dict[str, Any], like: dict[str, Any]) -> None:
    logits = np.random.default_rng(1).normal(0.0, 2.0, 600).tolist()
    for seed in range(20):
        found, expected = (one_row(HostSampler, logits, SamplingRules(seed, 0, 1, **own)) for own in (rule, like))
        assert (found.tokens, found.probabilities) == (expected.tokens, expected.probabilities)


def test_ends_of_the_text_and_stop_strings() -> None:
    check_texts_end(HostSampler)


def test_ids_without_a_name_are_never_drawn_whatever_their_logits_are() -> None:
    named = [True, False, False, True]
    for seed in range(20):
        assert one_row(HostSampler, [0.0, NAN, INF, 0.0], SamplingRules(seed, 0, 1), named=named).tokens in ((0,), (3,))


def test_a_row_that_has_ended_stays_as_it_is() -> None:
    check_ended_row(HostSampler)


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

"""The iteration bound holds in simulation, and is not so loose as to say nothing."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from bavt_fast.budget import iterations_needed

TRIALS = 20_000


@pytest.mark.parametrize("p", [0.01, 0.2, 0.7, 1.0])
@pytest.mark.parametrize("successes", [1, 4, 30])
@pytest.mark.parametrize("failure", [0.3, 0.05, 0.001])
def test_failures_are_no_more_frequent_than_promised(p: float, successes: int, failure: float) -> None:
    rng = np.random.default_rng([int(p * 100), successes, int(failure * 1000)])
    iterations = iterations_needed(p, successes, failure)
    failures = (rng.binomial(iterations, p, TRIALS) < successes).mean()
    assert failures <= failure + 3 * np.sqrt(failure / TRIALS)


def test_a_quarter_of_the_iterations_would_not_do() -> None:
    rng = np.random.default_rng(0)
    iterations = iterations_needed(0.2, 30, 0.05) // 4
    assert (rng.binomial(iterations, 0.2, TRIALS) < 30).mean() > 0.05


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((0.0, 1, 0.1), "progress_probability"),
        ((float("nan"), 1, 0.1), "progress_probability"),
        ((1.5, 1, 0.1), "progress_probability"),
        ((0.5, 0, 0.1), "successes"),
        ((0.5, 1.5, 0.1), "successes"),
        ((0.5, True, 0.1), "successes"),
        ((0.5, float("nan"), 0.1), "successes"),
        ((0.5, float("inf"), 0.1), "successes"),
        ((0.5, 10**400, 0.1), "successes"),
        ((0.5, 1, 0.0), "failure_probability"),
        ((0.5, 1, 1.0), "failure_probability"),
    ],
)
def test_arguments_outside_their_range_are_named(arguments: tuple[float, int, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        iterations_needed(*arguments)


@pytest.mark.parametrize("wrong", ["1", None, [0.5], 0.5j, Decimal("0.5")])
@pytest.mark.parametrize("name", ["progress_probability", "successes", "failure_probability"])
def test_what_is_no_number_is_named(name: str, wrong: Any) -> None:
    arguments: dict[str, Any] = {"progress_probability": 0.5, "successes": 3, "failure_probability": 0.1, name: wrong}
    with pytest.raises(TypeError, match=f"^{name}: expected a finite number, got"):
        iterations_needed(**arguments)


def test_probabilities_next_to_zero_have_their_number() -> None:
    tiny = math.ulp(0.0)
    usual = iterations_needed(1.0, 4, 0.05)
    assert usual - 1 < iterations_needed(tiny, 4, 0.05) * Fraction(tiny) <= usual
    assert iterations_needed(1.0, 1, tiny) == math.ceil(1 + math.sqrt(2 * 744.4400719213812) + 2 * 744.4400719213812)

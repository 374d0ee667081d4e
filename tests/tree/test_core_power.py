"""Power draws have exactly the distribution P(node) ∝ weight^(total / remaining), for any weights and ratio."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from bavt_fast import _core
from bavt_fast.reference import CounterRng, power_draw

DRAWS = 20_000


def chi_square_p_value(observed: npt.NDArray[np.int64], expected: npt.NDArray[np.float64]) -> float:
    """P(chi-square >= the statistic), by the Wilson-Hilferty normal approximation; rare cells are pooled."""
    rare = expected < 8
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
        if expected[-1] < 8:  # still too few to count on
            observed = np.append(observed[:-2], observed[-2:].sum())
            expected = np.append(expected[:-2], expected[-2:].sum())
    freedom = len(expected) - 1
    if freedom == 0:
        return 1.0
    statistic = float(((observed - expected) ** 2 / expected).sum())
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    return 0.5 * math.erfc(z / math.sqrt(2))


def exact(weights: npt.NDArray[np.float64], ratio: float) -> npt.NDArray[np.float64]:
    logs = np.log(weights) / ratio
    powers: npt.NDArray[np.float64] = np.exp(logs - logs.max())
    return powers / powers.sum()


def weight_sets() -> dict[str, npt.NDArray[np.float64]]:
    rng = np.random.default_rng(7)
    return {
        "uniform": rng.uniform(1e-6, 1, 200),
        "six decades": 10.0 ** rng.uniform(-6, 0, 300),
        "equal": np.full(50, 0.3),
        "decayed": 0.85 ** rng.integers(0, 40, 400),
        "one above many": np.append(np.full(600, 0.5), 1.0),
        "two": np.array([0.25, 0.5]),
        "near ties": 1.0 - rng.uniform(0, 1e-4, 300),
    }


@pytest.mark.parametrize("ratio", [1.0, 0.6, 0.1, 0.01, 1e-4])
@pytest.mark.parametrize("name", weight_sets())
def test_the_distribution_is_exact(name: str, ratio: float) -> None:
    weights = weight_sets()[name]
    tree = _core.Tree(seed=11)
    tree.expand(0, weights)
    tree.close(0)
    drawn = [tree.select("power", remaining=ratio) - 1 for _ in range(DRAWS)]
    observed = np.bincount(drawn, minlength=len(weights))
    assert chi_square_p_value(observed, DRAWS * exact(weights, ratio)) > 1e-4


def test_the_check_can_fail() -> None:
    """The same draws do not pass for a distribution that is slightly another one."""
    weights = weight_sets()["uniform"]
    tree = _core.Tree(seed=11)
    tree.expand(0, weights)
    tree.close(0)
    observed = np.bincount([tree.select("power", remaining=0.6) - 1 for _ in range(DRAWS)], minlength=len(weights))
    assert chi_square_p_value(observed, DRAWS * exact(weights, 0.55)) < 1e-4


def test_tries_decay_the_weight() -> None:
    tree = _core.Tree(seed=3, decay=0.5)
    tree.expand(0, [0.8, 0.8])
    tree.close(0)
    for _ in range(2):
        tree.penalize(1)
    share = sum(tree.select("power") == 1 for _ in range(DRAWS)) / DRAWS
    assert share == pytest.approx(0.2, abs=0.015)


@pytest.mark.parametrize("remaining", [0.0, 1e-300, 1e-12])
def test_with_nothing_left_the_heaviest_wins_and_ties_are_uniform(remaining: float) -> None:
    tree = _core.Tree(seed=5)
    tree.expand(0, [0.9999, 1.0, 0.5, 1.0, 1.0 - 1e-9])
    tree.close(0)
    drawn = np.bincount([tree.select("power", remaining=remaining) for _ in range(2000)], minlength=6)
    assert drawn[[2, 4]].sum() == 2000
    assert abs(drawn[2] - 1000) < 150


def test_extreme_weights_do_not_overflow() -> None:
    tree = _core.Tree(decay=1e-300)
    tree.expand(0, [1e308, 5e-324, 1.0])
    for ratio in (1.0, 1e-3, 1e-300):
        assert tree.select("power", remaining=ratio) == 1
    tree.prune(1)
    for node in (0, 2, 3):
        for _ in range(3):
            tree.penalize(node)
    assert {tree.select("power") for _ in range(200)} == {0, 2, 3}  # all weights are zero now


def test_marked_nodes_are_not_drawn() -> None:
    tree = _core.Tree(seed=2)
    first = tree.expand(0, np.linspace(0.5, 1, 700), terminal=np.arange(700) % 7 == 0)
    rng = np.random.default_rng(0)
    tree.select("power")
    for node in rng.permutation(np.arange(first, first + 700))[:650]:
        tree.mark_in_flight(node)
    drawn = {tree.select("power") for _ in range(2000)}
    assert drawn == set(np.flatnonzero(np.asarray(tree.flags) == 0).tolist())
    for node in drawn:
        tree.close(node)
    assert tree.select("power") == tree.select("best_first") == -1


def test_best_first_takes_the_oldest_of_the_heaviest() -> None:
    tree = _core.Tree()
    tree.expand(0, [0.3, 0.7, 0.7, 0.1])
    tree.close(0)
    assert tree.select("best_first") == 2
    tree.penalize(2)
    assert tree.select("best_first") == 3


def test_few_tries_are_needed_for_any_weights_and_exponent() -> None:
    """The rejection's bound: at most 8 masses to the truth, so a handful of tries on average."""
    for weights in weight_sets().values():
        ranked = sorted(weights.tolist(), reverse=True)
        for exponent in (0.01, 1.0, 10.0, 1e3, 1e6):
            rng = CounterRng(1)
            for _ in range(200):
                power_draw(ranked, exponent, rng)
            assert rng.drawn / 2 / 200 < 8

"""The tree core without Python, beside a plain flat-array loop and the floors. Rows of one size follow each other."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.tree import rows
from benchmarks.tree.conftest import Measure
from benchmarks.tree.effort import BRANCHING, effort
from benchmarks.tree.library import Made, library, pointer
from benchmarks.tree.rows import case

SIZES = effort().sizes([1_000, 10_000, 100_000, 1_000_000])
DRAW_SIZES = effort().sizes([10**k for k in range(3, 8)])
SIMULATIONS_PER_ROUND = 10_000  # at least; small trees are searched several in a round, one after the other
DRAWS = 20_000


def trees_per_round(n: int) -> int:
    return max(1, SIMULATIONS_PER_ROUND // n)


SIDES = {
    "ours": ("trees", "trees_uct", rows.SIMULATION, rows.OURS_CPP),
    "loop": ("flat", "flat_uct", rows.SIMULATION, rows.PLAIN_LOOP),
    "power": ("trees", "trees_power", rows.POWER_SIMULATION, rows.OURS_CPP),
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("n", SIZES)
def test_simulations(measure: Measure, rng: np.random.Generator, n: int, side: str) -> None:
    kind, function, what, who = SIDES[side]
    trees = trees_per_round(n)
    timed = case(what, who, n, items=n * trees)
    measure(
        timed,
        getattr(library(), function),
        lambda: (Made(kind, trees), n, pointer(rng.random((trees, n, BRANCHING)))),
    )


@pytest.mark.parametrize("floor", ["descents_follow", "descents_read"])
@pytest.mark.parametrize("n", SIZES)
def test_floor(measure: Measure, rng: np.random.Generator, n: int, floor: str) -> None:
    passes = max(1, 100_000 // n)  # small trees again and again, all in the cache: so it would be at best
    descents = Made("descents", n, pointer(rng.random((n, BRANCHING))))
    what = rows.KNOWN_DESCENTS if floor == "descents_follow" else rows.PLAIN_READ
    timed = case(what, "floor", n, items=n * passes)
    measure(timed, getattr(library(), floor), lambda: (descents, passes))


@pytest.mark.parametrize("nodes", DRAW_SIZES)
def test_power_draws(measure: Measure, rng: np.random.Generator, nodes: int) -> None:
    tree = Made("drawn", nodes, pointer(rng.random(nodes)))
    timed = case(rows.POWER_DRAW, rows.OURS_CPP, nodes, items=DRAWS)
    measure(timed, library().drawn_draw, lambda: (tree, DRAWS))


@pytest.mark.parametrize("threads", [1, 2])
def test_arithmetic(measure: Measure, threads: int) -> None:
    thousands = 20_000
    timed = case(rows.ARITHMETIC, "floor", thousands, items=thousands * threads, threads=threads)
    measure(timed, library().arithmetic, lambda: (threads, 1_000 * thousands))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what", [rows.WAVE_SIMULATION, rows.RENEWED_SIMULATION])
@pytest.mark.parametrize("trees", effort().trees)
def test_waves(measure: Measure, rng: np.random.Generator, trees: int, what: str, threads: int) -> None:
    waves = effort().waves
    timed = case(what, rows.OURS_CPP, waves, waves * trees, trees, threads)

    kept = Made("waves", trees, threads)

    def setup() -> tuple[object, ...]:
        values = rng.random((waves, trees, BRANCHING))
        library().waves_renew(kept)
        forest = kept if what == rows.RENEWED_SIMULATION else Made("waves", trees, threads)
        return forest, waves, pointer(values), pointer(values[:, :, 0].copy())

    measure(timed, library().waves_uct, setup)

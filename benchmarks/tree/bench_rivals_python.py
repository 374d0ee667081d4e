"""What people write by hand: the recipe and a plain UCT, in Python."""

from __future__ import annotations

import numpy as np
import pytest

from bavt_fast.recipe import reference
from benchmarks.recipe.free_model import FreeModel
from benchmarks.tree import plain_uct, rows
from benchmarks.tree.conftest import Measure
from benchmarks.tree.effort import BRANCHING, effort
from benchmarks.tree.rows import case

NO_DEPTH_LIMIT = 1_000_000  # at the recipe's default depth of 10 its search ends after some 50 simulations


@pytest.mark.parametrize("n", effort().sizes([1_000, 10_000, 100_000]))
def test_plain_uct(measure: Measure, rng: np.random.Generator, n: int) -> None:
    timed = case(rows.SIMULATION, rows.PLAIN_PYTHON, n, items=n)
    measure(timed, plain_uct.search, lambda: (rng.random(n).tolist(), BRANCHING))


@pytest.mark.parametrize("n", effort().sizes([1_000, 10_000]))
def test_recipe(measure: Measure, rng: np.random.Generator, n: int) -> None:
    """With a model that costs next to nothing (benchmarks/recipe). Texts grow with the depth, as the recipe has it."""

    def setup() -> tuple[object, ...]:
        model = FreeModel(n, step_chars=1, seed=int(rng.integers(2**32)))
        return reference.BudgetAwareValueTreeSearch(model, model, n), model

    def search(searcher: reference.BudgetAwareValueTreeSearch, model: FreeModel) -> None:
        searcher.search("question", NO_DEPTH_LIMIT)
        assert model.num_calls == n, "a simulation fewer"

    measure(case(rows.SIMULATION, rows.RECIPE, n, items=n), search, setup)

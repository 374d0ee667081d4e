"""This package's search over a pool: with the critic, without one, with a perfect one, and many asks in flight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from bavt_fast import Budget, Search, Searcher
from bavt_fast.protocols import Critic
from bavt_fast.tasks.countdown import CountdownOracle
from benchmarks.budget.pool import Pool, PoolCritic, PoolGenerator

Judge = Literal["model", "nothing", "solver"]
"""Whose values a search goes by: the model's critic; V = 1 everywhere; the exact solver."""


def search_all(
    pool: Pool,
    task: Any,
    questions: Sequence[str],
    budgets: Sequence[int],
    options: Mapping[str, Any],
    judge: Judge = "model",
    leaves: int = 1,
    seed: int = 0,
    independent: bool = False,
    solver: Critic | None = None,
) -> list[list[Search]]:
    """A search of every question at every budget, done: by question, then budget.

    Args:
        options: arguments of `Searcher`.
        leaves: asks in flight in one tree.
        independent: see `PoolGenerator`; needed for more than one ask in flight.
        solver: the exact solver of the task; Countdown's without one.
    """
    critic = {"model": PoolCritic(pool), "nothing": None, "solver": solver or CountdownOracle()}[judge]
    asks = max(1, len(questions) * len(budgets) * leaves)
    generator = PoolGenerator(pool, independent)
    searcher = Searcher(generator, critic, task, **{**options, "wave": asks, "leaves": leaves})
    searches = [searcher.start(question, budget=Budget(tokens=b), seed=seed) for question in questions for b in budgets]
    for _ in searcher.run(searches):
        pass
    for search, budget in zip(searches, list(budgets) * len(questions), strict=True):
        if search.error is not None:
            raise search.error
        if search.spent.tokens > budget:
            raise AssertionError(f"a search of {budget} tokens spent {search.spent.tokens}")
    size = len(budgets)
    return [searches[at : at + size] for at in range(0, len(searches), size)]


def solved(searches: Sequence[Sequence[Search]]) -> np.ndarray:
    """bool (questions, budgets)."""
    return np.array([[search.stop_reason == "solved" for search in row] for row in searches], dtype=bool)

"""The family: reasoning_gym's n_queens on 12 rows with 8 or 9 queens to place, and which of its problems are for what.

No text that the model learns from has all queens of a problem that is held out (`boards.contains`): it has seen none of
the states that a search of such a problem can come to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from bavt_fast.protocols import Node
from bavt_fast.tasks.n_queens import make_oracle
from bavt_fast.tasks.reasoning_gym import ReasoningGymTask
from benchmarks.budget.problems import Problems

SIZE = 12
FAMILY = {"name": "n_queens", "inner": "n_queens", "n": SIZE, "min_remove": 8, "max_remove": 9}
"""Arguments of the task, of the command line too."""
CRITIC_SEED, VALIDATION_SEED, TEST_SEED = 1_000_000, 2_000_000, 3_000_000
"""Of reasoning_gym, whose problem of a number has a seed of its own: the sum of the two."""


def problems(name: str, count: int, seed: int) -> Problems:
    """So many problems, judged by the family's own verifier."""
    task = ReasoningGymTask(**FAMILY, size=count, seed=seed)  # type: ignore[arg-type]
    return Problems(name, task.questions, 0, task, InnerSolver(make_oracle()))


def validation_set(count: int) -> Problems:
    """What settings are chosen on."""
    return problems("validation", count, VALIDATION_SEED)


def fresh_set(count: int, first: int = 0) -> Problems:
    """What is reported; from the first of these numbers on."""
    return problems("reasoning_gym n_queens", count, TEST_SEED + first)


def boards_of(sets: Sequence[Problems]) -> np.ndarray:
    """int64 (problems, size): the columns of the queens that stand in each."""
    states = [part.task.initial_state(question).inner for part in sets for question in part.questions]
    return np.array([list(state.columns) for state in states], dtype=np.int64)


class InnerSolver:
    """The exact solver of a reasoning_gym task's inner task."""

    predicts: Literal["value", "residual"] = "value"

    def __init__(self, solver: Any) -> None:
        self._solver = solver

    def score(self, candidates: Sequence[Node]) -> list[float]:
        scores: list[float] = self._solver.score([Node(node.state.inner, None) for node in candidates])
        return [max(score, 1e-6) for score in scores]

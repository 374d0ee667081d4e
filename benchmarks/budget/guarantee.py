"""The bound on iterations (`bavt_fast.iterations_needed`) against what the model does.

An iteration draws a step at the deepest living state reached so far (one from which the target can be reached); it
makes progress where the step leads to another. p_min of a question is the least share of such steps at any living state
that the simulation stood at, counted from the model's own probabilities of the steps that the pool has: no more than
the true one, so the bound must hold. Beside it stands the search itself with the exact solver as its critic.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bavt_fast import iterations_needed
from bavt_fast.protocols import Node
from bavt_fast.tasks.countdown import CountdownOracle
from benchmarks.budget import ours
from benchmarks.budget.methods import Ground
from benchmarks.budget.walk import Place, Walk, Wants, drive

FAILURES = (0.5, 0.1, 0.01)
MOST_ITERATIONS = 2000


@dataclass
class Trials:
    """What came of one question.

    Attributes:
        needed: iterations of each trial until it was solved; `MOST_ITERATIONS` + 1 where that was not enough.
        p_min: 0 where a state was stood at whose good steps nobody has drawn.
    """

    successes: int
    needed: list[int] = field(default_factory=list)
    p_min: float = 1.0

    def bound(self, failure: float) -> float:
        """M; infinite where p_min is 0."""
        return iterations_needed(self.p_min, self.successes, failure) if self.p_min > 0 else math.inf


class Simulation:
    """Trials of one question."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.trials = Trials(successes=len(walk.root.state.numbers) - 1)
        self._alive: dict[int, bool] = {}
        self._stood_at: dict[int, Place] = {}

    def run(self, random: np.random.Generator, count: int) -> Wants:
        for _ in range(count):
            place, iterations = self.walk.root, 0
            while not place.right and iterations <= MOST_ITERATIONS:
                self._stood_at[id(place)] = place
                child = yield from self.walk.draw(place, random.random())
                iterations += 1
                if child is not None and self.is_alive(child):
                    place = child
            self.trials.needed.append(iterations)
        self.trials.p_min = min(self._good_share(place) for place in self._stood_at.values())

    def is_alive(self, place: Place) -> bool:
        """Whether the target can still be reached from a place, or has been."""
        known = self._alive.get(id(place))
        if known is None:
            known = place.right or (place.is_open and CountdownOracle().score([Node(place.state, None)]) == [1.0])
            self._alive[id(place)] = known
        return known

    def _good_share(self, place: Place) -> float:
        good = math.fsum(child.probability for child in place.children.values() if self.is_alive(child))
        return min(1.0, good)


def simulate(ground: Ground, trials: int) -> list[Trials]:
    """Trials of every question."""
    problems = ground.problems
    walks = [Walk(ground.pool, problems.task, q, most_tokens=2**60, stops=False) for q in problems.questions]
    simulations = [Simulation(walk) for walk in walks]
    drive(ground.pool, [s.run(ground.random("guarantee", i), trials) for i, s in enumerate(simulations)])
    return [simulation.trials for simulation in simulations]


def searched(ground: Ground, options: Mapping[str, Any], tokens: int) -> list[float]:
    """Steps that the search takes with the exact solver as its critic; infinite where ``tokens`` were not enough."""
    questions, task = ground.problems.questions, ground.problems.task
    rows = ours.search_all(ground.pool, task, questions, [tokens], options, "solver", seed=ground.seed)
    return [_steps_of(search) for (search,) in rows]


def _steps_of(search: Any) -> float:
    if search.stop_reason != "solved":
        return math.inf
    return len(search.nodes) - 1 + len(search.refused)


def table_of(trials: list[Trials], steps: list[float]) -> list[dict[str, float]]:
    """For each failure probability: the median M, and the shares of trials and of searches done within it."""
    rows = []
    for failure in FAILURES:
        bounds = [question.bound(failure) for question in trials]
        done = [np.mean(np.array(q.needed) <= bound) for q, bound in zip(trials, bounds, strict=True)]
        within = [taken <= bound for taken, bound in zip(steps, bounds, strict=True)]
        rows.append(
            {
                "failure": failure,
                "median_bound": float(np.median(bounds)),
                "trials_within": float(np.mean(done)),
                "least_within": float(np.min(done)),
                "searches_within": float(np.mean(within)),
                "median_needed": float(np.median(np.concatenate([question.needed for question in trials]))),
            }
        )
    return rows

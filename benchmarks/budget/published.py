"""The method's recipe as it circulates, over a pool.

Its budget counts iterations; here it has as many as it wants, and ends where its tokens do. It is treated kindly: steps
that are not valid are taken out before it sees them (each stays paid for), and any right answer that it generates
counts, not only the path that it would return. It ends by itself the first time its descent comes to a state without a
next step.
"""

from __future__ import annotations

from collections.abc import Iterator

from bavt_fast.recipe.search import NUM_CANDIDATES, BudgetAwareValueTreeSearch
from benchmarks.budget.walk import Over, Place, Walk, Wants


class Missing(Exception):
    """The pool has to draw first: ``prompt`` needs a step of this ``number``."""

    def __init__(self, prompt: str, number: int) -> None:
        super().__init__(prompt, number)
        self.prompt, self.number = prompt, number


def recipe(walk: Walk, iterations: int = 1000) -> Wants:
    """The recipe's search. Its calls cannot wait for a pool: where a step is missing it begins anew, and what it did
    before comes out the same."""
    question, places = "", {"": walk.root}
    while True:
        walk.begin_again()
        places.clear()
        places[question] = walk.root
        try:
            BudgetAwareValueTreeSearch(_Model(walk, places), _Critic(places), iterations).search(question)
        except Missing as missing:
            yield missing.prompt, missing.number
        except Over:
            return
        else:
            return


class _Model:
    """``generate_next_steps`` by the pool: texts stand for the places that they lead to."""

    def __init__(self, walk: Walk, places: dict[str, Place]) -> None:
        self._walk, self._places = walk, places

    def generate_next_steps(self, text: str, num_candidates: int = NUM_CANDIDATES) -> list[str]:
        place = self._places[text]
        return list(self._steps(text, place, num_candidates)) if place.is_open else []

    def _steps(self, text: str, place: Place, count: int) -> Iterator[str]:
        steps = self._walk.pool.steps(place.prompt)
        if len(steps.entries) < count and not steps.is_all:
            raise Missing(place.prompt, count - 1)
        for number, entry in enumerate(steps.entries[:count]):
            child = self._walk.pay(place, number)
            if child.state is not None:
                self._places[f"{text}\n{entry.step.text}"] = child
                yield entry.step.text


class _Critic:
    """V of the place that a text stands for. A number that is no right answer is worth nothing, as for the others."""

    def __init__(self, places: dict[str, Place]) -> None:
        self._places = places

    def estimate_residual_value(self, trajectory_text: str) -> float:
        place = self._places[trajectory_text]
        return 0.0 if place.terminal else place.value

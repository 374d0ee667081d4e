"""Whole paths from the same model: parallel sampling, and what chooses among its paths.

*Oracle-verified parallel sampling* is the strongest form of best-of-n: paths are sampled independently, and within B
tokens a question is solved when one of those finished by then is right. A path ends, and has cost its tokens, at its
first invalid step. *Best-of-n* and the *majority* have no oracle: the critic says which of the paths finished by B
tokens to commit to, or how much each vote counts. All three see the same paths.

Paths do not depend on each other, so many are sampled at once, a step of each at a time. Which comes first counts where
two stand at the same place (`pool.Draws`): it is the one with the smaller number, whatever the pool had before.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from bavt_fast.protocols import Task
from benchmarks.budget.pool import Pool
from benchmarks.budget.walk import Place, Walk, Wants, drive

LEAST_MASS = 1e-9
"""Below this share of its paths left a place counts as sampled to the end."""
NO_LIMIT = 2**60
"""Tokens: what a path costs is counted when it is known which come first."""
BATCHES = (4, 4, 8, 16, 32)
"""Paths of a question that are sampled at once: first, then, ...; the last from there on."""


class Uniform(Protocol):
    """Numbers in [0, 1), such as a numpy generator's."""

    def random(self) -> float: ...


@dataclass(slots=True)
class Path:
    """One sampled path: where it stands, what it has cost."""

    place: Place
    uniform: Uniform
    tokens: int = 0


class Paths:
    """Independent paths of one question, in their order.

    Args:
        uniform: the random numbers of the path of a number.
    """

    def __init__(self, pool: Pool, task: Task[Any], question: str, uniform: Callable[[int], Uniform]) -> None:
        self.walk = Walk(pool, task, question, most_tokens=NO_LIMIT, stops=False)
        self._uniform = uniform
        self.done: list[Path] = []
        self.batches = 0

    @property
    def are_impossible(self) -> bool:
        """Whether the model has no step at all."""
        return bool(self.done) and self.done[0].tokens == 0

    def next_batch(self) -> list[Path]:
        """Paths that begin."""
        count = BATCHES[min(self.batches, len(BATCHES) - 1)]
        self.batches += 1
        began = [Path(self.walk.root, self._uniform(len(self.done) + i)) for i in range(count)]
        self.done += began
        return began


def sample(paths: Sequence[Paths], wants_more: Callable[[int, Paths], bool]) -> None:
    """Samples paths of every question as long as it wants more; asked with its number."""
    while wanting := [own for number, own in enumerate(paths) if not own.are_impossible and wants_more(number, own)]:
        active = [(own.walk, path) for own in wanting for path in own.next_batch()]
        while active:
            groups: dict[int, tuple[Walk, Place, list[Path]]] = {}
            for walk, path in active:
                groups.setdefault(id(path.place), (walk, path.place, []))[2].append(path)
            drive(paths[0].walk.pool, [_steps(*group) for group in groups.values()])
            active = [(walk, path) for walk, path in active if path.place.is_open]


def _steps(walk: Walk, place: Place, paths: Sequence[Path]) -> Wants:
    """A step of each path at a place, in their order."""
    for path in paths:
        child = yield from walk.draw(place, path.uniform.random())
        if child is None:
            place.is_spent = True
            return
        path.place, path.tokens = child, path.tokens + child.tokens


# ---- what the critic chooses


@dataclass
class Ended:
    """Paths of one question in the order in which they finished: tokens spent by then, the critic's V of the end, what
    they answer, as the task's key (None for an invalid step), and whether that is right."""

    tokens: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    answers: list[object] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)

    @classmethod
    def of(cls, paths: Paths) -> Ended:
        ended, tokens = cls(), 0
        for path in paths.done:
            tokens += path.tokens
            end = path.place
            ended.tokens.append(tokens)
            ended.values.append(end.value)
            ended.answers.append(paths.walk.task.key(end.state) if end.terminal else None)
            ended.right.append(end.right)
        return ended


def best_of(ended: Ended, budgets: Sequence[int]) -> list[bool]:
    """Whether the path that the critic values most is right, of those finished within each budget."""
    return [bool(n) and _chosen_right(ended, n) for n in _finished(ended, budgets)]


def _finished(ended: Ended, budgets: Sequence[int]) -> list[int]:
    return [int(np.searchsorted(ended.tokens, budget, side="right")) for budget in budgets]


def _chosen_right(ended: Ended, count: int) -> bool:
    answered = [i for i in range(count) if ended.answers[i] is not None]
    return bool(answered) and ended.right[max(answered, key=lambda i: ended.values[i])]


def majority(ended: Ended, budgets: Sequence[int]) -> list[bool]:
    """Whether the answer with most votes is right, each path's vote weighted by the critic's V of its end."""
    outcomes = []
    for count in _finished(ended, budgets):
        votes: dict[object, float] = defaultdict(float)
        right: dict[object, bool] = {}
        for i in range(count):
            if ended.answers[i] is not None:
                votes[ended.answers[i]] += ended.values[i]
                right[ended.answers[i]] = ended.right[i]
        outcomes.append(bool(votes) and right[max(votes, key=lambda answer: votes[answer])])
    return outcomes


# ---- without replacement


def without_replacement(walk: Walk, random: Uniform) -> Wants:
    """Whole paths without replacement: no path is sampled twice, and what is left is as likely as the model has it.

    Every place keeps its mass: the share of its paths that were not sampled yet. A step that was drawn before is taken
    by its probability times the mass behind it, a new one by what is left of the probability.
    """
    mass: dict[int, float] = {}  # by the place's id; 1 where no path has been
    while mass.get(id(walk.root), 1.0) > LEAST_MASS:
        place = walk.root
        while place.is_open:
            weights = [child.probability * mass.get(id(child), 1.0) for child in place.children.values()]
            total = sum(weights) + _undrawn(place)
            if total <= LEAST_MASS:
                break
            number = int(np.searchsorted(np.cumsum(weights), random.random() * total, side="right"))
            if number < len(weights):
                place = walk.pay(place, number)  # it has been there: a sampler writes the step again
                continue
            place = (yield from walk.expand(place)) or place
        _take_out(place, mass)


def _undrawn(place: Place) -> float:
    """The probability of the steps that were not drawn at a place yet."""
    return 0.0 if place.is_spent else max(0.0, 1.0 - sum(child.probability for child in place.children.values()))


def _take_out(end: Place, mass: dict[int, float]) -> None:
    """A path was sampled to its end: its mass is gone there, and less is left above."""
    mass[id(end)] = 0.0
    above = end.parent
    while above is not None:
        behind = sum(child.probability * mass.get(id(child), 1.0) for child in above.children.values())
        mass[id(above)] = _undrawn(above) + behind
        above = above.parent

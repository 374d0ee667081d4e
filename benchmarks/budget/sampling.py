"""Whole paths from the same model: parallel sampling, and what chooses among its paths.

*Oracle-verified parallel sampling* is the strongest form of best-of-n: paths are sampled independently, and within B
tokens a question is solved when one of those finished by then is right. A path ends, and has cost its tokens, at its
first invalid step. *Best-of-n* and the *majority* have no oracle: the critic says which of the paths finished by B
tokens to commit to, or how much each vote counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.budget.walk import Place, Walk, Wants

LEAST_MASS = 1e-9
"""Below this share of its paths left a place counts as sampled to the end."""


def sampled_path(walk: Walk, random: np.random.Generator) -> Wants:
    """One path, step by step with replacement; returns its end."""
    place: Place = walk.root
    while place.is_open:
        child = yield from walk.draw(place, random.random())
        if child is None:
            return place
        place = child
    return place


def parallel_sampling(walk: Walk, random: np.random.Generator) -> Wants:
    """Independent paths until one is right."""
    while True:
        before = walk.tokens
        yield from sampled_path(walk, random)
        if walk.tokens == before:
            return  # the model has no step


def without_replacement(walk: Walk, random: np.random.Generator) -> Wants:
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


@dataclass
class Ended:
    """Paths of one question in the order in which they finished: tokens spent by then, the critic's V of the end, what
    they answer, as the task's key (None for an invalid step), and whether that is right."""

    tokens: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    answers: list[object] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)


def ended_paths(walk: Walk, random: np.random.Generator, ended: Ended) -> Wants:
    """Independent paths up to the largest budget, right or not."""
    while True:
        before = walk.tokens
        end = yield from sampled_path(walk, random)
        if walk.tokens == before:
            return
        ended.tokens.append(walk.tokens)
        ended.values.append(end.value)
        ended.answers.append(walk.task.key(end.state) if end.terminal else None)
        ended.right.append(end.right)


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

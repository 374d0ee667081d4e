"""One question under one method, and the loop that runs many of them side by side.

A method is a generator function of a `Walk`: ``child = yield from walk.expand(place)`` draws the next step at a place
and pays for it. It ends by itself, or when a right answer is found, or when the next step would not fit the largest
budget. What it had found by then at a smaller budget is what it would have found with that budget, so one run is a
whole curve.

`drive` steps all walks until each needs a step that the pool has not drawn, and has the pool draw those together.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from bavt_fast.protocols import Task
from benchmarks.budget.pool import Draws, Entry, Pool

Wants = Generator[tuple[str, int], None, Any]
"""What a method is: it yields (prompt, number) of a step that the pool must have before it goes on."""


class Over(Exception):
    """A walk has ended: solved, or the next step does not fit."""


@dataclass(slots=True)
class Place:
    """A state that a walk has reached.

    Attributes:
        entry: the step that led here; None at the root.
        probability, tokens: of the step that led here, given the place before it.
        drawn: steps that were drawn here so far.
        right: whether it is an answer, and right.
    """

    state: Any
    prompt: str
    pool: Pool
    entry: Entry | None = None
    probability: float = 1.0
    tokens: int = 0
    parent: Place | None = None
    terminal: bool = False
    right: bool = False
    answer: str | None = None
    drawn: int = 0
    is_spent: bool = False  # nothing new can be drawn
    draws: Draws = field(default_factory=Draws)
    children: dict[int, Place] = field(default_factory=dict)  # by the number of the step in the pool

    @property
    def value(self) -> float:
        """V by the critic; 0 for a state that is no state (`state` is None: the step was invalid)."""
        if self.entry is None:
            return 1.0
        return 0.0 if self.state is None else self.pool.value(self.entry, self.prompt)

    @property
    def is_open(self) -> bool:
        """Whether steps can be drawn here."""
        return self.state is not None and not self.terminal and not self.is_spent


class Walk:
    """One question, what was spent on it, and when it was solved.

    Args:
        most_tokens: no step is drawn that does not fit.
        stops: whether a right answer ends the walk, as a verifier would.
    """

    def __init__(self, pool: Pool, task: Task[Any], question: str, most_tokens: int, stops: bool = True) -> None:
        self.pool, self.task, self.most_tokens, self.stops = pool, task, most_tokens, stops
        state = task.initial_state(question)
        about = task.describe(state)
        self.root = Place(state, about.prompt or "", pool)
        self.tokens = 0
        self.solved_tokens = math.inf

    def begin_again(self) -> None:
        """Forgets what was spent and found, for a method that repeats itself."""
        self.root = replace(self.root, drawn=0, is_spent=False, draws=Draws(), children={})
        self.tokens, self.solved_tokens = 0, math.inf

    def expand(self, place: Place) -> Generator[tuple[str, int], None, Place | None]:
        """The next step at a place, without replacement: where it leads. None where nothing new can be drawn."""
        steps = self.pool.steps(place.prompt)
        while place.drawn >= len(steps.entries):
            if steps.is_all:
                place.is_spent = True
                return None
            yield place.prompt, place.drawn
        place.drawn += 1
        return self.pay(place, place.drawn - 1)

    def draw(self, place: Place, uniform: float) -> Generator[tuple[str, int], None, Place | None]:
        """An independent step at a place, with replacement, given a number in [0, 1). None where there is no step."""
        steps, draws = self.pool.steps(place.prompt), place.draws
        while True:
            if steps.is_all and not steps.entries:
                return None
            number = draws.number(steps, uniform)
            if number < len(steps.entries):
                break
            yield place.prompt, number
        draws.see(steps, number)
        return self.pay(place, number)

    def pay(self, place: Place, number: int) -> Place:
        """Charges a step of a place and says where it leads: the same child whenever it is the same step.

        Raises:
            Over: it does not fit, or it solved the question.
        """
        entry = self.pool.steps(place.prompt).entries[number]
        if self.tokens + entry.step.tokens > self.most_tokens:
            raise Over
        self.tokens += entry.step.tokens
        child = place.children.get(number)
        if child is None:
            child = place.children[number] = self._reached(place, entry)
        if child.right:
            self.solved_tokens = min(self.solved_tokens, self.tokens)
            if self.stops:
                raise Over
        return child

    def _reached(self, place: Place, entry: Entry) -> Place:
        step = entry.step
        state = None if step.is_cut else self.task.apply(place.state, step)
        if state is None:
            return Place(None, "", self.pool, entry, entry.probability, step.tokens, place)
        about = self.task.describe(state)
        prompt = about.prompt or ""
        child = Place(state, prompt, self.pool, entry, entry.probability, step.tokens, place, about.terminal)
        child.right, child.answer = about.terminal and about.verdict is True, about.answer
        return child


def drive(pool: Pool, runs: Iterable[Wants]) -> None:
    """Runs generators to their ends, side by side."""
    active = list(runs)
    while active:
        wanted: dict[str, int] = {}
        going = []
        for run in active:
            try:
                prompt, number = next(run)
            except (StopIteration, Over):
                continue
            wanted[prompt] = max(wanted.get(prompt, 0), number + 1)
            going.append(run)
        pool.fill(wanted)
        active = going

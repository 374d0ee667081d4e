"""What a round is, and rows made of rounds: the sides take turns, and every figure keeps its spread."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from benchmarks.generation import rows
from benchmarks.harness import At, Limits, Row, ratios, rounds_of, row_of


@dataclass(frozen=True)
class Round:
    """One round of one side.

    Attributes:
        tokens: generated ones that were asked for.
        figures: what else there is, by the name of its row.
    """

    tokens: int
    seconds: float
    first_answer_s: float
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def speed(self) -> float:
        return self.tokens / self.seconds


class Side(Protocol):
    """One of those that take turns."""

    who: str
    at: At

    def warm(self) -> None:
        """What a first round would have to do besides, in the place of one."""
        ...

    def round(self) -> Round:
        """Runs a round, with questions that nobody was asked before."""
        ...


UNITS = {
    rows.SPEED: "tokens/s",
    rows.FULL_SPEED: "tokens/s",
    rows.FIRST_ANSWER: "s",
    rows.STEP_TOKENS: "tokens",
    rows.PROMPT: "x",
    rows.IDLE: "of 1",
    rows.OUTSIDE: "of 1",
    rows.HITS: "hits",
    rows.EVICTIONS: "evictions",
    rows.MEMORY: "MB",
}


def rows_of(part: str, sides: Sequence[Side], limits: Limits) -> Iterator[Row]:
    """All rows of sides that take turns, and their speeds against each other, round by round."""
    kept: list[list[Round]] = [[] for _ in sides]

    def turn(place: int) -> float:
        kept[place].append(sides[place].round())
        return kept[place][-1].seconds

    counted = rounds_of({str(place): lambda place=place: turn(place) for place in range(len(sides))}, limits)
    rounds = [own[-len(counted[str(place)]) :] for place, own in enumerate(kept)]  # the first may be to warm up
    for side, own in zip(sides, rounds, strict=True):
        yield from _own_rows(part, side, own)
    yield from _ratio_rows(part, sides, rounds)


def rows_until(part: str, sides: Sequence[Side], deadline_s: float, most: int) -> Iterator[Row]:
    """The same in little time: no whole round to warm up, and another turn only where it ends before `deadline_s`, on
    the clock of `time.monotonic`."""
    for side in sides:
        side.warm()
    kept: list[list[Round]] = [[] for _ in sides]
    turn_s = 0.0
    while not kept[0] or (len(kept[0]) < most and time.monotonic() + turn_s < deadline_s):
        start_s = time.monotonic()
        for side, own in zip(sides, kept, strict=True):
            gc.collect()
            own.append(side.round())
            print(f"  {part}, {side.who}: {own[-1].speed:.4g} tokens/s in {own[-1].seconds:.2f} s", flush=True)
        turn_s = time.monotonic() - start_s
    for side, own in zip(sides, kept, strict=True):
        yield from _own_rows(part, side, own)
    yield from _ratio_rows(part, sides, kept)


def _ratio_rows(part: str, sides: Sequence[Side], rounds: Sequence[Sequence[Round]]) -> Iterator[Row]:
    for what, side, figures in _ratios(sides, rounds):
        yield row_of(what, side.who, "x", figures, {"part": part, **side.at})


def _own_rows(part: str, side: Side, rounds: Sequence[Round]) -> Iterator[Row]:
    figures = {
        rows.SPEED: [one.speed for one in rounds],
        rows.FIRST_ANSWER: [one.first_answer_s for one in rounds],
        **{what: [one.figures[what] for one in rounds] for what in rounds[0].figures},
    }
    for what, values in figures.items():
        yield row_of(what, side.who, UNITS[what], values, {"part": part, **side.at})


def _ratios(sides: Sequence[Side], rounds: Sequence[Sequence[Round]]) -> Iterator[tuple[str, Side, list[float]]]:
    """All against the recipe, and against `model.generate` where it has as many rows."""
    speeds = [[one.speed for one in own] for own in rounds]
    named = list(zip(sides, speeds, strict=True))
    recipe = next((own for side, own in named if side.who == rows.RECIPE), None)
    ceilings = {side.at["asks"]: own for side, own in named if side.who == rows.GENERATE}
    for (side, own), measured in zip(named, rounds, strict=True):
        if recipe is not None and side.who != rows.RECIPE:
            yield rows.OVER_RECIPE, side, ratios(own, recipe)
        ceiling = ceilings.get(side.at["asks"])
        if ceiling is None or side.who == rows.GENERATE:
            continue
        yield rows.OVER_GENERATE, side, ratios(own, ceiling)
        if rows.FULL_SPEED in measured[0].figures:
            yield rows.FULL_OVER_GENERATE, side, ratios([one.figures[rows.FULL_SPEED] for one in measured], ceiling)

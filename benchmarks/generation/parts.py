"""Which sides take turns, and at which sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from benchmarks.generation.breakdown import print_breakdown
from benchmarks.generation.models import EMBEDDED, Subject
from benchmarks.generation.plain import ContinuousBatching, Generate, RecipeLoop
from benchmarks.generation.rounds import Side, rows_of, rows_until
from benchmarks.generation.search import OurSearch
from benchmarks.harness import LeftOut, Limits, Row

WIDEST = 64
MOST_ROUNDS = 3
"""Of a part in little time."""
MOST_ROUNDS_ALONE = 9
Part = Callable[[], Iterator[Row]]


@dataclass(frozen=True)
class Sizes:
    """What a model is timed at.

    Args:
        most_step_tokens: the most of a step.
        one_tokens: budget of a question that is searched alone.
        many_tokens: budget of each of many.
        slots: asks in flight of the search with four times as many questions.
        limits: of a part.
    """

    most_step_tokens: int
    one_tokens: int
    many_tokens: int
    slots: int
    limits: Limits

    @property
    def wide_tokens(self) -> int:
        """Budget of one question with 64 asks in flight: each may take a whole step."""
        return WIDEST * self.most_step_tokens


QUICK = Sizes(16, 128, 64, 8, Limits(0.0, fewest=1, most=1))
LARGE_ON_CPU = Sizes(16, 192, 32, 8, Limits(20.0, fewest=2, most=3))
SMALL_ON_CPU = Sizes(16, 250, 125, 8, Limits(8.0, fewest=3, most=9))
ON_GPU = Sizes(24, 128, 128, WIDEST, Limits(1e6, fewest=3, most=3))  # the first turn captures graphs: never counted


def sizes_of(name: str, device: torch.device, quick: bool) -> Sizes:
    if quick:
        return QUICK
    if device.type == "cuda":
        return ON_GPU
    return SMALL_ON_CPU if name == EMBEDDED else LARGE_ON_CPU


def parts_of(subject: Callable[[], Subject], sizes: Sizes) -> list[Part]:
    """The sides that are compared with each other take turns in one part; `subject` loads the model at first use."""
    return [
        lambda: _one_question(subject(), sizes),
        lambda: _side_by_side(subject(), sizes, 8, [(8, 8), (16, 16)]),
        lambda: _side_by_side(subject(), sizes, WIDEST, [(WIDEST, WIDEST), (1, WIDEST)]),
    ]


def brief_parts(subject: Callable[[], Subject], sizes: Sizes, until_s: Sequence[float]) -> list[Part]:
    """What the targets need alone, in little time: many questions until the first moment, on the clock of
    `time.monotonic`, one question until the second."""

    def many() -> Iterator[Row]:
        model = subject()
        model.try_head()
        shapes = [(WIDEST, WIDEST), (4 * sizes.slots, sizes.slots)]
        ours = [OurSearch(model, *shape, sizes.many_tokens, sizes.most_step_tokens) for shape in shapes]
        sides: list[Side] = [*ours, RecipeLoop(model, ours[0]), Generate(model, sizes.slots, ours[0])]
        yield from rows_until(f"{sizes.slots} rows", sides, until_s[0], MOST_ROUNDS)

    def one() -> Iterator[Row]:
        model = subject()
        ours = OurSearch(model, 1, 8, sizes.one_tokens, sizes.most_step_tokens)
        sides: list[Side] = [ours, RecipeLoop(model, ours), Generate(model, 1, ours)]
        yield from rows_until("one question", sides, until_s[1], MOST_ROUNDS)

    return [many, one]


def parts_alone(subject: Callable[[], Subject], sizes: Sizes, until_s: Sequence[float]) -> list[Part]:
    """As `brief_parts`, of our search alone, with more rounds; then where its time goes is printed."""

    def many() -> Iterator[Row]:
        model = subject()
        model.try_head()
        sides = []
        for questions in (WIDEST, 4 * sizes.slots):
            sides.append(OurSearch(model, questions, sizes.slots, sizes.many_tokens, sizes.most_step_tokens))
            share = len(sides) / 2
            until = share * until_s[0] + (1 - share) * time.monotonic()
            yield from rows_until(f"{sizes.slots} rows", sides[-1:], until, MOST_ROUNDS_ALONE)

    def one() -> Iterator[Row]:
        ours = OurSearch(subject(), 1, 8, sizes.one_tokens, sizes.most_step_tokens)
        yield from rows_until("one question", [ours], until_s[1], MOST_ROUNDS_ALONE)

    def breakdown() -> Iterator[Row]:
        model = subject()
        ours = OurSearch(model, WIDEST, sizes.slots, sizes.many_tokens, sizes.most_step_tokens)
        print_breakdown(ours, model, sizes.slots)
        yield from ()

    return [many, one, breakdown]


def _one_question(subject: Subject, sizes: Sizes) -> Iterator[Row]:
    ours = [OurSearch(subject, 1, asks, sizes.one_tokens, sizes.most_step_tokens) for asks in (1, 8)]
    sides = [*ours, RecipeLoop(subject, ours[0]), Generate(subject, 1, ours[0])]
    yield from rows_of("one question", sides, sizes.limits)


def _side_by_side(subject: Subject, sizes: Sizes, rows: int, shapes: list[tuple[int, int]]) -> Iterator[Row]:
    """Shapes (questions, asks in flight), beside `rows` rows of the ceilings; the first has as many of both."""
    if sizes.slots == rows:
        shapes = [*shapes, (4 * rows, rows)]
    ours = [
        OurSearch(
            subject,
            questions,
            asks,
            sizes.wide_tokens if questions == 1 else sizes.many_tokens,
            sizes.most_step_tokens,
        )
        for questions, asks in shapes
    ]
    sides: list[Side] = [*ours, RecipeLoop(subject, ours[0]), Generate(subject, rows, ours[0])]
    reason: LeftOut | None = None
    if sizes.slots == rows:
        continuous = ContinuousBatching(subject, rows, ours[0])
        try:
            continuous.batch(8)
        except LeftOut as error:
            reason = error
        else:
            sides.append(continuous)
    yield from rows_of(f"{rows} rows", sides, sizes.limits)
    if reason is not None:
        raise reason

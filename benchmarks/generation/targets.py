"""What the generator is meant to reach on each device, against what a run measured: ratios within one run."""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.generation import rows
from benchmarks.generation.models import EMBEDDED
from benchmarks.harness import Results, Row, Target


class Bounds(NamedTuple):
    """Of one kind of device. `full_rows`: the rows of the full batch."""

    one_ask: float | None
    eight_asks: float
    eight_questions: float | None
    many_questions: float
    full_rows: int
    full_batch: float
    idle: float
    prompt: float
    outside: float


BOUNDS = {
    "cpu": Bounds(1.1, 2.8, 3.8, 5.0, full_rows=8, full_batch=0.95, idle=0.05, prompt=1.05, outside=0.01),
    "cuda": Bounds(None, 8.0, None, 50.0, full_rows=64, full_batch=1.5, idle=0.05, prompt=1.05, outside=0.03),
}
BUSY_NEIGHBOUR = 2.0


def targets_of(results: Results) -> list[Target]:
    measured = [row for row in results.rows if row.what == rows.SPEED]
    found = []
    for model, device in dict.fromkeys((str(row.at["model"]), str(row.at["device"])) for row in measured):
        found += _of_model(results, model, BOUNDS[device])
    if results.of(rows.BUSY):
        found.append(
            Target("a search beside a busy neighbour / alone", _median(results.of(rows.BUSY)), BUSY_NEIGHBOUR, "x")
        )
    return found


def _of_model(results: Results, model: str, bounds: Bounds) -> list[Target]:
    def over_recipe(questions: int, asks: int) -> float | None:
        return _median(results.of(rows.OVER_RECIPE, rows.OURS, model=model, questions=questions, asks=asks))

    def least(name: str, value: float | None, bound: float | None) -> list[Target]:
        return [] if bound is None else [Target(f"{model}: {name}", value, bound, "x", at_least=True)]

    slots = bounds.full_rows
    full = {"model": model, "questions": 4 * slots, "asks": slots}
    targets = [
        *least("one question, one ask at a time / the recipe's loop", over_recipe(1, 1), bounds.one_ask),
        *least("one question, 8 asks in flight / the recipe's loop", over_recipe(1, 8), bounds.eight_asks),
        *least("8 questions / the recipe's loop, one by one", over_recipe(8, 8), bounds.eight_questions),
        *least("64 questions / the recipe's loop, one by one", over_recipe(64, 64), bounds.many_questions),
        *least(
            f"a full batch of {slots} / model.generate on {slots} rows",
            _median(results.of(rows.FULL_OVER_GENERATE, rows.OURS, **full)),
            bounds.full_batch,
        ),
        Target(
            f"{model}: idle decode slots, {4 * slots} questions over {slots}",
            _median(results.of(rows.IDLE, rows.OURS, **full)),
            bounds.idle,
            "of 1",
        ),
    ]
    if model == EMBEDDED:  # its prompts share nothing, and it is far smaller than what the rest is meant for
        return targets
    worst = max((row.median for row in results.of(rows.PROMPT, rows.OURS, model=model)), default=None)
    outside = _median(results.of(rows.OUTSIDE, rows.OURS, model=model, questions=64, asks=64))
    return [
        *targets,
        Target(f"{model}: prompt tokens computed / needed once, worst", worst, bounds.prompt, "x"),
        Target(f"{model}: outside forward passes and sampling, 64 questions", outside, bounds.outside, "of 1"),
    ]


def _median(found: list[Row]) -> float | None:
    return found[0].median if found else None

"""Runs over scripted worlds: questions, searchers that are killed at a given ask, and what they leave behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripted import ScriptedGenerator, TableCritic, World, WorldTask

import bavt_fast as bavt
from bavt_fast.protocols import Step, StepRequest
from bavt_fast.runs import Run, RunSummary, read_run
from bavt_fast.searcher import Searcher

WORLD = World(seed=3)
BUDGET = bavt.Budget(tokens=120)


class Killed(BaseException):
    """Ends a life of a run from within its generator, with asks out."""


class Mortal:
    """The scripted generator, which ends the life at its n-th call.

    Attributes:
        asked: (question, seed, steps tried) of every ask of this life.
    """

    def __init__(self, world: World = WORLD, calls: int | None = None, extras: bool = True) -> None:
        self.inner, self.calls = ScriptedGenerator(world, extras), calls
        self.asked: list[tuple[str, int, int]] = []

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        self.asked += [(state.text.split("\n", 1)[0], state.seed, len(state.tried)) for state in states]
        if self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise Killed
        answers = self.inner.propose(states, counts, limits)
        for steps in answers:
            for step in steps:
                step.log_probability = -0.25 * (1 + step.tokens)
        return answers


def questions(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [{"id": f"id-{i}", "question": f"q{i}", **fields} for i in range(count)]


def written(folder: Path, rows: Sequence[Any], name: str = "questions.jsonl") -> Path:
    """A file of lines; what is a str already is a line as it is."""
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def searcher(generator: Any = None, world: World = WORLD, **options: Any) -> Searcher:
    options = {"wave": 8, "step_tool_calls": 1, **options}
    generator = Mortal(world) if generator is None else generator
    return Searcher(generator, TableCritic(world), WorldTask(world), **options)


def results(folder: Path) -> dict[Any, dict[str, Any]]:
    """The lines by id, without the time; each id once."""
    lines = list(read_run(folder))
    for line in lines:
        del line["spent"]["seconds"]
    found = {line["id"]: line for line in lines}
    assert len(found) == len(lines)
    return found


def completed(folder: Path, rows: Any, made: Searcher | None = None, **options: Any) -> RunSummary:
    return Run(folder, made or searcher(), rows, **{"budget": BUDGET, **options}).complete()


def one_life(folder: Path, rows: Any, calls: int | None, world: World = WORLD, **options: Any) -> Mortal:
    """A life that ends at its n-th call of the generator, if the run does not before."""
    generator = Mortal(world, calls)
    settings = options.pop("settings", {})
    try:
        with Run(folder, searcher(generator, world, **settings), rows, **{"budget": BUDGET, **options}) as run:
            for _ in run:
                pass
    except Killed:
        pass
    return generator

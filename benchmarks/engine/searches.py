"""Time per step of searches whose generator and critic are free, and of what people would use or write instead.

A step is one that the generator proposed, whether it was kept or dropped. The time inside generator and critic is
measured by wrapping both and taken off. What a wrapper takes beside that stays in the figures: see the stopwatch's row.
"""

from __future__ import annotations

import asyncio
import importlib
import itertools
from collections.abc import Callable, Iterator
from typing import Any

from bavt_fast import Search
from bavt_fast.tasks.text import TextTask
from benchmarks.engine import contract, plain_loop, rows
from benchmarks.harness import Case, LeftOut, Limits, Row, Stopwatch, elapsed_s, ratios, rounds_of, row_of

ALONE = 1_000  # steps of one question alone
USUAL = 50  # steps of a question with 500 tokens
SHAPES = ((1, 1, ALONE), (1, 16, ALONE), (16, 16, USUAL), (256, 256, USUAL), (4_096, 4_096, USUAL))
"""Questions, asks in flight, steps of each question."""

Side = Callable[[], float]


class OurSearch:
    """Rounds of one search."""

    coroutine = False

    def __init__(self, task: str, questions: int, wave: int, steps: int, **options: Any) -> None:
        self._questions = contract.questions_of(task, questions)
        self._budget = contract.budget_of(steps)
        self.searcher, self._watched = contract.searcher_of(task, wave, self.coroutine, **options)
        self._seeds = itertools.count()

    def search(self, seed: int) -> Any:
        if len(self._questions) == 1:
            return self.searcher.search(self._questions[0], budget=self._budget, seed=seed)
        return self.searcher.search_many(self._questions, budget=self._budget, seed=seed)

    def seconds(self) -> float:
        """Runs a round; seconds outside generator and critic per step."""
        _, outside_s, steps = self._watched.run(lambda: self.search(next(self._seeds)))
        return outside_s / steps


class OurAsyncSearch(OurSearch):
    coroutine = True

    def search(self, seed: int) -> Any:
        return asyncio.run(self.searcher.asearch_many(self._questions, budget=self._budget, seed=seed))


def at(task: str, questions: int, wave: int, steps: int) -> dict[str, int | str]:
    return {"task": task, "questions": questions, "wave": wave, "steps": steps}


def per_step(what: str, who: str, seconds: list[float], where: dict[str, int | str]) -> Row:
    return Case(what, who, items=1, at=where).row(seconds)


def side_by_side(task: str, limits: Limits, largest: int) -> Iterator[Row]:
    """Our search in each shape; one ask at a time comes with those that it is compared with."""
    for shape in SHAPES[1:]:
        if shape[0] <= largest:
            seconds = rounds_of({rows.OURS: OurSearch(task, *shape).seconds}, limits)[rows.OURS]
            yield per_step(rows.STEP, rows.OURS, seconds, at(task, *shape))


def one_at_a_time(task: str, limits: Limits) -> Iterator[Row]:
    """One question, one ask at a time, of the usual budget and a large one; plain text with the others in turn."""
    for steps in (USUAL, ALONE):
        where = at(task, 1, 1, steps)
        sides: dict[str, Side] = {rows.OURS: OurSearch(task, 1, 1, steps).seconds}
        if task == "TextTask":
            sides[rows.PLAIN_LOOP] = PlainSearch(steps).seconds
            if treequest_here():
                sides[rows.TREEQUEST] = TreequestSearch(steps).seconds
        found = rounds_of(sides, limits)
        for who, seconds in found.items():
            yield per_step(rows.STEP, who, seconds, where)
        for who, seconds in found.items():
            if who != rows.OURS:
                yield row_of(rows.TIMES_OURS, who, "x", ratios(seconds, found[rows.OURS]), where)
    if task == "TextTask" and not treequest_here():
        raise LeftOut("treequest (does not import; the `rivals` extra has it)")


def asynchronous(limits: Limits, largest: int) -> Iterator[Row]:
    shape = (min(256, largest), min(256, largest), USUAL)
    search = OurAsyncSearch("TextTask", *shape)
    yield per_step(rows.ASYNC_STEP, rows.OURS, rounds_of({"": search.seconds}, limits)[""], at("TextTask", *shape))


def listening(limits: Limits) -> Iterator[Row]:
    """What `on_event` costs a step: with a listener that does nothing, and where nobody listens."""
    shape, where = (16, 16, USUAL), at("TextTask", 16, 16, USUAL)
    sides = {
        "without": OurSearch("TextTask", *shape).seconds,
        "with": OurSearch("TextTask", *shape, on_event=lambda event: None).seconds,
        "checks": checks_s,
    }
    found = rounds_of(sides, limits)
    yield row_of(rows.LISTENED, rows.OURS, "x", ratios(found["with"], found["without"]), where)
    yield per_step(rows.HOOKS, rows.OURS, found["checks"], where)


def checks_s(steps: int = 10_000) -> float:
    """Seconds a step for whether its search has an observer: asked twice in `describe` and once in `grow`."""
    searches = [Search("question", task=TextTask(), budget=contract.budget_of(1))] * steps

    def asked() -> None:
        for search in searches:
            if search.observer is not None or search.observer is not None or search.observer is not None:
                raise AssertionError("nobody listens")

    def not_asked() -> None:
        for _ in searches:
            pass

    # The shortest of several: in half a millisecond, other work that takes the core away is more than the difference.
    shortest = [min(elapsed_s(loop) for _ in range(7)) for loop in (asked, not_asked)]
    return (shortest[0] - shortest[1]) / steps


def stopwatch(limits: Limits) -> Iterator[Row]:
    seconds = rounds_of({"": Stopwatch.overhead_s}, limits)[""]
    yield per_step(rows.STOPWATCH, rows.OURS, seconds, {})


def verdicts() -> Iterator[Row]:
    for task in contract.TASKS:
        calls = contract.verify_calls_per_terminal_state(task, steps=500)
        yield row_of(rows.VERIFY_CALLS, rows.OURS, "calls", [calls], {"task": task})


# ---- The others ----------------------------------------------------------------------------------------------------


class PlainSearch:
    """The plain loop; its model's functions are timed by wrapping them, as ours are."""

    def __init__(self, steps: int) -> None:
        self._texts = itertools.cycle([contract.STEP_TEXT.format(i, i, i) for i in range(contract.PREPARED)])
        self._values = itertools.cycle([i / 997 for i in range(1, 997)])
        self._steps, self._seeds = steps, itertools.count()
        self._clocks = [Stopwatch(self, "generate"), Stopwatch(self, "score")]

    def generate(self, context: str, limit: int) -> tuple[str, int]:
        return next(self._texts), contract.STEP_TOKENS

    def score(self, context: str) -> float:
        return next(self._values)

    def seconds(self) -> float:
        before_s = sum(clock.seconds for clock in self._clocks)
        tokens, seed = self._steps * contract.STEP_TOKENS, next(self._seeds)
        total_s = elapsed_s(lambda: plain_loop.search("question", self.generate, self.score, tokens, seed=seed))
        return (total_s - (sum(clock.seconds for clock in self._clocks) - before_s)) / self._steps


def treequest_here() -> bool:
    try:
        importlib.import_module("treequest")
    except ImportError:
        return False
    return True


class TreequestSearch:
    """StandardMCTS by its own `step`, in place: without it every step copies the whole tree.

    To its favour: it joins no texts, counts no budget and drops no duplicates. A step of its is one child.
    """

    def __init__(self, steps: int) -> None:
        import treequest

        self._algorithm: Any = treequest.StandardMCTS()
        self._results = itertools.cycle([(contract.STEP_TEXT.format(i, i, i), i / 997) for i in range(1, 997)])
        self._steps = steps
        self._clock = Stopwatch(self, "generate")

    def generate(self, parent: str | None) -> tuple[str, float]:
        return next(self._results)

    def seconds(self) -> float:
        before_s = self._clock.seconds
        state = self._algorithm.init_tree()
        total_s = elapsed_s(lambda: self._search(state))
        return (total_s - (self._clock.seconds - before_s)) / self._steps

    def _search(self, state: Any) -> None:
        actions = {"step": self.generate}
        for _ in range(self._steps):
            state = self._algorithm.step(state, actions, inplace=True)

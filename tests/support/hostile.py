"""Random worlds whose task, generator and critic do anything that may go wrong, and what can be seen of a run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scripted import ScriptedGenerator, TableCritic, World, WorldTask, draw
from search_checks import fingerprint

import bavt_fast as bavt
from bavt_fast.budget import Spent
from bavt_fast.engine import Search
from bavt_fast.protocols import Description, GenerationError, Node, Scores, Step, StepRequest
from bavt_fast.searcher import Searcher

QUESTIONS = ["a", "b", "c", "d"]
QUIETLY = pytest.mark.filterwarnings("ignore:critic. expected values from 0 to 1", "ignore:generator or critic. took")


class OwnStep(Step):
    """A step of a class of the user's."""


class Hostile:
    """Task, generator and critic of one world, in which anything may go wrong. Keeps all that it was asked."""

    predicts = "value"

    def __init__(self, seed: int, faults: float) -> None:
        self.seed, self.faults = seed, faults
        self.world = World(seed=seed, depth=3 + seed % 3, goal_share=0.12)
        self.task, self.generator, self.critic = WorldTask(self.world), ScriptedGenerator(self.world), None
        self.critic = TableCritic(self.world)
        self.calls: list[Any] = []
        self.initial_state = self.task.initial_state

    def fails(self, *about: object) -> bool:
        return draw(self.seed, "fails", *about) < self.faults

    def apply(self, state: Any, step: Step) -> Any:
        self.calls.append(("apply", state, step.text))
        if self.fails("apply", state, step.text):
            raise RuntimeError("apply")
        return self.task.apply(state, step)

    def key(self, state: Any) -> Any:
        self.calls.append(("key", state))
        return [state] if len(state) > 1 and self.fails("key", state) else self.task.key(state)

    def describe(self, state: Any) -> Any:
        self.calls.append(("describe", state))
        if len(state) > 1 and self.fails("describe", state):
            return [None, Description(False, True), Description(min_tokens=-1), "text"][len(self.calls) % 4]
        return self.task.describe(state)

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[Any]:
        self.calls.append(("propose", [(s.text, s.seed, s.tried, s.sampling, s.seconds_left) for s in states]))
        return [self.answer(*one) for one in zip(states, counts, limits, strict=True)]

    def answer(self, request: StepRequest, count: int, limit: int) -> Any:
        drawn = random.Random(request.seed)
        steps: list[Any] = [changed(step, drawn) for step in self.generator.steps(request, count, limit)]
        if drawn.random() < self.faults:
            return drawn.choice([GenerationError("model", Spent(tokens=1)), "text", None, steps * 9, [*steps, "step"]])
        if steps and drawn.random() < self.faults:
            name, value = drawn.choice([("tokens", 0), ("text", b""), ("finish_reason", "?"), ("cost", -1.0)])
            setattr(steps[-1], name, value)
        return tuple(steps) if drawn.random() < 0.2 else steps

    def score(self, candidates: Sequence[Node]) -> Any:
        self.calls.append(
            ("score", [(n.state, n.text, n.answer, n.step, n.step and n.step.hidden) for n in candidates])
        )
        values: list[Any] = self.critic.score(candidates)
        if candidates and self.fails("score", candidates[0].state):
            values[0] = [float("nan"), RuntimeError("critic"), "0.5", 1.5][len(self.calls) % 4]
        if draw(self.seed, "scores", len(self.calls)) < 0.1:
            return Scores(values, [Spent(tokens=1)] * len(values))
        return np.array(values) if draw(self.seed, "array", len(self.calls)) < 0.1 and not self.faults else values


class DescribesMany(Hostile):
    def describe_many(self, states: Sequence[Any]) -> list[Any]:
        self.calls.append(("describe_many", list(states)))
        return [self.describe(state) for state in states]


class Streams:
    """The world's generator as one that tells each answer when it is done: some at a time, in any order."""

    def __init__(self, parts: Hostile) -> None:
        self.parts = parts
        self.out: dict[int, Any] = {}

    def propose(self, *arguments: Any) -> list[Any]:
        return self.parts.propose(*arguments)

    def submit(self, tickets: Sequence[int], *asked: Sequence[Any]) -> None:
        self.parts.calls.append(
            ("submit", list(tickets), [(s.text, s.seed, s.tried, s.seconds_left) for s in asked[0]])
        )
        if self.parts.fails("submit", len(self.parts.calls)):
            raise RuntimeError("submit")
        self.out.update(zip(tickets, zip(*asked, strict=True), strict=True))

    def collect(self) -> Any:
        self.parts.calls.append(("collect",))
        drawn = random.Random(f"{self.parts.seed} {len(self.parts.calls)}")
        if self.parts.fails("collect", len(self.parts.calls)):
            raise RuntimeError("collect")
        if drawn.random() < 0.1:
            return []
        tickets = drawn.sample(sorted(self.out), drawn.randint(1, len(self.out)))
        done: list[Any] = [(ticket, self.parts.answer(*self.out.pop(ticket))) for ticket in tickets]
        if drawn.random() < self.parts.faults:
            done.append(drawn.choice([(10**9, []), done[0], "pair", (str(tickets[0]), [])]))
        return tuple(done) if drawn.random() < 0.1 else done

    def discard(self, tickets: Sequence[int]) -> dict[int, Spent]:
        self.parts.calls.append(("discard", list(tickets)))
        return {ticket: Spent(tokens=1) for ticket in tickets if self.out.pop(ticket, None) is not None}


class Coroutines:
    """A generator whose `propose` is a coroutine."""

    def __init__(self, parts: Hostile) -> None:
        self.parts = parts

    async def propose(self, *arguments: Any) -> Any:
        return self.parts.propose(*arguments)


def changed(step: Step, drawn: random.Random) -> Step:
    """The step with more to say, now and then."""
    if drawn.random() < 0.2:
        step.hidden = "a state"
    if drawn.random() < 0.1:
        step.tokens = np.int64(step.tokens)  # type: ignore[assignment]
    if drawn.random() < 0.2:
        step.prompt_tokens, step.cached_tokens = drawn.choice([(3, 0), (3, 2), (0, 0)])
    if drawn.random() < 0.2:
        step.seconds = drawn.choice([0, 0.25])
    if drawn.random() < 0.2:
        step.tool_calls, step.cost = drawn.choice([None, 0, 2]), drawn.choice([None, 0.5])
    if drawn.random() < 0.2:
        step.log_probability = -drawn.random()
    if drawn.random() < 0.1:
        return OwnStep(step.text, step.tokens, "".join(step.finish_reason))  # type: ignore[arg-type]
    return step


def run(seed: int) -> list[Any]:
    """All that can be seen of a random run of some questions."""
    drawn = random.Random(seed)
    parts = drawn.choice([Hostile, Hostile, DescribesMany])(seed, drawn.choice([0.0, 0.0, 0.03, 0.1]))
    events: list[Any] = []
    options: dict[str, Any] = {
        "wave": drawn.choice([1, 2, 5]),
        "leaves": drawn.choice([1, 1, 3]),
        "candidates": drawn.choice([1, 3]),
        "retries": drawn.choice([0, 2]),
        "record": drawn.random() < 0.3,
        "tried_exponent": drawn.choice([0.0, 0.5]),
        "discount": drawn.choice([1.0, 0.9]),
        "prompt_token_cost": 0.002,
        "cached_token_cost": drawn.choice([None, 0.001]),
        "max_score": Spent(tokens=1),
        "clock": ticking(),
    }
    if drawn.random() < 0.3:
        options["on_event"] = lambda event: events.append(
            (event.kind, event.node, event.steps, event.value, event.reason)
        )
    if drawn.random() < 0.2:  # somebody looks on between waves
        options["on_progress"] = lambda now: events.append((now.done, now.active, now.asks))
    kind = drawn.choice(["waits", "streams", "streams", "answers", "answers"])
    generators = {"waits": Coroutines(parts), "streams": Streams(parts), "answers": parts}
    many = Searcher(generators[kind], parts, parts, **options)
    budget = bavt.Budget(tokens=drawn.choice([20, 60]), seconds=drawn.choice([None, None, 500.0, 25.0]))
    searches = [many.start(question, budget=budget, seed=seed) for question in QUESTIONS]
    if kind == "waits":
        asyncio.run(ended(many, searches))
    else:
        for _ in many.run(searches):
            pass
    return [parts.calls, events, *map(seen, searches)]


def ticking() -> Callable[[], float]:
    readings = iter(range(10**9))
    return lambda: float(next(readings))


async def ended(many: Searcher, searches: list[Search]) -> None:
    async for _ in many.arun(searches):
        pass


def seen(search: Search) -> Any:
    result = search.result()
    nodes = [(n.state, n.prompt, n.value, n.answer, n.step, n.tried, n.step and n.step.hidden) for n in search.nodes]
    failed = type(result.error), str(result.error)
    return fingerprint(result), nodes, search.keys, search.refused, result.events, failed, result.spent.seconds

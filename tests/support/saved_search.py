"""Searches on random worlds that are saved and loaded: with everything on now and then, driven by a fixed schedule."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripted import ScriptedGenerator, TableCritic, World, WorldTask

import bavt_fast as bavt
from bavt_fast.engine import Search
from bavt_fast.protocols import Description, Step

POLICIES = ["power", "best_first", "uct", "puct", "ucb"]


class Clock:
    """Seconds in quarters, so that sums and differences are exact."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Scripted:
    """A search with everything on now and then, and a schedule that depends on nothing but the number of the step."""

    def __init__(self, seed: int) -> None:
        rng = random.Random(seed)
        self.seed, self.clock, self.ticks = seed, Clock(), rng.random() < 0.5
        self.world = World(
            seed=seed,
            goal_share=rng.choice([0.0, 0.02]),
            invalid_share=0.15,
            merge_share=rng.choice([0.0, 0.3]),
            dead_share=0.05,
            depth=rng.choice([2, 4]),
        )
        self.task = WorldTask(self.world, verifies=rng.random() < 0.7)
        self.generator = ScriptedGenerator(self.world, extras=rng.random() < 0.5)
        self.critic = TableCritic(self.world, rng.choice(["value", "residual"]))
        limits: dict[str, Any] = {"tokens": rng.choice([60, 400])}
        if rng.random() < 0.4:
            limits |= {"tool_calls": 90, "cost": 5.0, "prompt_tokens": 400, "seconds": 60.0}
        self.search = Search(
            "q",
            task=self.task,
            budget=bavt.Budget(**limits),
            seed=seed,
            clock=self.clock,
            policy=rng.choice(POLICIES),
            candidates=rng.choice([1, 3]),
            discount=rng.choice([1.0, 0.9]),
            tried_exponent=rng.choice([0.0, 0.5]),
            patience=rng.choice([2, 10]),
            max_nodes=rng.choice([None, 12]),
            record=rng.random() < 0.5,
            step_tool_calls=1,
            max_step_cost=0.01,
            max_prompt_tokens=5,
            max_score=rng.choice([bavt.Spent(), bavt.Spent(tool_calls=1, tokens=1)]),
        )

    def step(self, number: int) -> None:
        rng = random.Random(f"{self.seed}/{number}")
        search, out = self.search, self.search.open_asks()
        # While a search has stopped its clock goes on, but not in a file: then time stands still here.
        self.clock.now_s += 0.25 * (self.ticks and search.stop_reason is None)
        verb = rng.choices(["ask", "tell", "cancel", "drop", "stop", "extend"], [40, 50, 4, 4, 0.5, 2])[0]
        if verb == "ask":
            search.ask(rng.choice([1, 2, 5]))
        elif verb == "stop" and not self.ticks:
            search.stop()
        elif verb == "extend" and not self.ticks:
            search.extend(bavt.Budget(tokens=30))
        elif out:
            ask = rng.choice(out)
            if verb == "cancel":
                search.cancel(ask, bavt.Spent(tokens=1))
                return
            pending = search.admit(ask, self.generator.steps(ask.request, ask.count, ask.limit))
            if verb == "drop" and pending.tickets:
                search.cancel(ask)
            elif pending.tickets:
                residual = self.critic.predicts == "residual"
                search.grow(pending, self.critic.score(pending.nodes), residual=residual, spent=bavt.Spent())

    def save(self, path: Path) -> None:
        self.search.save(path)

    def load(self, path: Path) -> None:
        self.search = Search.load(path, self.task, clock=self.clock)


def seen(search: Search) -> tuple[Any, ...]:
    """Everything about a search."""
    result = search.result()
    found = (result.answer, result.path, result.path_nodes, result.value, result.stop_reason, result.steps)
    nodes = [(n.state, n.prompt, n.value, n.answer, n.tried, n.text) for n in search.nodes]
    about = (search.id, search.question, search.seed, search.settings, search.budget, len(search.keys))
    lists = (list(search.refused), None if search.events is None else list(search.events))
    return (*found, result.spent, result.overrun, *lists, nodes, about, search._native.to_bytes())


def asks_of(search: Search) -> list[Any]:
    asks = search.open_asks()
    return [(a.ticket, a.node, a.count, a.limit, a.search, a.request.seed, a.request.text) for a in asks]


class FreeTask:
    """Any text is a step, and a state is the list of them."""

    def initial_state(self, question: str) -> tuple[str, ...]:
        return (question,)

    def apply(self, state: tuple[str, ...], step: Step) -> tuple[str, ...] | None:
        return (*state, step.text)

    def key(self, state: tuple[str, ...]) -> tuple[str, ...]:
        return state

    def describe(self, state: tuple[str, ...]) -> Description:
        return Description(prompt=state[0] if len(state) == 1 else None)


class OtherTask(FreeTask):
    """The same, by another name."""


def written_search(folder: Path) -> tuple[Search, Path, Path]:
    """A search with asks out, a file of it, and the folder with nothing else in it."""
    scripted = Scripted(3)
    for number in range(20):
        scripted.step(number)
    scripted.search.ask(2)
    path = folder / "old"
    scripted.search.save(path)
    return scripted.search, path, folder


def in_child(run: Callable[[], None]) -> int:
    """The exit status of a forked child that runs this; minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        try:
            run()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

"""A random world for the search tests: a task whose states are paths in a tree drawn from a seed, its
generator, its critics, and a wrapper that makes any of them fail at a chosen call."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bavt_fast.protocols import Description, Node, Step, StepRequest

Path = tuple[str, ...]


def draw(*parts: object) -> float:
    """A number in [0, 1) that depends on nothing but ``parts``."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big") / 2**56


@dataclass(frozen=True)
class World:
    """A tree of steps a, b, c ... below every state, by which every question, label and value is defined."""

    seed: int = 0
    branching: int = 3
    depth: int = 4
    goal_share: float = 0.1
    invalid_share: float = 0.15
    merge_share: float = 0.15
    dead_share: float = 0.1
    max_tokens: int = 6
    min_tokens: int = 1

    def is_dead(self, path: Path) -> bool:
        """Whether nothing can be proposed below the path."""
        return draw(self.seed, "dead", path) < self.dead_share

    def is_goal(self, path: Path) -> bool:
        return draw(self.seed, "goal", path) < self.goal_share

    def value(self, path: Path) -> float:
        return draw(self.seed, "value", path)


class WorldTask:
    """States are paths: the lines of the context. A step is invalid where it starts with "!"; some paths share a key.

    Some states give their whole context as prompt, others leave it to the steps: to a generator it is the same text.
    Records every state that it was asked to describe.
    """

    def __init__(self, world: World, verifies: bool = True) -> None:
        self.world, self.verifies = world, verifies
        self.described: list[Path] = []

    def initial_state(self, question: str) -> Path:
        if not question:
            raise ValueError("question: expected a name, got ''")
        return (question,)

    def apply(self, state: Path, step: Step) -> Path | None:
        return None if step.text.startswith("!") else (*state, step.text.removesuffix("\n"))

    def key(self, state: Path) -> object:
        if draw(self.world.seed, "merge", state) < self.world.merge_share:
            return len(state), int(2 * draw(self.world.seed, "key", state))
        return state

    def describe(self, state: Path) -> Description:
        self.described.append(state)
        least = self.min_tokens(state)
        prompt = None
        if len(state) == 1 or draw(self.world.seed, "prompt", state) < 0.3:
            prompt = text_of(state)
        if not self.is_terminal(state):
            return Description(prompt=prompt, min_tokens=least)
        return Description(True, self.verdict(state), self.answer(state), prompt, least)

    # What `describe` says, for the tests.

    def is_terminal(self, state: Path) -> bool:
        return len(state) > self.world.depth

    def verdict(self, state: Path) -> bool | None:
        return self.world.is_goal(state) if self.verifies else None

    def answer(self, state: Path) -> str:
        return "answer " + "/".join(state)

    def min_tokens(self, state: Path) -> int:
        return self.world.min_tokens * max(0, self.world.depth + 1 - len(state))


def text_of(path: Path) -> str:
    """The context of a state."""
    return "\n".join(path) + "\n"


class ScriptedGenerator:
    """Samples the world's steps from the request's seed alone. Records every request.

    Args:
        extras: steps report tool calls, cost, prompt tokens and seconds too, some of them.
    """

    def __init__(self, world: World, extras: bool = False) -> None:
        self.world, self.extras = world, extras
        self.requests: list[StepRequest] = []
        self.batches: list[list[str]] = []

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        self.requests += states
        self.batches.append([state.text for state in states])
        return [self.steps(s, c, limit) for s, c, limit in zip(states, counts, limits, strict=True)]

    def steps(self, request: StepRequest, count: int, limit: int) -> list[Step]:
        """The steps for one request."""
        world, path = self.world, tuple(request.text[:-1].split("\n"))
        if world.is_dead(path):
            return []
        random_ = random.Random(request.seed)
        steps = []
        for _ in range(random_.randint(1, count)):
            name = chr(ord("a") + random_.randrange(world.branching))
            if draw(world.seed, "invalid", path, name) < world.invalid_share:
                name = "!" + name
            tokens = random_.randint(1, world.max_tokens)
            step = Step(name + "\n", min(tokens, limit), "delimiter" if tokens <= limit else "limit")
            if self.extras and random_.random() < 0.5:
                step.prompt_tokens = random_.randint(0, 5)
                step.tool_calls = random_.choice([None, 0, 1])
                step.cost = random_.choice([None, 0.001])
                step.log_probability = random_.choice([None, -0.5, -3.0])
            steps.append(step)
        return steps


class TableCritic:
    """The world's value of each state, or its difference to the parent's. Records the batch sizes."""

    def __init__(self, world: World, predicts: Literal["value", "residual"] = "value") -> None:
        self.world = world
        self.predicts: Literal["value", "residual"] = predicts
        self.sizes: list[int] = []

    def score(self, candidates: Sequence[Node]) -> list[float]:
        self.sizes.append(len(candidates))
        values = [self.world.value(node.state) for node in candidates]
        if self.predicts == "value":
            return values
        return [value - node.parent_value for value, node in zip(values, candidates, strict=True)]


class AsyncGenerator:
    """The scripted generator as a coroutine that gives way a seeded number of times, so that answers come out of order.

    Records how many asks were out at most, in all and in one question.
    """

    def __init__(self, world: World, gives_way: int = 3) -> None:
        self.inner, self.gives_way = ScriptedGenerator(world), gives_way
        self.out: Counter[str] = Counter()
        self.most = self.most_of_one = 0

    async def propose(
        self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
    ) -> list[list[Step]]:
        questions = [state.text.split("\n", 1)[0] for state in states]
        self.out.update(questions)
        self.most = max(self.most, self.out.total())
        self.most_of_one = max(self.most_of_one, *self.out.values())
        try:
            for _ in range(random.Random(states[0].seed + 1).randint(0, self.gives_way)):
                await asyncio.sleep(0)
        finally:  # it may be given up
            self.out.subtract(questions)
        return self.inner.propose(states, counts, limits)


class StreamingGenerator:
    """The scripted generator, which finishes what it was given in a seeded order, some at a time.

    Checks what it is told: no ticket twice while it is out.
    """

    def __init__(self, world: World, seed: int = 0, most: int = 3) -> None:
        self.inner, self.random, self.most_at_once = ScriptedGenerator(world), random.Random(seed), most
        self.out: dict[int, tuple[StepRequest, int, int]] = {}
        self.discarded: list[int] = []
        self.most = 0

    def submit(
        self, tickets: Sequence[int], states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
    ) -> None:
        for ticket, *rest in zip(tickets, states, counts, limits, strict=True):
            assert ticket not in self.out
            self.out[ticket] = tuple(rest)  # type: ignore[assignment]
        self.most = max(self.most, len(self.out))

    def collect(self) -> list[tuple[int, list[Step]]]:
        assert self.out, "nothing is out"
        done = self.random.sample(sorted(self.out), self.random.randint(1, min(self.most_at_once, len(self.out))))
        return [(ticket, self.inner.steps(*self.out.pop(ticket))) for ticket in done]

    def discard(self, tickets: Sequence[int]) -> None:
        for ticket in tickets:
            self.out.pop(ticket, None)  # Ctrl-C may come between the end of a request and its telling
        self.discarded += tickets


class ExactCritic:
    """1 where a goal can be reached below a state of the world, by exhaustive search; 0 elsewhere."""

    predicts: Literal["value", "residual"] = "value"

    def __init__(self, world: World) -> None:
        self.world, self._task = world, WorldTask(world)

    def score(self, candidates: Sequence[Node]) -> list[float]:
        return [float(self.solvable(candidate.state)) for candidate in candidates]

    def solvable(self, path: Path) -> bool:
        if len(path) > self.world.depth:
            return self.world.is_goal(path)
        if self.world.is_dead(path):
            return False
        names = [chr(ord("a") + i) for i in range(self.world.branching)]
        legal = [n for n in names if draw(self.world.seed, "invalid", path, n) >= self.world.invalid_share]
        return any(self.solvable((*path, name)) for name in legal)


class Failing:
    """Any object, of whose methods' calls the ``at``-th (from 0, over all methods) raises ``error``."""

    def __init__(self, wrapped: Any, at: int, error: Callable[[], BaseException], persistent: bool = False) -> None:
        self._wrapped, self._at, self._error, self._persistent = wrapped, at, error, persistent
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._wrapped, name)
        if not callable(attribute):
            return attribute

        def call(*args: Any) -> Any:
            self.calls += 1
            if self.calls - 1 == self._at or (self._persistent and self.calls > self._at):
                raise self._error()
            return attribute(*args)

        return call


class Rounds:
    """Proposes one new step of two tokens for each state, after a pause, and nothing after so many calls."""

    def __init__(self, pause_s: float = 0.0, empty_after: int | None = None) -> None:
        self.calls, self.pause_s, self.empty_after = 0, pause_s, empty_after

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        self.calls += 1
        time.sleep(self.pause_s)
        if self.empty_after is not None and self.calls > self.empty_after:
            return [[] for _ in states]
        return [[Step(f"step {self.calls}.{i}\n", min(2, limit))] for i, limit in enumerate(limits)]

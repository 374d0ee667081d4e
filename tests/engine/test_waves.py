"""The native loops of a wave against their readable twin, over random searches in which anything may go wrong; and what
they leave behind in memory."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from scripted import ScriptedGenerator, TableCritic, World, WorldTask, draw
from search_checks import fingerprint

import bavt_fast as bavt
from bavt_fast import async_drive, drive, drive_base, engine, waves
from bavt_fast.budget import Spent
from bavt_fast.engine import Search
from bavt_fast.protocols import Description, GenerationError, Node, Scores, Step, StepRequest
from bavt_fast.reference import waves as twin
from bavt_fast.searcher import Searcher
from bavt_fast.tasks.text import TextTask

WORLDS = int(os.environ.get("BAVT_WAVE_WORLDS", "400"))
CHUNKS = 10
QUESTIONS = ["a", "b", "c", "d"]
EVENTS = ("ask", "refusal", "tell", "node", "cancel", "stop")
QUIETLY = pytest.mark.filterwarnings("ignore:critic. expected values from 0 to 1", "ignore:generator or critic. took")
LOOPS = ("admit", "ask", "describe", "grow", "requests_of", "rounds", "settle", "tell")


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
    waits = drawn.random() < 0.3
    many = Searcher(Coroutines(parts) if waits else parts, parts, parts, **options)
    budget = bavt.Budget(tokens=drawn.choice([20, 60]), seconds=drawn.choice([None, None, 500.0, 25.0]))
    searches = [many.start(question, budget=budget, seed=seed) for question in QUESTIONS]
    if waits:
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


@QUIETLY
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_loops_do_what_their_twins_do(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = range(chunk * WORLDS // CHUNKS, (chunk + 1) * WORLDS // CHUNKS)
    native = [run(seed) for seed in seeds]
    for module in (drive, drive_base, async_drive, engine):
        for name in LOOPS:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(twin, name))
    for seed, ours in zip(seeds, native, strict=True):
        theirs = run(seed)
        assert ours == theirs, f"seed {seed}"


@QUIETLY
def test_random_runs_reach_every_end_and_fault() -> None:
    runs = [run(seed) for seed in range(1_000, 1_100)]
    assert {search[0][5] for _, _, *searches in runs for search in searches} >= {
        "budget",
        "error",
        "solved",
        "deadline",
    }
    calls = {call[0] for made, *_ in runs for call in made}
    assert calls == {"apply", "key", "describe", "describe_many", "propose", "score"}
    assert {event[0] for _, events, *_ in runs for event in events if isinstance(event[0], str)} == set(EVENTS)
    refused = {reason for _, _, *searches in runs for search in searches for _, reason, *_ in search[3]}
    assert refused == {"duplicate", "invalid", "refuted", "limit"}


def test_the_drivers_have_no_other_loops() -> None:
    for module in (drive, drive_base, async_drive, engine):
        for name in LOOPS:
            assert getattr(module, name, getattr(waves, name)) is getattr(waves, name)


@pytest.mark.parametrize("call", ["ask", "requests_of", "settle", "admit", "describe", "grow", "tell", "rounds"])
def test_what_is_no_wave_is_refused(call: str) -> None:
    one = Search("q", task=TextTask(), budget=bavt.Budget(tokens=100))
    (ask,) = one.ask()
    native, slot = one._at_home()
    ticket = slot << 32 | ask.ticket
    step = Step("a\n", 3)
    before = one._native.to_bytes()
    known, wave = {0: one}, (native, {0: one}, [0], [0], [ticket])
    arguments: dict[str, list[tuple[Any, ...]]] = {
        "ask": [(native, {}), (None, {}, 1, 0.0), (native, [], 1, 0.0), (native, {}, -1, 0.0), (native, {}, "1", 0.0)],
        "requests_of": [({}, [0], [0], [1]), ({0: 3}, [0], [0], [1]), (known, [0], [9], [1]), (known, [0], [], [1])],
        "settle": [
            (*wave, [[step], [step]], 0.0),
            (*wave, [iter([step])], 0.0),
            (*wave, [[step]], "now"),
            (*wave, [["step"]], 0.0),
        ],
        "admit": [
            (*wave[:3], [5], [ticket], [[step]], 0.0),
            (*wave[:4], [ticket + 1], [[step]], 0.0),
            (*wave, [[step] * 2], 0.0),
        ],
        "describe": [(*wave, [[step]], ([0], [None])), (*wave, [[step]], None), (*wave, [[step]], ([0], [None], [0]))],
        "grow": [(native, known, None, [0.5], 0.0), (native, known, waves.Pending([0], [ticket], [0]), [0.5], 0.0)],
        "tell": [
            (*wave, [[step], [step]], list, time.monotonic, False),
            (*wave[:4], [ticket + 1], [[step]], list, time.monotonic, False),
            (*wave, [["step"]], list, time.monotonic, False),
            (*wave, [[step]], list, "clock", False),
            (*wave, [[step]], list, str, False),
        ],
        "rounds": [
            (native, [], list, list, 1, time.monotonic, False),
            (None, {}, list, list, 1, time.monotonic, False),
            (native, {}, list, list, -1, time.monotonic, False),
            (native, {}, list, list, 1, "clock", False),
        ],
    }
    for given in arguments[call]:
        with pytest.raises((TypeError, ValueError, KeyError, IndexError, waves.BadAnswer)):
            getattr(waves, call)(*given)
    assert one._native.to_bytes() == before
    assert len(one.nodes) == 1
    assert one.tell(ask, [step], [0.5]) == [1]


@pytest.mark.parametrize("wave", [1, 3])
def test_a_search_is_the_same_where_somebody_looks_on(wave: int) -> None:
    """`rounds` by itself, and a wave at a time."""
    world = World(seed=5, depth=4, goal_share=0.1)
    shown: list[Any] = []

    def found(**options: Any) -> list[Any]:
        many = Searcher(ScriptedGenerator(world), TableCritic(world), WorldTask(world), wave=wave, **options)
        searches = [many.start(question, budget=bavt.Budget(tokens=80), seed=3) for question in QUESTIONS]
        for _ in many.run(searches):
            pass
        return [seen(search)[:-1] for search in searches]

    assert found() == found(on_progress=shown.append)
    assert len(shown) > 10


def test_ctrl_c_in_a_round_ends_it() -> None:
    search = Search("q", task=TextTask(), budget=bavt.Budget(tokens=100))
    native, slot = search._at_home()

    def interrupted() -> float:
        signal.raise_signal(signal.SIGINT)
        return 0.0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is started deaf to Ctrl-C
    try:
        with pytest.raises(KeyboardInterrupt):
            waves.rounds(native, {slot: search}, lambda *asked: [[]], list, 1, interrupted, False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert search.stop_reason is None


# ---- Memory


@QUIETLY
def test_a_long_run_leaves_nothing_behind() -> None:
    """Neither blocks of memory nor references to what is there all the time."""

    def one_run(seed: int) -> None:
        Searcher(parts := Hostile(7, 0.05), parts, parts, wave=3, candidates=3, record=True).search_many(
            QUESTIONS, budget=bavt.Budget(tokens=60), seed=seed
        )
        run(seed)

    def held() -> list[int]:
        gc.collect()
        common = [None, True, False, (), "delimiter", "limit", "duplicate", "invalid", "refuted"]
        classes = [Node, Step, StepRequest, Description, waves.Pending, Search, Exception, RuntimeError]
        return [sys.getallocatedblocks(), *map(sys.getrefcount, [*common, *classes])]

    for seed in range(60):
        one_run(seed)
    before = held()
    for seed in range(60):
        one_run(seed)
    after = held()
    assert max(now - then for then, now in zip(before, after, strict=True)) < 60, (before, after)


class Walk:
    """A task whose states know what made them: through it they reach all that the task does."""

    def __init__(self) -> None:
        self.made: list[weakref.ref[State]] = []
        self.seen: list[Node] = []

    def new(self, path: tuple[str, ...]) -> State:
        state = State(self, path)
        self.made.append(weakref.ref(state))
        return state

    def initial_state(self, question: str) -> State:
        return self.new((question,))

    def apply(self, state: State, step: Step) -> State:
        return self.new((*state.path, step.text))

    def key(self, state: State) -> tuple[str, ...]:
        return state.path

    def describe(self, state: State) -> Description:
        return Description(prompt="\n".join(state.path))

    def score(self, text: str) -> float:
        return 0.5


class State:
    def __init__(self, walk: Walk, path: tuple[str, ...]) -> None:
        self.walk, self.path = walk, path


def numbered() -> Callable[[str, int], list[str]]:
    numbers = iter(range(10**9))
    return lambda text, count: [f"step {next(numbers)}"]


def test_states_that_lead_back_to_their_nodes_are_collected() -> None:
    walk = Walk()
    search = Searcher(numbered(), None, walk).start("q", budget=bavt.Budget(tokens=100))
    Searcher(numbered(), None, walk).complete(search)
    assert all(gc.is_tracked(node) for node in (search.nodes, *search.nodes))
    walk.seen += search.nodes  # a circle: node, state, walk, node
    made = walk.made
    del search, walk
    gc.collect()
    assert len(made) > 10
    assert [ref for ref in made if ref() is not None] == []


def test_the_collector_need_not_look_at_nodes_of_texts() -> None:
    requests: list[StepRequest] = []

    class Keeps(ScriptedGenerator):
        def propose(self, states: Sequence[StepRequest], *others: Any) -> list[list[Step]]:
            requests.extend(states)
            return [[Step(f"step {len(requests)}\n", 5)] for _ in states]

    many = Searcher(Keeps(World()), None, TextTask())
    search = many.start("q", budget=bavt.Budget(tokens=200))
    many.complete(search)
    assert len(search.nodes) > 30
    assert not any(gc.is_tracked(node) for node in (search.nodes, *search.nodes))
    assert not any(gc.is_tracked(node.step) for node in search.nodes)


def test_the_collector_looks_at_nodes_again_that_may_lead_anywhere() -> None:
    """A list of hidden nodes, behind which one comes that is part of a circle."""

    class Later(Walk):
        def new(self, path: tuple[str, ...]) -> Any:
            return path if len(path) < 3 else super().new(path)

        def apply(self, state: Any, step: Step) -> Any:
            return self.new((*(state if isinstance(state, tuple) else state.path), step.text))

        def key(self, state: Any) -> Any:
            return state if isinstance(state, tuple) else state.path

        def describe(self, state: Any) -> Description:
            return Description(prompt="\n".join(self.key(state)))

    walk = Later()
    search = Searcher(numbered(), None, walk).start("q", budget=bavt.Budget(tokens=100))
    Searcher(numbered(), None, walk).complete(search)
    tracked = [gc.is_tracked(node) for node in search.nodes]
    assert True in tracked
    assert False in tracked
    assert gc.is_tracked(search.nodes)
    walk.seen = search.nodes
    made = walk.made
    del search, walk
    gc.collect()
    assert len(made) > 10
    assert [ref for ref in made if ref() is not None] == []


class Circle:
    """Something that a step holds and that leads back to it."""

    def __init__(self, request: StepRequest) -> None:
        self.request = request


@pytest.mark.parametrize("where", ["a field of its own", "token_ids", "hidden"])
def test_steps_that_lead_back_to_their_nodes_are_collected(where: str) -> None:
    """Also where the search began with steps that lead nowhere, whose nodes are hidden."""
    made: list[weakref.ref[Any]] = []

    class Leads:
        def propose(self, states: Sequence[StepRequest], *others: Any) -> list[list[Step]]:
            return [[self.step(request)] for request in states]

        def step(self, request: StepRequest) -> Step:
            text = f"{request.seed}\n"
            if not made and len(request.tried) < 2:
                return Step(text, 1)
            circle = Circle(request)
            made.append(weakref.ref(circle))
            if where == "a field of its own":
                own = OwnStep(text, 1)
                own.circle = circle  # type: ignore[attr-defined]
                return own
            return Step(text, 1, **{where: (circle,) if where == "token_ids" else circle})  # type: ignore[arg-type]

    Searcher(Leads(), wave=2, candidates=2).search_many(QUESTIONS, budget=bavt.Budget(tokens=60))
    gc.collect()
    assert len(made) > 20
    assert [ref for ref in made if ref() is not None] == []


def test_a_step_that_holds_more_than_texts_and_numbers_stays_in_sight() -> None:
    circle: list[Any] = []
    steps = [Step("a\n", 1, token_ids=(1, 2)), Step("b\n", 1, hidden=circle), OwnStep("c\n", 1)]
    search = Search("q", task=TextTask(), budget=bavt.Budget(tokens=1000), candidates=3)
    (ask,) = search.ask()
    pending = search.admit(ask, steps)
    assert [gc.is_tracked(step) for step in steps] == [False, True, True]
    search.grow(pending, [0.5] * 3)


def test_steps_and_states_go_with_their_search() -> None:
    steps = [Step(f"step {number}\n", 1) for number in range(200)]
    left = list(steps)
    before = [sys.getrefcount(step) for step in steps]

    class Hands(ScriptedGenerator):
        def propose(self, states: Sequence[StepRequest], *others: Any) -> list[list[Step]]:
            return [[left.pop()] for _ in states]

    Searcher(Hands(World()), None, TextTask(max_depth=200), wave=4).search_many(
        ["a", "b"], budget=bavt.Budget(tokens=90)
    )
    assert len(left) <= 20
    left[:] = steps
    gc.collect()
    assert [sys.getrefcount(step) for step in steps] == before


def test_a_long_path_is_freed_without_a_deep_call() -> None:
    node = Node("state", "prompt")
    search = Search("q", task=TextTask(max_depth=10**6), budget=bavt.Budget(tokens=10**6))
    _, slot = search._at_home()
    for _ in range(30_000):
        node = Node("state", None, node, Step("a\n", 1))
    search.nodes[0] = node
    assert waves.requests_of({slot: search}, [slot], [0], [1])[0].node is node
    del search, node
    gc.collect()

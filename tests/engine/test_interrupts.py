"""Ctrl-C and failures at every point of a run with several questions: results whole, nothing in flight."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import AsyncGenerator, ScriptedGenerator, StreamingGenerator, TableCritic, World, WorldTask
from search_checks import ENDLESS, WORLDS, check_consistent, check_idle, fingerprint, worlds

import bavt_fast as bavt
from bavt_fast.engine import Search
from bavt_fast.events import Event
from bavt_fast.protocols import Description, Node, Step, StepRequest
from bavt_fast.searcher import Searcher

BUDGET = bavt.Budget(tokens=80)
QUESTIONS = ["a", "b", "c", "d", "e"]
STAGES = ["generator", "critic", "apply", "key", "unhashable", "describe", "nothing"]
INTERRUPTS = int(os.environ.get("BAVT_INTERRUPTS", "150"))


class Boom(RuntimeError):
    pass


class Parts:
    """Task, generator and critic in one, which break when a state of one question is met for the n-th time."""

    predicts = "value"

    def __init__(self, world: World, stage: str, question: str, at: int, error: Callable[[], BaseException]) -> None:
        self.task, self.generator, self.critic = WorldTask(world), ScriptedGenerator(world), TableCritic(world)
        self.world, self.stage, self.question, self.left, self.error = world, stage, question, at, error
        self.initial_state = self.task.initial_state

    def meet(self, stage: str, roots: list[str]) -> bool:
        if stage != self.stage or self.question not in roots:
            return False
        self.left -= 1
        return self.left < 0

    def breaks(self, stage: str, roots: list[str]) -> None:
        if self.meet(stage, roots):
            raise self.error()

    def apply(self, state: Any, step: Step) -> Any:
        self.breaks("apply", [state[0]])
        return self.task.apply(state, step)

    def key(self, state: Any) -> Any:
        self.breaks("key", [state[0]])
        return [state] if self.meet("unhashable", [state[0]]) else self.task.key(state)

    def describe(self, state: Any) -> Description:
        self.breaks("describe", [state[0]])
        return None if self.meet("nothing", [state[0]]) else self.task.describe(state)  # type: ignore[return-value]

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> Any:
        self.breaks("generator", [state.text.split("\n")[0] for state in states])
        return self.generator.propose(states, counts, limits)

    def score(self, candidates: Sequence[Node]) -> Any:
        self.breaks("critic", [node.state[0] for node in candidates])
        return self.critic.score(candidates)


@settings(max_examples=4 * WORLDS, deadline=None)
@given(
    world=worlds,
    stage=st.sampled_from(STAGES),
    at=st.integers(1, 25),
    wave=st.integers(1, 6),
    candidates=st.integers(1, 3),
    streams=st.booleans(),
    order=st.integers(0, 9),
)
def test_a_failure_ends_its_question_alone(
    world: World, stage: str, at: int, wave: int, candidates: int, streams: bool, order: int
) -> None:
    """The others finish, equal to what they give alone; what was generated is charged, also of the one that failed."""
    parts = Parts(world, stage, "c", at, Boom)
    generator: Any = StreamingGenerator(world, order) if streams else parts
    many = Searcher(generator, parts, parts, wave=wave, candidates=candidates)
    plain = Searcher(ScriptedGenerator(world), TableCritic(world), WorldTask(world), candidates=candidates)
    searches = [many.start(question, budget=BUDGET) for question in QUESTIONS]
    for _ in many.run(searches):
        pass
    for search in searches:
        check_idle(search)
        result = search.result()
        assert result.spent.tokens <= 80
        check_consistent(result, WorldTask(world), search.question)
        if search.question == "c" and result.stop_reason == "error":
            assert isinstance(result.error, (Boom, TypeError))
        else:
            assert fingerprint(result) == fingerprint(plain.search(search.question, budget=BUDGET))


@settings(max_examples=4 * WORLDS, deadline=None)
@given(
    world=worlds,
    stage=st.sampled_from(["generator", "critic", "apply", "key", "describe"]),
    at=st.integers(1, 25),
    wave=st.integers(1, 6),
    leaves=st.integers(1, 3),
    candidates=st.integers(1, 3),
)
def test_an_interrupt_from_inside_a_part(
    world: World, stage: str, at: int, wave: int, leaves: int, candidates: int
) -> None:
    """The signal comes while the caller's own code runs. Every question ends with what it has."""

    def interrupt() -> BaseException:
        signal.raise_signal(signal.SIGINT)
        return AssertionError("the signal was not delivered")

    parts = Parts(world, stage, "c", at, interrupt)
    many = Searcher(parts, parts, parts, wave=wave, leaves=leaves, candidates=candidates)
    searches = [many.start(question, budget=BUDGET) for question in QUESTIONS]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        ended = list(many.run(searches))
    finally:
        signal.signal(signal.SIGINT, before)
    assert sorted(search.question for search in ended) == QUESTIONS
    interrupted = [search for search in searches if search.stop_reason == "interrupted"]
    assert bool(interrupted) == (parts.left < 0)
    for search in searches:
        check_idle(search)
        assert search.stop_reason is not None
        assert search.spent.tokens <= 80
        check_consistent(search.result(), WorldTask(world), search.question)


# --- anywhere


class Tracer:
    """Raises KeyboardInterrupt before the n-th line that runs in the package."""

    def __init__(self, at: int) -> None:
        self.left = at
        self.where = ""

    def __enter__(self) -> Tracer:
        sys.settrace(self.trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def trace(self, frame: Any, event: str, argument: Any) -> Any:
        name = frame.f_code.co_filename
        inside = f"{os.sep}bavt_fast{os.sep}" in name and f"{os.sep}tests{os.sep}" not in name
        return self.line if inside else None

    def line(self, frame: Any, event: str, argument: Any) -> Any:
        if event == "line":
            self.left -= 1
            if self.left == 0:
                self.where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}"
                raise KeyboardInterrupt
        return self.line


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("candidates", [1, 3])
def test_an_interrupt_at_any_line(streams: bool, candidates: int) -> None:
    """Where it breaks in while a run ends or begins it may reach the caller; the searches are whole all the same."""
    world = World(seed=11, goal_share=0.05, merge_share=0.2, depth=5)
    random_ = random.Random(int(streams) * 10 + candidates)
    for case in range(INTERRUPTS):
        generator: Any = StreamingGenerator(world, case) if streams else ScriptedGenerator(world)
        many = Searcher(generator, TableCritic(world), WorldTask(world), wave=3, leaves=2, candidates=candidates)
        searches = [many.start(question, budget=BUDGET) for question in QUESTIONS]
        with Tracer(random_.randrange(1, 4000)) as tracer:
            try:
                for _ in many.run(searches):
                    pass
            except KeyboardInterrupt:
                pass
        for search in searches:
            try:
                check_whole(search, world)
            except AssertionError as error:
                raise AssertionError(f"interrupted at {tracer.where}: {error}") from error


def check_whole(search: Search, world: World) -> None:
    """Nothing in flight, every node with its entry, the tree consistent, the path from it, and the search goes on."""
    search.leave()  # the interrupt may have come while it was taken out of the driver's engine
    check_idle(search)
    result = search.result()
    assert result.spent.tokens <= (search.budget.tokens or 0)
    tree = result.tree
    assert len(result.steps) == tree.num_nodes
    states: list[tuple[str, ...]] = [(search.question,)]
    for parent, step in zip(tree.parents[1:], result.steps[1:], strict=True):
        assert step is not None
        assert step.hidden is None
        states.append((*states[parent], step.text[:-1]))
    assert [node.state for node in search.nodes] == states
    task = WorldTask(world)
    assert len({task.key(state) for state in states}) == len(states)
    for node, value in enumerate(tree.values):
        below = sum(int(tree.visit_counts[child]) for child in tree.children(node))
        assert tree.visit_counts[node] >= (node > 0) + below
        assert 0.0 < value <= 1.0


def test_a_tree_after_an_interrupt_goes_on() -> None:
    """Extended and run again, it spends what is left, and finds what there is."""
    world = World(
        goal_share=0.0, dead_share=0.0, invalid_share=0.0, merge_share=0.0, branching=26, depth=9, min_tokens=0
    )
    random_ = random.Random(5)
    for _ in range(INTERRUPTS // 5):
        one = Searcher(ScriptedGenerator(world), TableCritic(world), WorldTask(world), wave=3)
        search = one.start("q", budget=BUDGET)
        with Tracer(random_.randrange(1, 1500)) as tracer:
            try:
                for _ in one.run([search]):
                    pass
            except KeyboardInterrupt:
                pass
        search.extend(bavt.Budget(tokens=40))
        for _ in one.run([search]):
            pass
        assert search.spent.tokens == 120, tracer.where
        check_idle(search)
        assert search.stop_reason == "budget"
        check_whole(search, world)


@pytest.mark.parametrize("where", ["move_to", "leave"])
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("at", [0, 1, 3])
def test_an_interrupt_on_the_way_in_or_out_leaves_no_search_behind(
    where: str, before: bool, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two lines, where Python looks for signals too: all searches can be run again."""
    one = Searcher(ScriptedGenerator(ENDLESS), TableCritic(ENDLESS), WorldTask(ENDLESS), wave=2)
    searches = [one.start(f"q{i}", budget=BUDGET) for i in range(4)]
    call = getattr(Search, where)
    calls = iter(range(10**6))

    def interrupted(self: Search, *arguments: Any) -> Any:
        now = next(calls) == at
        if now and before:
            raise KeyboardInterrupt
        found = call(self, *arguments)
        if now:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(Search, where, interrupted)
    came: list[Search] = []
    with contextlib.suppress(KeyboardInterrupt):
        came.extend(one.run(searches))
    monkeypatch.undo()
    if where == "move_to" and not before:  # it had begun, and so it is handed over as one that was stopped
        assert searches[at] in came
        assert searches[at].stop_reason == "interrupted"
    for search in searches:
        if search.stop_reason == "interrupted":
            search.extend(bavt.Budget(tokens=1))
    assert len(list(one.run(searches))) == 4
    for search in searches:
        check_idle(search)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("at", ["cancel", "stop"])
def test_an_interrupt_while_a_run_is_broken_off_leaves_no_search_behind(is_async: bool, at: str) -> None:
    """As a second Ctrl-C, in the code of a listener."""
    ending = False

    def listen(event: Event) -> None:
        nonlocal ending
        if ending and event.kind == at:
            ending = False
            raise KeyboardInterrupt

    generator = AsyncGenerator(ENDLESS) if is_async else ScriptedGenerator(ENDLESS)
    one = Searcher(generator, TableCritic(ENDLESS), WorldTask(ENDLESS), wave=3, on_event=listen)
    searches = [one.start(f"q{i}", budget=bavt.Budget(tokens=20 if i == 0 else 1000)) for i in range(3)]

    def come(search: Search) -> None:
        nonlocal ending
        ending = True

    async def arun() -> None:
        async with contextlib.aclosing(one.arun(searches)) as driving:
            come(await anext(driving))

    def run() -> None:
        with contextlib.closing(one.run(searches)) as driving:
            come(next(driving))

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(arun()) if is_async else run()
    assert not ending
    for search in searches:
        check_idle(search)
        search.ask()

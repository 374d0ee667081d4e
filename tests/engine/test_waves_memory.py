"""What the native loops leave behind in memory, and what of it the garbage collector looks at."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from hostile import QUESTIONS, QUIETLY, Hostile, OwnStep, run
from scripted import ScriptedGenerator, World, WorldTask

import bavt_fast as bavt
from bavt_fast import waves
from bavt_fast._core import filled
from bavt_fast.budget import Spent
from bavt_fast.engine import Search
from bavt_fast.protocols import Description, Node, Step, StepRequest
from bavt_fast.searcher import Searcher
from bavt_fast.tasks.text import TextTask


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

    def grown() -> int:
        before = held()
        for seed in range(60):
            one_run(seed)
        return max(now - then for then, now in zip(before, held(), strict=True))

    # What a run leaves comes again with each; what an interpreter keeps for itself comes to an end, from 3.12 on late.
    assert any(grown() < 60 for _ in range(30 if sys.version_info >= (3, 12) else 6))


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


class OwnText(str):
    """A text of a class of the user's."""


@pytest.mark.parametrize("where", ["the step after a plain one", "an answer", "a dictionary that was empty"])
def test_what_leads_back_beside_plain_things_is_collected(where: str) -> None:
    class Box:
        search: Search

    class Leads(TextTask):
        box: Box

        def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[Any]:
            return [
                [self.step(f"{state.seed} {i}\n", i) for i in range(count)]
                for state, count in zip(states, counts, strict=True)
            ]

        def step(self, text: str, place: int) -> Step:
            if where != "the step after a plain one" or place != 1:
                return Step(text, 1)
            step = OwnStep(text, 1)
            step.box = self.box  # type: ignore[attr-defined]
            return step

        def initial_state(self, question: str) -> Any:
            return question, {}

        def apply(self, state: Any, step: Step) -> Any:
            if where == "a dictionary that was empty":
                state[1]["box"] = self.box
            return (state[0] + step.text, {})

        def key(self, state: Any) -> Any:
            return state[0]

        def describe(self, state: Any) -> Description:
            if where != "an answer" or state[0] in QUESTIONS:
                return Description(prompt=state[0])
            answer = OwnText("an answer")
            answer.box = self.box  # type: ignore[attr-defined]
            return Description(True, None, answer, state[0])

    def gone() -> weakref.ref[Box]:
        leads, box = Leads(), Box()
        leads.box = box
        searcher = Searcher(leads, task=leads, candidates=3, max_step_tokens=4)
        box.search = searcher.start(QUESTIONS[0], budget=bavt.Budget(tokens=40))
        assert len(list(searcher.run([box.search]))) == 1
        assert box.search.error is None
        assert len(box.search.nodes) > 3
        return weakref.ref(box)

    there = gone()
    gc.collect()
    assert there() is None


@pytest.mark.parametrize(
    "kept", ["a request", "the list", "what it took out of the list", "what it replaced in the list"]
)
def test_requests_that_a_generator_keeps_are_in_sight(kept: str) -> None:
    """A wave's own requests are not, as long as nobody else has them: a cycle through one that is kept is collected."""

    class Keeps:
        def __init__(self) -> None:
            self.kept: list[Any] = []

        def propose(self, states: list[StepRequest], counts: list[int], limits: list[int]) -> list[list[Step]]:
            answers = [[Step(f"{request.seed}\n", 1)] for request in states]
            if kept == "a request":
                self.kept += states[:1]
            elif kept == "the list":
                self.kept.append(states)
            elif kept == "one it took out":
                self.kept.append(states.pop())
            else:
                self.kept.append(states[0])
                states[0] = states[-1]
            return answers

    class LeadsBack(TextTask):
        generator: Keeps

    task = LeadsBack()
    task.generator = Keeps()
    searches = [(searcher := Searcher(task.generator, task=task, wave=2)).start("q", budget=bavt.Budget(tokens=20))]
    searches += [searcher.start("r", budget=bavt.Budget(tokens=20))]
    assert len(list(searcher.run(searches))) == 2
    held = [request for item in task.generator.kept for request in (item if isinstance(item, list) else [item])]
    assert len(held) > 5
    assert all(gc.is_tracked(request) for request in held)
    there = weakref.ref(task)
    del held, searches, searcher, task
    gc.collect()
    assert there() is None


class OwnSpent(Spent):
    __slots__ = ("more",)


def test_records_made_past_their_constructors_are_like_others() -> None:
    found = Searcher(ScriptedGenerator(World()), task=WorldTask(World())).search("a", budget=bavt.Budget(tokens=40))
    spent = found.spent
    assert spent == Spent(spent.tokens, spent.tool_calls, spent.seconds, spent.cost, spent.prompt_tokens)
    assert hash(spent) == hash(replace(spent))
    assert not gc.is_tracked(spent)
    assert repr(copy.deepcopy(found)) == repr(pickle.loads(pickle.dumps(found))) == repr(found)
    assert replace(found, answer="other").steps is found.steps
    assert [field.name for field in fields(found)] == [*type(found).__slots__]
    with pytest.raises(FrozenInstanceError):
        found.answer = "other"  # type: ignore[misc]
    assert weakref.ref(found)() is found
    assert type(OwnSpent.of((1, 2, 3, 4))) is OwnSpent


class OwnError(Exception):
    __slots__ = ("a",)


@pytest.mark.parametrize("given", [(), (3,), (int, 1), (OwnError, 1), (Spent, 1), (Spent, 1, 2, 3, 4, 5, 6), (Node,)])
def test_what_is_no_record_is_refused(given: tuple[Any, ...]) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        filled(*given)

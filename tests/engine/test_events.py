"""What a listener is told: enough to make the search again from it, and never more than happened."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from by_hand import EASY, answer, start
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import AsyncGenerator, Failing, ScriptedGenerator, StreamingGenerator, TableCritic, World, WorldTask
from search_checks import POLICIES, WORLDS, alone, fingerprint, run, searcher, worlds

import bavt_fast as bavt
from bavt_fast.engine import Search
from bavt_fast.events import Event
from bavt_fast.protocols import CUT
from bavt_fast.result import SearchResult
from bavt_fast.tasks.text import TextTask

BUDGET = bavt.Budget(tokens=120)


def check_told(events: list[Event], result: SearchResult, question: str = "q") -> None:
    """The events of one search, against its result."""
    assert {event.question for event in events} == {question}
    assert len({event.search for event in events}) == 1
    kinds = Counter(event.kind for event in events)
    assert kinds["stop"] == 1
    assert (events[-1].kind, events[-1].reason) == ("stop", result.stop_reason)
    assert [event.at_s for event in events] == sorted(event.at_s for event in events)
    tokens = [event.tokens for event in events]
    assert tokens == sorted(tokens)
    assert tokens[-1] == result.spent.tokens
    nodes = [event for event in events if event.kind == "node"]
    assert [event.node for event in nodes] == list(range(1, result.tree.num_nodes))
    assert [event.parent for event in nodes] == result.tree.parents[1:].tolist()
    assert [event.value for event in nodes] == result.tree.values[1:].tolist()
    assert [event.steps for event in nodes] == [(step,) for step in result.steps[1:]]
    refused = [(event.node, event.reason, *event.steps) for event in events if event.kind == "refusal"]
    assert refused == [tuple(refusal) for refusal in result.refused]
    check_tickets(events)


def check_tickets(events: list[Event]) -> None:
    """Each ask is answered at most once, after it was asked and from the same node; what it brought follows."""
    asked: dict[int, Event] = {}
    told: dict[int, Event] = {}
    for event in events:
        if event.kind == "ask":
            assert event.ticket not in asked
            asked[event.ticket] = event
            assert event.count >= 1 <= event.limit
            assert event.seed is not None
        elif event.kind in ("tell", "cancel"):
            assert event.ticket in asked
            assert event.ticket not in told
            told[event.ticket] = event
        if event.kind == "tell":
            assert event.node == asked[event.ticket].node
            assert len(event.steps) <= asked[event.ticket].count
        elif event.kind == "refusal":
            assert event.ticket not in told
            assert event.reason in ("invalid", "duplicate", "refuted", *CUT)
        elif event.kind == "node":
            assert event.parent == told[event.ticket].node
    grown = Counter(event.ticket for event in events if event.kind == "node")
    for ticket, event in told.items():
        dropped = sum(other.kind == "refusal" and other.ticket == ticket for other in events)
        assert event.kind == "cancel" or len(event.steps) == event.count + dropped
        assert grown[ticket] in (0, event.count)  # none where the search had stopped before they were scored


def by_question(events: list[Event]) -> dict[str, list[Event]]:
    parts: dict[str, list[Event]] = {}
    for event in events:
        parts.setdefault(event.question, []).append(event)
    return parts


# --- what is told


@settings(max_examples=WORLDS, deadline=None)
@given(
    world=worlds,
    seed=st.integers(0, 999),
    policy=st.sampled_from(POLICIES),
    candidates=st.integers(1, 3),
    wave=st.sampled_from([1, 4]),
    record=st.booleans(),
)
def test_a_search_can_be_made_again_from_what_was_told(
    world: World, seed: int, policy: str, candidates: int, wave: int, record: bool
) -> None:
    options: dict[str, Any] = {"policy": policy, "candidates": candidates, "wave": wave}
    events: list[Event] = []
    result = run(world, seed=seed, on_event=events.append, record=record, **options)
    check_told(events, result)
    assert fingerprint(result) == fingerprint(run(world, seed=seed, **options))


@settings(max_examples=WORLDS, deadline=None)
@given(world=worlds, kind=st.sampled_from(["many", "stream", "async"]), wave=st.sampled_from([2, 64]))
def test_many_questions_are_told_apart(world: World, kind: str, wave: int) -> None:
    events: list[Event] = []
    questions = [f"q{i}" for i in range(5)]
    generators: dict[str, Callable[[World], Any]] = {
        "many": ScriptedGenerator,
        "stream": StreamingGenerator,
        "async": AsyncGenerator,
    }
    options: dict[str, Any] = {"wave": wave, "on_event": events.append}
    many = bavt.Searcher(generators[kind](world), TableCritic(world), WorldTask(world), **options)
    if kind == "async":
        results = asyncio.run(many.asearch_many(questions, budget=BUDGET))
    else:
        results = many.search_many(questions, budget=BUDGET)
    parts = by_question(events)
    for question, result in zip(questions, results, strict=True):
        check_told(parts[question], result, question)
        assert fingerprint(result) == alone(world, question, BUDGET)


def test_an_event_is_frozen_and_holds_no_hidden_state() -> None:
    class WithHidden(ScriptedGenerator):
        def steps(self, *arguments: Any) -> Any:
            return [dataclasses.replace(step, hidden=object()) for step in super().steps(*arguments)]

    events: list[Event] = []
    bavt.Searcher(WithHidden(EASY), TableCritic(EASY), WorldTask(EASY), on_event=events.append).search(
        "q", budget=BUDGET
    )
    assert {event.kind for event in events} >= {"ask", "tell", "node", "stop"}
    assert all(step.hidden is None for event in events for step in event.steps)
    with pytest.raises(dataclasses.FrozenInstanceError):
        events[0].kind = "stop"  # type: ignore[misc]


def test_what_failed_is_told() -> None:
    events: list[Event] = []
    failing = Failing(ScriptedGenerator(EASY), 3, lambda: RuntimeError("gone"), persistent=True)
    with pytest.raises(bavt.SearchError):
        bavt.Searcher(failing, None, WorldTask(EASY), on_event=events.append, retries=1).search("q", budget=BUDGET)
    cancels = [event for event in events if event.kind == "cancel"]
    assert [str(event.error) for event in cancels] == ["gone", "gone"]
    assert (events[-1].kind, events[-1].reason, str(events[-1].error)) == ("stop", "error", "gone")


# --- by hand


def test_a_search_by_hand_tells_its_stops() -> None:
    events: list[Event] = []
    search = start(tokens=20, on_event=events.append)
    while asks := search.ask(2):
        for ask in asks:
            answer(search, ask)
    check_told(events, search.result())
    search.extend(bavt.Budget(tokens=20))
    while asks := search.ask(2):
        for ask in asks:
            answer(search, ask)
    assert [event.reason for event in events if event.kind == "stop"] == ["budget", "budget"]
    search.stop()
    assert events[-1].reason == "budget"  # it had stopped before


def test_a_loaded_search_is_heard_from_there_on(tmp_path: Path) -> None:
    search = start(tokens=60)
    answer(search, search.ask()[0])
    [out] = search.ask()
    search.save(tmp_path / "search")
    events: list[Event] = []
    again = bavt.Search.load(tmp_path / "search", search.task, on_event=events.append)
    answer(again, out)
    again.stop()
    assert [(event.kind, event.node) for event in events] == [("tell", out.node), ("node", 2), ("stop", None)]
    assert {event.search for event in events} == {search.id}


def test_the_record_is_the_same_whoever_listens() -> None:
    records = []
    for listener in (None, lambda event: None):
        search = start(tokens=100, record=True, on_event=listener, clock=lambda: 0.0)
        while asks := search.ask(2):
            for ask in asks:
                answer(search, ask)
        records.append(search.events)
    assert records[0] == records[1]
    assert [event[0] for event in records[0]][-1] == "stop"


# --- listeners that fail


def test_what_a_listener_saves_or_reads_at_the_last_node_has_the_stop(tmp_path: Path) -> None:
    kept: list[Any] = []

    def listener(event: Event) -> None:
        if event.kind == "node":
            search.save(tmp_path / "s.bavt")
            loaded = bavt.Search.load(tmp_path / "s.bavt", search.task)
            assert tuple(loaded.events or ()) == search.result().events
            kept.append(search.result().events)

    words = iter(["one", "Answer: 4"])
    task = TextTask().with_answer("4")
    options: dict[str, Any] = {"record": True, "on_event": listener, "clock": lambda: 0.0}
    one = bavt.Searcher(lambda text, count: [next(words)], None, task, **options)
    search = one.start("q", budget=bavt.Budget(tokens=500))
    result = one.complete(search)
    assert (result.solved, kept[-1]) == (True, result.events)
    assert [event[0] for event in kept[-2]].count("stop") == 0


@pytest.mark.parametrize("questions", [1, 3])
def test_a_listener_that_raises_harms_nothing(questions: int, caplog: pytest.LogCaptureFixture) -> None:
    calls = 0

    def listener(event: Event) -> None:
        nonlocal calls
        calls += 1
        raise OSError("disk full")

    names = [f"q{i}" for i in range(questions)]
    with caplog.at_level(logging.ERROR):
        results = searcher(EASY, on_event=listener).search_many(names, budget=BUDGET)
    assert [fingerprint(result) for result in results] == [alone(EASY, name, BUDGET) for name in names]
    assert all(result.error is None for result in results)
    assert [record.name for record in caplog.records] == ["bavt_fast.events"] * questions  # once for a search
    assert "disk full" in caplog.text
    heard: list[Event] = []
    searcher(EASY, on_event=heard.append).search_many(names, budget=BUDGET)
    assert calls == len(heard)  # it was told everything all the same


def test_ctrl_c_in_a_listener_is_ctrl_c() -> None:
    def listener(event: Event) -> None:
        if event.kind == "node" and event.node == 3:
            raise KeyboardInterrupt

    result = searcher(EASY, on_event=listener).search("q", budget=BUDGET)
    assert result.stop_reason == "interrupted"
    assert result.tree.num_nodes == 4


class Known(TextTask):
    """Its questions are their own answers."""

    def describe(self, state: Any) -> bavt.Description:
        return bavt.Description(True, True, state.text, state.text)


@pytest.mark.parametrize("record", [False, True])
def test_a_question_that_is_solved_from_the_start_stops_too(record: bool, tmp_path: Path) -> None:
    heard: list[Event] = []
    one = bavt.Searcher(lambda text, count: [], task=Known(), on_event=heard.append, record=record)
    one.search("q", budget=BUDGET)
    one.search_many(["r", "s"], budget=BUDGET)
    search = one.start("t", budget=BUDGET)
    assert search.ask() == search.ask() == []
    told = [(event.kind, event.question, event.reason) for event in heard]
    assert told == [("stop", question, "solved") for question in "qrst"]
    search.save(tmp_path / "search.bavt")
    again = Search.load(tmp_path / "search.bavt", Known(), on_event=heard.append)
    assert again.ask() == []
    assert len(heard) == 4
    assert again.result() == search.result()
    assert [event[0] for event in again.result().events or ()] == ["stop"] * record


@pytest.mark.parametrize("bad", [3, "log.jsonl", []])
def test_what_cannot_be_called_is_refused(bad: Any) -> None:
    with pytest.raises(TypeError, match="on_event: expected a function that takes an Event or None, got"):
        start(on_event=bad)
    with pytest.raises(TypeError, match="on_event: expected"):
        searcher(EASY, on_event=bad)


class Awaited:
    async def __call__(self, seen: Any) -> None: ...


@pytest.mark.parametrize("name", ["on_event", "on_progress", "clock"])
def test_a_coroutine_that_nobody_would_await_is_refused(name: str) -> None:
    async def callback(seen: Any = None) -> None: ...

    for bad in (callback, functools.partial(callback, None), Awaited()):
        with pytest.raises(
            TypeError, match=f"{name}: expected a function that .*, a coroutine that nobody would await"
        ):
            searcher(EASY, **{name: bad})

"""Generators that stream and do not keep to the contract, and asks that were out before a run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from scripted import AsyncGenerator, ScriptedGenerator, StreamingGenerator, TableCritic, WorldTask
from search_checks import BUDGET, ENDLESS, check_consistent, check_idle, fingerprint

import bavt_fast as bavt
from bavt_fast.drive import _STREAMING
from bavt_fast.engine import Search
from bavt_fast.searcher import Searcher


def searcher_of(generator: Any, **options: Any) -> Searcher:
    return Searcher(generator, TableCritic(ENDLESS), WorldTask(ENDLESS), **options)


def ended(searcher: Searcher, questions: int = 5) -> list[Search]:
    """Searches that were run to their ends, checked."""
    searches = [searcher.start(f"q{i}", budget=BUDGET, seed=i) for i in range(questions)]
    assert len(list(searcher.run(searches))) == questions
    for search in searches:
        check_idle(search)
        check_consistent(search.result(), WorldTask(ENDLESS), search.question)
    return searches


class Raises(StreamingGenerator):
    """Its third `submit` raises, after something else."""

    calls = 0

    def submit(self, tickets: Any, *asked: Any) -> None:
        self.calls += 1
        if self.calls != 3:
            super().submit(tickets, *asked)
            return
        self.before(tickets, *asked)
        raise RuntimeError("submit")

    def before(self, tickets: Any, *asked: Any) -> None:
        raise NotImplementedError


class Clears(Raises):
    def before(self, tickets: Any, *asked: Any) -> None:
        tickets.clear()


class Changes(Raises):
    def before(self, tickets: Any, *asked: Any) -> None:
        tickets[0] = "a ticket"


class Takes(Raises):
    def before(self, tickets: Any, *asked: Any) -> None:
        super(Raises, self).submit(tickets, *asked)


@pytest.mark.parametrize("kind", [Clears, Changes, Takes])
@pytest.mark.parametrize("wave", [1, 3])
def test_a_submit_that_raises_fails_its_own_asks_alone(kind: type[Raises], wave: int) -> None:
    generator = kind(ENDLESS, 2)
    reasons = [search.stop_reason for search in ended(searcher_of(generator, wave=wave))]
    assert reasons.count("error") in range(1, wave + 1)
    assert reasons.count("budget") == 5 - reasons.count("error")
    assert not generator.out


@pytest.mark.parametrize("watch", ["nobody", "on_event", "on_progress"])
@pytest.mark.parametrize("wave", [1, 3])
def test_a_submit_that_raises_ends_no_run_where_it_is_retried(watch: str, wave: int) -> None:
    """Nothing is out then, and yet no question has stopped."""
    options: dict[str, Any] = {} if watch == "nobody" else {watch: lambda seen: None}
    searches = ended(searcher_of(Clears(ENDLESS, 2), wave=wave, retries=1, **options))
    assert [search.stop_reason for search in searches] == ["budget"] * 5


@pytest.mark.parametrize("ticket", [float, str, lambda ticket: None])
def test_what_is_no_ticket_is_the_generators_error(ticket: Any) -> None:
    class Renames(StreamingGenerator):
        def collect(self) -> Any:
            return [(ticket(number), answer) for number, answer in super().collect()]

    searches = ended(searcher_of(Renames(ENDLESS, 2), wave=3))
    assert {search.stop_reason for search in searches} == {"error"}


def test_a_ticket_that_is_told_twice_is_the_generators_error() -> None:
    class Twice(StreamingGenerator):
        def collect(self) -> Any:
            return [*super().collect()] * 2

    searches = ended(searcher_of(Twice(ENDLESS, 2), wave=3))
    assert all("one answer to each ticket, got several to" in str(search.error) for search in searches)


@pytest.mark.parametrize("observed", [False, True])
def test_what_came_beside_a_wrong_ticket_is_charged_and_the_wrong_one_named(observed: bool) -> None:
    class Wrong(StreamingGenerator):
        def collect(self) -> Any:
            (first, _), (second, _) = sorted(self.out.items())
            own = [(ticket, [bavt.Step("a step\n", 3)]) for ticket in (first, second)]
            return [*own, own[1]] if wrong is None else [*own, (wrong, [])]

    for wrong, said in ((None, "several to 4294967296"), (77, "out, got 77")):  # noqa: B007
        one = searcher_of(Wrong(ENDLESS), wave=2, on_event=(lambda event: None) if observed else None)
        results = one.search_many(["q", "r"], budget=BUDGET)
        assert [result.spent.tokens for result in results] == [3, 3]
        assert all(said in str(result.error) for result in results)


@pytest.mark.parametrize("given", [None, 5, {0: []}, [0], ["ab"], [(0, [], [])], [(0.0, [])]])
@pytest.mark.parametrize("observed", [False, True])
def test_what_is_no_list_of_pairs_is_named(given: Any, observed: bool) -> None:
    class Wrong(StreamingGenerator):
        def collect(self) -> Any:
            return given

    one = searcher_of(Wrong(ENDLESS), on_event=(lambda event: None) if observed else None)
    with pytest.raises(bavt.SearchError, match="generator: expected pairs of a ticket and its answer from collect"):
        one.search("q", budget=BUDGET)


@pytest.mark.parametrize("call", ["submit", "collect"])
def test_a_deadline_stays_one_where_the_asks_took_something(call: str) -> None:
    class Late(StreamingGenerator):
        def discard(self, tickets: Any) -> Any:
            super().discard(tickets)
            return {ticket: bavt.Spent(tokens=2) for ticket in tickets}

    def late(self: Any, *asked: Any) -> Any:
        raise bavt.DeadlinePassed("late")

    setattr(Late, call, late)
    result = searcher_of(Late(ENDLESS)).search("q", budget=bavt.Budget(tokens=90, seconds=1e6))
    assert (result.stop_reason, result.spent.tokens) == ("deadline", 2)
    with pytest.raises(bavt.SearchError, match="late") as caught:
        searcher_of(Late(ENDLESS)).search("q", budget=BUDGET)
    assert isinstance(caught.value.result.error.__cause__, bavt.DeadlinePassed)
    assert caught.value.result.spent.tokens == 2


@pytest.mark.parametrize("given", [RuntimeError("discard"), 3, {0: "much"}, {0: None}])
def test_a_discard_that_fails_gives_the_asks_up(given: Any) -> None:
    class Keeps(Clears):
        def discard(self, tickets: Sequence[int]) -> Any:
            super().discard(tickets)
            if isinstance(given, Exception):
                raise given
            return dict.fromkeys(tickets, given[0]) if isinstance(given, dict) else given

    assert "error" in {search.stop_reason for search in ended(searcher_of(Keeps(ENDLESS, 2), wave=3))}


# ---- Asks that were out before


@pytest.mark.parametrize("kind", [ScriptedGenerator, StreamingGenerator])
@pytest.mark.parametrize("wave", [1, 4, 10])
def test_an_ask_that_is_out_takes_its_questions_place(kind: Any, wave: int) -> None:
    """Another one beside it, with leaves=1, would change what comes."""
    found = []
    for is_out in (False, True):
        searcher = searcher_of(kind(ENDLESS), wave=wave, leaves=1)
        searches = [searcher.start(f"q{i}", budget=BUDGET, seed=i) for i in range(4)]
        if is_out:
            assert len(searches[3].ask()) == 1
        assert len(list(searcher.run(searches))) == 4
        found.append([fingerprint(search.result()) for search in searches])
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", [ScriptedGenerator, StreamingGenerator, AsyncGenerator])
@pytest.mark.parametrize("is_watched", [False, True])
def test_more_asks_are_out_than_the_wave_has(kind: Any, is_watched: bool) -> None:
    watch = (lambda seen: None) if is_watched else None
    searcher = searcher_of(kind(ENDLESS), wave=2, max_step_tokens=4, on_progress=watch)
    searches = [searcher.start(f"q{i}", budget=BUDGET, seed=i) for i in range(3)]
    assert [len(search.ask(3)) for search in searches] == [3] * 3

    async def run() -> list[Search]:
        return [search async for search in searcher.arun(searches)]

    assert len(asyncio.run(run()) if searcher.is_async else list(searcher.run(searches))) == 3
    for search in searches:
        check_idle(search)
        assert search.stop_reason == "budget"


@pytest.mark.parametrize("kind", [ScriptedGenerator, StreamingGenerator])
def test_a_search_that_stopped_with_an_ask_out_is_handed_over(kind: Any) -> None:
    searcher = searcher_of(kind(ENDLESS), wave=1)
    searches = [searcher.start(f"q{i}", budget=BUDGET) for i in range(3)]
    searches[1].ask()
    searches[1].stop()
    assert len(list(searcher.run(searches))) == 3
    assert [search.stop_reason for search in searches] == ["budget", "cancelled", "budget"]
    for search in searches:
        check_idle(search)


@pytest.mark.parametrize("kind", [ScriptedGenerator, StreamingGenerator])
def test_ctrl_c_on_a_searchs_way_into_a_run_loses_none(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    searcher = searcher_of(kind(ENDLESS), wave=2)
    searches = [searcher.start(f"q{i}", budget=bavt.Budget(tokens=60)) for i in range(4)]
    move_to = Search.move_to

    def interrupted(search: Search, engine: Any) -> int:
        if search is searches[1]:
            raise KeyboardInterrupt
        return move_to(search, engine)

    monkeypatch.setattr(Search, "move_to", interrupted)
    assert len(list(searcher.run(searches))) == 4
    assert [search.stop_reason for search in searches] == ["interrupted"] * 4


class Mute(StreamingGenerator):
    """It never has anything to tell, and does not say what it took."""

    def collect(self) -> Any:
        time.sleep(0.005)
        return []

    def discard(self, tickets: Sequence[int]) -> None:
        super().discard(tickets)


@pytest.mark.parametrize("observed", [False, True])
def test_a_deadline_ends_what_is_never_told(observed: bool) -> None:
    """With all that it may have taken charged, as it is with a coroutine."""
    generator = Mute(ENDLESS, 2)
    searcher = searcher_of(generator, wave=3, on_event=(lambda event: None) if observed else None)
    budgets = [bavt.Budget(tokens=500, seconds=seconds) for seconds in (0.05, 0.05, 600.0)]
    searches = [searcher.start(f"q{i}", budget=budget) for i, budget in enumerate(budgets)]
    for _, search in zip(range(2), searcher.run(searches), strict=False):
        assert search.stop_reason == "deadline"
        assert search.result().spent.tokens > 0
        check_idle(search)
    assert searches[2].stop_reason in (None, "interrupted")


# --- several runs at once


class Both(StreamingGenerator):
    """It streams, and answers whole waves as well."""

    def propose(self, *asked: Any) -> Any:
        return ScriptedGenerator(ENDLESS).propose(*asked)


def test_runs_beside_each_other_find_what_each_finds_alone() -> None:
    """One has the stream, the others whole waves: also where none has ended when the next one begins."""
    searcher = searcher_of(Both(ENDLESS, 2), wave=3)
    questions = [f"q{i}" for i in range(12)]
    wanted = [fingerprint(result) for result in searcher.search_many(questions, budget=BUDGET)]
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda question: searcher.search_many([question], budget=BUDGET)[0], questions)
        assert [fingerprint(result) for result in found] == wanted
    one, other = (searcher.search_iter(questions, budget=BUDGET) for _ in range(2))
    pairs = list(zip(one, other, strict=True))
    for side in zip(*pairs, strict=True):
        assert [fingerprint(result) for _, result in sorted(side, key=lambda item: item[0])] == wanted
    broken_off = searcher.search_iter(questions, budget=BUDGET)
    next(broken_off)
    assert fingerprint(searcher.search_many(questions[:1], budget=BUDGET)[0]) == wanted[0]
    broken_off.close()  # type: ignore[attr-defined]
    assert id(searcher.generator) not in _STREAMING


def test_a_generator_that_only_streams_has_one_run_at_a_time() -> None:
    searcher = searcher_of(StreamingGenerator(ENDLESS, 2), wave=3)
    first = searcher.search_iter(["q0", "q1", "q2"], budget=BUDGET)
    next(first)
    with pytest.raises(ValueError, match="generator: expected one that no other run has"):
        searcher.search("q", budget=BUDGET)
    assert len(list(first)) == 2
    assert searcher.search("q", budget=BUDGET).stop_reason == "budget"

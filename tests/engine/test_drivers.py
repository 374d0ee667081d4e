"""Searches under a driver: started, stopped and extended in the middle, one by one, with budgets of their own."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedGenerator, World, WorldTask
from search_checks import (
    BUDGET,
    ENDLESS,
    POLICIES,
    WORLDS,
    alone,
    check_consistent,
    check_idle,
    fingerprint,
    run_all,
    searcher,
    worlds,
)

import bavt_fast as bavt
from bavt_fast.result import ManyProgress
from bavt_fast.searcher import Searcher
from bavt_fast.tasks.text import TextTask

# --- many questions


def test_each_question_has_a_budget_and_a_seed_of_its_own() -> None:
    world = World(seed=4, goal_share=0.02)
    questions = [f"q{i % 3}" for i in range(9)]
    budgets = [bavt.Budget(tokens=20 + 30 * i) for i in range(9)]
    seeds = [7 * i for i in range(9)]
    results = searcher(world, wave=4).search_many(questions, budget=budgets, seed=seeds)
    for question, budget, seed, result in zip(questions, budgets, seeds, results, strict=True):
        assert fingerprint(result) == alone(world, question, budget, seed)
    same = searcher(world).search_many(["q0"] * 2, budget=tuple(budgets[:2]), seed=(3, 3))
    assert same[0].spent.tokens <= 20 < same[1].spent.tokens
    results = searcher(world).search_many(["q0"] * 3, budget=deque(budgets[:3]), seed=range(3, 6))  # any sequence
    assert [(result.seed, result.budget) for result in results] == [*zip(range(3, 6), budgets, strict=False)]


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"budget": [BUDGET]}, ValueError, "budget: expected 2, one for each question, got 1"),
        ({"budget": [BUDGET] * 3}, ValueError, "budget: expected 2, one for each question, got 3"),
        ({"budget": [BUDGET, 5]}, TypeError, "budget: expected a Budget"),
        ({"budget": None}, TypeError, "budget: expected"),
        ({"seed": [1]}, ValueError, "seed: expected 2, one for each question, got 1"),
        ({"seed": [1, -1]}, ValueError, "seed: expected an integer from 0"),
        ({"seed": [1, "2"]}, TypeError, "seed: expected an integer from 0"),
        ({"seed": range(3)}, ValueError, "seed: expected 2, one for each question, got 3"),
        ({"seed": "12"}, TypeError, "seed: expected one for all questions or a list of 2, got '12'"),
        ({"seed": 0.5}, TypeError, "seed: expected an integer from 0"),
    ],
)
def test_lists_of_budgets_and_seeds(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    one = searcher(ENDLESS)
    with pytest.raises(error, match=match):
        one.search_many(["a", "b"], **{"budget": BUDGET, **arguments})
    assert one.generator.requests == []


def test_many_are_side_by_side_unless_told_otherwise() -> None:
    one = searcher(ENDLESS)
    one.search_many([f"q{i}" for i in range(70)], budget=BUDGET)
    assert len(one.generator.batches[0]) == 64
    assert all(len({text.split("\n")[0] for text in batch}) == len(batch) for batch in one.generator.batches)


@settings(max_examples=WORLDS // 2, deadline=None)
@given(world=worlds, wave=st.integers(1, 9), leaves=st.integers(1, 4), count=st.integers(1, 6), seed=st.integers(0, 99))
def test_wave_and_leaves_bound_what_is_in_flight(world: World, wave: int, leaves: int, count: int, seed: int) -> None:
    many = searcher(world, wave=wave, leaves=leaves)
    questions = [f"q{i}" for i in range(count)]
    results = many.search_many(questions, budget=BUDGET, seed=seed)
    for batch in many.generator.batches:
        assert len(batch) <= wave
        roots = [text.split("\n")[0] for text in batch]
        assert max(map(roots.count, roots)) <= leaves
    for question, result in zip(questions, results, strict=True):
        check_consistent(result, WorldTask(world), question)
        if leaves == 1:
            assert fingerprint(result) == alone(world, question, seed=seed)


def test_progress_of_many() -> None:
    told: list[ManyProgress] = []
    many = searcher(ENDLESS, wave=3, on_progress=told.append)
    many.search_many([f"q{i}" for i in range(7)], budget=BUDGET)
    done = [progress.done for progress in told]
    assert done == sorted(done)
    assert all(progress.active <= 3 and progress.done + progress.active <= 7 for progress in told)
    assert told[-1].active >= 1
    assert {progress.solved for progress in told} == {0}


# --- one by one


def test_results_come_as_they_end() -> None:
    world = World(seed=3, goal_share=0.3, dead_share=0.0)
    questions = [f"q{i}" for i in range(12)]
    found = list(searcher(world, wave=3).search_iter(questions, budget=BUDGET, seed=5))
    assert sorted(index for index, _ in found) == list(range(12))
    for index, result in found:
        assert fingerprint(result) == alone(world, questions[index], seed=5)


def test_questions_are_taken_as_there_is_room() -> None:
    """An endless stream of questions: no more are taken than are under way or have ended."""
    world, taken = World(seed=3, goal_share=0.3, dead_share=0.0), 0

    def stream() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f"q{taken}"

    results = searcher(world, wave=4).search_iter(stream(), budget=BUDGET)
    for ended in range(1, 20):
        next(results)
        assert taken <= 4 + ended
    results.close()  # type: ignore[attr-defined]


def test_an_iteration_that_is_broken_off_leaves_nothing_in_flight() -> None:
    one = searcher(ENDLESS, wave=4, leaves=2)
    searches = [one.start(f"q{i}", budget=bavt.Budget(tokens=10 if i == 0 else 10**6)) for i in range(6)]
    for search in one.run(searches):
        assert search is searches[0]
        break
    for search in searches:
        check_idle(search)
    assert [search.stop_reason for search in searches[:1]] == ["budget"]
    assert {search.stop_reason for search in searches[1:4]} == {"interrupted"}
    assert {search.stop_reason for search in searches[4:]} <= {None, "interrupted"}
    for search in searches[1:4]:
        check_consistent(search.result(), WorldTask(ENDLESS), search.question)


def test_a_bad_question_in_a_stream_raises_when_its_turn_comes() -> None:
    world = World(seed=3, goal_share=1.0, dead_share=0.0, invalid_share=0.0)
    results = searcher(world, wave=1).search_iter(["a", "b", "", "c"], budget=BUDGET)
    assert [next(results)[0], next(results)[0]] == [0, 1]
    with pytest.raises(ValueError, match="question: expected a name"):
        next(results)


def test_a_string_is_no_list_of_questions() -> None:
    with pytest.raises(TypeError, match="questions: expected a list of str, got a str"):
        next(searcher(ENDLESS).search_iter("abc", budget=BUDGET))


# --- in the middle


def test_a_search_may_be_stopped_while_others_run() -> None:
    one = searcher(ENDLESS, wave=3)
    quick = one.start("a", budget=bavt.Budget(tokens=30))
    others = [one.start(name, budget=bavt.Budget(tokens=10**6)) for name in "bc"]
    seen = []
    for search in one.run([quick, *others]):
        seen.append(search.question)
        for other in others:
            other.stop()
    assert seen[0] == "a"
    assert sorted(seen) == ["a", "b", "c"]
    assert [search.stop_reason for search in (quick, *others)] == ["budget", "cancelled", "cancelled"]
    for search in (quick, *others):
        check_idle(search)
        check_consistent(search.result(), WorldTask(ENDLESS), search.question)
    assert [len(search.nodes) > 1 for search in others] == [True, True]


def test_a_search_that_is_extended_comes_again() -> None:
    one = searcher(ENDLESS, wave=2, policy="best_first", max_step_tokens=6)
    searches = [one.start(name, budget=bavt.Budget(tokens=50)) for name in "abc"]
    times: dict[str, int] = {}
    for search in one.run(searches):
        times[search.question] = times.get(search.question, 0) + 1
        if times[search.question] < 3 and search.question != "c":
            search.extend(bavt.Budget(tokens=50))
    assert times == {"a": 3, "b": 3, "c": 1}
    assert [search.spent.tokens for search in searches] == [150, 150, 50]
    for search in searches:
        check_idle(search)
        check_consistent(search.result(), WorldTask(ENDLESS), search.question)


def test_a_search_can_be_run_again_after_its_end() -> None:
    one = searcher(ENDLESS, policy="best_first", max_step_tokens=6)
    search = one.start("q", budget=bavt.Budget(tokens=50))
    first = run_all(one, [search])[0]
    assert run_all(one, [search])[0].spent.tokens == 50  # nothing more to do
    search.extend(bavt.Budget(tokens=70))
    second = run_all(one, [search])[0]
    assert (first.spent.tokens, second.spent.tokens) == (50, 120)
    assert second.path_nodes[:1] in ((1,), first.path_nodes[:1], second.path_nodes[:1])
    assert len(one.generator.requests) == search._native.asks


def test_a_search_goes_from_hand_to_driver_and_back() -> None:
    """Asks that were out are asked again by the driver, unchanged; their old tickets mean nothing then."""
    one = searcher(ENDLESS, wave=2, leaves=2)
    search = one.start("q", budget=bavt.Budget(tokens=300))
    asks = search.ask(2)
    assert len(asks) == 2
    seeds = [ask.request.seed for ask in asks]
    run_all(one, [search])
    assert sorted(request.seed for request in one.generator.requests[:2]) == sorted(seeds)
    assert search.spent.tokens == 300
    check_consistent(search.result(), WorldTask(ENDLESS))
    with pytest.raises(bavt.TicketError):
        search.tell(asks[0], ["z"])


def test_a_search_that_has_stopped_before_it_starts() -> None:
    one = searcher(World(depth=0, goal_share=1.0))
    solved = one.start("q", budget=BUDGET)
    cancelled = searcher(ENDLESS).start("r", budget=BUDGET)
    cancelled.stop()
    assert [search.stop_reason for search in one.run([solved, cancelled])] == ["solved", "cancelled"]
    assert one.generator.requests == []


def test_searches_of_different_settings_side_by_side() -> None:
    """Every search keeps its own task and settings; generator and critic are the driver's."""
    makers = [searcher(ENDLESS, policy=policy, candidates=1 + i % 3) for i, policy in enumerate(POLICIES)]
    searches = [maker.start(f"q{i}", budget=BUDGET, seed=i) for i, maker in enumerate(makers)]
    results = run_all(searcher(ENDLESS, wave=5), searches)
    for i, (result, maker) in enumerate(zip(results, makers, strict=True)):
        assert fingerprint(result) == fingerprint(maker.search(f"q{i}", budget=BUDGET, seed=i))


def test_a_search_that_a_run_has_is_asked_and_told_by_the_run_alone() -> None:
    """Its neighbours' asks would be lost otherwise."""
    refused: list[str] = []

    class Meddles(ScriptedGenerator):
        def propose(self, states: Any, counts: Any, limits: Any) -> Any:
            for call in (lambda: searches[0].ask(8), lambda: searches[0].cancel(searches[0].open_asks()[0])):
                try:
                    call()
                except (ValueError, IndexError) as error:
                    refused.append(str(error))
            return super().propose(states, counts, limits)

    one = searcher(ENDLESS, wave=2)
    one.generator = Meddles(ENDLESS)
    searches = [one.start(f"q{i}", budget=BUDGET) for i in range(3)]
    results = run_all(one, searches)
    assert any("expected one that no run has" in text for text in refused)
    assert [fingerprint(result) for result in results] == [alone(ENDLESS, f"q{i}") for i in range(3)]
    assert searches[0].ask(1) == []


def driver(is_async: bool) -> Searcher:
    async def propose(text: str, count: int) -> list[str]:
        return [f"{len(text)}"]

    return Searcher(propose) if is_async else Searcher(lambda text, count: [f"{len(text)}"])


def drive(one: Searcher, searches: Any) -> None:
    async def wait() -> None:
        async for _ in one.arun(searches):
            pass

    if one.is_async:
        asyncio.run(wait())
    else:
        run_all(one, searches)


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("wrong", [None, 5, "q"])
def test_what_is_not_a_search_is_named(wrong: Any, is_async: bool) -> None:
    one = driver(is_async)
    search = one.start("q", budget=BUDGET)
    with pytest.raises(TypeError, match=f"searches: expected what start.* gives, got {wrong!r}"):
        drive(one, [search, wrong])
    with pytest.raises(TypeError, match="searches: expected what start"):
        one.complete(wrong)
    with pytest.raises(TypeError, match="searches: expected a list of Search, got Search"):
        drive(one, search)
    check_idle(search)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_search_with_admitted_states_is_left_as_it_was(is_async: bool) -> None:
    """Nobody but the caller can give them values: a run would end at once, and give nothing."""
    one = driver(is_async)
    search = one.start("q", budget=BUDGET)
    [ask] = search.ask()
    pending = search.admit(ask, ["a"])
    for call in (lambda: drive(one, [search]), lambda: one.complete(search)):
        with pytest.raises(ValueError, match="searches: expected none with admitted states, got Search"):
            call()
        assert search.stop_reason is None
    assert search.grow(pending, [0.5]) == [1]
    assert one.complete(search).stop_reason == "budget"


# --- clocks


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("is_loaded", [False, True])
def test_a_search_and_its_run_may_have_clocks_of_their_own(is_async: bool, is_loaded: bool, tmp_path: Path) -> None:
    passed_s, seen_s = 0.0, []

    def wait(seconds: float) -> None:
        nonlocal passed_s
        passed_s += seconds

    def generator(text: str, count: int) -> list[str]:
        wait(3.0)
        seen_s.append(search.result().spent.seconds)
        return [f"step {passed_s}"]

    async def coroutine(text: str, count: int) -> list[str]:
        return generator(text, count)

    def own() -> float:
        return 100.0 + passed_s

    budget = bavt.Budget(tokens=8, seconds=60)
    search = bavt.Search("q", task=TextTask(), budget=budget, max_step_tokens=4, clock=own)
    [ask] = search.ask()
    wait(1.0)
    search.tell(ask, ["a step"])
    if is_loaded:
        search.save(tmp_path / "saved")
        search = bavt.Search.load(tmp_path / "saved", TextTask(), clock=own)
    wait(2.0)
    runner = Searcher(coroutine if is_async else generator, clock=lambda: 5e9 + passed_s)
    runner.complete(search)
    assert (search.stop_reason, seen_s, search.spent.seconds) == ("budget", [6.0, 9.0, 12.0], 12.0)
    search.extend(bavt.Budget(tokens=4))
    [ask] = search.ask()
    wait(4.0)
    search.tell(ask, ["another step"])
    assert search.spent.seconds == 16.0

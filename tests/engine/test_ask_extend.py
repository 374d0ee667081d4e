"""A search driven by hand that is stopped and goes on, in other processes and threads."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from typing import Any

import numpy as np
import pytest
from by_hand import EASY, answer, start, unchanged, values_for
from scripted import ScriptedGenerator, World, WorldTask
from search_checks import check_consistent, check_idle, fingerprint

import bavt_fast as bavt
from bavt_fast.engine import Ask, Search
from bavt_fast.protocols import Step

# --- stopping and going on


def test_stop() -> None:
    search = start()
    asks = search.ask(3)
    search.stop()
    assert search.stop_reason == "cancelled"
    assert search.ask(3) == []
    search.stop("interrupted")  # it has stopped before
    assert search.stop_reason == "cancelled"
    assert search.open_asks() == asks
    answer(search, asks[1])  # asks that are out may still be told
    search.cancel(asks[0])
    search.cancel(asks[2])
    check_idle(search)
    assert search.result().stop_reason == "cancelled"


@pytest.mark.parametrize("reason", ["", "done", "solved", "SOLVED", None, 5])
def test_a_wrong_reason_to_stop(reason: Any) -> None:
    """`solved` is for the engine to say: no node would be the solution."""
    search = start()
    unchanged(search, lambda: search.stop(reason), (ValueError, TypeError), "^reason: expected")  # type: ignore[arg-type]
    assert search.stop_reason is None


def finish(search: Search, world: World) -> Search:
    while asks := search.ask():
        answer(search, asks[0], world)
    return search


@pytest.mark.parametrize(("own", "more", "both"), [(0.1, 0.7, 0.8), (0.7, 0.1, 0.8), (0.1, 0.2, 0.3), (1.1, 2.2, 3.3)])
def test_costs_are_added_as_they_are_written(own: float, more: float, both: float) -> None:
    search = bavt.Search("q", task=WorldTask(EASY), budget=bavt.Budget(cost=own), max_step_cost=0.1)
    search.extend(bavt.Budget(cost=more))
    assert search.budget.cost == both
    for number in range(round(both / 0.1)):
        (ask,) = search.ask()
        search.tell(ask, [Step(f"s{number}\n", 1, cost=0.1)])
    assert (search.ask(), search.stop_reason) == ([], "budget")
    assert search.spent.cost == both


@pytest.mark.parametrize("own", [bavt.Budget(seconds=1e308), bavt.Budget(cost=9e6)])
def test_an_extension_that_is_too_much_changes_nothing(own: bavt.Budget) -> None:
    search = bavt.Search("q", task=WorldTask(EASY), budget=own, max_step_cost=0.1)
    unchanged(search, lambda: search.extend(own), ValueError, "seconds|cost")
    assert search.budget == own


def test_extend_a_search_that_ran_out_of_budget() -> None:
    """It goes on as one that had the whole budget, where selection does not look at what is left."""
    small, large = (start(EASY, tokens, policy="best_first", max_step_tokens=6) for tokens in (100, 300))
    finish(small, EASY)
    assert small.stop_reason == "budget"
    small.extend(bavt.Budget(tokens=200))
    assert (small.stop_reason, small.budget) == (None, bavt.Budget(tokens=300))
    finish(small, EASY)
    assert small.spent.tokens == 300
    check_consistent(small.result(), WorldTask(EASY))
    assert finish(large, EASY).result().tree.num_nodes - small.result().tree.num_nodes in range(-2, 3)


def test_extend_opens_what_was_closed_for_want_of_budget() -> None:
    world = World(**{**EASY.__dict__, "min_tokens": 5, "depth": 4})
    search = finish(start(world, 19), world)
    assert (search.stop_reason, search.spent.tokens) == ("budget", 0)
    search.extend(bavt.Budget(tokens=1))
    assert search.stop_reason is None
    assert search.ask()[0].node == 0


@pytest.mark.parametrize(
    ("reason", "goes_on"),
    [
        ("solved", False),
        ("max_nodes", False),
        ("exhausted", False),
        ("deadline", False),
        ("budget", True),
        ("cancelled", True),
        ("interrupted", True),
        ("error", True),
        (None, True),
    ],
)
def test_extend_in_each_stop_reason(reason: str | None, goes_on: bool) -> None:
    """More tokens do not help where the answer is found, the tree is full, nothing is open, or the time is up."""
    world, now, fields = EASY, [0.0], {}
    if reason == "solved":
        world = World(**{**EASY.__dict__, "goal_share": 1.0, "depth": 1})
    if reason == "max_nodes":
        fields["max_nodes"] = 5
    if reason == "exhausted":
        world = World(**{**EASY.__dict__, "dead_share": 1.0})
    budget = bavt.Budget(tokens=60, seconds=10.0)
    search = Search("q", task=WorldTask(world), budget=budget, clock=lambda: now[0], **fields)
    asks = search.ask()
    answer(search, asks[0], world)
    if reason == "deadline":
        now[0] += 11.0
    if reason in ("cancelled", "interrupted", "error"):
        search.stop(reason)
    elif reason is not None:
        finish(search, world)
    assert search.stop_reason == reason
    spent = search.spent.tokens
    search.extend(bavt.Budget(tokens=100))
    assert search.budget.tokens == 160
    asks = search.ask()
    assert (len(asks) == 1) == goes_on
    assert search.stop_reason == (None if goes_on else reason)
    if goes_on:
        answer(search, asks[0], world)
        assert search.spent.tokens > spent
    if reason == "deadline":
        search.extend(bavt.Budget(seconds=5.0))
        assert len(search.ask()) == 1
        now[0] += 100.0
        assert search.ask() == []


def test_extend_after_an_overrun() -> None:
    search = start(tokens=100)
    search.tell(search.ask()[0], [Step("a\n", 500)], [0.5])
    assert search.ask() == []
    assert search.result().overrun.tokens == 436
    search.extend(bavt.Budget(tokens=100))
    assert search.ask() == []  # 200 in all, and 500 are spent
    assert search.stop_reason == "budget"
    search.extend(bavt.Budget(tokens=310))
    assert [ask.limit for ask in search.ask()] == [10]
    assert search.result().overrun.tokens == 436


@pytest.mark.parametrize(
    ("more", "error", "match"),
    [
        (100, TypeError, r"more: expected a Budget such as Budget\(tokens=500\)"),
        (None, TypeError, "more: expected a Budget"),
        (bavt.Budget(tool_calls=5), ValueError, "more: tool_calls is not limited in this search"),
        (bavt.Budget(tokens=5, seconds=1.0), ValueError, "more: seconds is not limited in this search"),
    ],
)
def test_what_cannot_be_added(more: Any, error: type[Exception], match: str) -> None:
    search = start(tokens=30)
    unchanged(search, lambda: search.extend(more), error, match)
    assert search.budget == bavt.Budget(tokens=30)


# --- elsewhere


def test_an_ask_travels_and_its_answer_comes_back() -> None:
    search = start()
    answer(search, search.ask()[0])
    asks = search.ask(3)
    there = pickle.loads(pickle.dumps(asks))
    for ask, copy in zip(asks, there, strict=True):
        assert (copy.ticket, copy.node, copy.count, copy.limit, copy.search) == (
            (ask.ticket, ask.node, ask.count, ask.limit, ask.search)
        )
        assert copy.request.text == ask.request.text
        assert copy.request.seed == ask.request.seed
    assert [answer(search, ask) for ask in reversed(there)] == [[2], [3], [4]]
    check_idle(search)


def work(ask: Ask) -> tuple[Ask, list[Step]]:
    """What a worker in another process does."""
    return ask, ScriptedGenerator(EASY).steps(ask.request, ask.count, ask.limit)


def test_workers_in_other_processes() -> None:
    here, there = start(EASY, 60), start(EASY, 60)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        while asks := there.ask(3):
            for ask, steps in pool.map(work, asks):
                there.tell(ask, steps, values_for(there, ask, steps))
    while asks := here.ask(3):
        for ask in asks:
            answer(here, ask)
    assert fingerprint(there.result()) == fingerprint(here.result())


def test_threads_share_a_search() -> None:
    """Each takes asks and answers them; nothing is lost, and nothing is told twice."""
    search = start(EASY, 3000)
    failures: list[BaseException] = []

    def worker() -> None:
        try:
            while search.stop_reason is None:
                for ask in search.ask(2):
                    answer(search, ask)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=worker) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    check_idle(search)
    assert search.spent.tokens == 3000
    check_consistent(search.result(), WorldTask(EASY))


# --- asks


def test_asks_are_reproducible_and_their_seeds_depend_on_the_node_and_its_asks_alone() -> None:
    def seeds(order: str) -> dict[tuple[int, int], int]:
        search, found, asked = start(EASY, 400, 9), {}, [0] * 500
        for _ in range(20):
            for ask in search.ask(2 if order == "two" else 1):
                found[ask.node, asked[ask.node]] = ask.request.seed
                asked[ask.node] += 1
                answer(search, ask)
        return found

    one, two = seeds("one"), seeds("two")
    shared = set(one) & set(two)
    assert len(shared) > 5
    assert all(one[place] == two[place] for place in shared)
    assert len(set(one.values())) == len(one)
    assert all(0 <= seed < 2**63 for seed in one.values())


def test_what_was_tried_comes_with_an_ask() -> None:
    search = start(candidates=2, policy="best_first", decay=1.0)
    search.tell(search.ask()[0], ["a", "!no"], [0.5, 0.5])
    ask = search.ask()[0]
    assert [step.text for step in ask.request.tried] == ["a\n", "!no\n"]
    assert search.open_asks()[0].request.tried == ask.request.tried


def test_sampling_and_time_left_come_with_an_ask() -> None:
    now = [100.0]
    search = Search(
        "q",
        task=WorldTask(EASY),
        budget=bavt.Budget(seconds=30.0),
        clock=lambda: now[0],
        temperature=np.float32(0.5),
        top_p=0.9,
        top_k=np.int64(40),
        min_p=np.float64(0.05),
    )
    [ask] = search.ask()
    assert ask.request.sampling == (0.5, 0.9, 40, 0.05, None)
    assert ask.request.seconds_left == 30.0  # time counts from the first ask
    now[0] += 12.0
    assert search.ask()[0].request.seconds_left == 18.0
    assert start().ask()[0].request.seconds_left is None

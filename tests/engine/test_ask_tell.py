"""A search driven by hand: asks answered in any order, wrongly, twice, elsewhere or never."""

from __future__ import annotations

import math
import multiprocessing
import pickle
import random
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedGenerator, World, WorldTask
from search_checks import POLICIES, WORLDS, arrays, check_consistent, check_idle, fingerprint, run, worlds

import bavt_fast as bavt
from bavt_fast.engine import Ask, Search
from bavt_fast.protocols import Node, Step

EASY = World(goal_share=0.0, dead_share=0.0, invalid_share=0.0, merge_share=0.0, branching=26, depth=8, min_tokens=0)
TOKENS = bavt.Budget(tokens=400)


def start(world: World = EASY, tokens: int = 400, seed: int = 0, **fields: Any) -> Search:
    return Search("q", task=WorldTask(world), budget=bavt.Budget(tokens=tokens), seed=seed, **fields)


def steps_for(search: Search, ask: Ask, world: World = EASY) -> list[Step]:
    return ScriptedGenerator(world).steps(ask.request, ask.count, ask.limit)


def values_for(search: Search, ask: Ask, steps: Sequence[Step], world: World = EASY) -> list[float]:
    """The critic's numbers, one per step; of steps that lead nowhere they do not matter."""
    state, task = search.nodes[ask.node].state, search.task
    after = [task.apply(state, step) for step in steps]
    return [0.5 if state is None else world.value(state) for state in after]


def answer(search: Search, ask: Ask, world: World = EASY) -> list[int]:
    steps = steps_for(search, ask, world)
    return search.tell(ask, steps, values_for(search, ask, steps, world))


def unchanged(search: Search, call: Callable[[], Any], error: type[Exception], match: str) -> None:
    """The call is refused, and nothing has changed, to the last bit."""
    before = search._native.to_bytes(), len(search.nodes), list(search.refused), search.error
    with pytest.raises(error, match=match):
        call()
    assert (search._native.to_bytes(), len(search.nodes), search.refused, search.error) == before


# --- the same search, by hand


@settings(max_examples=WORLDS, deadline=None)
@given(world=worlds, seed=st.integers(0, 999), policy=st.sampled_from(POLICIES), candidates=st.integers(1, 3))
def test_one_ask_at_a_time_is_what_a_searcher_does(world: World, seed: int, policy: str, candidates: int) -> None:
    search = start(world, 150, seed, policy=policy, candidates=candidates)
    while asks := search.ask():
        answer(search, asks[0], world)
    check_idle(search)
    assert fingerprint(search.result()) == fingerprint(
        run(world, tokens=150, seed=seed, policy=policy, candidates=candidates)
    )


@settings(max_examples=WORLDS, deadline=None)
@given(
    world=worlds,
    seed=st.integers(0, 999),
    policy=st.sampled_from(POLICIES),
    candidates=st.integers(1, 3),
    order=st.randoms(use_true_random=False),
)
def test_answers_in_any_order(world: World, seed: int, policy: str, candidates: int, order: random.Random) -> None:
    """Some told, some cancelled, some admitted first and grown later: never overspent, and consistent at the end."""
    task = WorldTask(world)
    search = Search(
        "q", task=task, budget=bavt.Budget(tokens=150), seed=seed, policy=policy, candidates=candidates, record=True
    )
    out: list[Ask] = []
    half: list[Any] = []
    for _ in range(400):
        asks = search.ask(order.randint(0, 4))
        assert all(ask.count <= candidates and 1 <= ask.limit <= 64 for ask in asks)
        out += asks
        assert search.spent.tokens + search.reserved.tokens <= 150
        if not out and not half and not asks and search.stop_reason is not None:
            break
        order.shuffle(out)
        for _ in range(order.randint(0, len(out))):
            ask, verb = out.pop(), order.random()
            if verb < 0.1:
                search.cancel(ask)
                continue
            steps = steps_for(search, ask, world)
            if verb < 0.6:
                grown = search.tell(ask, steps, values_for(search, ask, steps, world))
                assert grown == list(range(len(search.nodes) - len(grown), len(search.nodes)))
            else:
                pending = search.admit(ask, steps)
                if pending.tickets:
                    half.append(pending)
        if half and order.random() < 0.7:
            pending = half.pop(order.randrange(len(half)))
            search.grow(pending, [world.value(node.state) for node in pending.nodes])
    else:
        for ask in out:
            search.cancel(ask)
    for pending in half:
        search.grow(pending, [world.value(node.state) for node in pending.nodes])
    check_idle(search)
    result = search.result()
    assert result.spent.tokens <= 150
    assert result.overrun == bavt.Spent()
    check_consistent(result, task)
    check_visits(search)
    assert len(task.described) == len(set(task.described))


def check_visits(search: Search) -> None:
    """From the events: a node's visits are its own, its children's and its asks that brought steps and nothing new."""
    tree, fruitless = search.tree, [0] * len(search.nodes)
    assert search.events is not None
    for kind, _, _, _, *about in search.events:
        if kind == "admit":
            node, steps, found = about
            fruitless[node] += steps > 0 and found == 0
    for node in range(tree.num_nodes):
        below = sum(int(tree.visit_counts[child]) for child in tree.children(node))
        assert tree.visit_counts[node] == (node > 0) + below + fruitless[node]


def test_asks_in_flight_count_as_tries_and_visits_until_they_are_answered() -> None:
    search = start(policy="best_first", decay=0.5)
    [first] = search.ask()
    search.tell(
        first,
        [
            "a",
        ][:1],
        [1.0],
    )
    before = arrays(search.tree)
    asks = search.ask(6)
    assert len(asks) == 6
    tree = search.tree
    nodes = [ask.node for ask in asks]
    assert len(set(nodes)) < len(nodes)  # the same node may be out several times
    assert [int(n) for n in tree.tries] == [1 + nodes.count(0), nodes.count(1)]
    assert [int(n) for n in tree.visit_counts] == [1 + 6, 1 + nodes.count(1)]
    assert len({ask.request.seed for ask in asks}) == 6
    assert search.reserved.tokens == 6 * 64
    for ask in reversed(asks):
        search.cancel(ask)
    assert arrays(search.tree) == before
    assert search.reserved == bavt.Spent()
    assert search.spent.tokens == 1


def test_an_ask_that_brings_children_gives_its_visit_to_them() -> None:
    search = start(candidates=3)
    [ask] = search.ask()
    assert search.tree.visit_counts.tolist() == [1]
    assert search.tell(ask, ["a", "b", "a"], [0.5, 0.25, 0.125]) == [1, 2]
    tree = search.tree
    assert tree.visit_counts.tolist() == [2, 1, 1]
    assert tree.value_sums.tolist() == [0.75, 0.5, 0.25]
    assert tree.tries.tolist() == [1, 0, 0]


def test_an_ask_that_brings_steps_and_nothing_new_stays_a_visit() -> None:
    search = start()
    for text, expected in (("a", [1, 1]), ("!wrong", [2, 1]), ("a", [3, 1])):
        [ask] = search.ask()
        while ask.node != 0:  # the root is meant
            search.cancel(ask)
            [ask] = search.ask()
        search.tell(ask, [text], [1e-6])
        assert search.tree.visit_counts.tolist() == expected
    assert search.tree.tries.tolist() == [3, 0]
    assert [refusal.reason for refusal in search.result().refused] == ["invalid", "duplicate"]


def test_an_answer_without_a_step_closes_the_node_and_was_no_try() -> None:
    search = start(dead := World(**{**EASY.__dict__, "seed": 1}), policy="best_first")
    asks = search.ask(2)
    assert [ask.node for ask in asks] == [0, 0]
    search.tell(asks[0], [])
    assert search.ask() == []  # the root is closed, but an answer is out
    assert search.stop_reason is None
    answer(search, asks[1], dead)
    assert search.tree.tries.tolist() == [1, 0]
    assert search.tree.visit_counts.tolist() == [1, 1]
    assert search.tree.flags[0] == bavt.Tree.CLOSED
    assert search.ask()[0].node == 1  # what came later goes on from there


def test_values_default_to_one_and_texts_to_their_words() -> None:
    search = start()
    [ask] = search.ask()
    assert search.tell(ask, ["a"]) == [1]
    assert search.tree.values.tolist() == [1.0, 1.0]
    assert search.spent.tokens == 1
    assert search.result().texts == ("", "a\n")


def test_the_same_step_object_twice() -> None:
    search = start(candidates=2)
    step = Step("a\n", 1)
    assert search.tell(search.ask()[0], [step, step], [0.5, 0.25]) == [1]
    assert search.tree.values[1] == 0.5
    assert search.spent.tokens == 2


def test_weights_are_what_selection_uses() -> None:
    search = start(tokens=1000, policy="best_first", candidates=3, decay=1e-3)
    [ask] = search.ask()
    search.tell(ask, ["a", "b", "c"], [0.9, 0.5, 0.1], weights=[0.1, 0.2, 0.3])
    assert search.tree.values.tolist() == [1.0, 0.9, 0.5, 0.1]
    assert search.tree.weights.tolist() == [1.0, 0.1, 0.2, 0.3]
    assert [ask.node for ask in search.ask(3)] == [3, 2, 1]
    assert search.result().path == ("a",)  # the best path is by V


# --- wrong tickets


def test_a_ticket_is_answered_once() -> None:
    search = start()
    told, cancelled = search.ask(2)
    answer(search, told)
    search.cancel(cancelled)
    for ask in (told, cancelled):
        for call in (
            lambda ask=ask: search.tell(ask, ["z"], [0.5]),
            lambda ask=ask: search.tell(ask, []),
            lambda ask=ask: search.admit(ask, ["z"]),
            lambda ask=ask: search.cancel(ask),
        ):
            unchanged(search, call, bavt.TicketError, "expected the ticket of an open ask")


def test_an_ask_of_another_search_is_refused() -> None:
    search, other = start(), start()
    [own], [foreign] = search.ask(), other.ask()
    assert (own.ticket, own.node) == (foreign.ticket, foreign.node)
    for call in (
        lambda: search.tell(foreign, ["a"], [0.5]),
        lambda: search.admit(foreign, ["a"]),
        lambda: search.cancel(foreign),
    ):
        unchanged(search, call, bavt.TicketError, "ask: expected an ask of this search")
    assert answer(search, own) == [1]


def test_what_is_no_ask_is_refused() -> None:
    search = start()
    [ask] = search.ask()
    for wrong in (None, 0, ask.ticket, (ask.ticket, ask.node), "ask"):
        unchanged(
            search, lambda wrong=wrong: search.tell(wrong, ["a"]), TypeError, r"ask: expected what ask\(\) returned"
        )
        unchanged(search, lambda wrong=wrong: search.cancel(wrong), TypeError, r"ask: expected what ask\(\) returned")
    unknown = Ask(99, 0, ask.request, 1, 64, search.id)
    unchanged(search, lambda: search.tell(unknown, ["a"]), bavt.TicketError, "expected the ticket of an open ask")


def test_what_is_admitted_is_not_admitted_or_told_again() -> None:
    search = start()
    [ask] = search.ask()
    pending = search.admit(ask, ["a"])
    for call in (lambda: search.tell(ask, ["b"]), lambda: search.admit(ask, ["b"])):
        with pytest.raises(bavt.TicketError, match="is admitted already"):
            call()
    assert search.grow(pending, [0.5]) == [1]
    unchanged(search, lambda: search.grow(pending, [0.5]), bavt.TicketError, "expected the ticket of an open ask")
    unchanged(search, lambda: search.cancel(ask), bavt.TicketError, "expected the ticket of an open ask")


def test_what_another_search_admitted_is_not_grown_here() -> None:
    search, other = start(), start()
    pending, own = other.admit(other.ask()[0], ["a"]), search.admit(search.ask()[0], ["b"])
    with pytest.raises(bavt.TicketError, match="pending|belongs to another search"):
        search.grow(pending, [0.5])
    assert len(search.nodes) == 1
    assert search.grow(own, [0.25]) == [1]
    assert other.grow(pending, [0.5]) == [1]
    assert (search.tree.values[1], other.tree.values[1]) == (0.25, 0.5)


# --- wrong answers


@pytest.mark.parametrize(
    ("steps", "values", "weights", "error", "match"),
    [
        (["a"], [math.nan], None, ValueError, "values: expected a finite number"),
        (["a"], [math.inf], None, ValueError, "values: expected a finite number"),
        (["a"], ["0.5"], None, TypeError, "values: expected a finite number"),
        (["a"], [None], None, TypeError, "values: expected a finite number"),
        (["a"], [True], None, TypeError, "values: expected a finite number"),
        (["a"], [], None, ValueError, "values: expected 1, one for each step, got 0"),
        (["a"], [0.5, 0.5], None, ValueError, "values: expected 1, one for each step, got 2"),
        ([], [0.5], None, ValueError, "values: expected 0, one for each step, got 1"),
        (["a"], [0.5], [math.nan], ValueError, "weights: expected a finite number above zero"),
        (["a"], [0.5], [-1.0], ValueError, "weights: expected a finite number above zero"),
        (["a"], [0.5], [0.0], ValueError, "weights: expected a finite number above zero"),
        (["a"], [0.5], ["1"], TypeError, "weights: expected a finite number above zero"),
        (["a"], [0.5], [], ValueError, "weights: expected 1, one for each step, got 0"),
        (["a", "b", "c"], None, None, ValueError, "steps: expected at most 2 for the ask, got 3"),
        ([5], None, None, TypeError, "generator: expected steps as str or Step, got 5"),
        ([None], None, None, TypeError, "generator: expected steps as str or Step, got None"),
        ([Step("a", 0)], None, None, ValueError, "Step.tokens: expected an integer from 1"),
        ([Step("a", -1)], None, None, ValueError, "Step.tokens: expected an integer from 1"),
        ([Step("a", 1.5)], None, None, TypeError, "Step.tokens: expected"),  # type: ignore[arg-type]
        ([Step("a", 1, "stop")], None, None, ValueError, "Step.finish_reason"),  # type: ignore[arg-type]
        ([Step("a", 1, cost=-1.0)], None, None, ValueError, "Step.cost: expected"),
        ([Step(b"a", 1)], None, None, TypeError, "a str as Step.text"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_answer_changes_nothing(
    steps: Any, values: Any, weights: Any, error: type[Exception], match: str
) -> None:
    search = start(candidates=2)
    answer(search, search.ask()[0])
    [ask] = search.ask()
    unchanged(search, lambda: search.tell(ask, steps, values, weights=weights), error, match)
    assert search.open_asks() == [ask]
    answer(search, ask)  # and it can still be answered
    check_idle(search)


@pytest.mark.parametrize("values", [[math.nan, 0.5], [0.5, math.inf], [0.5], [0.5] * 3, ["x", 0.5], [None, 0.5]])
def test_wrong_values_for_what_is_admitted_change_nothing(values: Any) -> None:
    search = start(candidates=2)
    pending = search.admit(search.ask()[0], ["a", "b"])
    before = arrays(search.tree), search.reserved, search.spent.tokens
    with pytest.raises((TypeError, ValueError), match="values: expected|expected"):
        search.grow(pending, values)
    assert (arrays(search.tree), search.reserved, search.spent.tokens) == before
    assert len(search.nodes) == 1
    assert search.grow(pending, [0.5, 0.25]) == [1, 2]
    assert [node.value for node in search.nodes] == [1.0, 0.5, 0.25]


@pytest.mark.parametrize("limit", [-1, 1.5, True, "2", None])
def test_how_many_to_ask_for(limit: Any) -> None:
    search = start()
    with pytest.raises((TypeError, ValueError), match="limit: expected an integer of at least 0"):
        search.ask(limit)
    assert search.ask(0) == []
    assert search.stop_reason is None


# --- the halves by hand


def test_admit_and_grow() -> None:
    task = WorldTask(World(**{**EASY.__dict__, "depth": 1, "goal_share": 0.5}))
    search = Search("q", task=task, budget=bavt.Budget(tokens=1000), candidates=10)
    [ask] = search.ask()
    names = [chr(ord("a") + i) for i in range(8)]
    right = [name for name in names if task.world.is_goal(("q", name))]
    assert 0 < len(right) < 8
    pending = search.admit(ask, [*names, "!", "a"])
    assert [node.state for node in pending.nodes] == [("q", name) for name in right]
    assert all(
        isinstance(node, Node) and node.value is None and node.parent is search.nodes[0] for node in pending.nodes
    )
    assert search.spent.tokens == 10
    assert search.reserved == bavt.Spent()
    assert search.open_asks() == []  # it was answered
    assert search.grow(pending, [0.5] * len(right)) == list(range(1, len(right) + 1))
    result = search.result()
    assert (result.refuted_steps, result.invalid_steps, result.duplicate_steps) == (8 - len(right), 1, 1)
    assert (result.stop_reason, result.answer, result.value) == ("solved", f"answer q/{right[0]}", 1.0)


def test_what_is_admitted_can_be_cancelled() -> None:
    search = start(candidates=2)
    [ask] = search.ask()
    search.admit(ask, ["a", "b"])
    search.cancel(ask)
    check_idle(search)
    assert search.tree.visit_counts.tolist() == [0]
    assert search.spent.tokens == 2  # the steps were paid for
    assert search.tell(search.ask()[0], ["a"], [0.5]) == [1]  # and are not duplicates of nothing


def test_residual_values() -> None:
    search = start(candidates=2, root_value=0.5)
    pending = search.admit(search.ask()[0], ["a", "b"])
    search.grow(pending, [0.25, -0.75], residual=True)
    assert search.tree.values.tolist() == [0.5, 0.75, 1e-6]


def test_what_scoring_takes_is_charged() -> None:
    search = start(max_score=bavt.Spent(tokens=10), max_step_tokens=20)
    [ask] = search.ask()
    assert search.reserved.tokens == 30
    pending = search.admit(ask, [Step("a\n", 5)])
    assert (search.spent.tokens, search.reserved.tokens) == (5, 10)
    search.grow(pending, [0.5], spent=bavt.Spent(tokens=7))
    assert (search.spent.tokens, search.reserved.tokens) == (12, 0)
    assert search.result().overrun == bavt.Spent()
    pending = search.admit(search.ask()[0], [Step("b\n", 5)])
    search.grow(pending, [0.5], spent=bavt.Spent(tokens=11))
    assert search.result().overrun.tokens == 1
    assert search.ask() == []
    assert search.stop_reason == "budget"


def test_what_a_cancelled_ask_took_is_charged() -> None:
    search = Search(
        "q",
        task=WorldTask(EASY),
        budget=bavt.Budget(tokens=300, cost=1.0, tool_calls=9, prompt_tokens=99),
        token_cost=0.001,
        step_tool_calls=2,
        max_prompt_tokens=20,
    )
    first, second, third = search.ask(3)
    search.cancel(first, bavt.Spent(tokens=7))
    assert (search.spent.tokens, search.spent.tool_calls, search.spent.cost) == (7, 0, 0.007)
    search.cancel(second, bavt.Spent(5, 1, 0.0, 0.25, 11))
    assert (search.spent.tokens, search.spent.tool_calls, search.spent.prompt_tokens) == (12, 1, 11)
    assert search.spent.cost == pytest.approx(0.257)
    assert search.tree.visit_counts.tolist() == [1]
    search.cancel(third, bavt.Spent(tokens=65))  # more than was reserved for it
    assert search.result().overrun.tokens == 1
    assert search.ask() == []
    assert search.stop_reason == "budget"
    check_idle(search)


# --- failures of the task


class Breaks(WorldTask):
    """Fails in one of its methods when told to."""

    stage = ""

    def apply(self, state: Any, step: Step) -> Any:
        if self.stage == "apply":
            raise OSError("apply broke")
        return super().apply(state, step)

    def key(self, state: Any) -> Any:
        return [state] if self.stage == "key" else super().key(state)  # unhashable

    def describe(self, state: Any) -> Any:
        if self.stage == "describe":
            raise OSError("describe broke")
        return None if self.stage == "nothing" else super().describe(state)


@pytest.mark.parametrize(
    ("stage", "error"), [("apply", OSError), ("key", TypeError), ("describe", OSError), ("nothing", TypeError)]
)
def test_a_task_that_fails_stops_its_search_and_is_charged(stage: str, error: type[Exception]) -> None:
    task = Breaks(EASY)
    search = Search("q", task=task, budget=TOKENS)
    answer(search, search.ask()[0])
    first, second = search.ask(2)
    spent = search.spent.tokens
    task.stage = stage
    with pytest.raises(error):
        search.tell(first, [Step("w\n", 3)], [0.5])
    task.stage = ""
    assert search.spent.tokens == spent + 3
    assert search.stop_reason == "error"
    assert isinstance(search.error, error)
    assert [ask.ticket for ask in search.open_asks()] == [second.ticket]
    assert search.tell(second, [Step("x\n", 2)], [0.5]) == [2]  # what is out may still be told
    check_idle(search)
    assert search.ask() == []
    search.extend(bavt.Budget(tokens=10))  # and the caller may go on
    assert search.error is None
    [ask] = search.ask()
    assert search.tell(ask, [Step("y\n", 2)], [0.5]) == [3]


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
    unchanged(search, lambda: search.stop(reason), (ValueError, TypeError), "reason")  # type: ignore[arg-type]
    assert search.stop_reason is None


def finish(search: Search, world: World) -> Search:
    while asks := search.ask():
        answer(search, asks[0], world)
    return search


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
    [("solved", False), ("max_nodes", False), ("exhausted", False), ("budget", True), ("cancelled", True)]
    + [("interrupted", True), ("error", True), ("deadline", False), (None, True)],
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
    )
    [ask] = search.ask()
    assert ask.request.sampling == (0.5, 0.9, 40)
    assert ask.request.seconds_left == 30.0  # time counts from the first ask
    now[0] += 12.0
    assert search.ask()[0].request.seconds_left == 18.0
    assert start().ask()[0].request.seconds_left is None

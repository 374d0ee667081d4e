"""A search driven by hand: asks answered in any order, wrongly, twice, elsewhere or never."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from by_hand import EASY, TOKENS, answer, start, steps_for, unchanged, values_for
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import World, WorldTask
from search_checks import POLICIES, WORLDS, arrays, check_consistent, check_idle, fingerprint, run, worlds

import bavt_fast as bavt
from bavt_fast.engine import Ask, Search
from bavt_fast.protocols import Node, Step

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
    with pytest.raises(bavt.TicketError, match="pending: expected what admit"):
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
        (["a"], 0.5, None, TypeError, "values: expected a list of numbers, got 0.5"),
        (["a"], iter([0.5]), None, TypeError, "values: expected a list of numbers, got <list_iterator"),
        (["a"], {0: 0.5}, None, TypeError, "values: expected a list of numbers, got {0: 0.5}"),
        (["a"], [0.5], {0.5}, TypeError, "weights: expected a list of numbers, got {0.5}"),
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
    with pytest.raises((TypeError, ValueError), match="expected"):
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


def test_an_ask_that_brings_nothing_that_waits_is_closed(tmp_path: Path) -> None:
    """Refuted, duplicate, invalid or no steps: nobody has values to grow, and nothing stays reserved."""
    world = World(**{**EASY.__dict__, "depth": 1})
    search = start(world, max_score=bavt.Spent(tokens=10))
    for number, steps in enumerate((["a"], ["a"], ["!"], [])):
        [ask] = search.ask()
        pending = search.admit(ask, steps)
        assert pending.nodes == []
        assert search.result().refuted_steps == 1
        check_idle(search)
        unchanged(search, lambda ask=ask: search.cancel(ask), bavt.TicketError, "expected the ticket of an open ask")
        assert search.grow(pending, []) == search.grow(pending, [], spent=bavt.Spent()) == []
        wrong = bavt.Spent(tokens=number + 1)
        unchanged(
            search, lambda wrong=wrong, of=pending: search.grow(of, [], spent=wrong), ValueError, "spent: expected none"
        )
        search.save(tmp_path / "search.bavt")
    assert search.ask() == []
    assert search.stop_reason == "exhausted"


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


def test_a_key_that_cannot_be_hashed_is_named_from_the_first_state_on() -> None:
    task = Breaks(EASY)
    task.stage = "key"
    with pytest.raises(TypeError, match="key: expected something that can be hashed, got an unhashable type: 'list'"):
        Search("q", task=task, budget=TOKENS)


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


@pytest.mark.parametrize("steps", ["ab", "a", Step("a\n", 1), None])
def test_a_step_in_the_place_of_a_list_is_refused(steps: Any) -> None:
    search = bavt.Search("q", task=WorldTask(World()), budget=bavt.Budget(tokens=200))
    ask = search.ask()[0]
    for method in (search.tell, search.admit):
        with pytest.raises(TypeError, match="steps: expected a list of Step or str, got"):
            method(ask, steps)
    assert search.open_asks()[0].ticket == ask.ticket  # nothing has changed
    search.tell(ask, [])
    assert search.open_asks() == []


def test_wrong_arguments_of_its_calls_change_nothing() -> None:
    search = start()
    [ask] = search.ask()
    for wrong in (5, (1, 2, 3, 4), TOKENS):
        unchanged(search, lambda wrong=wrong: search.cancel(ask, wrong), TypeError, "^spent: expected a Spent")
    pending = search.admit(ask, ["a"])
    with pytest.raises(TypeError, match="spent: expected a Spent such as"):
        search.grow(pending, [0.5], spent=5)  # type: ignore[arg-type]
    for other in (None, ask, [pending]):
        with pytest.raises(TypeError, match="pending: expected what admit"):
            search.grow(other, [0.5])  # type: ignore[arg-type]
    for name, bad, error in (
        ("values", {0: 0.5}, TypeError),  # its keys were taken
        ("values", {0.5}, TypeError),
        ("weights", {0.5: 1}, TypeError),
        ("weights", [0.0], ValueError),
        ("residual", "value", TypeError),  # which is true
    ):
        given: Any = {"values": [0.5], name: bad}
        with pytest.raises(error, match=f"^{name}: expected"):
            search.grow(pending, **given)
    assert search.grow(pending, [0.5]) == [1]

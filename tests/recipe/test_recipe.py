"""Our search against the recipe as it circulates: same calls in the same order, same numbers, same returned string."""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recipe_world import CONTAINERS, INF, NAN, VALUES, Script, ScriptedWorld, run_search

from bavt_fast.recipe import reference
from bavt_fast.recipe import search as fast

PROGRAMS = int(os.environ.get("BAVT_RECIPE_PROGRAMS", "300"))


class OverriddenScore(fast.BudgetAwareUCB):
    """The stock score, written again: an override the search has to call."""

    def compute_ucb_score(self, node_value, visit_count, total_budget, remaining_budget):  # type: ignore
        return super().compute_ucb_score(node_value, visit_count, total_budget, remaining_budget)


class OverriddenSearch(fast.BudgetAwareValueTreeSearch):
    """The stock search, which has to run on objects."""

    def backpropagate(self, node: Any, value: float) -> None:
        super().backpropagate(node, value)


def assert_parity(script: Script) -> tuple[str, list[tuple[Any, ...]], int]:
    """The recipe's result; ours is the same: natively, on objects, and with an overridden rule."""
    expected = run_search(reference.BudgetAwareValueTreeSearch, reference.BudgetAwareUCB, script)
    assert run_search(fast.BudgetAwareValueTreeSearch, fast.BudgetAwareUCB, script) == expected
    assert run_search(OverriddenSearch, fast.BudgetAwareUCB, script) == expected
    assert run_search(fast.BudgetAwareValueTreeSearch, OverriddenScore, script) == expected
    return expected


SCRIPTS = st.builds(
    Script,
    seed=st.integers(0, 2**32),
    values=st.sampled_from(sorted(VALUES)),
    container=st.sampled_from(sorted(CONTAINERS)),
    branching=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple),
    empty_chance=st.sampled_from([0.0, 0.0, 0.02, 0.3]),
    budget=st.one_of(st.integers(1, 6), st.integers(1, 120)),
    max_depth=st.one_of(st.integers(0, 12), st.sampled_from([-3, 2.5, 1000, INF])),
    exploration=st.sampled_from([1.0, 1.0, 0.0, 10.0, -1.0, 1e-6, 1e6, 3]),
)


@settings(max_examples=PROGRAMS, deadline=None)
@given(SCRIPTS)
def test_random_scripts(script: Script) -> None:
    assert_parity(script)


@pytest.mark.parametrize("values", sorted(VALUES))
@pytest.mark.parametrize("container", sorted(CONTAINERS))
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_long_searches(values: str, container: str, seed: int) -> None:
    _, log, remaining = assert_parity(
        Script(seed, values, container, branching=(1, 2, 3, 5), budget=250, max_depth=INF)
    )
    assert remaining == 1  # the budget ran out, so all of it was compared
    assert len(log) == 2 * 250


@pytest.mark.parametrize("exploration", [0.0, 1.0, 30.0])
def test_a_thousand_iterations_at_the_recipes_defaults(exploration: float) -> None:
    for seed in range(10):
        script = Script(seed, "signed", budget=1000, exploration=exploration)
        _, log, remaining = assert_parity(script)
        assert remaining > 1  # the descent reached max_depth and ended the search
        assert len(log) == 2 * (1000 - remaining)


def test_the_stock_rule_with_finite_floats_runs_on_the_native_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_nodes(*args: Any) -> None:
        raise AssertionError("a TreeNode was made")

    monkeypatch.setattr(fast, "TreeNode", no_nodes)
    for values in ("uniform", "signed", "ties", "large", "integers", "numpy"):
        for budget in (1, 50):
            run_search(fast.BudgetAwareValueTreeSearch, fast.BudgetAwareUCB, Script(values=values, budget=budget))
    with pytest.raises(AssertionError, match="a TreeNode was made"):
        run_search(fast.BudgetAwareValueTreeSearch, OverriddenScore, Script())
    with pytest.raises(AssertionError, match="a TreeNode was made"):
        run_search(OverriddenSearch, fast.BudgetAwareUCB, Script())


@pytest.mark.parametrize("max_depth", [2**32 - 2, 2**32 - 1, 2**32, 2**64, Fraction(7, 2), np.float32(3.5)])
def test_depths_of_any_size_and_kind_are_taken(max_depth: Any) -> None:
    assert_parity(Script(seed=2, branching=(1, 2), budget=80, max_depth=max_depth))


@settings(max_examples=PROGRAMS, deadline=None)
@given(st.text(max_size=5), st.lists(st.lists(st.text(max_size=4), min_size=1, max_size=3), min_size=1, max_size=6))
def test_texts_of_any_characters(question: str, steps: list[list[str]]) -> None:
    """One, two and four bytes a character, in one text."""

    class Speaker:
        def __init__(self) -> None:
            self.log: list[str] = []

        def generate_next_steps(self, text: str, num_candidates: int) -> list[str]:
            self.log.append(text)
            return steps[len(self.log) % len(steps)]

        def estimate_residual_value(self, text: str) -> float:
            self.log.append(text)
            return 1.0 / len(self.log)

    results = []
    for module in (reference, fast):
        speaker = Speaker()
        results.append((module.BudgetAwareValueTreeSearch(speaker, speaker, 20).search(question), speaker.log))
    assert results[0] == results[1]
    assert all(hash(ours) == hash(theirs) for ours, theirs in zip(results[1][1], results[0][1], strict=True))


def test_max_depth_zero_asks_nothing_and_answers_nothing() -> None:
    assert assert_parity(Script(max_depth=0, budget=5)) == ("", [], 5)


def test_max_depth_one_expands_the_root_once() -> None:
    answer, log, remaining = assert_parity(Script(max_depth=1, budget=5, values="constant"))
    assert answer == "question\ns0"
    assert log == [("steps", "question", 3, 5), ("value", "question\ns0", 5)]
    assert remaining == 4


def test_budget_one_runs_one_iteration() -> None:
    answer, log, remaining = assert_parity(Script(budget=1, values="constant"))
    assert (answer, len(log), remaining) == ("question\ns0", 2, 1)


def test_a_model_without_steps_ends_the_search_with_an_empty_answer() -> None:
    answer, log, remaining = assert_parity(Script(empty_chance=1.0, budget=7))
    assert (answer, log, remaining) == ("", [("steps", "question", 3, 7)], 7)


def test_negative_values_lead_the_answer_into_children_never_visited() -> None:
    answer, _, _ = assert_parity(Script(values="negative", budget=1))
    assert answer == "question\ns1"  # s0 was visited and is below zero, s1 is the first at zero


def test_the_answer_repeats_every_prefix() -> None:
    script = Script(values="constant", branching=(1,), budget=3)
    assert assert_parity(script)[0] == "\n".join(["question\ns0", "question\ns0\ns0", "question\ns0\ns0\ns0"])


def test_a_search_can_be_run_again_with_its_whole_budget() -> None:
    results = []
    for search_class in (reference.BudgetAwareValueTreeSearch, fast.BudgetAwareValueTreeSearch):
        world = ScriptedWorld(Script(seed=3, values="signed"))
        world.search = search_class(world, world, 30)
        results.append(([world.search.search(q, 6) for q in ("one", "two", "")], world.log))
    assert results[0] == results[1]


FLOATS = st.one_of(st.floats(allow_nan=False), st.floats(-1, 1), st.sampled_from([0.0, -0.0, 1.0]))


def bits(x: float) -> bytes:
    return struct.pack("<d", x)


@settings(max_examples=PROGRAMS * 3, deadline=None)
@given(
    value=FLOATS,
    visits=st.integers(0, 10**6),
    total=st.integers(0, 10**7),
    remaining=st.integers(0, 10**7),
    exploration=st.one_of(st.just(1.0), st.floats(-100, 100)),
)
def test_the_score_is_the_recipes_bit_for_bit(
    value: float, visits: int, total: int, remaining: int, exploration: float
) -> None:
    ours = fast.BudgetAwareUCB(exploration).compute_ucb_score(value, visits, total, remaining)
    theirs = reference.BudgetAwareUCB(exploration).compute_ucb_score(value, visits, total, remaining)
    assert bits(ours) == bits(theirs)


def make_node(module: Any, statistics: list[tuple[float, int]]) -> Any:
    node = module.TreeNode("parent")
    for i, (value_sum, visits) in enumerate(statistics):
        child = module.TreeNode(str(i), node)
        child.value_sum, child.visit_count = value_sum, visits
        node.children.append(child)
    return node


STATISTICS = st.lists(st.tuples(st.one_of(FLOATS, st.just(NAN), st.just(-INF)), st.integers(0, 4)), max_size=8).flatmap(
    lambda rows: st.permutations(rows + rows[:2])
)


@settings(max_examples=PROGRAMS, deadline=None)
@given(rows=STATISTICS, remaining=st.integers(1, 100), total=st.integers(1, 100), c=st.sampled_from([0.0, 1.0]))
def test_the_best_child_is_the_recipes(rows: list[tuple[float, int]], remaining: int, total: int, c: float) -> None:
    ours = fast.BudgetAwareUCB(c).select_best_child(make_node(fast, rows), remaining, total)
    theirs = reference.BudgetAwareUCB(c).select_best_child(make_node(reference, rows), remaining, total)
    assert (ours and ours.text) == (theirs and theirs.text)


def test_ties_go_to_the_first_child_and_no_children_to_none() -> None:
    ucb = fast.BudgetAwareUCB()
    assert ucb.select_best_child(make_node(fast, []), 5, 10) is None
    node = make_node(fast, [(0.5, 1), (0.75, 1), (0.75, 1)])
    assert ucb.select_best_child(node, 5, 10) is node.children[1]


def test_a_new_node_is_empty() -> None:
    node = fast.TreeNode()
    assert (node.text, node.parent, node.children) == ("", None, [])
    assert (node.visit_count, node.value_sum, node.residual_value) == (0, 0.0, 0.0)
    child = fast.TreeNode("text", node)
    assert (child.text, child.parent) == ("text", node)
    assert child.children is not node.children

"""Why a search stops, one test for each reason."""

from __future__ import annotations

import math
import time
from collections import Counter

import pytest
from scripted import Rounds, ScriptedGenerator, TableCritic, World, WorldTask
from search_checks import POLICIES, check_consistent, run

import bavt_fast as bavt
from bavt_fast.protocols import Step
from bavt_fast.searcher import Searcher
from bavt_fast.tasks.text import TextTask


def test_stops_solved() -> None:
    result = run(World(goal_share=1.0, invalid_share=0.0, dead_share=0.0), tokens=500)
    assert result.stop_reason == "solved"
    assert result.answer is not None
    assert result.spent.tokens < 500


def test_stops_on_the_budget() -> None:
    result = bavt.search("q", generator=Rounds(), budget=bavt.Budget(tokens=21))
    assert result.stop_reason == "budget"
    assert result.spent.tokens == 21


def test_a_step_that_the_end_of_the_budget_cuts_is_paid_for_and_dropped() -> None:
    def generator(text: str, count: int, limit: int) -> list[Step]:
        return [Step(f"{len(text)} words here", min(3, limit), "delimiter" if limit >= 3 else "limit")]

    result = bavt.search("q", generator=generator, budget=bavt.Budget(tokens=7))
    assert result.spent.tokens == 7
    assert result.invalid_steps == 1
    assert result.refused[-1].reason == "limit"
    assert result.tree.num_nodes == 3
    assert result.overrun == bavt.Spent()


def test_an_overrun_is_charged_in_full_and_stops_the_search() -> None:
    """Four hundred words under a budget of a hundred tokens, from a function that does not ask for the limit."""
    answers = iter(["one two", "word " * 400, "never asked for"])
    result = bavt.search("q", generator=lambda text, count: [next(answers)], budget=bavt.Budget(tokens=100))
    assert result.stop_reason == "budget"
    assert result.spent.tokens == 402
    assert result.overrun.tokens == 400 - 64  # above what was reserved for the step
    assert next(answers) == "never asked for"
    assert result.tree.num_nodes == 3  # the step that was paid for is in the tree


def test_stops_when_the_tree_is_full() -> None:
    result = run(World(goal_share=0.0, dead_share=0.0, depth=8), tokens=3000, max_nodes=50)
    assert (result.stop_reason, result.tree.num_nodes) == ("max_nodes", 50)
    check_consistent(result, WorldTask(World(goal_share=0.0, dead_share=0.0, depth=8)))


@pytest.mark.parametrize("wave", [1, 4])
@pytest.mark.parametrize("candidates", [1, 3])
def test_no_more_is_asked_for_than_fits_the_tree(wave: int, candidates: int) -> None:
    world = World(goal_share=0.0, dead_share=0.0, depth=8)
    for max_nodes in range(1, 12):
        result = run(world, tokens=3000, max_nodes=max_nodes, wave=wave, candidates=candidates)
        assert (result.stop_reason, result.tree.num_nodes) == ("max_nodes", max_nodes)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_step_for_ever_closes_its_node(policy: str) -> None:
    """Every node is asked for `patience` steps in a row that bring nothing new, and no more."""
    calls: Counter[str] = Counter()

    def generator(text: str, count: int) -> list[str]:
        calls[text] += 1
        return ["Answer: 7"]

    result = bavt.search("q", generator=generator, budget=bavt.Budget(tokens=10**6), policy=policy, patience=4)
    assert result.stop_reason == "exhausted"
    assert calls == {"q\n": 1 + 4}
    assert (result.answer, result.duplicate_steps) == ("7", 4)


def test_what_is_new_makes_a_node_patient_again() -> None:
    answers = ["a", "a", "a", "b", "b", "b", "b", "never"]
    replies = iter(answers)
    task = TextTask(max_depth=1)
    result = bavt.search(
        "q", generator=lambda text, count: [next(replies)], task=task, budget=bavt.Budget(tokens=99), patience=3
    )
    assert (result.stop_reason, result.duplicate_steps) == ("exhausted", 2 + 3)
    assert next(replies) == "never"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("candidates", [1, 3])
def test_no_policy_ends_with_budget_left_while_something_new_can_be_proposed(policy: str, candidates: int) -> None:
    world = World(goal_share=0.0, dead_share=0.0, branching=4, depth=7, min_tokens=0)
    result = run(world, tokens=500, policy=policy, candidates=candidates)
    assert (result.stop_reason, result.spent.tokens) == ("budget", 500)


@pytest.mark.parametrize("policy", ["uct", "puct", "ucb"])
def test_descents_widen_with_one_candidate_an_ask(policy: str) -> None:
    """Not one chain: a node has children by the square root of its visits."""
    world = World(goal_share=0.0, dead_share=0.0, invalid_share=0.0, merge_share=0.0, branching=26, depth=40)
    tree = run(world, tokens=1000, policy=policy).tree
    widths = [len(tree.children(node)) for node in range(tree.num_nodes)]
    assert widths[0] > 5
    for node, width in enumerate(widths):
        if width > 1:
            assert width <= math.sqrt(tree.visit_counts[node]) + 1


def test_stops_at_the_deadline_with_a_slow_generator() -> None:
    start = time.monotonic()
    result = bavt.search("q", generator=Rounds(pause_s=0.02), budget=bavt.Budget(seconds=0.2))
    assert result.stop_reason == "deadline"
    assert result.path
    assert result.spent.seconds >= 0.2
    assert time.monotonic() - start < 5.0


def test_the_deadline_counts_beside_a_token_budget() -> None:
    budget = bavt.Budget(tokens=10**9, seconds=0.1)
    assert bavt.search("q", generator=Rounds(pause_s=0.01), budget=budget).stop_reason == "deadline"


def test_stops_when_nothing_is_left_to_expand() -> None:
    generator = Rounds(empty_after=3)
    result = bavt.search("q", generator=generator, budget=bavt.Budget(tokens=10_000))
    assert result.stop_reason == "exhausted"
    assert result.spent.tokens == 6
    assert result.tree.num_nodes == 4
    assert generator.calls == 3 + 4  # each node was asked until it had nothing
    assert result.tree.tries.tolist() == [len(result.tree.children(node)) for node in range(4)]
    assert ((result.tree.flags & bavt.Tree.CLOSED) != 0).all()


def test_nothing_is_spent_where_no_answer_fits() -> None:
    world = World(depth=4, min_tokens=5)
    result = run(world, tokens=19)
    assert (result.stop_reason, result.spent.tokens, result.path) == ("budget", 0, ())


def test_a_question_that_is_its_own_answer() -> None:
    solved = run(World(depth=0, goal_share=1.0))
    assert (solved.stop_reason, solved.answer, solved.path, solved.spent.tokens) == (
        "solved",
        "answer q",
        (),
        0,
    )
    refuted = run(World(depth=0, goal_share=0.0))
    assert (refuted.stop_reason, refuted.answer, refuted.spent.tokens) == ("exhausted", None, 0)


def test_without_a_verifier_the_best_terminal_is_the_answer() -> None:
    world = World(depth=2, dead_share=0.0, invalid_share=0.0, merge_share=0.0)
    searcher = Searcher(ScriptedGenerator(world), TableCritic(world), WorldTask(world, verifies=False))
    result = searcher.search("q", budget=bavt.Budget(tokens=300))
    ends = [node for node in range(result.tree.num_nodes) if result.tree.flags[node] & bavt.Tree.TERMINAL]
    assert len(ends) > 1
    assert result.value == max(result.tree.values[node] for node in ends)
    assert result.answer == "answer q/" + "/".join(result.path)
    assert not result.solved

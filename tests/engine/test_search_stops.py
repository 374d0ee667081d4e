"""Why a search stops, one test for each reason."""

from __future__ import annotations

import time

from scripted import Rounds, ScriptedGenerator, TableCritic, World, WorldTask
from search_checks import run

import bavt_fast as bavt
from bavt_fast.searcher import Searcher


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
    result = bavt.search("q", generator=lambda text, count: [f"{len(text)} words here"], budget=bavt.Budget(tokens=7))
    assert result.spent.tokens == 7
    assert result.invalid_steps == 1
    assert result.tree.num_nodes == 3


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

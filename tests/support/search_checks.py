"""What the tests of the search share: random worlds, a run of one, and what holds for every result."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import strategies as st
from scripted import ScriptedGenerator, TableCritic, World, WorldTask

import bavt_fast as bavt
from bavt_fast._core import Tree
from bavt_fast.engine import Search
from bavt_fast.reference.engine import MIN_VALUE
from bavt_fast.result import SearchResult
from bavt_fast.searcher import Searcher

WORLDS = int(os.environ.get("BAVT_SEARCH_WORLDS", "60"))
POLICIES = ["power", "best_first", "uct", "puct", "ucb"]
MASK = 2**64 - 1

BUDGET = bavt.Budget(tokens=80)
ENDLESS = World(goal_share=0.0, dead_share=0.0, invalid_share=0.0, merge_share=0.0, branching=26, depth=9, min_tokens=0)

worlds = st.builds(
    World,
    seed=st.integers(0, 10**6),
    branching=st.integers(1, 4),
    depth=st.integers(1, 5),
    goal_share=st.sampled_from([0.0, 0.05, 0.5]),
    invalid_share=st.sampled_from([0.0, 0.2, 0.9]),
    merge_share=st.sampled_from([0.0, 0.3]),
    dead_share=st.sampled_from([0.0, 0.2]),
    max_tokens=st.sampled_from([1, 6, 20]),
    min_tokens=st.integers(0, 3),
)


def searcher(world: World, **options: Any) -> Searcher:
    return Searcher(ScriptedGenerator(world), TableCritic(world), WorldTask(world), **options)


def alone(world: World, question: str, budget: bavt.Budget = BUDGET, seed: int = 0, **options: Any) -> Any:
    return fingerprint(searcher(world, wave=1, **options).search(question, budget=budget, seed=seed))


def run(world: World, *, tokens: int = 150, seed: int = 0, **options: Any) -> SearchResult:
    searcher = Searcher(ScriptedGenerator(world), TableCritic(world), WorldTask(world), **options)
    return searcher.search("q", budget=bavt.Budget(tokens=tokens), seed=seed)


def run_all(searcher: Searcher, searches: Sequence[Search]) -> list[SearchResult]:
    """Drives searches to their ends."""
    for _ in searcher.run(searches):
        pass
    return [search.result() for search in searches]


def arrays(tree: Tree) -> dict[str, bytes]:
    names = ("parents", "visit_counts", "value_sums", "values", "weights", "depths", "flags", "tries")
    return {name: getattr(tree, name).tobytes() for name in names}


def fingerprint(result: SearchResult) -> tuple[Any, ...]:
    """Everything about a result but the clock."""
    spent = [(s.tokens, s.tool_calls, s.cost, s.prompt_tokens) for s in (result.spent, result.overrun)]
    counts = (result.invalid_steps, result.duplicate_steps, result.refuted_steps)
    found = (result.answer, result.solved, result.path, result.path_nodes, result.value, result.stop_reason)
    return (*found, spent, counts, result.texts, result.refused, arrays(result.tree))


def check_consistent(
    result: SearchResult, task: WorldTask, question: str = "q", *, shown: bool = False, unscored: bool = False
) -> None:
    """A result agrees with its tree, and the tree with itself.

    `shown`: an error may be of `on_progress`, which cannot take back how the search had ended. `unscored`: states may
    have waited for their values when the search stopped: they are paid for, and in no list.
    """
    tree = result.tree
    check_tree(tree, result)
    assert len(result.steps) == len(result.texts) == len(result.log_probabilities) == tree.num_nodes
    assert (result.steps[0], result.texts[0]) == (None, "")
    check_counts(result, unscored)
    assert len(result.path) == len(result.path_nodes)
    above = [0, *result.path_nodes]
    assert [int(tree.parents[node]) for node in result.path_nodes] == above[:-1]
    state = task.initial_state(question)
    for node, text in zip(result.path_nodes, result.path, strict=True):
        step = result.steps[node]
        assert step is not None
        assert text == step.text.strip("\n")
        assert step.hidden is None
        after = task.apply(state, step)
        assert after is not None
        state = after
    assert result.value == tree.values[above[-1]]
    assert (result.answer is not None) == (task.is_terminal(state) and task.verdict(state) is not False)
    if result.answer is not None:
        assert result.answer == task.answer(state)
    assert result.solved == (result.stop_reason == "solved")
    assert result.stop_reason != "error" or result.error is not None
    assert result.stop_reason == "error" or result.error is None or shown
    if result.solved:
        assert task.verdict(state) is True
        assert result.value == 1.0


def check_tree(tree: Tree, result: SearchResult) -> None:
    """Visits, values and tries. A visit without value is an ask that brought steps and nothing new."""
    parents, visits, sums = tree.parents, tree.visit_counts, tree.value_sums
    assert parents[0] == -1
    assert (parents[1:] < range(1, tree.num_nodes)).all()
    assert not (tree.flags & Tree.IN_FLIGHT).any()
    refused = Counter(refusal.node for refusal in result.refused)
    # What was settled and not taken note of when Ctrl-C came is paid for, and in no list.
    broken_off = result.stop_reason == "interrupted"
    for node in range(tree.num_nodes):
        children = tree.children(node)
        own = 0 if node == 0 else 1
        fruitless = int(visits[node]) - own - sum(int(visits[child]) for child in children)
        assert fruitless >= 0
        assert broken_off or fruitless <= refused[node]
        assert fruitless <= tree.tries[node] <= fruitless + len(children)
        assert sums[node] == pytest.approx(own * tree.values[node] + sum(sums[child] for child in children))
        assert tree.depths[node] == (0 if node == 0 else tree.depths[parents[node]] + 1)
        assert MIN_VALUE <= tree.values[node] <= 1.0


def check_counts(result: SearchResult, unscored: bool = False) -> None:
    """Every step that was paid for is a node or was refused for a reason."""
    reasons = Counter(refusal.reason for refusal in result.refused)
    assert set(reasons) <= {"invalid", "limit", "duplicate", "refuted"}
    if result.stop_reason == "interrupted":
        return
    assert result.invalid_steps == reasons["invalid"] + reasons["limit"]
    assert result.duplicate_steps == reasons["duplicate"]
    assert result.refuted_steps == reasons["refuted"]
    steps = [step for step in result.steps if step is not None] + [refusal.step for refusal in result.refused]
    if result.stop_reason != "error":  # what an ask took that broke off is charged all the same
        tokens = sum(step.tokens for step in steps)
        assert result.spent.tokens == tokens or (unscored and result.spent.tokens > tokens)
    assert all(step.hidden is None for step in steps)


def check_idle(search: Search) -> None:
    """Nothing is in flight, reserved or marked, and every node of the tree has its entry."""
    assert search._native.in_flight == 0
    assert search.open_asks() == []
    assert search.reserved == bavt.Spent()
    assert len(search.nodes) == search.tree.num_nodes
    assert [node.value for node in search.nodes] == search.tree.values.tolist()
    assert not (search.tree.flags & Tree.IN_FLIGHT).any()

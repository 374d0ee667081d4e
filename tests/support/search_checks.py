"""What the tests of the search share: random worlds, a run of one, and what holds for every result."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import strategies as st
from scripted import ScriptedGenerator, TableCritic, World, WorldTask

import bavt_fast as bavt
from bavt_fast._core import Tree
from bavt_fast.run import MIN_VALUE
from bavt_fast.searcher import Searcher, SearchResult

WORLDS = int(os.environ.get("BAVT_SEARCH_WORLDS", "60"))
POLICIES = ["power", "best_first", "uct", "puct", "ucb"]
MASK = 2**64 - 1

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


def run(world: World, *, tokens: int = 150, seed: int = 0, **options: Any) -> SearchResult:
    searcher = Searcher(ScriptedGenerator(world), TableCritic(world), WorldTask(world), **options)
    return searcher.search("q", budget=bavt.Budget(tokens=tokens), seed=seed)


def arrays(tree: Tree) -> dict[str, bytes]:
    names = ("parents", "visit_counts", "value_sums", "values", "depths", "flags", "tries")
    return {name: getattr(tree, name).tobytes() for name in names}


def fingerprint(result: SearchResult) -> tuple[Any, ...]:
    """Everything about a result but the clock."""
    spent = (result.spent.tokens, result.spent.tool_calls, result.spent.cost)
    counts = (result.invalid_steps, result.duplicate_steps, result.refuted_steps)
    found = (result.answer, result.solved, result.path, result.nodes, result.value, result.stop_reason)
    return (*found, spent, counts, arrays(result.tree))


def check_consistent(result: SearchResult, task: WorldTask, question: str = "q") -> None:
    """A result agrees with its tree, and the tree with itself."""
    tree = result.tree
    parents, visits, sums = tree.parents, tree.visit_counts, tree.value_sums
    assert parents[0] == -1
    assert (parents[1:] < range(1, tree.num_nodes)).all()
    assert not (tree.flags & Tree.IN_FLIGHT).any()
    assert visits[0] == tree.num_nodes - 1
    for node in range(tree.num_nodes):
        children = tree.children(node)
        own = 0 if node == 0 else 1
        assert visits[node] == own + sum(int(visits[child]) for child in children)
        assert sums[node] == pytest.approx(own * tree.values[node] + sum(sums[child] for child in children))
        assert tree.depths[node] == (0 if node == 0 else tree.depths[parents[node]] + 1)
        assert MIN_VALUE <= tree.values[node] <= 1.0
    assert len(result.path) == len(result.nodes)
    assert [int(parents[node]) for node in result.nodes] == [0, *result.nodes][: len(result.nodes)]
    state = task.initial_state(question)
    for step in result.path:
        after = task.apply(state, step)
        assert after is not None
        state = after
    assert result.value == tree.values[result.nodes[-1] if result.nodes else 0]
    assert (result.answer is not None) == (task.is_terminal(state) and task.verify(state) is not False)
    if result.answer is not None:
        assert result.answer == task.answer(state)
    assert result.solved == (result.stop_reason == "solved")
    if result.solved:
        assert task.verify(state) is True
        assert result.value == 1.0

"""The native tree behind the recipe's search: what it leaves to Python changes nothing; it lets go of what it holds."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from bavt_fast._core import RecipeTree
from bavt_fast.recipe.search import BudgetAwareUCB


class Scripted:
    """A search whose model and critic give one thing after the other."""

    def __init__(self, steps: Sequence[Any], values: Sequence[Any] = (), *, rule: Any = None, total: Any = 10) -> None:
        self.ucb = BudgetAwareUCB() if rule is None else rule
        self.total_budget = self.remaining_budget = total
        self.model = self.critic_head = self
        self.steps, self.values = iter(steps), iter(values)
        self.asked: list[tuple[str, int]] = []
        self.scored: list[str] = []

    def generate_next_steps(self, text: str, num_candidates: int) -> Any:
        self.asked.append((text, self.remaining_budget))
        assert num_candidates == 3
        return next(self.steps)

    def estimate_residual_value(self, text: str) -> Any:
        self.scored.append(text)
        return next(self.values)


def make_tree(question: Any = "q", max_depth: Any = 10) -> RecipeTree:
    return RecipeTree(question, max_depth, BudgetAwareUCB.compute_ucb_score, BudgetAwareUCB.select_best_child, tuple)


def grown() -> RecipeTree:
    tree = make_tree()
    search = Scripted([["a", "b"], ("c",)], [0.25, 0.5])
    assert tree.search(search, 2, 3) == (2, None, None)
    assert search.asked == [("q", 10), ("q\nb", 9)]
    assert search.scored == ["q\na", "q\nb\nc"]
    return tree


def test_nodes_and_texts() -> None:
    tree = grown()
    assert tree.leaf == 2  # b, which was not visited yet
    assert tree.nodes() == [
        (None, "q", 2, 0.75, 0.0),
        (0, "q\na", 1, 0.25, 0.25),
        (0, "q\nb", 1, 0.5, 0.0),
        (2, "q\nb\nc", 1, 0.5, 0.5),
    ]
    assert tree.best_texts() == ["q\nb", "q\nb\nc"]
    assert make_tree().best_texts() == []
    assert make_tree().nodes() == [(None, "q", 0, 0.0, 0.0)]


class Text(str):
    pass


@pytest.mark.parametrize("steps", [["a", 3], ["a", Text("b")], (None,), iter([3])])
def test_steps_that_are_not_plain_text_are_left_to_python(steps: Any) -> None:
    tree = grown()
    before = tree.nodes()
    iteration, left, given = tree.search(Scripted([steps]), 5, 3)
    assert (iteration, left) == (0, "steps")
    assert given is steps or given == (3,)
    assert tree.nodes() == before


@pytest.mark.parametrize("steps", [[], (), iter([])])
def test_no_steps_end_the_search(steps: Any) -> None:
    tree = grown()
    before = tree.nodes()
    assert tree.search(Scripted([steps]), 5, 3) == (0, None, None)
    assert tree.nodes() == before


def test_steps_that_are_no_list_are_made_one_or_raise() -> None:
    tree = make_tree()
    assert tree.search(Scripted([iter(["a"]), {"b": 1}], [0.5, 0.5]), 2, 3) == (2, None, None)
    assert [row[1] for row in tree.nodes()] == ["q", "q\na", "q\na\nb"]
    before = tree.nodes()
    with pytest.raises(TypeError, match="not iterable"):
        tree.search(Scripted([None]), 2, 3)
    assert tree.nodes() == before


@pytest.mark.parametrize("value", [None, "1", 1e291, float("nan"), float("inf"), 10**400, np.float32(1), 1j])
def test_values_that_may_add_up_otherwise_are_left_to_python(value: Any) -> None:
    tree = grown()
    before = tree.nodes()
    iteration, left, given = tree.search(Scripted([["d"]], [value]), 5, 3)
    assert (iteration, left) == (0, "value")
    assert given is value
    *old, new = tree.nodes()
    assert old == before  # nothing was added to it
    assert new[2:] == (0, 0.0, 0.0)


class Broken(BudgetAwareUCB):
    @property
    def compute_ucb_score(self) -> Any:  # type: ignore[override]
        raise RuntimeError("broken")


@pytest.mark.parametrize("total", [10.0, True, -1, 2**60, 10**400, np.int64(10)])
def test_budgets_that_are_not_plain_counts_are_left_to_python(total: Any) -> None:
    tree, search = grown(), Scripted([], total=total)
    before = tree.nodes()
    assert tree.search(search, 5, 3) == (0, "select", None)
    assert tree.nodes() == before
    assert search.remaining_budget == total


def test_rules_that_are_not_the_stock_one_are_left_to_python_and_their_errors_pass() -> None:
    tree = grown()
    assert tree.search(Scripted([], rule=object()), 5, 3) == (0, "select", None)
    with pytest.raises(RuntimeError, match="broken"):
        tree.search(Scripted([], rule=Broken()), 5, 3)
    bare = BudgetAwareUCB()
    del bare.exploration_constant
    with pytest.raises(AttributeError, match="exploration_constant"):
        tree.search(Scripted([], rule=bare), 5, 3)


def test_what_model_and_critic_raise_passes_and_the_tree_stands() -> None:
    tree = grown()
    before = tree.nodes()
    with pytest.raises(StopIteration):
        tree.search(Scripted([]), 5, 3)
    assert tree.nodes() == before
    search = Scripted([["d"]])
    search.critic_head = object()  # type: ignore[assignment]
    with pytest.raises(AttributeError, match="estimate_residual_value"):
        tree.search(search, 5, 3)
    assert tree.nodes()[:-1] == before


def test_the_depth_limit_ends_the_search() -> None:
    assert make_tree(max_depth=0).search(Scripted([]), 5, 3) == (0, None, None)
    tree = make_tree(max_depth=1)
    assert tree.search(Scripted([["a"]], [0.5]), 5, 3) == (1, None, None)
    assert tree.best_texts() == ["q\na"]


def test_model_critic_and_rule_are_those_of_each_iteration() -> None:
    class Changing(Scripted):
        def estimate_residual_value(self, text: str) -> float:
            self.model = Scripted([["other"]])
            self.total_budget = 20
            return 0.5

    search = Changing([["a"]])
    tree = make_tree()
    assert tree.search(search, 2, 3) == (2, None, None)
    assert [row[1] for row in tree.nodes()] == ["q", "q\na", "q\na\nother"]
    assert search.remaining_budget == 19


@pytest.mark.parametrize(
    ("question", "max_depth", "error", "message"),
    [
        (None, 1, TypeError, "question: expected a str, got None"),
        (Text("q"), 1, TypeError, "question: expected a str, got 'q'"),
        ("q", 1.0, TypeError, "max_depth: expected an int from 0 to"),
        ("q", -1, ValueError, "max_depth: expected an int from 0 to"),
        ("q", 2**32, ValueError, "max_depth: expected an int from 0 to"),
    ],
)
def test_bad_arguments_are_named(question: Any, max_depth: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=f"^{message}"):
        make_tree(question, max_depth)


def test_everything_that_is_held_is_let_go() -> None:
    held = ["question " * 9, "step " * 9, "other " * 9]
    counts = [sys.getrefcount(text) for text in held]
    tree = make_tree(held[0])
    search = Scripted([held[1:], tuple(held[1:]), iter(held[1:]), [held[1], 3]], [0.5, 0.25, None])
    assert tree.search(search, 2, 3) == (2, None, None)
    assert tree.search(search, 2, 3) == (0, "value", None)
    assert tree.search(search, 2, 3)[:2] == (0, "steps")
    answers = tree.nodes(), tree.best_texts()
    assert sys.getrefcount(held[1]) > counts[1]
    del tree, answers, search
    gc.collect()  # the search is its own model
    assert [sys.getrefcount(text) for text in held] == counts

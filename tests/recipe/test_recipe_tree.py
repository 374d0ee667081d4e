"""The native tree behind the recipe's search: what it declines changes nothing, and it lets go of what it holds."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from bavt_fast._core import RecipeTree
from bavt_fast.recipe.search import BudgetAwareUCB

RULE = BudgetAwareUCB()


def make_tree(question: Any = "q", max_depth: Any = 10) -> RecipeTree:
    return RecipeTree(question, max_depth, BudgetAwareUCB.compute_ucb_score, BudgetAwareUCB.select_best_child)


def grown() -> RecipeTree:
    tree = make_tree()
    for steps, value in ((["a", "b"], 0.25), (["c"], 0.5)):
        assert isinstance(tree.select(RULE, 5, 10), str)
        assert isinstance(tree.expand(steps), str)
        assert tree.backup(value)
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


@pytest.mark.parametrize("steps", [[], (), None, 3, "ab", iter(["a"]), ["a", 3], ["a", Text("b")], {"a": 1}])
def test_steps_that_are_not_a_list_of_plain_text_are_declined(steps: Any) -> None:
    tree = grown()
    before = tree.nodes()
    assert tree.expand(steps) is None
    assert tree.nodes() == before


@pytest.mark.parametrize("value", [None, "1", 1e291, float("nan"), float("inf"), 10**400, np.float32(1), 1j])
def test_values_that_may_add_up_otherwise_are_declined(value: Any) -> None:
    tree = grown()
    before = tree.nodes()
    assert not tree.backup(value)
    assert tree.nodes() == before


class Broken(BudgetAwareUCB):
    @property
    def compute_ucb_score(self) -> Any:  # type: ignore[override]
        raise RuntimeError("broken")


@pytest.mark.parametrize("numbers", [(5.0, 10), (5, 10.0), (True, 10), (5, -1), (2**60, 10), (5, 10**400)])
def test_budgets_that_are_not_plain_counts_are_declined(numbers: Any) -> None:
    assert grown().select(RULE, *numbers) is NotImplemented


def test_rules_that_are_not_the_stock_one_are_declined_and_their_errors_pass() -> None:
    tree = grown()
    assert tree.select(object(), 5, 10) is NotImplemented
    with pytest.raises(RuntimeError, match="broken"):
        tree.select(Broken(), 5, 10)
    bare = BudgetAwareUCB()
    del bare.exploration_constant
    with pytest.raises(AttributeError, match="exploration_constant"):
        tree.select(bare, 5, 10)


def test_the_depth_limit_ends_the_selection() -> None:
    assert make_tree(max_depth=0).select(RULE, 5, 10) is None
    tree = make_tree(max_depth=1)
    assert tree.select(RULE, 5, 10) == "q"
    tree.expand(["a"])
    assert tree.select(RULE, 5, 10) is None


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
    for value in (0.5, 0.25, None):
        text = tree.select(RULE, 3, 5)
        tree.expand(held[1:])
        tree.backup(value)
    tree.expand([held[1], 3])  # type: ignore[list-item]
    answers = tree.nodes(), tree.best_texts(), text
    assert sys.getrefcount(held[1]) > counts[1]
    del tree, answers, text
    assert [sys.getrefcount(text) for text in held] == counts

"""What the user overrides of the search, and what the model changes while the search runs, counts as in the recipe."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from recipe_world import INF, NAN, Script, ScriptedWorld

from bavt_fast.recipe import reference
from bavt_fast.recipe import search as fast


class Meddler(ScriptedWorld):
    """Changes something of the search at some calls of the model."""

    meddle: Callable[[Any, int], None]

    def generate_next_steps(self, text: str, num_candidates: int) -> Iterable[str]:
        self.meddle(self.search, len(self.log) // 2)
        return super().generate_next_steps(text, num_candidates)


def results_of(make_meddle: Callable[[Any], Callable[[Any, int], None]], script: Script) -> list[Any]:
    """Answer or error, and log, of the recipe and of ours; `make_meddle` is given the module."""
    results = []
    for module in (reference, fast):
        world = Meddler(script)
        world.meddle = make_meddle(module)
        world.search = module.BudgetAwareValueTreeSearch(world, world, script.budget)
        outcome: Any
        try:
            with np.errstate(all="ignore"):
                outcome = world.search.search("question", script.max_depth)
        except Exception as error:
            outcome = type(error)
        results.append((outcome, world.log))
    return results


@pytest.mark.parametrize("values", ["signed", "rare nan"])
def test_the_constant_and_the_total_are_read_anew_in_every_iteration(values: str) -> None:
    def make_meddle(module: Any) -> Callable[[Any, int], None]:
        def meddle(search: Any, iteration: int) -> None:
            search.ucb.exploration_constant *= -1.5
            search.total_budget += 1

        return meddle

    theirs, ours = results_of(make_meddle, Script(seed=5, values=values, budget=60, max_depth=1000))
    assert theirs == ours
    assert len(theirs[1]) == 2 * 60


@pytest.mark.parametrize("when", [0, 1, 9])
@pytest.mark.parametrize(
    ("name", "value"),
    [("total_budget", value) for value in (10, 1, 0, -5, 12.5, 2**60, 10**400, np.int32(40), NAN, "many")]
    + [("ucb.exploration_constant", value) for value in (2, True, np.float32(0.1), np.float64(3), INF, NAN, None)],
)
def test_a_number_of_any_kind_that_is_put_in_midway_counts(name: str, value: Any, when: int) -> None:
    def make_meddle(module: Any) -> Callable[[Any, int], None]:
        def meddle(search: Any, iteration: int) -> None:
            if iteration == when:
                *owner, attribute = name.split(".")
                setattr(search.ucb if owner else search, attribute, value)

        return meddle

    theirs, ours = results_of(make_meddle, Script(seed=3, values="signed", budget=40, max_depth=1000))
    assert repr(theirs) == repr(ours)  # a NaN is not equal to itself
    assert len(theirs[1]) > 2 * when + 1


def minus_value(node_value: float, visit_count: int, total_budget: int, remaining_budget: int) -> float:
    return -node_value - visit_count


def replaced(module: Any, search: Any, seen: list[Any]) -> None:
    class Last(module.BudgetAwareUCB):  # type: ignore[misc]
        def select_best_child(self, node, remaining_budget, total_budget):  # type: ignore
            parent_text = node.parent and node.parent.text
            seen.append((node.text, parent_text, node.visit_count, node.value_sum, node.residual_value))
            return node.children[-1]

    search.ucb = Last()


def patched(module: Any, search: Any, seen: list[Any]) -> None:
    search.ucb.compute_ucb_score = minus_value


def patched_with_a_method(module: Any, search: Any, seen: list[Any]) -> None:
    def score(self, *statistics: Any) -> float:  # type: ignore
        seen.append(statistics)
        return minus_value(*statistics)

    search.ucb.compute_ucb_score = types.MethodType(score, search.ucb)


def with_a_method_of_another(module: Any, search: Any, seen: list[Any]) -> None:
    search.ucb.compute_ucb_score = module.BudgetAwareUCB(-50.0).compute_ucb_score


def with_another_class(module: Any, search: Any, seen: list[Any]) -> None:
    class Negated(module.BudgetAwareUCB):  # type: ignore[misc]
        exploration_constant = property(lambda self: -3.0, lambda self, value: None)

    search.ucb.__class__ = Negated


@pytest.mark.parametrize("when", [0, 1, 2, 17])
@pytest.mark.parametrize(
    "change", [replaced, patched, patched_with_a_method, with_a_method_of_another, with_another_class]
)
@pytest.mark.parametrize("container", ["list", "generator"])
def test_a_rule_that_is_changed_midway_is_called_from_then_on(change: Any, when: int, container: str) -> None:
    seen: list[list[Any]] = []

    def make_meddle(module: Any) -> Callable[[Any, int], None]:
        seen.append([])

        def meddle(search: Any, iteration: int) -> None:
            if iteration == when:
                change(module, search, seen[-1])

        return meddle

    script = Script(seed=7, values="signed", container=container, branching=(2, 3), budget=60, max_depth=1000)
    theirs, ours = results_of(make_meddle, script)
    assert theirs == ours
    assert seen[0] == seen[1]
    unchanged = results_of(lambda module: lambda search, iteration: None, script)
    assert unchanged[1] != ours


def test_a_patch_of_the_class_midway_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[Any]] = []

    def make_meddle(module: Any) -> Callable[[Any, int], None]:
        calls.append([])
        mine = calls[-1]

        def score(self, *statistics: Any) -> float:  # type: ignore
            mine.append(statistics)
            return minus_value(*statistics)

        def meddle(search: Any, iteration: int) -> None:
            if iteration == 6:
                monkeypatch.setattr(module.BudgetAwareUCB, "compute_ucb_score", score)

        return meddle

    theirs, ours = results_of(make_meddle, Script(seed=1, budget=40, max_depth=1000))
    assert theirs == ours
    assert calls[0] == calls[1]
    assert calls[0]


def logging_search(module: Any, name: str) -> Any:
    """The search with one method that logs what it sees, and then does as it did."""

    def method(self, *given: Any) -> Any:  # type: ignore
        seen = [(at.text, at.visit_count, at.value_sum) if isinstance(at, module.TreeNode) else at for at in given]
        self.model.log.append((name, seen, self.remaining_budget))
        return getattr(super(subclass, self), name)(*given)

    subclass = type("Logging", (module.BudgetAwareValueTreeSearch,), {name: method})
    return subclass


@pytest.mark.parametrize("name", ["select_leaf", "backpropagate", "extract_answer"])
@pytest.mark.parametrize("budget", [1, 40])
def test_an_overridden_method_of_the_search_is_called(name: str, budget: int) -> None:
    results = []
    for module in (reference, fast):
        world = ScriptedWorld(Script(seed=6, values="signed", budget=budget))
        world.search = logging_search(module, name)(world, world, budget)
        results.append((world.search.search("question"), world.log))
    assert results[0] == results[1]
    assert any(entry[0] == name for entry in results[0][1])


@pytest.mark.parametrize("name", ["select_leaf", "backpropagate", "extract_answer"])
def test_a_method_that_is_patched_into_the_search_is_called(name: str) -> None:
    world = ScriptedWorld(Script(seed=6))
    search = world.search = fast.BudgetAwareValueTreeSearch(world, world, 20)
    calls = []
    stock = getattr(search, name)

    def spy(*given: Any) -> Any:
        calls.append(given)
        return stock(*given)

    setattr(search, name, spy)
    answer = search.search("question")
    assert calls
    delattr(search, name)
    world.rng.seed(6)
    assert search.search("question") == answer

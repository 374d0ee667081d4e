"""The recipe's search at its edges: overrides by the user, bad input, errors from the user's model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from recipe_world import Script, ScriptedWorld

from bavt_fast.recipe import reference
from bavt_fast.recipe import search as fast


def run_with_ucb(module: Any, ucb: Any, script: Script) -> tuple[str, list[tuple[Any, ...]]]:
    world = ScriptedWorld(script)
    world.search = module.BudgetAwareValueTreeSearch(world, world, script.budget)
    world.search.ucb = ucb
    return world.search.search("question", script.max_depth), world.log


def greedy_score(module: Any) -> Any:
    class Greedy(module.BudgetAwareUCB):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[tuple[float, int, int, int]] = []

        def compute_ucb_score(self, node_value, visit_count, total_budget, remaining_budget):  # type: ignore
            self.calls.append((node_value, visit_count, total_budget, remaining_budget))
            return node_value - 0.25 * visit_count

    return Greedy()


def last_child(module: Any) -> Any:
    class Last(module.BudgetAwareUCB):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[Any] = []

        def select_best_child(self, node, remaining_budget, total_budget):  # type: ignore
            children = [(child.text, child.visit_count, child.value_sum) for child in node.children]
            self.calls.append((node.text, node.visit_count, children, remaining_budget, total_budget))
            assert all(child.parent is node for child in node.children)
            return node.children[-1]

    return Last()


def patched_instance(module: Any) -> Any:
    ucb = module.BudgetAwareUCB()
    ucb.calls = []

    def score(node_value, visit_count, total_budget, remaining_budget):  # type: ignore
        ucb.calls.append((node_value, visit_count))
        return -node_value

    ucb.compute_ucb_score = score
    return ucb


@pytest.mark.parametrize("make_ucb", [greedy_score, last_child, patched_instance])
@pytest.mark.parametrize("seed", range(5))
def test_an_overridden_rule_is_called_as_the_recipe_calls_it(make_ucb: Any, seed: int) -> None:
    script = Script(seed, "signed", branching=(1, 2, 3), budget=60, max_depth=30)
    ours, theirs = make_ucb(fast), make_ucb(reference)
    assert run_with_ucb(fast, ours, script) == run_with_ucb(reference, theirs, script)
    assert ours.calls == theirs.calls
    assert ours.calls


def test_a_rule_patched_into_the_class_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def score(self, node_value, visit_count, total_budget, remaining_budget):  # type: ignore
        calls.append(visit_count)
        return 0.0

    monkeypatch.setattr(fast.BudgetAwareUCB, "compute_ucb_score", score)
    run_with_ucb(fast, fast.BudgetAwareUCB(), Script(budget=5))
    assert calls


def test_an_object_that_only_looks_like_a_rule_is_called() -> None:
    class Duck:
        def select_best_child(self, node: Any, remaining_budget: int, total_budget: int) -> Any:
            return node.children[-1]

    script = Script(seed=1, budget=20, max_depth=40)
    assert run_with_ucb(fast, Duck(), script) == run_with_ucb(reference, Duck(), script)


def test_a_rule_that_selects_nothing_is_named() -> None:
    class Nothing(fast.BudgetAwareUCB):
        def select_best_child(self, node, remaining_budget, total_budget):  # type: ignore
            return None

    with pytest.raises(TypeError, match=r"^ucb.select_best_child: expected a child .*, got None"):
        run_with_ucb(fast, Nothing(), Script(budget=2))


@pytest.fixture(params=["native", "objects"])
def on_both_trees(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "objects":
        extract = fast.BudgetAwareValueTreeSearch.extract_answer
        monkeypatch.setattr(fast.BudgetAwareValueTreeSearch, "extract_answer", lambda *given: extract(*given))


both_trees = pytest.mark.usefixtures("on_both_trees")


@pytest.mark.parametrize(("name", "arguments"), [("visit_count", (0.5, -1, 10, 5)), ("total_budget", (0.5, 1, -1, 5))])
def test_scores_of_impossible_statistics_are_refused(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: expected at least 0, got -1"):
        fast.BudgetAwareUCB().compute_ucb_score(*arguments)


def make_search(**answers: Any) -> fast.BudgetAwareValueTreeSearch:
    """A search whose model and critic return, or call, the given answers."""

    class Fixed:
        def generate_next_steps(self, text: str, num_candidates: int) -> Any:
            return answers.get("steps", ["a", "b"])

        def estimate_residual_value(self, trajectory_text: str) -> Any:
            return answers.get("value", 0.5)

    return fast.BudgetAwareValueTreeSearch(Fixed(), Fixed(), answers.get("budget", 4))


@pytest.mark.parametrize("budget", [0, -1])
def test_budgets_below_one_are_refused(budget: int) -> None:
    with pytest.raises(ValueError, match=f"^budget: expected an integer of at least 1, got {budget}"):
        make_search(budget=budget)


@pytest.mark.parametrize("budget", [True, 10.0, float("nan"), "10", None])
def test_budgets_that_are_no_integers_are_refused(budget: Any) -> None:
    with pytest.raises(TypeError, match=r"^budget: expected an integer"):
        make_search(budget=budget)


def test_a_question_that_is_no_text_is_refused_before_the_model_is_asked() -> None:
    with pytest.raises(TypeError, match=r"^question: expected a str, got NoneType"):
        make_search().search(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("max_depth", "error"), [("3", TypeError), (None, TypeError), (float("nan"), ValueError)])
def test_depths_that_are_no_numbers_are_refused(max_depth: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^max_depth: expected a number, got"):
        make_search().search("question", max_depth)


@both_trees
@pytest.mark.parametrize("steps", [None, 3, "abc", b"abc"])
def test_steps_of_the_wrong_type_are_named(steps: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"^model.generate_next_steps: expected a list of str, got {type(steps).__name__}"
    ):
        make_search(steps=steps).search("question")


@both_trees
@pytest.mark.parametrize("step", [None, 3, b"a", ["a"]])
def test_a_step_of_the_wrong_type_is_named(step: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"^model.generate_next_steps: expected a list of str, got {type(step).__name__} in it"
    ):
        make_search(steps=["fine", step]).search("question")


@both_trees
@pytest.mark.parametrize("value", [None, "0.5", [0.5], {}, 1j, np.zeros(2), np.zeros((0, 1))])
def test_a_value_of_the_wrong_type_is_named(value: Any) -> None:
    with pytest.raises(
        TypeError, match=rf"^critic_head.estimate_residual_value: expected a number, got {type(value).__name__}"
    ):
        make_search(value=value).search("question")


@both_trees
def test_ten_thousand_steps_are_taken() -> None:
    steps = [str(i) for i in range(10_000)]
    script_answers = {"steps": steps, "value": -1.0, "budget": 3}
    assert make_search(**script_answers).search("q") == "q\n3"


class Loud(str):
    """Text with an addition of its own, as HTML-escaping text has."""

    def __add__(self, other: str) -> str:
        return Loud(str(self) + "[" + other)

    def __radd__(self, other: str) -> str:
        return Loud(other + "]" + str(self))


class Heavy(float):
    """A number with an addition of its own."""

    def __radd__(self, other: float) -> float:
        return Heavy(other + 2 * float(self))

    __add__ = __radd__


@both_trees
@pytest.mark.parametrize("question", ["q", Loud("q")])
@pytest.mark.parametrize("loud_from", [0, 1, 5, 99])
def test_text_that_escapes_what_is_joined_to_it_stays_in_charge(question: str, loud_from: int) -> None:
    class Model(ScriptedWorld):
        def generate_next_steps(self, text: str, num_candidates: int) -> Any:
            steps = list(super().generate_next_steps(text, num_candidates))
            return steps[:1] + [Loud(step) for step in steps[1:]] if len(self.log) // 2 >= loud_from else steps

    results = []
    for module in (reference, fast):
        world = Model(Script(seed=4, budget=30, max_depth=8))
        world.search = module.BudgetAwareValueTreeSearch(world, world, 30)
        results.append((world.search.search(question, 8), world.log))
    assert results[0] == results[1]
    assert any("]" in text for _, text, *_ in results[0][1]) == (loud_from < 30)


def test_a_number_with_an_addition_of_its_own_stays_in_charge() -> None:
    answers = {"steps": ["a"], "value": Heavy(0.5), "budget": 3}
    ours = make_search(**answers)
    ours.ucb = last_child(fast)
    ours.search("q")
    theirs = reference.BudgetAwareValueTreeSearch(ours.model, ours.critic_head, 3)
    theirs.ucb = last_child(reference)
    theirs.search("q")
    assert ours.ucb.calls == theirs.ucb.calls  # with the value sums of every node on the way
    ours.ucb = fast.BudgetAwareUCB()
    theirs.ucb = reference.BudgetAwareUCB()
    assert ours.search("q") == theirs.search("q")


class Boom(Exception):
    pass


@both_trees
@pytest.mark.parametrize("method", ["generate_next_steps", "estimate_residual_value"])
def test_errors_of_the_users_model_pass_through_and_the_search_can_run_again(method: str) -> None:
    class Failing(ScriptedWorld):
        fail = True

        def break_down(self) -> None:
            if self.fail and len(self.log) > 12:
                raise Boom

        def generate_next_steps(self, text: str, num_candidates: int) -> Any:
            if method == "generate_next_steps":
                self.break_down()
            return super().generate_next_steps(text, num_candidates)

        def estimate_residual_value(self, trajectory_text: str) -> Any:
            if method == "estimate_residual_value":
                self.break_down()
            return super().estimate_residual_value(trajectory_text)

    world = Failing(Script(seed=1))
    search = world.search = fast.BudgetAwareValueTreeSearch(world, world, 40)
    with pytest.raises(Boom):
        search.search("question")
    assert search.remaining_budget < 40
    world.fail = False
    assert search.search("question").startswith("question\n")

"""The drop-in surface at its edges: overrides by the user, bad input, errors from the user's model."""

from __future__ import annotations

from typing import Any

import pytest
from recipe_world import Script, ScriptedWorld

from bavt_fast.recipe import reference as recipe
from bavt_fast.recipe import search as compat


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
    ours, theirs = make_ucb(compat), make_ucb(recipe)
    assert run_with_ucb(compat, ours, script) == run_with_ucb(recipe, theirs, script)
    assert ours.calls == theirs.calls
    assert ours.calls


def test_a_rule_patched_into_the_class_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def score(self, node_value, visit_count, total_budget, remaining_budget):  # type: ignore
        calls.append(visit_count)
        return 0.0

    monkeypatch.setattr(compat.BudgetAwareUCB, "compute_ucb_score", score)
    run_with_ucb(compat, compat.BudgetAwareUCB(), Script(budget=5))
    assert calls


def test_an_object_that_only_looks_like_a_rule_is_called() -> None:
    class Duck:
        def select_best_child(self, node: Any, remaining_budget: int, total_budget: int) -> Any:
            return node.children[-1]

    script = Script(seed=1, budget=20, max_depth=40)
    assert run_with_ucb(compat, Duck(), script) == run_with_ucb(recipe, Duck(), script)


def test_a_rule_that_selects_nothing_is_named() -> None:
    class Nothing(compat.BudgetAwareUCB):
        def select_best_child(self, node, remaining_budget, total_budget):  # type: ignore
            return None

    with pytest.raises(TypeError, match="select_best_child returned None"):
        run_with_ucb(compat, Nothing(), Script(budget=2))


@pytest.fixture(params=["native", "nodes"])
def on_both_trees(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "MIN_NATIVE_BUDGET", 0 if request.param == "native" else 10**9)


both_trees = pytest.mark.usefixtures("on_both_trees")


@pytest.mark.parametrize(("name", "arguments"), [("visit_count", (0.5, -1, 10, 5)), ("total_budget", (0.5, 1, -1, 5))])
def test_scores_of_impossible_statistics_are_refused(name: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be at least 0, got -1"):
        compat.BudgetAwareUCB().compute_ucb_score(*arguments)


def make_search(**answers: Any) -> compat.BudgetAwareValueTreeSearch:
    """A search whose model and critic return, or call, the given answers."""

    class Fixed:
        def generate_next_steps(self, text: str, num_candidates: int) -> Any:
            return answers.get("steps", ["a", "b"])

        def estimate_residual_value(self, trajectory_text: str) -> Any:
            return answers.get("value", 0.5)

    return compat.BudgetAwareValueTreeSearch(Fixed(), Fixed(), answers.get("budget", 4))


@pytest.mark.parametrize("budget", [0, -1])
def test_budgets_below_one_are_refused(budget: int) -> None:
    with pytest.raises(ValueError, match=f"^budget: expected an integer of at least 1, got {budget}"):
        make_search(budget=budget)


@pytest.mark.parametrize("budget", [True, 10.0, float("nan"), "10", None])
def test_budgets_that_are_no_integers_are_refused(budget: Any) -> None:
    with pytest.raises(TypeError, match=r"^budget: expected an integer"):
        make_search(budget=budget)


def test_a_question_that_is_no_text_is_refused_before_the_model_is_asked() -> None:
    with pytest.raises(TypeError, match=r"^question must be a str, got NoneType"):
        make_search().search(None)  # type: ignore[arg-type]


@pytest.mark.parametrize(("max_depth", "error"), [("3", TypeError), (None, TypeError), (float("nan"), ValueError)])
def test_depths_that_are_no_numbers_are_refused(max_depth: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^max_depth must be an integer"):
        make_search().search("question", max_depth)


@both_trees
@pytest.mark.parametrize("steps", [None, 3, "abc", b"abc"])
def test_steps_of_the_wrong_type_are_named(steps: Any) -> None:
    with pytest.raises(TypeError, match=rf"generate_next_steps must return a list of str, got {type(steps).__name__}"):
        make_search(steps=steps).search("question")


@both_trees
@pytest.mark.parametrize("step", [None, 3, b"a", ["a"]])
def test_a_step_of_the_wrong_type_is_named(step: Any) -> None:
    with pytest.raises(TypeError, match=rf"got a {type(step).__name__} in it"):
        make_search(steps=["fine", step]).search("question")


@both_trees
@pytest.mark.parametrize("value", [None, "0.5", [0.5], {}])
def test_a_value_of_the_wrong_type_is_named(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"estimate_residual_value must return a number, got {type(value).__name__}"):
        make_search(value=value).search("question")


@both_trees
def test_ten_thousand_steps_are_taken() -> None:
    steps = [str(i) for i in range(10_000)]
    script_answers = {"steps": steps, "value": -1.0, "budget": 3}
    assert make_search(**script_answers).search("q") == "q\n3"


@both_trees
def test_text_that_escapes_what_is_joined_to_it_stays_in_charge() -> None:
    """A str subclass with its own addition (HTML-escaping text is one) adds as it would in the recipe."""

    class Loud(str):
        def __radd__(self, other: str) -> str:
            return other.upper() + str(self)

    ours = make_search(steps=[Loud("a")], budget=2)
    theirs = recipe.BudgetAwareValueTreeSearch(ours.model, ours.critic_head, 2)
    assert ours.search("q") == theirs.search("q") == "Q\na\nQ\nA\na"


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
    search = world.search = compat.BudgetAwareValueTreeSearch(world, world, 40)
    with pytest.raises(Boom):
        search.search("question")
    assert search.remaining_budget < 40
    world.fail = False
    assert search.search("question").startswith("question\n")

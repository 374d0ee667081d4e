"""Labels for the states that a critic learns from: by completions, and by an oracle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from untouched import Untouched

import bavt_fast as bavt
from bavt_fast.protocols import Description, Node, Scores, Step, StepRequest
from bavt_fast.tasks.countdown import Countdown
from bavt_fast.training.critic import label_by_completions, label_by_oracle


class Coin:
    """States are numbers. A step adds what it says; 3 is right, above it is wrong, and "x" is no step."""

    def initial_state(self, question: str) -> int:
        return int(question)

    def apply(self, state: int, step: Step) -> int | None:
        return None if step.text == "x" else state + int(step.text)

    def key(self, state: int) -> int:
        return state

    def describe(self, state: int) -> Description:
        return Description(state >= 3, state == 3 if state >= 3 else None, str(state), f"{state}\n")


class Coins:
    """Draws 1, 2 or "x" by the request's seed alone."""

    def __init__(self, choices: str = "12x") -> None:
        self.choices = choices
        self.seeds: list[int] = []

    def propose(self, requests: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[Any]:
        self.seeds += [request.seed for request in requests]
        drawn = [np.random.default_rng(request.seed).choice(list(self.choices)) for request in requests]
        return [[Step(str(text), tokens=2)] for text in drawn]


def test_completions_estimate_the_chance_of_an_answer() -> None:
    """From 2 a third ends right: 1 is right, 2 too much, x is no step. From 0 it is 1/3 of (from 1) + ... by hand."""
    nodes = [Node(state, f"{state}\n") for state in (2, 1, 0)]
    coins = Coins()
    found = label_by_completions(nodes, coins, Coin(), completions=900, seed=4)
    from_2, from_1 = 1 / 3, 1 / 3 * 1 / 3 + 1 / 3
    wanted = [from_2, from_1, (from_1 + from_2) / 3]
    assert found.labels.tolist() == pytest.approx(wanted, abs=0.05)
    assert found.count == 900
    assert found.tokens == 2 * len(coins.seeds)
    assert len(set(coins.seeds)) == len(coins.seeds)  # no two steps are drawn alike
    again = label_by_completions(nodes, Coins(), Coin(), completions=900, seed=4)
    assert again.labels.equal(found.labels)
    assert not label_by_completions(nodes, Coins(), Coin(), completions=900, seed=5).labels.equal(found.labels)


def test_completions_end() -> None:
    found = label_by_completions([Node(0, "0\n")], Coins("0"), Coin(), completions=2, max_steps=5)
    assert found.labels.tolist() == [0.0]
    assert found.tokens == 2 * 2 * 5


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"completions": 0}, ValueError, "completions: expected an integer of at least 1"),
        ({"max_step_tokens": 0}, ValueError, "max_step_tokens: expected an integer of at least 1"),
        ({"max_step_tokens": "5"}, TypeError, "max_step_tokens: expected"),
        ({"seed": "x"}, TypeError, "seed: expected"),
        ({"task": None}, TypeError, "task: expected an object with the methods of"),
        ({"generator": len}, TypeError, "generator: expected one with propose"),
    ],
)
def test_completions_of_bad_arguments(arguments: dict[str, Any], error: type[Exception], match: str) -> None:
    given: dict[str, Any] = {"generator": Untouched(), "task": Countdown(), **arguments}
    with pytest.raises(error, match=match):
        label_by_completions([Node(None, "1")], **given)


def test_completions_need_a_verdict() -> None:
    class Unsure(Coin):
        def describe(self, state: int) -> Description:
            return Description(state >= 3, None, str(state), f"{state}\n")

    with pytest.raises(ValueError, match="task: expected one that verifies its answers"):
        label_by_completions([Node(2, "2\n")], Coins("1"), Unsure(), completions=1)


class Late(Coin):
    """Does not come to a verdict on some states."""

    def __init__(self, *unknown: int) -> None:
        self.unknown = unknown

    def describe(self, state: int) -> Description:
        about = super().describe(state)
        return Description(terminal=True) if state in self.unknown else about


def test_completions_without_a_verdict_count_neither_way() -> None:
    """From 2 what is not right ends at 4, of which nobody knows whether it is; or at "x", which is no step and wrong.
    1 leads to 3, or to 2 and so to 3 or 4."""
    nodes = [Node(state, f"{state}\n") for state in (2, 1)]
    found = label_by_completions(nodes, Coins("12"), Late(4), completions=900, seed=4)
    assert found.labels.tolist() == [1.0, 1.0]
    found = label_by_completions(nodes, Coins("12x"), Late(4), completions=900, seed=4)
    assert found.labels.tolist() == pytest.approx([1 / 2, (1 / 3 + 1 / 9) / (1 - 1 / 9)], abs=0.05)


def test_a_task_that_never_has_a_verdict_is_found_out_early() -> None:
    coins = Coins("12")
    with pytest.raises(ValueError, match="task: expected one that verifies its answers"):
        label_by_completions([Node(2, "2\n"), Node(0, "0\n")], coins, Late(3, 4), completions=40)
    assert len(coins.seeds) == 80  # the first step of each


def test_states_that_end_a_path_are_not_completed() -> None:
    nodes = [Node(state, f"{state}\n") for state in (3, 4, 5, 2)]
    coins = Coins("1")
    found = label_by_completions(nodes, coins, Late(5), completions=4)
    assert found.labels.tolist()[:2] == [1.0, 0.0]
    assert bool(found.labels[2].isnan())
    assert found.labels[3] == 1.0
    assert len(coins.seeds) == 4


def test_a_failing_generator_is_not_a_label() -> None:
    class Fails(Coins):
        def propose(self, requests: Any, counts: Any, limits: Any) -> list[Any]:
            return [bavt.GenerationError("out of memory") for _ in requests]

    with pytest.raises(bavt.GenerationError, match="out of memory"):
        label_by_completions([Node(2, "2\n")], Fails(), Coin())


@pytest.mark.parametrize("answers", [None, [], [[], []], [None], ["1"], [[1]], [[Step("1", 1), Step("2", 1)]]])
def test_completions_of_an_answer_that_is_none(answers: Any) -> None:
    class Odd:
        def propose(self, requests: Any, counts: Any, limits: Any) -> Any:
            return answers

    with pytest.raises((TypeError, ValueError), match="generator: expected"):
        label_by_completions([Node(2, "2\n")], Odd(), Coin(), completions=1)


@pytest.mark.parametrize("start", [2, 0])
def test_completions_of_a_task_that_describes_nothing(start: int) -> None:
    class Silent(Coin):
        def describe(self, state: int) -> Any:
            return None if state > 1 else super().describe(state)

    with pytest.raises(TypeError, match="describe: expected a Description, got None"):
        label_by_completions([Node(start, f"{start}\n")], Coins("2"), Silent(), completions=1)


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.5])
def test_an_oracle_out_of_range_is_refused(value: float) -> None:
    class Wrong:
        predicts = "value"

        def score(self, nodes: Sequence[Node]) -> list[float]:
            return [value] * len(nodes)

    with pytest.raises(ValueError, match=r"oracle: expected one number in \[0, 1\]"):
        label_by_oracle([Node(1, "1")], Wrong())


@pytest.mark.parametrize("scores", [None, 5, ["x"], [], [0.5, 0.5], [[0.5, 0.5]]])
def test_an_oracle_without_a_number_for_each_state_is_refused(scores: Any) -> None:
    class Wrong:
        predicts = "value"

        def score(self, nodes: Sequence[Node]) -> Any:
            return scores

    with pytest.raises(ValueError, match=r"oracle: expected one number in \[0, 1\] for each state, got"):
        label_by_oracle([Node(1, "1")], Wrong())


def test_an_oracle_may_be_a_function_or_say_what_it_took() -> None:
    class Charging:
        predicts = "value"

        def score(self, nodes: Sequence[Node]) -> Scores:
            return Scores([0.25] * len(nodes), [bavt.Spent()] * len(nodes))

    nodes = [Node(1, "one"), Node(2, "two")]
    assert label_by_oracle(nodes, lambda text: float(text == "one")).tolist() == [1.0, 0.0]
    assert label_by_oracle(nodes, Charging()).tolist() == [0.25, 0.25]


def test_an_oracle_that_is_a_coroutine_is_refused() -> None:
    async def later(text: str) -> float:
        return 1.0

    with pytest.raises(TypeError, match="oracle: expected a plain one, got a coroutine: <function"):
        label_by_oracle([Node(1, "one")], later)

"""What generators, critics and tasks are taken for, and the wrappers of plain functions."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from bavt_fast.protocols import (
    Candidate,
    Critic,
    FunctionCritic,
    FunctionGenerator,
    Step,
    StepGenerator,
    StepRequest,
    as_critic,
    as_generator,
)


class Generator:
    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        return [[] for _ in states]


class ResidualCritic:
    predicts = "residual"

    def score(self, candidates: Sequence[Candidate]) -> list[float]:
        return [0.0 for _ in candidates]


def candidate(text: str) -> Candidate:
    return Candidate(None, text, Step(text, 1), 0.5)


def test_objects_are_taken_as_they_are() -> None:
    generator: StepGenerator = Generator()
    critic: Any = ResidualCritic()
    assert as_generator(generator) is generator
    assert as_critic(critic) is critic
    assert isinstance(generator, StepGenerator)
    assert isinstance(critic, Critic)


def test_functions_are_wrapped() -> None:
    generator = as_generator(lambda text, count: [text + "!"] * count)
    steps = generator.propose([StepRequest("a b"), StepRequest("c")], [2, 1], [10, 10])
    assert [[step.text for step in row] for row in steps] == [["a b!", "a b!"], ["c!"]]
    critic = as_critic(len)
    assert critic.predicts == "value"
    assert critic.score([candidate("four"), candidate("")]) == [4, 0]


def test_no_critic_gives_every_state_one() -> None:
    assert as_critic(None).score([candidate("a"), candidate("b")]) == [1.0, 1.0]


@pytest.mark.parametrize("generator", [None, 5, "text", [], object()])
def test_what_is_no_generator(generator: Any) -> None:
    with pytest.raises(TypeError, match=r"generator: expected an object with propose.*got " + type(generator).__name__):
        as_generator(generator)


@pytest.mark.parametrize("critic", [5, "text", [], object()])
def test_what_is_no_critic(critic: Any) -> None:
    with pytest.raises(TypeError, match=r"critic: expected an object with score.*got " + type(critic).__name__):
        as_critic(critic)


def test_a_critic_must_say_what_it_predicts() -> None:
    critic = ResidualCritic()
    critic.predicts = "logits"
    with pytest.raises(ValueError, match="predicts to be 'value' or 'residual', got 'logits'"):
        as_critic(critic)


class TestFunctionGenerator:
    def test_tokens_are_words_by_default(self) -> None:
        generator = FunctionGenerator(lambda text, count: ["one two three", "", "x"])
        assert [s.tokens for s in generator.propose([StepRequest("")], [3], [9])[0]] == [3, 1, 1]

    def test_tokens_by_the_caller_s_count(self) -> None:
        generator = FunctionGenerator(lambda text, count: ["abcde"], count_tokens=len)
        assert generator.propose([StepRequest("")], [1], [9])[0] == [Step("abcde", 5)]

    def test_what_is_longer_than_its_limit_is_incomplete_and_charged_up_to_it(self) -> None:
        generator = FunctionGenerator(lambda text, count: ["a b c d", "a b"])
        assert generator.propose([StepRequest("")], [2], [2])[0] == [Step("a b c d", 2, False), Step("a b", 2)]

    @pytest.mark.parametrize("reply", [None, "text", 7, [7], ["a", None], iter(["a"])])
    def test_wrong_replies(self, reply: Any) -> None:
        with pytest.raises(TypeError, match="generator: expected a list of str from the function"):
            FunctionGenerator(lambda text, count: reply).propose([StepRequest("")], [1], [9])

    def test_lists_of_different_lengths(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            FunctionGenerator(lambda text, count: []).propose([StepRequest("")], [1, 1], [9])


def test_a_function_critic_sees_the_whole_context() -> None:
    seen: list[str] = []

    def value(text: str) -> float:
        seen.append(text)
        return 0.25

    assert FunctionCritic(value).score([candidate("question\nstep one\nstep two")]) == [0.25]
    assert seen == ["question\nstep one\nstep two"]


@pytest.mark.parametrize("value", [Step("a", 1), StepRequest("a"), candidate("a")])
def test_values_are_immutable_and_small(value: Any) -> None:
    with pytest.raises(AttributeError):
        value.text = "b"
    assert not hasattr(value, "__dict__")


def test_the_package_and_a_search_load_no_torch() -> None:
    """A search with a function for a generator runs on numpy alone."""
    script = (
        "import sys, bavt_fast as bavt\n"
        "from bavt_fast.tasks.countdown import Countdown, CountdownOracle\n"
        "generator = lambda text, count: ['3 * 2 = 6 (left: 6)']\n"
        "searcher = bavt.Searcher(generator, CountdownOracle(), Countdown())\n"
        "result = searcher.search('2 3 -> 6', budget=bavt.Budget(tokens=50))\n"
        "assert result.solved, result\n"
        "loaded = {'torch', 'transformers', 'triton'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)

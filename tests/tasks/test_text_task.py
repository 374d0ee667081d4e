"""Plain text as a task."""

from __future__ import annotations

from typing import Any

import pytest

import bavt_fast as bavt
from bavt_fast.tasks.text import TextState, TextTask


def test_a_state_is_the_text_so_far() -> None:
    task = TextTask()
    state = task.initial_state("How many?")
    assert task.prompt(state) == "How many?\n"
    after = task.apply(state, "  first, think \n")
    assert after == TextState("How many?\nfirst, think", "first, think", 1)
    assert task.prompt(after) == "How many?\nfirst, think\n"
    assert task.key(after) != task.key(state)


@pytest.mark.parametrize("step", ["", " ", "\n", "\t\r\n"])
def test_an_empty_step_is_invalid(step: str) -> None:
    task = TextTask()
    assert task.apply(task.initial_state("q"), step) is None


def test_a_path_ends_on_the_end_text_or_at_max_depth() -> None:
    task = TextTask(end="Answer:", max_depth=2)
    question = task.initial_state("Answer: 5?")
    assert not task.is_terminal(question)  # only steps end a path
    thought = task.apply(question, "think")
    assert thought is not None
    assert not task.is_terminal(thought)
    answered = task.apply(question, "So. Answer: 42")
    assert answered is not None
    assert task.is_terminal(answered)
    assert task.answer(answered) == "42"
    deepest = task.apply(thought, "still thinking")
    assert deepest is not None
    assert task.is_terminal(deepest)
    assert task.answer(deepest) == "still thinking"
    assert task.min_tokens(question) <= 1


@pytest.mark.parametrize(
    "arguments",
    [{"max_depth": 0}, {"max_depth": -1}, {"max_depth": 1.5}, {"max_depth": True}, {"end": ""}, {"end": None}],
)
def test_bad_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments)) + ": expected"):
        TextTask(**arguments)


@pytest.mark.parametrize("question", ["", " \n", None, 7, b"text"])
def test_bad_questions(question: Any) -> None:
    with pytest.raises(ValueError, match="question: expected a non-empty str"):
        TextTask().initial_state(question)


def test_a_search_stays_within_max_depth() -> None:
    task = TextTask(max_depth=3)
    result = bavt.search("q", generator=lambda text, n: [str(len(text))], task=task, budget=bavt.Budget(tokens=60))
    assert result.tree.depths.max() == 3
    assert len(result.path) == 3
    assert result.answer == result.path[-1]

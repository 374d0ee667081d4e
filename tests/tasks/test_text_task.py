"""Plain text as a task."""

from __future__ import annotations

from typing import Any

import pytest

import bavt_fast as bavt
from bavt_fast.protocols import Description, Step
from bavt_fast.tasks.text import TextState, TextTask


def apply(task: TextTask, state: TextState, text: str, finish_reason: Any = "delimiter") -> TextState:
    after = task.apply(state, Step(text, 1, finish_reason))
    assert after is not None
    return after


def after(*texts: str, task: TextTask | None = None, ended: bool = False) -> Description:
    """What the task says of the state behind some steps."""
    task = task or TextTask()
    state = task.initial_state("q")
    for i, text in enumerate(texts, 1):
        state = apply(task, state, text, "end" if ended and i == len(texts) else "delimiter")
    return task.describe(state)


def test_a_state_is_the_text_so_far_as_written() -> None:
    task = TextTask()
    state = task.initial_state("How many?")
    assert task.describe(state) == Description(prompt="How many?\n", min_tokens=1)
    then = apply(task, state, "  first, think \n")
    assert then == TextState("How many?\n  first, think \n", "  first, think \n", 1)
    assert task.describe(then) == Description(min_tokens=1)  # the context goes on by the step
    assert task.key(then) != task.key(state)
    assert task.initial_state("How many?\n") == state


@pytest.mark.parametrize("step", ["", " ", "\n", "\t\r\n"])
def test_an_empty_step_is_invalid(step: str) -> None:
    task = TextTask()
    assert task.apply(task.initial_state("q"), Step(step, 1)) is None


def test_a_path_ends_on_an_answer_or_at_max_depth() -> None:
    task = TextTask(end="Answer:", max_depth=2)
    question = task.initial_state("Answer: 5?")
    assert not task.describe(question).terminal  # only steps end a path
    thought = apply(task, question, "think\n")
    assert not task.describe(thought).terminal
    assert task.describe(apply(task, question, "Answer: 42\n")) == Description(True, None, "42")
    assert task.describe(apply(task, thought, "still thinking\n")) == Description(True, None, "still thinking")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: 42", "42"),
        ("So we have it.\nAnswer: 42\n", "42"),
        ("Answer:42.5", "42.5"),
        ("Answer:\n42\n", "42"),
        ("Answer:\n\n  42 \nbecause", "42"),
        ("**Answer:** 42", "42"),
        ("**Answer: 42**", "42"),
        ("  ## Answer: `x + 1`", "x + 1"),
        ("> Answer: *forty two*", "forty two"),
        ("- Answer: 42\r\n", "42"),
        ("**Answer:**\n\n**42**", "42"),
        ("Answer: 41\nNo, wait.\nAnswer: 42", "42"),
        ("Answer: a: b", "a: b"),
    ],
)
def test_answers(text: str, answer: str) -> None:
    assert after("think\n", text) == Description(True, None, answer)


@pytest.mark.parametrize("text", ["The Answer: 42", "So. Answer: 42", "answer: 42", "Answers: 42", "Answer 42"])
def test_what_announces_no_answer(text: str) -> None:
    assert not after(text).terminal


def test_an_answer_may_come_with_the_next_step() -> None:
    assert not after("Answer:\n").terminal
    assert after("Answer:\n", "42\nbecause\n") == Description(True, None, "42")
    assert after("**Answer:**\n", "**42**\n").answer == "42"
    assert after("Answer:\n", "Answer: 43\n").answer == "43"


def test_an_empty_answer_is_none() -> None:
    assert not after("Answer: **\n").terminal
    result = bavt.search(
        "q", generator=lambda text, n: ["Answer:"], task=TextTask(max_depth=1), budget=bavt.Budget(tokens=5)
    )
    assert result.answer == "Answer:"  # at max_depth the last line is the answer
    assert after("", ended=True).answer == ""


def test_the_end_of_the_text_ends_a_path() -> None:
    """A chat model that answers in a line and stops."""
    assert after("3 + 4 = 7.\nSo it is 7.", ended=True) == Description(True, None, "So it is 7.")
    assert after("think\n", "Answer: 8\nThat is all.", ended=True).answer == "8"
    assert after("think\n", "", ended=True).answer == "think"  # an empty step may end a text


def test_the_end_of_a_text_is_part_of_the_key() -> None:
    task = TextTask()
    state = task.initial_state("q")
    assert task.key(apply(task, state, "seven")) != task.key(apply(task, state, "seven", "end"))
    assert task.key(apply(task, state, "seven", "end")) == task.key(apply(task, state, "seven", "end"))


def test_a_chat_model_s_answer_is_found_by_a_search() -> None:
    class Chat:
        def propose(self, states: Any, counts: Any, limits: Any) -> list[list[Step]]:
            return [[Step("It is 7.", 4, "end")] for _ in states]

    result = bavt.search("What is 3 + 4?", generator=Chat(), budget=bavt.Budget(tokens=40))
    assert (result.answer, result.path) == ("It is 7.", ("It is 7.",))


@pytest.mark.parametrize(
    "arguments",
    [{"max_depth": 0}, {"max_depth": -1}, {"max_depth": 1.5}, {"max_depth": True}, {"end": ""}, {"end": None}],
)
def test_bad_arguments(arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError), match=next(iter(arguments)) + ": expected"):
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

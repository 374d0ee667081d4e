"""Families of reasoning-gym as tasks: their problems, their own verifiers, in words and by way of another task."""

from __future__ import annotations

import warnings
from typing import Any

import pytest

pytest.importorskip("reasoning_gym")

import bavt_fast as bavt
from bavt_fast.protocols import Step
from bavt_fast.tasks import task_module
from bavt_fast.tasks.countdown import Countdown, gym_question
from bavt_fast.tasks.reasoning_gym import MAX_ANSWER, ReasoningGymTask
from bavt_fast.tasks.text import TextTask


def in_words(name: str, **options: Any) -> ReasoningGymTask:
    return ReasoningGymTask(name, size=5, seed=42, **options)


@pytest.mark.parametrize("name", ["chain_sum", "number_sequence", "word_ladder", "countdown"])
def test_the_familys_own_answers_are_right_and_others_are_not(name: str) -> None:
    task = in_words(name)
    for question, problem in zip(task.questions, task.problems, strict=True):
        state = task.initial_state(question)
        assert not task.describe(state).terminal
        assert task.describe(state).prompt.startswith(question)  # type: ignore[union-attr]
        thought = task.apply(state, Step("Let me think.\n", 4))
        assert thought is not None
        assert task.key(thought) != task.key(state)
        for answer, verdict in ((problem["answer"], True), ("no idea )(", False)):
            ended = task.apply(thought, Step(f"Answer: {answer}\n", 4))
            assert ended is not None
            about = task.describe(ended)
            assert (about.terminal, about.verdict, about.answer) == (True, verdict, answer)
        assert task.check_answer(question, problem["answer"])


@pytest.mark.parametrize("name", ["binary_matrix", "sudoku", "tower_of_hanoi"])
def test_answers_of_several_lines_are_warned_of_once(name: str) -> None:
    with pytest.warns(UserWarning, match=rf"inner: 5 of 5 answers of '{name}' have several lines") as heard:
        task = in_words(name)
    assert len(heard) == 1
    assert heard[0].filename == __file__
    assert all(task.check_answer(problem["question"], problem["answer"]) for problem in task.problems)


def test_an_inner_task_that_writes_whole_answers_is_not_warned_of() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_words("n_queens", inner="n_queens")
        in_words("chain_sum")


def test_the_seed_gives_the_problems() -> None:
    assert in_words("chain_sum").questions == in_words("chain_sum").questions
    assert ReasoningGymTask("chain_sum", size=5, seed=43).questions != in_words("chain_sum").questions
    assert len(ReasoningGymTask("chain_sum", size=3, min_terms=4, max_terms=4).questions) == 3


def test_what_the_verifier_cannot_read_is_wrong() -> None:
    task = in_words("countdown")
    question = task.questions[0]
    for answer in ("", "1/0", "()", "__import__('os')", "9" * (MAX_ANSWER + 1), "\ud800", "²"):
        assert task.check_answer(question, answer) is False
    for other in (None, 7, ["7"]):
        assert task.check_answer(question, other) is False  # type: ignore[arg-type]

    def fails(answer: str, entry: Any) -> float:
        raise RuntimeError

    task._dataset.score_answer = fails
    assert task.check_answer(question, "1") is False


def test_a_score_that_is_less_than_full_marks_is_wrong() -> None:
    task = in_words("chain_sum")
    for score, right in ((0.99, False), (None, False), (float("nan"), False), ("1", False), (1.0, True), (1, True)):
        task._dataset.score_answer = lambda answer, entry, score=score: score
        assert task.check_answer(task.questions[0], "7") is right


def test_a_question_of_another_set_is_refused() -> None:
    with pytest.raises(ValueError, match="expected one of the 5 of 'chain_sum', got 'What'"):
        in_words("chain_sum").initial_state("What")
    with pytest.raises(ValueError, match=r"expected one of the 5 of 'chain_sum', got \['What'\]"):
        in_words("chain_sum").initial_state(["What"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("no_such_family", {}, ValueError),
        ("chain_sum", {"no_such_setting": 1}, ValueError),
        ("chain_sum", {"min_terms": 9, "max_terms": 2}, ValueError),
        ("chain_sum", {"size": 0}, ValueError),
        ("chain_sum", {"seed": -1}, ValueError),
        (3, {}, TypeError),
        ("chain_sum", {"inner": TextTask}, TypeError),
        ("chain_sum", {"question_of": "question"}, TypeError),
    ],
)
def test_what_is_not_a_family_is_refused(name: Any, options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=r"size|seed|name|inner|question_of"):
        ReasoningGymTask(name, **options)


@pytest.mark.parametrize(
    ("name", "inner"), [("chain_sum", "n_queens"), ("n_queens", "jugs"), ("jugs", "countdown"), ("sudoku", "n_queens")]
)
def test_an_inner_task_that_reads_other_problems_is_refused(name: str, inner: str) -> None:
    with pytest.raises(ValueError, match=f"inner: expected a task that reads problems of '{name}', got '{inner}'"):
        ReasoningGymTask(name, size=2, inner=inner)
    asked = ReasoningGymTask(name, size=2, inner=inner, question_of=lambda problem: str(problem["answer"]))
    assert len(asked.questions) == 2


def test_settings_of_which_no_problem_comes_are_refused() -> None:
    """The family takes them, and finds out when it makes the first one."""
    with pytest.raises(ValueError, match="name: expected a family of reasoning-gym and its settings, got 'word_sort"):
        ReasoningGymTask("word_sorting", size=2, min_words=100_000, max_words=100_000)


def test_a_question_that_is_no_text_is_the_functions_fault() -> None:
    task = ReasoningGymTask("chain_sum", size=2, question_of=lambda problem: problem)  # type: ignore[arg-type, return-value]
    with pytest.raises(TypeError, match=r"question_of: expected a str from the function, got \{"):
        _ = task.questions


def test_it_is_a_task_by_its_name() -> None:
    task = task_module("reasoning_gym").make_task(name="chain_sum", size=1)
    assert isinstance(task.inner, TextTask)


@pytest.mark.parametrize(("name", "least"), [("puzzle24", 8), ("countdown", 0)])
def test_the_embedded_model_solves_puzzles_through_its_own_task(name: str, least: int) -> None:
    """Verified by the family, which knows nothing of the steps, and by exact arithmetic."""
    pytest.importorskip("torch")
    from bavt_fast.model_folder import load_folder

    folder = load_folder(threads=1)
    task = ReasoningGymTask(name, size=10, seed=42, inner=Countdown(), question_of=gym_question)
    searcher = bavt.Searcher(folder.generator, folder.critic, task, wave=10, **folder.settings.search)
    results = searcher.search_many(task.questions, budget=bavt.Budget(tokens=250))
    assert all(result.error is None for result in results)
    assert sum(result.solved for result in results) >= least
    for question, result in zip(task.questions, results, strict=True):
        assert result.solved == (result.answer is not None and Countdown().check_answer(question, result.answer))

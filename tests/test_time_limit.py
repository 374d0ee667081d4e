"""A limit in seconds for verifiers: late ones leave their states unverified, and nothing else changes."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import bavt_fast as bavt
from bavt_fast.protocols import Description
from bavt_fast.tasks.text import TextState, TextTask

LATE_S = 0.05
NEVER = threading.Event()
BUDGET = bavt.Budget(tokens=1000)
ANSWERS = ("Answer: 1", "Answer: hang", "Answer: 4")


class Hanging(TextTask):
    """Verifies that an answer is 4; of "hang" it never comes to an end."""

    def describe(self, state: TextState) -> Description:
        if state.answer == "hang":
            NEVER.wait()
        return super().describe(state)


class HangingTogether(Hanging):
    def __init__(self) -> None:
        super().__init__(answers="4")
        self.calls: list[int] = []

    def describe_many(self, states: Sequence[TextState]) -> list[Description]:
        self.calls.append(len(states))
        return [self.describe(state) for state in states]


class HangingCoroutine(TextTask):
    cancelled = 0

    async def adescribe(self, state: TextState) -> Description:
        if state.answer == "hang":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                HangingCoroutine.cancelled += 1
                raise
        return self.describe(state)


def propose(text: str, count: int) -> list[str]:
    return list(ANSWERS[:count])


def searched(task: Any) -> bavt.SearchResult:
    searcher = bavt.Searcher(propose, task=task, candidates=3, policy="uct")
    return searcher.search("2 + 2?", budget=BUDGET)


def is_unverified(result: bavt.SearchResult, answer: str | None = None) -> bool:
    """Whether the search found the right answer, and has the late state as one of which nobody knows."""
    assert (result.solved, result.answer, result.refuted_steps) == (True, "4", 1)
    texts = {step.text: node for node, step in enumerate(result.steps) if step is not None}
    late = texts["Answer: hang\n"]
    return bool(result.tree.flags[late] & bavt.Tree.TERMINAL) and result.answers[late] == answer


def test_a_late_verifier_leaves_its_state_unverified(caplog: pytest.LogCaptureFixture) -> None:
    task = bavt.TimeLimit(Hanging(answers="4"), LATE_S)
    with caplog.at_level(logging.WARNING):
        assert is_unverified(searched(task))
        assert is_unverified(searched(task))
    assert task.num_late == 2
    assert [record.message.partition(";")[0] for record in caplog.records] == ["describe: took more than 0.05 s"]


def test_a_caller_may_say_what_a_late_state_is() -> None:
    task = bavt.TimeLimit(Hanging(answers="4"), LATE_S, late=lambda state: Description(True, None, state.answer))
    assert is_unverified(searched(task), "hang")


def test_states_described_together_are_told_apart() -> None:
    inner = HangingTogether()
    task = bavt.TimeLimit(inner, LATE_S)
    assert is_unverified(searched(task))
    assert inner.calls == [3, 1, 1, 1]
    assert task.num_late == 1


def test_coroutines_are_cancelled() -> None:
    task = bavt.TimeLimit(HangingCoroutine(answers="4"), LATE_S)
    before = HangingCoroutine.cancelled
    searcher = bavt.Searcher(propose, task=task, candidates=3, policy="uct")
    assert is_unverified(asyncio.run(searcher.asearch("2 + 2?", budget=BUDGET)))
    assert HangingCoroutine.cancelled == before + 1


def test_a_question_that_is_described_too_late_is_refused() -> None:
    class Slow(TextTask):
        def describe(self, state: TextState) -> Description:
            NEVER.wait()
            return super().describe(state)

    with pytest.raises(ValueError, match=r"a prompt for the initial state.*give TimeLimit more seconds"):
        searched(bavt.TimeLimit(Slow(answers="4"), LATE_S))


def test_in_time_nothing_changes() -> None:
    plain = TextTask(answers="4")
    limited = bavt.TimeLimit(plain, 60.0)
    one, other = searched(plain), searched(limited)
    assert (one.steps, one.answers, one.refused) == (other.steps, other.answers, other.refused)
    assert one.tree.to_bytes() == other.tree.to_bytes()
    assert limited.num_late == 0


@pytest.mark.parametrize("seconds", [1e10, 1.7e308])
def test_a_limit_that_no_clock_reaches(seconds: float) -> None:
    """Above what a thread can wait, and of several states together above the largest float."""

    class Many(TextTask):
        def describe_many(self, states: Sequence[TextState]) -> list[Description]:
            return [self.describe(state) for state in states]

    for task in (TextTask(), Many()):
        searcher = bavt.Searcher(propose, task=bavt.TimeLimit(task, seconds), candidates=3)
        assert searcher.search("q", budget=BUDGET).error is None


def test_what_a_verifier_raises_is_raised() -> None:
    class Broken(TextTask):
        def describe(self, state: TextState) -> Description:
            if state.depth:
                raise ZeroDivisionError("no")
            return super().describe(state)

    searcher = bavt.Searcher(propose, task=bavt.TimeLimit(Broken(), 60.0))
    (result,) = searcher.search_many(["q"], budget=bavt.Budget(tokens=10))
    assert isinstance(result.error, ZeroDivisionError)


def test_nonsense_in_the_place_of_a_description_is_refused() -> None:
    limited = bavt.TimeLimit(Hanging(), LATE_S, late=lambda state: True)  # type: ignore[arg-type, return-value]
    (result,) = bavt.Searcher(lambda text, count: ["Answer: hang"], task=limited).search_many(
        ["q"], budget=bavt.Budget(tokens=10)
    )
    assert isinstance(result.error, TypeError)


def test_all_else_is_the_tasks(tmp_path: Path) -> None:
    task = bavt.TimeLimit(TextTask(max_depth=3), 60.0)
    assert (task.max_depth, task.same_answer("1", "1.0")) == (3, True)
    assert not hasattr(task, "describe_many")
    assert not hasattr(task, "adescribe")
    known = task.with_answer("4")
    assert (type(known), known.seconds, known.task.answers) == (bavt.TimeLimit, 60.0, "4")
    for other in (copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        assert (other.seconds, other.max_depth) == (60.0, 3)
    rows = [{"id": 1, "question": "2 + 2?", "answer": "4"}]
    run = bavt.Run(tmp_path, bavt.Searcher(lambda text, count: ["Answer: 4"], task=task), rows, budget=BUDGET)
    with run:
        assert [line["solved"] for line in run] == [True]


@pytest.mark.parametrize(
    ("task", "seconds", "said"),
    [
        (object(), 1.0, "task: expected a task"),
        (TextTask, 1.0, "task: expected a task"),
        (TextTask(), 0, "seconds: expected a finite number above zero"),
        (TextTask(), float("nan"), "seconds"),
        (TextTask(), "5", "seconds"),
    ],
)
def test_bad_arguments(task: Any, seconds: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        bavt.TimeLimit(task, seconds)


def test_what_is_said_of_a_late_state_is_a_function() -> None:
    with pytest.raises(TypeError, match="late: expected a function or None, got 'wrong'"):
        bavt.TimeLimit(TextTask(), 1.0, "wrong")  # type: ignore[arg-type]


def test_a_description_that_is_none_is_said_by_its_method() -> None:
    """With a limit and without."""

    class Silent(TextTask):
        def describe_many(self, states: Sequence[TextState]) -> Any:
            return None

    class Plain(TextTask):
        def adescribe(self, state: TextState) -> Description:  # a def that should be an async def
            return self.describe(state)

    for task in (Silent(), bavt.TimeLimit(Silent(), seconds=5)):
        with pytest.raises(bavt.SearchError, match="describe_many: expected 1 descriptions, one per state, got None"):
            bavt.search("q", generator=propose, task=task, budget=BUDGET)
    for task in (Plain(), bavt.TimeLimit(Plain(), seconds=5)):
        with pytest.raises(bavt.SearchError, match="adescribe: expected a coroutine, got Description"):
            asyncio.run(bavt.Searcher(propose, task=task).asearch("q", budget=BUDGET))

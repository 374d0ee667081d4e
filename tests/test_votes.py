"""Votes over the answers that a search reached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import bavt_fast as bavt
from bavt_fast.tasks.text import TextTask

BUDGET = bavt.Budget(tokens=500)


def searched(*answers: tuple[str, float], task: Any = None) -> bavt.Search:
    """A search whose root has a child for each (answer, V)."""
    search = bavt.Search("q", task=task or TextTask(), budget=BUDGET)
    for answer, value in answers:
        (ask,) = search.ask(1)
        search.tell(ask, [bavt.Step(answer, 1)], [value])
        for other in search.open_asks():
            search.cancel(other)
    return search


def test_answers_are_told_by_node() -> None:
    search = searched(("think", 0.5))
    (ask,) = search.ask(1)
    search.tell(ask, [bavt.Step("Answer: 7", 1)], [0.5])
    result = search.result()
    assert [result.answers[node] for node in range(3)] == [None, None, "7"]
    assert len(result.answers) == len(result.steps)


def test_answers_outlive_a_checkpoint(tmp_path: Path) -> None:
    search = searched(("Answer: 7", 0.5), ("Answer: 8", 0.25), ("Answer: 8.0", 0.125))
    search.save(tmp_path / "search")
    loaded = bavt.Search.load(tmp_path / "search", TextTask()).result()
    assert loaded.answers == search.result().answers == (None, "7", "8", "8.0")
    assert bavt.vote(loaded, TextTask()) == bavt.vote(search.result(), TextTask())


def test_the_majority_and_the_values_may_differ() -> None:
    result = searched(("Answer: 7", 0.75), ("Answer: 8", 0.25), ("Answer: 8.0", 0.125), ("think", 0.9)).result()
    assert bavt.vote(result, TextTask(), "majority") == ("8", 2 / 3, {"8": 2, "7": 1})
    assert bavt.vote(result, TextTask(), "value") == ("7", 2 / 3, {"7": 0.75, "8": 0.375})
    assert bavt.vote(result, TextTask()) == bavt.vote(result, TextTask(), by="value")


def test_without_a_task_texts_are_compared() -> None:
    result = searched(("Answer: 7", 0.5), ("Answer: 7.0", 0.5), ("Answer: $7", 0.5), ("So\nAnswer: 7", 0.5)).result()
    assert bavt.vote(result, by="majority").counts == {"7": 2, "7.0": 1, "$7": 1}
    assert bavt.vote(result, TextTask(), by="majority").counts == {"7": 4}


@pytest.mark.parametrize("by", ["value", "majority"])
def test_ties_go_to_the_best_state_and_then_to_the_first(by: str) -> None:
    alike = searched(("Answer: 7", 0.5), ("Answer: 8", 0.5)).result()
    assert bavt.vote(alike, by=by)[:2] == ("7", 0.5)
    better = searched(
        ("Answer: 7", 0.25), ("Answer: 8", 0.125), ("Answer: 8!", 0.375), ("So\nAnswer: 7", 0.25)
    ).result()

    class Loose:
        def same_answer(self, reference: str, answer: str) -> bool:
            return reference == answer.rstrip("!")  # in one order alone

    assert bavt.vote(better, Loose(), by=by).answer == "8"
    assert bavt.vote(better, Loose(), by=by).share == 0.5


def test_the_wording_is_that_of_most_states() -> None:
    result = searched(("Answer: 7.0", 0.5), ("Answer: 7", 0.5), ("So\nAnswer: 7", 0.5)).result()
    assert bavt.vote(result, TextTask()) == ("7", 1.0, {"7": 1.5})


def test_formulas_are_not_each_compared_with_each(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("math_verify")
    from bavt_fast.tasks import algebra
    from bavt_fast.tasks.mathematics import Mathematics

    asked: list[tuple[Any, ...]] = []
    ask = algebra._process.ask

    def counted(*request: Any) -> Any:
        asked.append(request)
        return ask(*request)

    monkeypatch.setattr(algebra._process, "ask", counted)
    answers = [f"x^2 + {i}x + 5" for i in range(30)] + ["x(x + 7) + 5", "(x + 1)^2 + 27x + 4"]
    task = Mathematics()
    result = searched(*((f"Answer: {answer}", 0.5) for answer in answers), task=task).result()
    counts = bavt.vote(result, task, "majority").counts
    assert (len(counts), counts["x^2 + 7x + 5"], counts["x^2 + 29x + 5"]) == (30, 2, 2)
    assert len(asked) <= 2 * len(answers)
    algebra._process.close()


def test_a_list_is_no_number_whose_groups_it_looks_like() -> None:
    result = searched(("Answer: 1, 234", 0.5), ("Answer: 1,234", 0.5), ("Answer: 1234", 0.5)).result()
    assert bavt.vote(result, TextTask(), by="majority").counts == {"1,234": 2, "1, 234": 1}
    halves = searched((r"Answer: \frac{-1}{2}", 0.5), ("Answer: -1/2", 0.5), ("Answer: -0.5", 0.5)).result()
    assert list(bavt.vote(halves, TextTask(), by="majority").counts.values()) == [3]


def test_a_text_votes_once_however_often_it_was_sampled() -> None:
    replies = iter(["Answer: 1", "Answer: 2", "Answer: 2", "Answer: 2", "So\nAnswer: 2"])
    result = bavt.search("q", generator=lambda text, n: [r for r in [next(replies, None)] if r], budget=BUDGET)
    assert result.duplicate_steps == 2
    assert bavt.vote(result, TextTask(), by="majority") == ("2", 2 / 3, {"2": 2, "1": 1})


def test_nothing_to_vote_on() -> None:
    assert bavt.vote(searched(("think", 0.5)).result()) == (None, 0.0, {})
    assert bavt.vote(bavt.Search("q", task=TextTask(), budget=BUDGET).result()) == (None, 0.0, {})


def test_a_text_without_an_answer_does_not_vote() -> None:
    search = bavt.Search("q", task=TextTask(), budget=BUDGET)
    (ask,) = search.ask(1)
    search.tell(ask, [bavt.Step("", 1, "end")], [0.5])
    result = search.result()
    assert result.tree.num_nodes == 2
    assert bavt.vote(result).answer is None


@pytest.mark.parametrize("by", ["values", "", None, 1])
def test_bad_rules(by: Any) -> None:
    with pytest.raises(ValueError, match="by: expected one of value, majority, got"):
        bavt.vote(searched(("Answer: 7", 0.5)).result(), by=by)


@pytest.mark.parametrize("task", [TextTask, "majority", 1, object()])
def test_what_is_no_task_is_refused(task: Any) -> None:
    result = searched(("Answer: 7", 0.5)).result()
    with pytest.raises(TypeError, match=r"task: expected an object with the methods of bavt_fast\.Task, got"):
        bavt.vote(result, task)
    with pytest.raises(TypeError, match="result: expected a SearchResult, got"):
        bavt.vote([result])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="result: expected a SearchResult, got"):
        bavt.vote(result.tree)  # type: ignore[arg-type]


def test_a_whole_search_votes() -> None:
    replies = iter(
        ["Answer: 5", "So\nAnswer: 18", "Answer: 6", "Answer: $18", "Then\nAnswer: 18 dollars", "Answer: 18"]
    )
    result = bavt.search("q", generator=lambda text, n: [r for r in [next(replies, None)] if r], budget=BUDGET)
    assert bavt.vote(result, TextTask(), by="majority") == ("18", 4 / 6, {"18": 4, "5": 1, "6": 1})

"""What a run is given, and cannot use."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

import bavt_fast as bavt
from bavt_fast.cli.run_table import run_table
from bavt_fast.runs import Run, read_run
from bavt_fast.tasks.text import TextTask


class Stumbles(TextTask):
    """Knows one question, and says of no other what is wrong with it."""

    def initial_state(self, question: str) -> Any:
        return super().initial_state({"fine": "fine"}[question])


def test_a_question_on_which_the_task_stumbles_is_a_broken_line(tmp_path: Path) -> None:
    rows = [{"id": "a", "question": "unknown"}, {"id": "b", "question": "fine"}]
    searcher = bavt.Searcher(lambda text, count: ["Answer: 7"], task=Stumbles())
    summary = Run(tmp_path / "out", searcher, rows, budget=bavt.Budget(tokens=5)).complete()
    assert (summary.finished, summary.questions) == (1, 1)
    assert [str(broken) for broken in summary.broken] == ["line 1: KeyError: 'unknown'"]


ROWS = [{"id": i, "question": f"Which number is {i}?"} for i in range(3)]
BUDGET = bavt.Budget(tokens=5)


def answering(answer: str = "7") -> bavt.Searcher:
    return bavt.Searcher(lambda text, count: [f"Answer: {answer}"])


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (3, "TypeError: outcome: expected a dictionary of fields, got 3"),
        (None, "TypeError: outcome: expected a dictionary of fields, got None"),
        ({"id": "another"}, "ValueError: outcome: expected other fields than 'id'"),
        ({"spent": 3}, "ValueError: outcome: expected other fields than 'spent'"),
        ({"more": object()}, "ValueError: outcome: expected fields that JSON can hold"),
        ({"more": b"bytes"}, "ValueError: outcome: expected fields that JSON can hold"),
        ({"more": math.nan}, "ValueError: outcome: expected fields that JSON can hold"),
        ({"more": 10**5000}, "ValueError: "),
        ({(1, 2): 3}, "ValueError: outcome: expected fields that JSON can hold"),
    ],
)
def test_an_outcome_that_no_line_can_hold_is_an_error_of_its_question(tmp_path: Path, fields: Any, said: str) -> None:
    run = Run(tmp_path, answering(), ROWS, budget=BUDGET, outcome=lambda row, _: fields if row.id == 1 else {"own": 1})
    summary = run.complete()
    assert (summary.end, summary.finished, summary.errors) == ("done", 3, 1)
    for line in read_run(tmp_path):
        json.dumps(line, allow_nan=False)
        assert (line["answer"], line.get("own")) == ("7", None if line["id"] == 1 else 1)
        assert line.get("error", "").startswith(said) == (line["id"] == 1)
    again = Run(tmp_path, answering(), ROWS, budget=BUDGET).complete()
    assert (again.end, again.errors, again.spent) == ("done", 1, summary.spent)


def test_what_an_outcome_says_of_a_value_can_be_shown(tmp_path: Path) -> None:
    options = {"budget": bavt.Budget(tokens=5), "outcome": lambda row, result: {"value": "high"}}
    with Run(tmp_path, bavt.Searcher(lambda text, count: ["x"]), [{"id": 1, "question": "q"}], **options) as run:
        run.complete()
    assert "high" in run_table(tmp_path, width=100)


def test_answers_are_numbers_of_any_kind_but_nan(tmp_path: Path) -> None:
    """As a table gives them, which has NaN where nobody knows."""
    np = pytest.importorskip("numpy")
    known = [7, np.int64(7), np.float32(7), 7.0, "7"]
    rows = [{"id": i, "question": "Which?", "answer": answer} for i, answer in enumerate([*known, math.nan, np.inf])]
    summary = Run(tmp_path, answering(), rows, budget=BUDGET).complete()
    assert (summary.solved, summary.finished) == (5, 5)
    assert [str(line)[:55] for line in summary.broken] == [
        "line 6: answer: expected a str or a number, got nan",
        "line 7: answer: expected a str or a number, got inf",
    ]


def test_ids_of_numpy_are_numbers(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    rows = [{"id": np.int64(7), "question": "q"}, {"id": np.bool_(True), "question": "q"}]
    with Run(tmp_path, bavt.Searcher(lambda text, count: ["x"]), rows, budget=bavt.Budget(tokens=5)) as run:
        assert run.progress().questions == 1
        assert "id: expected a str or an int" in str(run.broken[0])
        assert [line["id"] for line in run] == [7]


@pytest.mark.parametrize("name", ["id", "answer", "budget_tokens"])
def test_numbers_of_too_many_digits_break_their_line_alone(name: str, tmp_path: Path) -> None:
    rows = [{"id": 1, "question": "q", name: 10**5000}, {"id": 2, "question": "q"}]
    summary = Run(tmp_path / "out", answering(), rows, budget=BUDGET).complete()
    said = f"line 1: {name}: expected an integer that Python writes, got one of too many digits"
    assert [str(broken) for broken in summary.broken] == [said]
    assert (summary.end, summary.finished) == ("done", 1)


def test_both_halves_of_a_character_are_the_same_question_when_the_run_goes_on(tmp_path: Path) -> None:
    halves = "\ud83d\ude00"
    rows = [{"id": halves, "question": f"\ud83d {halves}", "answer": halves}]
    for _ in range(2):
        Run(tmp_path, answering("\U0001f600"), rows, budget=BUDGET).complete()
    [line] = read_run(tmp_path)
    assert (line["id"], line["solved"]) == ("\U0001f600", True)


def test_half_a_character_in_an_id_is_kept(tmp_path: Path) -> None:
    rows = [{"id": name, "question": "Which number?"} for name in ("\ud800", "\udc00", "../x\ud800", "a\0b")]
    assert Run(tmp_path, answering(), rows, budget=BUDGET, keep=True).complete().finished == 4
    assert len(os.listdir(tmp_path / "searches")) == 4
    assert [line["id"] for line in read_run(tmp_path)] == [row["id"] for row in rows]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"searcher": None}, "searcher: expected a Searcher"),
        ({"questions": None}, "questions: expected a file's name"),
        ({"questions": {"id": 1, "question": "x"}}, "questions: expected a file's name"),
        ({"about": {"model": object()}}, "about: expected a dictionary that JSON can hold"),
        ({"verify": "no"}, "verify: expected True or False, got 'no' of type str"),
        ({"keep": 1}, "keep: expected True or False, got 1 of type int"),
        ({"strict": None}, "strict: expected True or False, got None"),
        ({"retry_errors": "no"}, "retry_errors: expected True or False, got 'no'"),
        ({"outcome": 5}, "outcome: expected a function that takes a question and its result or None, got 5"),
        ({"outcome": lambda result: {}}, r"outcome: expected a function of \(question, result\), got"),
        ({"about": {"size": math.nan}}, "about: expected a dictionary that JSON can hold"),
    ],
)
def test_arguments_are_named(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    arguments = {"searcher": answering(), "questions": ROWS, "budget": BUDGET, **change}
    with pytest.raises(TypeError, match=match):
        Run(tmp_path, **arguments)
    assert Run(tmp_path, answering(), ROWS, budget=BUDGET).complete().end == "done"  # the folder was let go


def test_a_run_that_is_closed_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path, answering(), ROWS, budget=BUDGET)
    run.close()
    with pytest.raises(ValueError, match="expected a run that is open"):
        next(iter(run))

"""Problems from files of JSON lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import bavt_fast as bavt
from bavt_fast.tasks.problems import Problem, read_problems
from bavt_fast.tasks.text import TextTask

GSM8K = {
    "question": "Natalia sold 48 clips in April and half as many in May. How many in all?",
    "answer": "In May she sold 48/2 = <<48/2=24>>24 clips.\nSo 48+24 = <<48+24=72>>72 in all.\n#### 72",
}
MATH = {
    "problem": "Compute $\\dbinom{8}{4}$.",
    "level": "Level 1",
    "type": "Counting",
    "solution": "$\\dbinom{8}{4} = \\dfrac{8!}{4!4!} = \\boxed{70}$.",
}
MATH_500 = {"problem": "What is half of one?", "solution": "It is \\boxed{0.5}.", "answer": "\\frac{1}{2}", "level": 1}


def read(tmp_path: Path, *lines: Any) -> list[Problem]:
    path = tmp_path / "problems.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), "utf-8")
    return read_problems(path)


def test_the_forms_in_which_problems_come(tmp_path: Path) -> None:
    assert read(tmp_path, GSM8K, "", MATH, MATH_500, {"question": "1 + 1?", "answer": 2}, "  ") == [
        Problem(GSM8K["question"], "72"),
        Problem(MATH["problem"], "70"),
        Problem("What is half of one?", "\\frac{1}{2}"),
        Problem("1 + 1?", "2"),
    ]


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        ({"question": "q", "answer": "so\n#### 1,200"}, "1,200"),
        ({"question": "q", "answer": "#### 1\n#### 2 "}, "2"),
        ({"question": "q", "answer": "Paris"}, "Paris"),
        ({"question": "q", "answer": -1.5}, "-1.5"),
        ({"problem": "q", "solution": "\\boxed{\\frac{1}{\\sqrt{2}}}"}, "\\frac{1}{\\sqrt{2}}"),
        ({"problem": "q", "solution": "\\boxed{1} or \\boxed{\\text{two}}."}, "\\text{two}"),
        ({"problem": "q", "solution": "\\fbox{3} \\boxed{}"}, "3"),
        ({"problem": "q", "solution": "$\\boxed 7$"}, "7"),
        ({"question": "ünïcode?", "solution": "\\boxed{日本}"}, "日本"),
    ],
)
def test_answers(tmp_path: Path, fields: dict[str, Any], answer: str) -> None:
    (problem,) = read(tmp_path, fields)
    assert problem == (fields.get("question") or fields["problem"], answer)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"expected a JSON object, got '{' \(Expecting property name .* at character \d\)"),
        ("[1]", r"expected a JSON object with a question and an answer, got \[1\]"),
        ("7", "expected a JSON object"),
        ({"answer": "7"}, r"problem: expected a non-empty str in an object with question \(or problem\)"),
        ({"question": " ", "answer": "7"}, "question: expected a non-empty str"),
        ({"question": "q"}, r"solution: expected a non-empty str .* and answer \(or solution\), got None"),
        ({"question": "q", "answer": ""}, "answer: expected a non-empty str"),
        ({"question": "q", "answer": None}, "answer: expected a non-empty str"),
        ({"question": "q", "answer": True}, "answer: expected a non-empty str"),
        ({"question": "q", "answer": ["7"]}, "answer: expected a non-empty str"),
        ({"question": "q", "answer": float("nan")}, "answer: expected a non-empty str .* got nan"),
        ('{"question": "q", "answer": 1e400}', "answer: expected a non-empty str .* got inf"),
        ({"question": "q", "answer": "so ####"}, "answer: expected one behind ####, got 'so ####'"),
        ({"question": 7, "answer": "7"}, "question: expected a non-empty str"),
        ({"problem": "q", "solution": "It is 7."}, r"solution: expected an answer in \\boxed{}, got 'It is 7.'"),
        ({"problem": "q", "solution": "\\boxed{}"}, "solution: expected an answer in"),
        ("[" * 100_000, ""),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"problems\.jsonl:3: .*{message}"):
        read(tmp_path, GSM8K, "", line, MATH)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_problems(tmp_path / "nowhere.jsonl")
    (tmp_path / "latin").write_bytes(b'{"question": "q", "answer": "7"}\n{"question": "\xe9", "answer": "7"}\n')
    with pytest.raises(ValueError, match=r"latin:2: expected UTF-8, got b'\\x[0-9a-f]{2}' at byte"):
        read_problems(tmp_path / "latin")
    (tmp_path / "empty").write_bytes(b"")
    assert read_problems(tmp_path / "empty") == []


def test_a_byte_order_mark_and_other_line_ends_are_passed_over(tmp_path: Path) -> None:
    line = json.dumps(GSM8K).encode()
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n" + line + b"\r\n")
    assert [problem.answer for problem in read_problems(tmp_path / "file")] == ["72", "72"]


def test_problems_are_searched_with_their_answers(tmp_path: Path) -> None:
    problems = read(tmp_path, GSM8K, MATH)
    task = TextTask(answers={problem.question: problem.answer for problem in problems})
    searcher = bavt.Searcher(lambda text, count: ["Answer: 70"], None, task)
    results = searcher.search_many([problem.question for problem in problems], budget=bavt.Budget(tokens=20))
    assert [result.solved for result in results] == [False, True]

r"""Problems with their answers, from files of one JSON object a line.

The forms that are read, by the names in an object:

    question, answer     GSM8K: the answer stands behind the last ``####`` of the field; without one the field is it
    problem, answer      MATH-500 and others: the answer alone
    problem, solution    MATH: the answer stands in the last ``\boxed{}`` of the solution
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

from bavt_fast._checks import about_json
from bavt_fast.tasks.announced import boxes, plain

__all__ = ["Problem", "read_problems"]

MARK = "####"


class Problem(NamedTuple):
    """A question and its right answer. A task takes many as ``answers={p.question: p.answer for p in problems}``."""

    question: str
    answer: str


def read_problems(path: str | os.PathLike[str]) -> list[Problem]:
    """The problems of a file, in order. Blank lines are passed over.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not UTF-8, or a line is not a problem; with the file's name and the number of the line.
    """
    problems = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                problems.append(_problem(json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{os.fspath(path)}:{number}: {about_json(error)}") from error
    return problems


def _problem(fields: Any) -> Problem:
    if not isinstance(fields, Mapping):
        raise ValueError(f"expected a JSON object with a question and an answer, got {fields!r:.80}")
    question = _text(fields, "question" if "question" in fields else "problem")
    if "answer" in fields:
        text = _text(fields, "answer")
        answer = text.rpartition(MARK)[2].strip()
        if not answer:
            raise ValueError(f"answer: expected one behind {MARK}, got {text[-80:]!r}")
        return Problem(question, answer)
    solution = _text(fields, "solution")
    found = [content for _, content in sorted(boxes(solution)[0]) if plain(content)]
    if not found:
        raise ValueError(rf"solution: expected an answer in \boxed{{}}, got {solution[-80:]!r}")
    return Problem(question, plain(found[-1]))


def _text(fields: Mapping[str, Any], name: str) -> str:
    text: Any = fields.get(name)
    is_number = isinstance(text, (int, float)) and not isinstance(text, bool) and name == "answer"
    if is_number and -math.inf < text < math.inf:  # NaN stands in tables where nobody knows: no answer
        text = str(text)
    if not isinstance(text, str) or not text.strip():
        wanted = "question (or problem) and answer (or solution)"
        raise ValueError(f"{name}: expected a non-empty str in an object with {wanted}, got {text!r:.80}")
    return text.strip()

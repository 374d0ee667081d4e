"""The questions of a run: JSON lines, each checked before anything is spent.

    {"id": "a1", "question": "4 5 6 10", "budget_tokens": 300, "seed": 7}

`id` (a str or an int) and `question` have to be there. `answer` is the right answer, `budget_tokens` and `seed` take
the place of the run's own. Other fields are passed over.
"""

from __future__ import annotations

import itertools
import json
import math
import numbers
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import index
from typing import Any, NamedTuple

from bavt_fast._checks import about_json, as_count, as_seed, message_of

__all__ = ["BrokenLine", "Row", "Rows", "checked_rows", "problems_of"]

AT_ONCE = 512
"""Questions that are read and checked together."""


class Row(NamedTuple):
    """One question of a run.

    Attributes:
        line: where it stands in the file, from 1.
        answer: the right answer; None where nobody knows.
        budget_tokens, seed: in the place of the run's; None for those.
    """

    line: int
    id: str | int
    question: str
    answer: str | None = None
    budget_tokens: int | None = None
    seed: int | None = None

    def is_same(self, other: Row) -> bool:
        """Whether it asks the same, wherever in a file it stands."""
        return self[1:] == other[1:]

    def to_json(self) -> str:
        """One line, which `from_json` reads."""
        fields = {name: value for name, value in zip(self._fields, self, strict=True) if value is not None}
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str | bytes) -> Row:
        """Reads what `to_json` wrote."""
        return cls(**json.loads(text))


class BrokenLine(NamedTuple):
    """A line that is no question, and what is wrong with it."""

    line: int
    problem: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.problem}"


Rows = str | os.PathLike[str] | Iterable[Mapping[str, Any]]
"""Where questions come from: a file of JSON lines, or what such lines hold."""


def checked_rows(source: Rows, problems: Callable[[Sequence[str]], Sequence[str | None]]) -> Iterator[Row | BrokenLine]:
    """The questions in order, and the lines that are none. Blank lines are passed over.

    Args:
        problems: what is wrong with each of some questions; None for one that the task can read. See `problems_of`.

    Raises:
        OSError: the file cannot be read.
    """
    lines_of: dict[str, int] = {}
    lines = _lines(source)
    while some := [_read(number, line) for number, line in itertools.islice(lines, AT_ONCE)]:
        found = iter(problems([row.question for row in some if isinstance(row, Row)]))
        for row in some:
            if isinstance(row, BrokenLine):
                yield row
                continue
            problem = next(found)
            if problem is not None:
                yield BrokenLine(row.line, problem)
                continue
            first = lines_of.setdefault(str(row.id), row.line)
            if first != row.line:
                yield BrokenLine(row.line, f"id: expected each once, got {row.id!r:.60} again, of line {first}")
            else:
                yield row


def problems_of(parse: Callable[[str], Any], questions: Sequence[str]) -> list[str | None]:
    """What `parse` raises for each question; None for nothing. It should be a ValueError, and need not."""
    found: list[str | None] = []
    for question in questions:
        try:
            parse(question)
        except Exception as error:
            told = isinstance(error, (ValueError, TypeError, RecursionError))
            found.append(about_json(error) if told else f"{type(error).__name__}: {message_of(error)}")
        else:
            found.append(None)
    return found


def _read(number: int, line: bytes | Mapping[str, Any]) -> Row | BrokenLine:
    try:
        return _row(number, json.loads(line.decode()) if isinstance(line, bytes) else line)
    except (ValueError, TypeError, RecursionError) as error:
        return BrokenLine(number, about_json(error))


def _lines(source: Rows) -> Iterator[tuple[int, bytes | Mapping[str, Any]]]:
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            for number, line in enumerate(file, start=1):
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if text.strip():
                    yield number, text
    elif isinstance(source, Iterable) and not isinstance(source, (Mapping, bytes)):
        yield from enumerate(source, start=1)
    else:
        raise TypeError(f"questions: expected a file's name, or a list of dictionaries, got {source!r:.80}")


def _row(number: int, fields: Any) -> Row:
    if not isinstance(fields, Mapping):
        raise ValueError(f"expected an object with id and question, got {fields!r:.60}")
    missing = [name for name in ("id", "question") if name not in fields]
    if missing:
        raise ValueError(f"expected id and question, got none for {' and '.join(missing)}")
    name, question = fields["id"], fields["question"]
    answer: Any = fields.get("answer")
    if not isinstance(name, (str, int, bool)) and hasattr(name, "__index__"):
        name = index(name)  # numpy's, say
    if isinstance(name, bool) or not isinstance(name, (str, int)):
        raise TypeError(f"id: expected a str or an int, got {name!r:.60}")
    _written("id", name)
    if not isinstance(question, str) or not question.strip():
        raise TypeError(f"question: expected a str that says something, got {question!r:.60}")
    is_number = isinstance(answer, numbers.Real) and not isinstance(answer, bool)
    if is_number and -math.inf < answer < math.inf:  # NaN stands in tables where nobody knows: no answer to search for
        answer = _written("answer", answer)
    if answer is not None and (not isinstance(answer, str) or not answer.strip()):
        raise TypeError(f"answer: expected a str or a number, got {answer!r:.60}")
    tokens, seed = fields.get("budget_tokens"), fields.get("seed")
    if tokens is not None:
        tokens = as_count("budget_tokens", tokens, minimum=1)
        _written("budget_tokens", tokens)
    return Row(
        number,
        _whole(name) if isinstance(name, str) else name,
        _whole(question),
        None if answer is None else _whole(answer),
        tokens,
        None if seed is None else as_seed("seed", seed),
    )


def _written(name: str, value: Any) -> str:
    """The value as text. Raises ValueError for an integer of more digits than Python writes, or reads."""
    try:
        return str(value)
    except ValueError:
        raise ValueError(f"{name}: expected an integer that Python writes, got one of too many digits") from None


def _whole(text: str) -> str:
    """The text as JSON gives it back: two halves of a character that follow each other are the character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return text

"""N queens: put a queen into every row of a board so that no two attack each other; some stand there already.

The question is a board, a row a line, as reasoning-gym's family "n_queens" writes it:

    _ _ _ _
    _ _ _ Q
    _ _ _ _
    _ _ Q _

A state is the column of every row's queen. Columns are letters, rows are numbers from 1 at the top. A step is one more
queen in the first empty row, on a square that none attacks. Rows are filled in this one order because the order changes
no board: in any order the same placement has many paths, which a search would have to find equal.

The prompt is all that a step depends on: the free squares of each empty row, from the last row up to the one that is
filled next, so that a model which reads from left to right knows all others when it reads those to choose from. "-" is
a row without any, which nothing can save:

    a3
    a1 b1

What a step takes from the rows below is not judged before there is no square left: to see it is for the critic.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from bavt_fast.protocols import Description, Node, Step

__all__ = ["NQueens", "NQueensOracle", "QueensState", "gym_question", "make_oracle", "make_task"]

NO_QUEEN = -1
NO_SQUARE = "-"
"""In a prompt, for a row without a free square."""
MIN_SIZE, MAX_SIZE = 4, len(string.ascii_lowercase)
_STEP = re.compile(r"\s*([a-z])(\d{1,2})\s*", re.ASCII)


class QueensState(NamedTuple):
    """The column of the queen in each row, from 0; `NO_QUEEN` for a row without one."""

    columns: tuple[int, ...]


class NQueens:
    """The task. An answer is the whole board."""

    def initial_state(self, question: str) -> QueensState:
        """Parses a board of 4 to 26 rows, with at most one queen in each.

        Raises:
            TypeError, ValueError: it is not one.
        """
        if not isinstance(question, str):
            raise TypeError(f"question: expected a board as a str, got {type(question).__name__}")
        rows = [line.split() for line in question.strip().splitlines()]
        size = len(rows)
        if not MIN_SIZE <= size <= MAX_SIZE or any(len(row) != size or set(row) - {"Q", "_"} for row in rows):
            raise ValueError(
                f"question: expected a board of {MIN_SIZE} to {MAX_SIZE} lines, each with as many of Q and _ between "
                f"spaces, got {question!r:.80}"
            )
        if any(row.count("Q") > 1 for row in rows):
            raise ValueError(f"question: expected at most one Q in a line, got {question!r:.80}")
        return QueensState(tuple([row.index("Q") if "Q" in row else NO_QUEEN for row in rows]))

    def apply(self, state: QueensState, step: Step) -> QueensState | None:
        match = _STEP.fullmatch(step.text)
        if match is None:
            return None
        column, row = ord(match[1]) - ord("a"), int(match[2]) - 1
        if NO_QUEEN not in state.columns or row != state.columns.index(NO_QUEEN):
            return None
        if column not in free_columns(state.columns, row):
            return None
        return QueensState((*state.columns[:row], column, *state.columns[row + 1 :]))

    def key(self, state: QueensState) -> tuple[int, ...]:
        return state.columns

    def describe(self, state: QueensState) -> Description:
        """The prompt shows the free squares, not the queens; a queen that is missing takes a token at the least."""
        missing = state.columns.count(NO_QUEEN)
        if missing:
            return Description(prompt=prompt_of(state.columns), min_tokens=missing)
        return Description(True, not _attacked(state.columns), _board(state.columns))

    def check_answer(self, question: str, answer: str | None) -> bool:
        """Whether a board has the question's queens, one in every row, and none that attacks another.

        Raises:
            TypeError, ValueError: a bad question, as `initial_state`.
        """
        asked = self.initial_state(question).columns
        try:
            placed = self.initial_state(answer or "").columns
        except (TypeError, ValueError):
            return False
        kept = len(placed) == len(asked) and all(a in (NO_QUEEN, b) for a, b in zip(asked, placed, strict=True))
        return kept and NO_QUEEN not in placed and not _attacked(placed)


class NQueensOracle:
    """The perfect critic: 1 where the board can be completed, else ``unsolvable_value``. Up to 12 rows it is quick."""

    predicts: Literal["value", "residual"] = "value"

    def __init__(self, unsolvable_value: float = 1e-6) -> None:
        self._unsolvable_value = unsolvable_value

    def score(self, candidates: Sequence[Node]) -> list[float]:
        return [1.0 if can_be_completed(node.state.columns) else self._unsolvable_value for node in candidates]


make_task = NQueens
"""What a model folder that names this module is given."""


def make_oracle() -> NQueensOracle:
    """The exact solver, as what a critic is to learn: 1 where the board can be completed, 0 elsewhere."""
    return NQueensOracle(unsolvable_value=0.0)


def gym_question(problem: Mapping[str, Any]) -> str:
    """A problem of reasoning-gym's "n_queens" as `NQueens` takes it, for `ReasoningGymTask`."""
    return "\n".join(" ".join(row) for row in problem["metadata"]["puzzle"])


def prompt_of(columns: Sequence[int]) -> str:
    """The free squares of each empty row, a row a line, the first one last."""
    rows = [row for row in reversed(range(len(columns))) if columns[row] == NO_QUEEN]
    return "".join([f"{' '.join(_squares(row, free_columns(columns, row))) or NO_SQUARE}\n" for row in rows])


def free_columns(columns: Sequence[int], row: int) -> list[int]:
    """Where in a row no queen of another row attacks, ascending."""
    queens = [(column, abs(other - row)) for other, column in enumerate(columns) if column != NO_QUEEN and other != row]
    attacked = {place for column, distance in queens for place in (column, column - distance, column + distance)}
    return [place for place in range(len(columns)) if place not in attacked]


def _squares(row: int, columns: Sequence[int]) -> list[str]:
    return [f"{string.ascii_lowercase[column]}{row + 1}" for column in columns]


@lru_cache(maxsize=1 << 18)
def can_be_completed(columns: tuple[int, ...]) -> bool:
    """Whether the empty rows can be filled so that no queen attacks another: exact, by search."""
    if _attacked(columns):
        return False
    size = len(columns)
    taken = rising = falling = 0
    for row, column in enumerate(columns):
        if column != NO_QUEEN:
            taken |= 1 << column
            rising |= 1 << (row + column)
            falling |= 1 << (row - column + size)
    empty = tuple(row for row, column in enumerate(columns) if column == NO_QUEEN)
    return _fill(size, empty, taken, rising, falling)


def _fill(size: int, empty: tuple[int, ...], taken: int, rising: int, falling: int) -> bool:
    """Takes the row with the fewest free squares first."""
    if not empty:
        return True
    best: list[int] | None = None
    best_row = -1
    for row in empty:
        free = [
            column
            for column in range(size)
            if not (taken >> column | rising >> (row + column) | falling >> (row - column + size)) & 1
        ]
        if best is None or len(free) < len(best):
            best, best_row = free, row
            if not free:
                return False
    assert best is not None, "a row is empty"
    rest = tuple(row for row in empty if row != best_row)
    return any(
        _fill(
            size,
            rest,
            taken | 1 << column,
            rising | 1 << (best_row + column),
            falling | 1 << (best_row - column + size),
        )
        for column in best
    )


def _attacked(columns: Sequence[int]) -> bool:
    """Whether one of the queens attacks another."""
    queens = [(row, column) for row, column in enumerate(columns) if column != NO_QUEEN]
    lines = [{c for _, c in queens}, {r + c for r, c in queens}, {r - c for r, c in queens}]
    return any(len(line) < len(queens) for line in lines)


def _board(columns: Sequence[int]) -> str:
    """As the question is written."""
    size = len(columns)
    return "\n".join(" ".join("Q" if place == column else "_" for place in range(size)) for column in columns)

"""Texts to learn n queens from: solutions in random orders, and placements that went wrong, without any state that a
search of a held-out puzzle could come to.

A text is the queens of a board, one after the other. In half of them the first few are in the order of their rows, as a
prompt writes them; the others come in any order, so that a model that imitates them takes no care which row is next.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bavt_fast.tasks.n_queens import NO_QUEEN

WRONG_SHARE = 0.5
"""Of the texts, those that go wrong at some queen; a model learns from them what is lost, not what to write."""
BLUNDER_SHARE = 0.15
"""Of the queens from there on, those that are put anywhere; the others where none attacks them, if they can."""
LEAST_PROMPT = 2
"""Queens that stand before the first step that is learnt."""
SORTED_SHARE = 0.5
"""Of the texts, those that begin with more of them, in the order of their rows; the others teach more steps."""


def all_solutions(size: int) -> np.ndarray:
    """int8 (solutions, size): the columns of the queens, of every solution in order."""
    found: list[list[int]] = []
    columns: list[int] = []

    def place(row: int, taken: int, rising: int, falling: int) -> None:
        if row == size:
            found.append(list(columns))
            return
        for column in range(size):
            bits = (1 << column, 1 << (row + column), 1 << (row - column + size))
            if taken & bits[0] or rising & bits[1] or falling & bits[2]:
                continue
            columns.append(column)
            place(row + 1, taken | bits[0], rising | bits[1], falling | bits[2])
            columns.pop()

    place(0, 0, 0, 0)
    return np.array(found, dtype=np.int8)


def contains(boards: np.ndarray, puzzles: np.ndarray) -> np.ndarray:
    """bool (boards,): whether a board has all queens of one of the puzzles, so that a search of it could come there.

    Args:
        boards: (boards, size) columns by row; NO_QUEEN where there is none.
        puzzles: (puzzles, size).
    """
    found = np.zeros(len(boards), dtype=bool)
    for puzzle in puzzles:
        rows = np.flatnonzero(puzzle != NO_QUEEN)
        found |= (boards[:, rows] == puzzle[rows]).all(axis=1)
    return found


class Completions:
    """Whether partial boards can be completed, looked up in all solutions: exact, and thousands at a time."""

    def __init__(self, solutions: np.ndarray) -> None:
        size = solutions.shape[1]
        having = solutions[None, None] == np.arange(size, dtype=np.int8)[None, :, None, None]  # (1, column, n, row)
        having = having[0].transpose(2, 0, 1)  # (row, column, solutions)
        bits = np.packbits(having, axis=2)
        width = -(-bits.shape[2] // 8) * 8
        self._having = np.pad(bits, ((0, 0), (0, 0), (0, width - bits.shape[2]))).view(np.uint64)

    def alive(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """bool (boards, steps): whether the first so many queens, and the one at the step, stand in some solution."""
        left = np.broadcast_to(~np.uint64(0), (len(rows), self._having.shape[2]))
        found = np.empty(rows.shape, dtype=bool)
        for step in range(rows.shape[1]):
            left = left & self._having[rows[:, step], columns[:, step]]
            found[:, step] = left.any(axis=1)
        return found


class Texts(NamedTuple):
    """A batch of texts.

    Attributes:
        rows, columns: int64 (texts, size): the queens in the order in which they are written.
        prompts: int64 (texts,): how many of them are the prompt; what comes after is learnt.
        right: bool (texts, size): the queens that are to be imitated.
        alive: bool (texts, size): whether the board can be completed with the queen and those before it.
    """

    rows: np.ndarray
    columns: np.ndarray
    prompts: np.ndarray
    right: np.ndarray
    alive: np.ndarray


class Teacher:
    """Makes texts.

    Args:
        solutions: int8 (solutions, size), all of them: what can be completed is looked up there.
        held_out: (puzzles, size): no text has all queens of one of these.
        seed: of everything random.
    """

    def __init__(self, solutions: np.ndarray, held_out: np.ndarray, seed: int) -> None:
        self.held_out = held_out
        self.solutions = solutions[~contains(solutions, held_out)]
        self._completions = Completions(solutions)
        self._seed = seed

    def batch(self, texts: int, number: int) -> Texts:
        """The batch of a number, of so many texts less those that are held out."""
        size, random = self.solutions.shape[1], np.random.default_rng([self._seed, number])
        boards = self.solutions[random.integers(len(self.solutions), size=texts)].astype(np.int64)
        rows = random.permuted(np.tile(np.arange(size), (texts, 1)), axis=1)
        wrong_from = np.where(random.random(texts) < WRONG_SHARE, random.integers(0, size, size=texts), size)
        columns = _gone_wrong(rows, np.take_along_axis(boards, rows, axis=1), wrong_from, random)
        placed = np.empty_like(boards)
        np.put_along_axis(placed, rows, columns, axis=1)
        kept = ~contains(placed, self.held_out)
        rows, columns, wrong_from = rows[kept], columns[kept], wrong_from[kept]
        sorted_prompts = random.integers(LEAST_PROMPT, size, size=len(rows))
        prompts = np.where(random.random(len(rows)) < SORTED_SHARE, sorted_prompts, LEAST_PROMPT)
        steps = np.arange(size)
        right = steps < wrong_from[:, None]
        order = np.argsort(np.where(steps < prompts[:, None], rows, size + steps), axis=1, kind="stable")
        rows, columns = np.take_along_axis(rows, order, axis=1), np.take_along_axis(columns, order, axis=1)
        learnt = right & (steps >= prompts[:, None])
        return Texts(rows, columns, prompts, learnt, self._completions.alive(rows, columns))


def _gone_wrong(
    rows: np.ndarray, columns: np.ndarray, wrong_from: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """The columns, drawn anew from the step on at which each text goes wrong."""
    texts, size = rows.shape
    columns = columns.copy()
    everywhere = np.arange(size)
    for step in range(size):
        row, attacked = rows[:, step, None], np.zeros((texts, size), dtype=bool)
        for before in range(step):
            column, distance = columns[:, before, None], np.abs(rows[:, before, None] - row)
            attacked |= (everywhere == column) | (np.abs(everywhere - column) == distance)
        careless = (random.random(texts) < BLUNDER_SHARE) | attacked.all(axis=1)
        weights = random.random((texts, size)) + 2.0 * (~attacked | careless[:, None])
        columns[:, step] = np.where(step >= wrong_from, weights.argmax(axis=1), columns[:, step])
    return columns

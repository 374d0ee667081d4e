"""States to learn n queens from: boards of the family, filled from the top by good and by careless queens, without any
state that a search of a held-out puzzle could come to.

A state is taught whole: which squares are free, in which row the next queen goes, and after which of its squares the
board can still be completed, looked up in all solutions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bavt_fast.tasks.n_queens import NO_QUEEN

GOOD_SHARES = (0.9, 0.3)
"""How often a game takes a good queen where there is one, in one half of the games and in the other."""
KEPT_SHARES = (0.0, 0.5, 0.6, 0.8)
"""Of the states with so many queens missing: the last few are mostly told by what is free. All with more are kept."""


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


def contains(boards: np.ndarray, puzzles: np.ndarray, any_in: np.ndarray | None = None) -> np.ndarray:
    """bool (boards,): whether a board has all queens of one of the puzzles, so that a search of it could come there.

    Args:
        boards: (boards, size) columns by row; NO_QUEEN where there is none.
        puzzles: (puzzles, size).
        any_in: (boards,) a row of each board that counts as having whatever queen a puzzle has there.
    """
    found = np.zeros(len(boards), dtype=bool)
    for puzzle in puzzles:
        rows = np.flatnonzero(puzzle != NO_QUEEN)
        same = boards[:, rows] == puzzle[rows]
        if any_in is not None:
            same |= any_in[:, None] == rows
        found |= same.all(axis=1)
    return found


def free_squares(boards: np.ndarray) -> np.ndarray:
    """bool (boards, row, column): where a row is empty and no queen attacks."""
    size = boards.shape[1]
    places = np.arange(size)
    free = np.repeat((boards == NO_QUEEN)[:, :, None], size, axis=2)
    for row in range(size):
        columns = boards[:, row, None, None]
        aside, below = np.abs(places - columns), np.abs(places - row)[:, None]
        free &= (columns == NO_QUEEN) | ((aside != 0) & (aside != below))
    return free


class Completions:
    """Whether partial boards can be completed, looked up in all solutions: exact, and thousands at a time."""

    def __init__(self, solutions: np.ndarray) -> None:
        size = solutions.shape[1]
        having = solutions.T[:, None] == np.arange(size, dtype=np.int8)[:, None]  # (row, column, solutions)
        bits = np.packbits(having, axis=2)
        width = -(-bits.shape[2] // 8) * 8
        self._having = np.pad(bits, ((0, 0), (0, 0), (0, width - bits.shape[2]))).view(np.uint64)

    def after(self, boards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """bool (boards, column): whether a board is part of a solution that has its queen of a row in that column."""
        left = np.full((len(boards), self._having.shape[2]), ~np.uint64(0))
        for row in range(boards.shape[1]):
            there = boards[:, row] != NO_QUEEN
            left[there] &= self._having[row, boards[there, row]]
        return (left[:, None] & self._having[rows]).any(axis=2)


class States(NamedTuple):
    """States, and what is to be known of them.

    Attributes:
        boards: int8 (states, size): columns by row.
        rows: int64 (states,): the first empty row.
        free: bool (states, size, size): the squares of empty rows that no queen attacks.
        good: bool (states, size): the columns of the first empty row with which the board can be completed.
    """

    boards: np.ndarray
    rows: np.ndarray
    free: np.ndarray
    good: np.ndarray

    @property
    def missing(self) -> np.ndarray:
        """int64 (states,): empty rows."""
        return (self.boards == NO_QUEEN).sum(axis=1)

    def take(self, which: np.ndarray) -> States:
        """Some of them, by mask or by number."""
        return States(*(part[which] for part in self))


class Teacher:
    """Plays games and keeps the states.

    Args:
        solutions: int8 (solutions, size), all of them: what can be completed is looked up there.
        held_out: (puzzles, size): no state, and none behind any of its steps, has all queens of one of these.
        seed: of everything random.
    """

    def __init__(self, solutions: np.ndarray, held_out: np.ndarray, seed: int) -> None:
        self.held_out = held_out
        self.solutions = solutions[~contains(solutions, held_out)]
        self._completions = Completions(solutions)
        self._seed = seed

    def states(self, games: int, number: int, least: int, most: int) -> States:
        """The states of so many games.

        A game begins with a solution that lacks from `least` to `most` queens, as the family's puzzles do, and goes on
        until the first empty row has no free square or the board is full.

        Args:
            number: of the call: another has other games.
        """
        random = np.random.default_rng([self._seed, number])
        boards = self.solutions[random.integers(len(self.solutions), size=games)].copy()
        ranks = random.permuted(np.tile(np.arange(boards.shape[1]), (games, 1)), axis=1)
        boards[ranks < random.integers(least, most + 1, size=games)[:, None]] = NO_QUEEN
        shares = np.array(GOOD_SHARES)[random.integers(2, size=games)]
        played = []
        while len(boards):
            played.append(self._known(boards))
            boards, shares = _after_a_queen(played[-1], shares, random)
        states = States(*(np.concatenate(parts) for parts in zip(*played, strict=True)))
        kept_shares = np.array([*KEPT_SHARES, 1.0])[np.minimum(states.missing, len(KEPT_SHARES))]
        kept = (random.random(len(kept_shares)) < kept_shares) & ~contains(states.boards, self.held_out, states.rows)
        return states.take(kept)

    def _known(self, boards: np.ndarray) -> States:
        rows = (boards == NO_QUEEN).argmax(axis=1)
        return States(boards, rows, free_squares(boards), self._completions.after(boards, rows))


def _after_a_queen(states: States, shares: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The boards with one more queen, and their shares, of the games that go on."""
    games = np.arange(len(states.boards))
    free = states.free[games, states.rows]
    wants_good = (random.random(len(games)) < shares) & states.good.any(axis=1)
    weights = random.random(free.shape) + 2.0 * np.where(wants_good[:, None], states.good, free)
    boards = states.boards.copy()
    boards[games, states.rows] = weights.argmax(axis=1)
    goes_on = free.any(axis=1) & (boards == NO_QUEEN).any(axis=1)
    return boards[goes_on], shares[goes_on]

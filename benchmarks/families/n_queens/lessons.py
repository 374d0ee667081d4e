"""States as batches of tokens: a prompt, and behind it some of its steps side by side, each as if it stood there alone.

    b12 f12 \\n a5 c5 \\n c4 f4 \\n | c4 \\n | f4 \\n

What is behind the last line break of the prompt is asked at two tokens a step, and the prompt, which is the most of the
work, is read once for all of them. The mask lets no step see another, and positions go on from the prompt for each.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bavt_fast.tasks.n_queens import NO_QUEEN, NO_SQUARE
from benchmarks.families.n_queens.boards import States
from benchmarks.families.training import BREAK_ID, FIRST_WORDS

STEPS = 4
"""Of a state, how many are asked about; which ones is drawn."""
USUAL_LENGTH = 48
"""Tokens of a row by which the rows of a batch are counted: a batch of long ones has fewer."""


def words_of(size: int) -> list[str]:
    """Behind the first words: the mark of a row without a square, and the squares, row by row."""
    squares = [f"{column}{row}" for row in range(1, size + 1) for column in string.ascii_lowercase[:size]]
    return [NO_SQUARE, *squares]


NO_SQUARE_ID = len(FIRST_WORDS)
FIRST_SQUARE = NO_SQUARE_ID + 1


@dataclass(frozen=True)
class Batch:
    """Rows of tokens, and where in them what is asked. Squares are numbered row by row, from 0.

    Attributes:
        ids, positions: int64 (rows, width + 2 * STEPS): prompts, padded to `width`, and the steps.
        mask: bool (rows, 1, tokens, tokens): which tokens each one sees.
        lengths: int64 (rows,): tokens of each prompt.
        squares: int64 (rows, tokens): the square that each token names; -1 for none, or for a step that is not asked.
        steps: int64 (rows, STEPS): the column of each step; -1 where there are not so many.
        rows: int64 (rows,): the first empty row.
        empty: bool (rows, size): the empty rows.
        free: bool (rows, size, size) and good: bool (rows, size): see `States`.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    lengths: Tensor
    squares: Tensor
    steps: Tensor
    rows: Tensor
    empty: Tensor
    free: Tensor
    good: Tensor

    @property
    def width(self) -> int:
        return self.ids.shape[1] - 2 * STEPS


def prompt_ids(states: States) -> list[list[int]]:
    """The tokens of each prompt."""
    size = states.boards.shape[1]
    found = []
    for board, free in zip(states.boards, states.free, strict=True):
        ids: list[int] = []
        for row in reversed(np.flatnonzero(board == NO_QUEEN).tolist()):
            ids += (FIRST_SQUARE + size * row + np.flatnonzero(free[row])).tolist() or [NO_SQUARE_ID]
            ids.append(BREAK_ID)
        found.append(ids)
    return found


def lay_out(states: States, random: np.random.Generator) -> Batch:
    """The states as one batch; draws the steps that are asked."""
    prompts, (count, size) = prompt_ids(states), states.boards.shape
    lengths = np.array([len(ids) for ids in prompts])
    width = int(lengths.max())
    tokens = width + 2 * STEPS
    ids, positions = np.zeros((count, tokens), dtype=np.int64), np.zeros((count, tokens), dtype=np.int64)
    for row, prompt in zip(ids, prompts, strict=True):
        row[: len(prompt)] = prompt
    free = states.free[np.arange(count), states.rows]
    steps = np.argsort(-(random.random(free.shape) + 2.0 * free), axis=1)[:, :STEPS]
    asked = np.take_along_axis(free, steps, axis=1)
    ids[:, width::2] = FIRST_SQUARE + size * states.rows[:, None] + steps
    ids[:, width + 1 :: 2] = BREAK_ID
    positions[:, :width] = np.minimum(np.arange(width), lengths[:, None])
    positions[:, width::2], positions[:, width + 1 :: 2] = lengths[:, None], lengths[:, None] + 1
    squares = np.where(ids >= FIRST_SQUARE, ids - FIRST_SQUARE, -1)
    squares[:, width::2][~asked] = -1
    columns = (states.boards == NO_QUEEN, states.free, states.good)
    return Batch(
        torch.from_numpy(ids),
        torch.from_numpy(positions),
        torch.from_numpy(_seen(width, lengths))[:, None],
        torch.from_numpy(lengths),
        torch.from_numpy(squares),
        torch.from_numpy(np.where(asked, steps, -1)),
        torch.from_numpy(states.rows),
        *(torch.from_numpy(column) for column in columns),
    )


def _seen(width: int, lengths: np.ndarray) -> np.ndarray:
    """bool (rows, tokens, tokens): each token sees itself and the prompt before it, a step's second one its first."""
    tokens = width + 2 * STEPS
    sees = np.tri(tokens, dtype=bool)
    sees[width:, width:] = np.kron(np.eye(STEPS, dtype=bool), np.tri(2, dtype=bool))
    is_padding = np.zeros((len(lengths), tokens), dtype=bool)
    is_padding[:, :width] = np.arange(width) >= lengths[:, None]
    return (sees & ~is_padding[:, None]) | np.eye(tokens, dtype=bool)


def batches(states: States, rows: int, random: np.random.Generator) -> Iterator[Batch]:
    """The states in batches of about so many rows, those of a batch of about one length, in random order."""
    lengths = states.free.sum(axis=(1, 2)) + states.missing  # less the rows without a square
    order = np.argsort(lengths + random.random(len(lengths)))
    parts, first = [], 0
    while first < len(order):
        count = max(1, rows * USUAL_LENGTH // (int(lengths[order[first]]) + 2 * STEPS))
        parts.append(order[first : first + count])
        first += count
    for number in random.permutation(len(parts)).tolist():
        yield lay_out(states.take(parts[number]), random)

"""Countdown states in bulk: random problems, steps, and the held-out split. Arrays only, no text and no torch.

A batch of states is ``numbers`` (int32, ``(states, k)``, each row ascending) with ``targets`` (int32, ``(states,)``).
A step is ``(first, op, second, result)``, int32 ``(states, 4)``, with ``op`` an index into
:data:`~bavt_fast.tasks.countdown.task.OPERATORS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import bavt_fast._core as _core
from bavt_fast.tasks.countdown.puzzles import GAME24_TEST_RANKS, load_game24
from bavt_fast.tasks.countdown.task import MAX_VALUE, OPERATORS

SPLITS = 64  # one residue of the hash is the test set, one the validation set, the others are for training
TEST, VALIDATION = 0, 1

Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]


def split_residue(numbers: Ints) -> NDArray[np.int64]:
    """A stable hash of each row's multiset of numbers, modulo :data:`SPLITS`. ``numbers`` must be sorted by row."""
    mixed = np.full(len(numbers), numbers.shape[1], dtype=np.uint64)
    for column in numbers.T:
        mixed = (mixed ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(29)
    return (mixed % np.uint64(SPLITS)).astype(np.int64)


def _row_codes(numbers: Ints) -> NDArray[np.int64]:
    weights = 1000 ** np.arange(numbers.shape[1], dtype=np.int64)
    return (numbers * weights).sum(axis=1)


def _game24_test_codes() -> NDArray[np.int64]:
    puzzles = [numbers for rank, numbers in load_game24() if rank in GAME24_TEST_RANKS]
    return _row_codes(np.sort(np.array(puzzles, dtype=np.int32), axis=1))


GAME24_TEST_CODES = _game24_test_codes()


def held_out(numbers: Ints) -> Bools:
    """Which states may not be trained on: the test and validation residues, and the Game of 24 test puzzles.

    Only puzzles (3 numbers and more) are held out; with 2 numbers left there is no puzzle to leak.
    """
    if numbers.shape[1] < 3:
        return np.zeros(len(numbers), dtype=bool)
    residue = split_residue(numbers)
    out = (residue == TEST) | (residue == VALIDATION)
    if numbers.shape[1] == 4:
        out |= np.isin(_row_codes(numbers), GAME24_TEST_CODES)
    return out


def solvable(numbers: Ints, targets: Ints) -> Bools:
    """Whether each state can reach its target (exact search)."""
    return _core.countdown_solvable(numbers, targets)


@dataclass(frozen=True)
class Range:
    """Where the numbers and the target of a problem come from, bounds included. ``large`` are further numbers, of which
    a third of a problem's numbers are drawn."""

    numbers: tuple[int, int]
    targets: tuple[int, int]
    large: tuple[int, ...] = ()

    def draw(self, rng: np.random.Generator, count: int, k: int) -> tuple[Ints, Ints]:
        """``count`` problems of k numbers, many of which have no solution."""
        numbers = rng.integers(self.numbers[0], self.numbers[1] + 1, (count, k), dtype=np.int32)
        targets = rng.integers(self.targets[0], self.targets[1] + 1, count, dtype=np.int32)
        if self.large:
            large = rng.random(numbers.shape) < 1 / 3
            numbers[large] = rng.choice(np.array(self.large, np.int32), int(large.sum()))
        numbers.sort(axis=1)
        return numbers, targets


SMALL = Range((1, 50), (1, 100))
WIDE = Range((1, 100), (1, 999))
SELECTION = Range((1, 10), (101, 999), large=(25, 50, 75, 100))
"""The numbers of the television game."""
GAME24 = Range((1, 13), (24, 24))

Mix = Mapping[Range, float]
"""Shares of the ranges."""


def random_problems(rng: np.random.Generator, count: int, k: int, mix: Mix | Range = SMALL) -> tuple[Ints, Ints]:
    """``count`` solvable problems of k numbers, from one range or from several by their shares, in random order."""
    if isinstance(mix, Range):
        return _solvable_problems(rng, count, k, mix)
    total, left, parts = sum(mix.values()), count, []
    for number, (span, share) in enumerate(mix.items(), start=1):
        taken = left if number == len(mix) else min(round(count * share / total), left)
        parts.append(_solvable_problems(rng, taken, k, span))
        left -= taken
    order = rng.permutation(count)
    return np.concatenate([n for n, _ in parts])[order], np.concatenate([t for _, t in parts])[order]


def _solvable_problems(rng: np.random.Generator, count: int, k: int, span: Range) -> tuple[Ints, Ints]:
    found: list[tuple[Ints, Ints]] = [(np.empty((0, k), np.int32), np.empty(0, np.int32))]
    missing, share = count, 0.5
    while missing > 0:
        numbers, targets = span.draw(rng, int(missing / share) + 64, k)
        keep = solvable(numbers, targets)
        share = max(float(keep.mean()), 0.01)
        found.append((numbers[keep][:missing], targets[keep][:missing]))
        missing -= len(found[-1][0])
    return np.concatenate([n for n, _ in found]), np.concatenate([t for _, t in found])


def _outcomes(a: Ints, b: Ints) -> tuple[Ints, Bools]:
    """Results of a >= b by operator, and which are legal, ``(4, ...)``. An operator whose result an earlier one gives
    too counts as illegal."""
    divisor = np.maximum(b, 1)
    plus, minus, times, over = a + b, a - b, a * b, a // divisor
    legal = [
        plus <= MAX_VALUE,
        minus != plus,
        (times <= MAX_VALUE) & (times != plus) & (times != minus),
        (b > 0) & (a % divisor == 0) & (over != times) & (over != minus),
    ]
    return np.stack([plus, minus, times, over]), np.stack(legal)


def pairs_of(k: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs of k ascending numbers: the places of the smaller and of the larger one, ``(k (k - 1) / 2,)`` each."""
    return np.triu_indices(k, 1)


def living_steps(numbers: Ints, targets: Ints) -> NDArray[np.int8]:
    """Of every step of every state whether it keeps the target within reach (exact search).

    Returns int8 ``(states, pairs, 4)``, pairs as `pairs_of` has them: 1 where it does, 0 where not, and -1 where there
    is no such step: it is not legal, or two equal numbers make it the same as another.
    """
    states, k = numbers.shape
    low, high = pairs_of(k)
    results, legal = _outcomes(numbers[:, high], numbers[:, low])  # (4, states, pairs)
    same = np.concatenate([np.zeros((states, 1), bool), numbers[:, 1:] == numbers[:, :-1]], axis=1)
    distinct = ~same[:, low] & (~same[:, high] | (high == low + 1))
    state, pair, op = np.nonzero((legal & distinct).transpose(1, 2, 0))
    found = np.full((states, len(low), len(OPERATORS)), -1, dtype=np.int8)
    rest = np.array([np.delete(np.arange(k), [i, j]) for i, j in zip(low, high, strict=True)], dtype=np.int64)
    children = np.empty((len(state), k - 1), dtype=np.int32)
    children[:, :-1] = numbers[state[:, None], rest.reshape(len(low), k - 2)[pair]]
    children[:, -1] = results[op, state, pair]
    children.sort(axis=1)
    found[state, pair, op] = solvable(children, targets[state])
    return found


def apply_steps(numbers: Ints, steps: Ints) -> Ints:
    """The states after each step, rows sorted, one column fewer."""
    rest = numbers.copy()
    rows = np.arange(len(numbers))
    for column in (0, 2):
        rest[rows, (rest == steps[:, column, None]).argmax(axis=1)] = -1
    rest[rows, (rest == -1).argmax(axis=1)] = steps[:, 3]
    rest.sort(axis=1)
    return rest[:, 1:]  # the one -1 left sorts first


def some_steps(rng: np.random.Generator, numbers: Ints, living: NDArray[np.int8], good: float) -> Ints:
    """A step of each state: with probability ``good`` one that keeps the target within reach, if there is one, and any
    legal one otherwise; uniform over all such. ``living`` is what `living_steps` says."""
    states, k = numbers.shape
    low, high = pairs_of(k)
    flat = living.reshape(states, len(low) * len(OPERATORS))
    wanted = (flat == 1) & (rng.random((states, 1)) < good)
    allowed = np.where(wanted.any(1, keepdims=True), wanted, flat >= 0)
    chosen = np.where(allowed, rng.random(flat.shape, dtype=np.float32), -1).argmax(1)
    pair, op = np.divmod(chosen, len(OPERATORS))
    rows = np.arange(states)
    a, b = numbers[rows, high[pair]], numbers[rows, low[pair]]
    return np.stack([a, op, b, _outcomes(a, b)[0][op, rows]], axis=1).astype(np.int32)

"""Countdown states in bulk: random problems, steps, and the held-out split. Arrays only, no text and no torch.

A batch of states is ``numbers`` (int32, ``(states, k)``, each row ascending) with ``targets`` (int32, ``(states,)``).
A step is ``(first, op, second, result)``, int32 ``(states, 4)``, with ``op`` an index into
:data:`~bavt_fast.tasks.countdown.task.OPERATORS`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import bavt_fast._core as _core
from bavt_fast.tasks.countdown.puzzles import GAME24_TEST_RANKS, load_game24
from bavt_fast.tasks.countdown.task import MAX_VALUE

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


def random_problems(rng: np.random.Generator, count: int, k: int, game24: float = 0.0) -> tuple[Ints, Ints]:
    """``count`` solvable problems: k numbers from 1 to 50 and a target from 1 to 100.

    ``game24`` is the share of Games of 24 (numbers 1 to 13, target 24) among the draws, for k = 4. More of them than of
    the others are solvable, so their share among the problems is larger: 0.5 of the draws are three problems in four.
    """
    found: list[tuple[Ints, Ints]] = [(np.empty((0, k), np.int32), np.empty(0, np.int32))]
    missing = count
    while missing > 0:
        size = 2 * missing + 64
        numbers = rng.integers(1, 51, (size, k), dtype=np.int32)
        targets = rng.integers(1, 101, size, dtype=np.int32)
        small = rng.random(size) < game24
        numbers[small] = rng.integers(1, 14, (int(small.sum()), k), dtype=np.int32)
        targets[small] = 24
        numbers.sort(axis=1)
        keep = solvable(numbers, targets)
        found.append((numbers[keep][:missing], targets[keep][:missing]))
        missing -= len(found[-1][0])
    return np.concatenate([n for n, _ in found]), np.concatenate([t for _, t in found])


def random_steps(rng: np.random.Generator, numbers: Ints) -> Ints:
    """One legal step per state, uniform over (pair, operator) by rejection; the larger number comes first."""
    states, k = numbers.shape
    steps = np.empty((states, 4), dtype=np.int32)
    todo = np.arange(states)
    while len(todo):
        low = rng.integers(0, k, len(todo))
        high = (low + rng.integers(1, k, len(todo))) % k
        low, high = np.minimum(low, high), np.maximum(low, high)
        a, b = numbers[todo, high], numbers[todo, low]
        op = rng.integers(0, 4, len(todo))
        result, legal = _apply(a, b, op)
        steps[todo[legal]] = np.stack([a, op, b, result], axis=1)[legal]
        todo = todo[~legal]
    return steps


def _apply(a: Ints, b: Ints, op: NDArray[np.int64]) -> tuple[Ints, Bools]:
    """Results of a >= b, and which are legal. An operator whose result an earlier one gives too counts as illegal."""
    divisor = np.maximum(b, 1)
    plus, minus, times, over = a + b, a - b, a * b, a // divisor
    legal = np.stack(
        [
            plus <= MAX_VALUE,
            minus != plus,
            (times <= MAX_VALUE) & (times != plus) & (times != minus),
            (b > 0) & (a % divisor == 0) & (over != times) & (over != minus),
        ]
    )
    rows = np.arange(len(a))
    return np.stack([plus, minus, times, over])[op, rows], legal[op, rows]


def apply_steps(numbers: Ints, steps: Ints) -> Ints:
    """The states after each step, rows sorted, one column fewer."""
    rest = numbers.copy()
    rows = np.arange(len(numbers))
    for column in (0, 2):
        rest[rows, (rest == steps[:, column, None]).argmax(axis=1)] = -1
    rest[rows, (rest == -1).argmax(axis=1)] = steps[:, 3]
    rest.sort(axis=1)
    return rest[:, 1:]  # the one -1 left sorts first


def good_steps(rng: np.random.Generator, numbers: Ints, targets: Ints, tries: int = 60) -> tuple[Ints, Bools]:
    """A step that keeps the target within reach, uniform over all such; the flag says where one was found."""
    steps = random_steps(rng, numbers)
    found = solvable(apply_steps(numbers, steps), targets)
    for _ in range(tries):
        todo = np.flatnonzero(~found)
        if not len(todo):
            break
        steps[todo] = random_steps(rng, numbers[todo])
        found[todo] = solvable(apply_steps(numbers[todo], steps[todo]), targets[todo])
    return steps, found

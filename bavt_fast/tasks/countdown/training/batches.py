"""Training batches: sequences of one state and one step, with value labels. The kind of a batch is k, the numbers in
each of its states."""

from __future__ import annotations

import numpy as np
import torch

from bavt_fast.tasks.countdown.training.states import (
    Ints,
    apply_steps,
    good_steps,
    held_out,
    random_problems,
    random_steps,
    solvable,
)
from bavt_fast.tasks.countdown.training.vocabulary import CLOSE_ID, EQUALS_ID, FIRST_OPERATOR_ID, LEFT_ID, TARGET_ID
from bavt_fast.training.course import Batch, Layout


def layout_of(k: int) -> Layout:
    """Token positions in ``Target: T (left: n1 .. nk) a op b = c (left: m1 .. m(k-1))`` for k numbers.

    ``a op b`` chooses. The values are read at the last number of the state and of the step: the token before each
    closing bracket.
    """
    length = 2 * k + 10
    return Layout(length, step_start=k + 4, choice_length=3, value_positions=(k + 2, length - 2))


def encode(numbers: Ints, targets: Ints, steps: Ints) -> torch.Tensor:
    """Token ids of state and step, in the layout above."""
    count, k = numbers.shape
    children = apply_steps(numbers, steps)
    ids = np.empty((count, layout_of(k).length), dtype=np.int64)
    ids[:, 0], ids[:, 1], ids[:, 2] = TARGET_ID, targets, LEFT_ID
    ids[:, 3 : 3 + k], ids[:, 3 + k] = numbers, CLOSE_ID
    step = ids[:, 4 + k :]
    step[:, 0], step[:, 1], step[:, 2] = steps[:, 0], FIRST_OPERATOR_ID + steps[:, 1], steps[:, 2]
    step[:, 3] = EQUALS_ID
    step[:, 4], step[:, 5], step[:, 6:-1], step[:, -1] = steps[:, 3], LEFT_ID, children, CLOSE_ID
    return torch.from_numpy(ids)


def make_batch(numbers: Ints, targets: Ints, steps: Ints) -> Batch:
    """Labels states and steps with the exact solver; a step is imitated where it keeps the target within reach.

    Sequences that hold a held-out puzzle, as state or as child, are dropped.
    """
    children = apply_steps(numbers, steps)
    keep = ~(held_out(numbers) | held_out(children))
    numbers, targets, steps, children = numbers[keep], targets[keep], steps[keep], children[keep]
    after = solvable(children, targets)
    before = after | solvable(numbers, targets)
    labels = torch.from_numpy(np.stack([before, after], axis=1).astype(np.float32))
    k = numbers.shape[1]
    return Batch(k, layout_of(k), encode(numbers, targets, steps), labels, torch.from_numpy(after))


def walk(rng: np.random.Generator, starts: dict[int, int], good: float = 0.6) -> dict[int, Batch]:
    """Labelled sequences for every k from 6 down to 2, on walks from ``starts[k]`` fresh problems of k numbers.

    Each step of a walk is a good one with probability ``good`` and a random one otherwise, so that solvable and dead
    states mix at every depth. Of the fresh 4-number problems three in four are Games of 24.
    """
    batches = {}
    numbers, targets = random_problems(rng, starts.get(6, 0), 6)
    for k in range(6, 1, -1):
        if k < 6:
            fresh, fresh_targets = random_problems(rng, starts.get(k, 0), k, game24=0.5 if k == 4 else 0.0)
            numbers, targets = np.concatenate([numbers, fresh]), np.concatenate([targets, fresh_targets])
        steps, _ = good_steps(rng, numbers, targets, tries=12)
        blind = rng.random(len(numbers)) >= good
        steps[blind] = random_steps(rng, numbers[blind])
        order = rng.permutation(len(numbers))
        batches[k] = make_batch(numbers[order], targets[order], steps[order])
        numbers = apply_steps(numbers, steps)
    return batches

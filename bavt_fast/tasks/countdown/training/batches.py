"""Training batches: sequences of one state and one step, with value labels. The kind of a batch is k, the numbers in
each of its states."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from bavt_fast.tasks.countdown.task import OPERATORS
from bavt_fast.tasks.countdown.training.states import (
    GAME24,
    SELECTION,
    SMALL,
    WIDE,
    Bools,
    Ints,
    Mix,
    apply_steps,
    held_out,
    living_steps,
    pairs_of,
    random_problems,
    some_steps,
)
from bavt_fast.tasks.countdown.training.vocabulary import CLOSE_ID, EQUALS_ID, FIRST_OPERATOR_ID, LEFT_ID, TARGET_ID
from bavt_fast.training.course import Batch, Layout

ALL: Mix = {SMALL: 0.4, WIDE: 0.4, SELECTION: 0.2}
MIXES: dict[int, Mix] = {6: ALL, 5: ALL, 4: {SMALL: 0.3, WIDE: 0.3, SELECTION: 0.1, GAME24: 0.3}, 3: ALL, 2: ALL}
"""Of the fresh problems by their numbers."""
STEPS = {6: 4, 5: 4}
"""Steps from one state, by its numbers: where labelling the state takes far longer than its children."""


def layout_of(k: int) -> Layout:
    """Token positions in ``Target: T (left: n1 .. nk) a op b = c (left: m1 .. m(k-1))`` for k numbers.

    ``a op b`` chooses. The values are read at the last number of the state and of the step: the token before each
    closing bracket.
    """
    length = 2 * k + 10
    return Layout(
        length,
        step_start=k + 4,
        choice_length=3,
        value_positions=(k + 2, length - 2),
        successor_kinds=(k, k - 1 if k > 2 else 0),
    )


def encode(numbers: Ints, targets: Ints, steps: Ints) -> torch.Tensor:
    """Token ids of state and step, in the layout above."""
    count, k = numbers.shape
    children = apply_steps(numbers, steps)
    ids = np.empty((count, layout_of(k).length), dtype=np.int32)
    ids[:, 0], ids[:, 1], ids[:, 2] = TARGET_ID, targets, LEFT_ID
    ids[:, 3 : 3 + k], ids[:, 3 + k] = numbers, CLOSE_ID
    step = ids[:, 4 + k :]
    step[:, 0], step[:, 1], step[:, 2] = steps[:, 0], FIRST_OPERATOR_ID + steps[:, 1], steps[:, 2]
    step[:, 3] = EQUALS_ID
    step[:, 4], step[:, 5], step[:, 6:-1], step[:, -1] = steps[:, 3], LEFT_ID, children, CLOSE_ID
    return torch.from_numpy(ids)


def make_batch(numbers: Ints, targets: Ints, steps: Ints, living: NDArray[np.int8] | None = None) -> Batch:
    """Labels states and steps with the exact solver. All steps that keep the target within reach are equally good.

    Sequences that hold a held-out puzzle, as state or as child, are dropped. ``living`` is what `living_steps` says of
    the states, where it is known.
    """
    children = apply_steps(numbers, steps)
    keep = ~(held_out(numbers) | held_out(children))
    numbers, targets, steps, children = numbers[keep], targets[keep], steps[keep], children[keep]
    k = numbers.shape[1]
    before = living_steps(numbers, targets) if living is None else living[keep]
    after = living_steps(children, targets) if k > 2 else None
    reached = children[:, 0] == targets if after is None else (after == 1).any((1, 2))
    labels = np.stack([(before == 1).any((1, 2)), reached], axis=1).astype(np.float32)
    ids, weights = choices(numbers, steps, before == 1)
    return Batch(
        kind=k,
        layout=layout_of(k),
        ids=encode(numbers, targets, steps),
        labels=torch.from_numpy(labels),
        choice_ids=torch.from_numpy(ids),
        choice_weights=torch.from_numpy(weights),
        successors=(_flat(before), None if after is None else _flat(after)),
    )


def _flat(living: NDArray[np.int8]) -> torch.Tensor:
    return torch.from_numpy(living).flatten(1)


def choices(numbers: Ints, steps: Ints, good: Bools) -> tuple[Ints, NDArray[np.float32]]:
    """What the tokens of ``a op b`` should be, each given those before it in ``steps``: any good step is as likely.

    good: bool (states, pairs, 4). Returns ids and weights, (states, 3, max(k, 4)): the weights of a token add up to 1,
    or to 0 where the tokens before it begin no good step.
    """
    states, k = numbers.shape
    low, high = pairs_of(k)
    by_first, by_second = (places[:, None] == np.arange(k) for places in (high, low))  # (pairs, k)
    chosen_a = good & (numbers[:, high] == steps[:, 0, None])[:, :, None]
    chosen_op = chosen_a[np.arange(states), :, steps[:, 1]]  # (states, pairs)
    ids = np.zeros((states, 3, max(k, len(OPERATORS))), dtype=np.int32)
    weights = np.zeros(ids.shape, dtype=np.float32)
    ids[:, 0, :k] = ids[:, 2, :k] = numbers
    ids[:, 1, : len(OPERATORS)] = FIRST_OPERATOR_ID + np.arange(len(OPERATORS))
    weights[:, 0, :k] = good.sum(2) @ by_first
    weights[:, 1, : len(OPERATORS)] = chosen_a.sum(1)
    weights[:, 2, :k] = chosen_op.astype(np.float32) @ by_second
    return ids, weights / np.maximum(weights.sum(2, keepdims=True), 1)


def walk(rng: np.random.Generator, starts: dict[int, int], good: float = 0.6) -> dict[int, Batch]:
    """Labelled sequences for every k from 6 down to 2, on walks from ``starts[k]`` fresh problems of k numbers.

    A step is a good one with probability ``good``, if there is one, and any otherwise, so that solvable and dead states
    mix at every depth. From a state with many numbers there are several (`STEPS`), and a walk goes on from each of
    them. The fresh problems are those of `MIXES`.
    """
    batches = {}
    numbers, targets = random_problems(rng, starts.get(6, 0), 6, MIXES[6])
    for k in range(6, 1, -1):
        if k < 6:
            fresh, fresh_targets = random_problems(rng, starts.get(k, 0), k, MIXES[k])
            numbers, targets = np.concatenate([numbers, fresh]), np.concatenate([targets, fresh_targets])
        order, several = rng.permutation(len(numbers)), STEPS.get(k, 1)
        living = np.repeat(living_steps(numbers[order], targets[order]), several, axis=0)
        numbers, targets = np.repeat(numbers[order], several, axis=0), np.repeat(targets[order], several)
        steps = some_steps(rng, numbers, living, good)
        batches[k] = make_batch(numbers, targets, steps, living)
        numbers = apply_steps(numbers, steps)
    return batches

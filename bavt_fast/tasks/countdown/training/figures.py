"""Held-out figures: invalid-step rate, pass@1 and the critic's AUC by numbers left."""

from __future__ import annotations

import numpy as np

from bavt_fast.tasks.countdown.training.rollouts import rollout, solved_share
from bavt_fast.tasks.countdown.training.states import (
    SMALL,
    VALIDATION,
    Bools,
    Ints,
    Mix,
    Range,
    apply_steps,
    random_problems,
    solvable,
    split_residue,
)
from bavt_fast.training.figures import auc
from bavt_fast.training.model import JointModel


def held_out_problems(residue: int, count: int, k: int, seed: int, mix: Mix | Range = SMALL) -> tuple[Ints, Ints]:
    """``count`` solvable problems whose numbers fall on one residue of the split, so that none was trained on."""
    rng = np.random.default_rng([seed, residue, k])
    numbers, targets = np.empty((0, k), np.int32), np.empty(0, np.int32)
    while len(numbers) < count:
        more, more_targets = random_problems(rng, 4096, k, mix)
        keep = split_residue(more) == residue
        numbers, targets = np.concatenate([numbers, more[keep]]), np.concatenate([targets, more_targets[keep]])
    return numbers[:count], targets[:count]


def evaluate(
    model: JointModel,
    problems: int,
    seed: int,
    residue: int = VALIDATION,
    k: int = 5,
    temperature: float = 0.7,
    mix: Mix | Range = SMALL,
) -> dict[str, float]:
    """Samples held-out problems once each and grades the steps.

    Returns ``invalid`` (share of sampled steps), ``pass1``, and for n numbers left after a step ``auc<n>``,
    ``brier<n>`` (mean square of value minus label), ``good<n>`` (share of the children still solvable) and ``keep<n>``
    (the same among children of solvable states).
    """
    numbers, targets = held_out_problems(residue, problems, k, seed, mix)
    visits = rollout(model, numbers, targets, temperature, seed)
    steps = sum(len(v.legal) for v in visits)
    figures = {
        "invalid": round(1 - sum(int(v.legal.sum()) for v in visits) / steps, 4),
        "pass1": round(solved_share(visits), 4),
    }
    for visit in visits:
        legal, left = visit.legal, visit.numbers.shape[1] - 1
        if left < 2 or not legal.any():
            continue
        parents, children = visit.numbers[legal], apply_steps(visit.numbers[legal], visit.steps[legal])
        labels = solvable(children, visit.targets[legal])
        alive = solvable(parents, visit.targets[legal])
        values = 1 / (1 + np.exp(-visit.child_logits[legal].astype(np.float64)))
        figures[f"brier{left}"] = round(float(((values - labels) ** 2).mean()), 4)
        figures[f"auc{left}"] = round(auc(visit.child_logits[legal], labels), 4)
        figures[f"good{left}"] = round(float(labels.mean()), 4)
        figures[f"keep{left}"] = round(float(labels[alive].mean()), 4) if alive.any() else float("nan")
    return figures


def graded_states(
    model: JointModel, problems: int, seed: int, mix: Mix | Range, k: int = 5, temperature: float = 0.7
) -> tuple[np.ndarray, Bools]:
    """The value head's logits of the states that sampling visits from validation problems, and which are alive."""
    numbers, targets = held_out_problems(VALIDATION, problems, k, seed, mix)
    logits, labels = [np.empty(0, np.float32)], [np.empty(0, bool)]
    for visit in rollout(model, numbers, targets, temperature, seed):
        legal = visit.legal
        if visit.numbers.shape[1] > 2 and legal.any():
            logits.append(visit.child_logits[legal])
            labels.append(solvable(apply_steps(visit.numbers[legal], visit.steps[legal]), visit.targets[legal]))
    return np.concatenate(logits), np.concatenate(labels)

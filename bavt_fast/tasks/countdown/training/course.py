"""Countdown and the Game of 24 as a `Course`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bavt_fast.folder_settings import FolderSettings
from bavt_fast.tasks.countdown.training.batches import MIXES, STEPS, make_batch, walk
from bavt_fast.tasks.countdown.training.figures import evaluate, graded_states
from bavt_fast.tasks.countdown.training.model import build_tokenizer, new_model
from bavt_fast.tasks.countdown.training.rollouts import rollout
from bavt_fast.tasks.countdown.training.states import SMALL, WIDE, Ints, random_problems
from bavt_fast.training.course import Batch, Sizes
from bavt_fast.training.model import JointModel

__all__ = ["CountdownCourse"]

SEARCH = {"policy": "best_first", "decay": 0.9, "tried_exponent": 1.0, "root_value": 1.0, "discount": 0.97}
"""What did best on validation problems: ``python -m benchmarks.budget.policies``."""
VISITED = ((5, 0.6), (6, 0.2), (4, 0.2))
"""Of the problems that the model visits: numbers, the share of the problems asked for."""
SIBLINGS = 4
"""Steps that it takes from each state it visits."""
PIECE = 8192
"""Visited steps that are labelled at once."""
HELD_OUT = 1000
"""Held-out problems of each range on which a run is calibrated and measured."""
Problems = tuple[Ints, Ints]


class CountdownCourse:
    """What `bavt-fast train` trains the embedded model on. A batch's kind is the numbers in its states."""

    settings = FolderSettings(task="countdown", delimiter=")", head="logit", temperature=0.5, search=SEARCH)
    batch_sizes: Mapping[int, int] = {6: 72, 5: 200, 4: 112, 3: 48, 2: 24}

    def tokenizer(self) -> Any:
        return build_tokenizer()

    def new_model(self, sizes: Sizes) -> JointModel:
        return new_model(sizes)

    def fresh_batches(self, rng: np.random.Generator, wanted: Mapping[int, int]) -> dict[int, Batch]:
        starts, walking = {}, 0
        for k in sorted(wanted, reverse=True):  # top up each level's walkers to what its batch needs
            need = -(-int(wanted[k] * 1.25) // STEPS.get(k, 1)) + 8
            starts[k] = max(need - walking, need // 2) if k > 2 else 0
            walking = (walking + starts[k]) * STEPS.get(k, 1)
        return {k: batch.rows(slice(wanted[k])) for k, batch in walk(rng, starts).items() if k in wanted}

    def starts(self, rng: np.random.Generator, problems: int) -> list[Problems]:
        return [random_problems(rng, int(problems * share), k, MIXES[k]) for k, share in VISITED]

    def visits(self, model: JointModel, starts: Sequence[Problems], seed: int) -> Iterator[tuple[Ints, Ints, Ints]]:
        for k, _ in VISITED:
            found = [piece for piece in starts if piece[0].shape[1] == k]
            if not found:
                continue
            numbers, targets = (np.concatenate(parts) for parts in zip(*found, strict=True))
            for visit in rollout(model, numbers, targets, 1.0, seed=seed, several=SIBLINGS):
                legal = np.flatnonzero(visit.legal)
                for at in range(0, len(legal), PIECE):
                    rows = legal[at : at + PIECE]
                    yield visit.numbers[rows], visit.targets[rows], visit.steps[rows]

    def labelled(self, visit: tuple[Ints, Ints, Ints]) -> Batch:
        return make_batch(*visit)

    def visited_values(self, model: JointModel) -> tuple[np.ndarray, np.ndarray]:
        logits, labels = zip(*(graded_states(model, HELD_OUT, seed=8, mix=mix) for mix in (SMALL, WIDE)), strict=True)
        return np.concatenate(logits), np.concatenate(labels)

    def figures(self, model: JointModel) -> dict[str, float]:
        small = evaluate(model, HELD_OUT, seed=7)
        wide = evaluate(model, HELD_OUT, seed=7, mix=WIDE)
        return {**small, **{f"wide_{name}": value for name, value in wide.items()}}

"""How a model learns water jugs: to write any move of a shortest way, all alike.

    6 0/4 5/9 9/9 \\n | B>A \\n | C>A \\n

A target, a jug and a move are a token each. The prompt and some of the moves from it, side by side as if each stood
there alone, are one row. Layers which are thrown away ask for more:

- At the end of a prompt, and behind each move: how many moves are left.
- At the end of a prompt: for every move whether it comes nearer, leads away, does neither, or changes nothing.
- After half of the layers, at the end of a prompt: the volumes after every move. It is the rule itself.

What tokens of jugs share at the start is the volume, the capacity and the room that is left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from benchmarks.families import training
from benchmarks.families.jugs.puzzles import FAR, JUGS, MOVES, States, Teacher, moved
from benchmarks.families.training import BREAK_ID, FIRST_WORDS, build_llama

STEPS = 2
"""Of a state, how many moves are asked about; which ones is drawn."""
PROMPT = JUGS + 2
"""Tokens: the target, the jugs, the line break."""
MOST_LEFT = 31
"""From here on moves are not told apart."""
FIRST_MOVE = len(FIRST_WORDS)
NEARER, AS_FAR, AWAY, NOTHING = range(4)
BREAK_WEIGHT, LEFT_WEIGHT, BEHIND_WEIGHT, CHANGE_WEIGHT, RULE_WEIGHT = 0.1, 0.5, 0.5, 1.0, 0.5
PART_SCALE = 0.02
"""Of the embeddings' part that jugs of a volume, a capacity or a room share: as large as the rest."""


@dataclass(frozen=True)
class Sizes(training.Sizes):
    """Also how many batches a round has."""

    hidden_size: int = 96
    layers: int = 3
    mlp_size: int = 288
    batch: int = 256
    batches: int = 20


class Losses(NamedTuple):
    """Each one a mean: of the move (as a divergence from the good ones), the break behind it, and what is asked."""

    move: Tensor
    line_break: Tensor
    left: Tensor
    behind: Tensor
    change: Tensor
    rule: Tensor

    def total(self) -> Tensor:
        asked = LEFT_WEIGHT * self.left + BEHIND_WEIGHT * self.behind
        asked = asked + CHANGE_WEIGHT * self.change + RULE_WEIGHT * self.rule
        return self.move + BREAK_WEIGHT * self.line_break + asked


class Batch(NamedTuple):
    """States as rows of tokens, and what is asked.

    Attributes:
        ids: int64 (rows, PROMPT + 2 * STEPS).
        good: bool (rows, moves).
        left: int64 (rows,) and behind: int64 (rows, STEPS): moves left, `MOST_LEFT` at most.
        change: int64 (rows, moves): NEARER, AS_FAR, AWAY or NOTHING.
        after: int64 (rows, moves, jugs): volumes.
    """

    ids: Tensor
    good: Tensor
    left: Tensor
    behind: Tensor
    change: Tensor
    after: Tensor


class Words:
    """The words behind `FIRST_WORDS`, for jugs up to a capacity: the moves, the targets, and a jug of each kind."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.first_target = FIRST_MOVE + len(MOVES) - 1  # the target 1 comes first
        self.first_jug = self.first_target + most + 1
        kinds = [(volume, capacity) for capacity in range(1, most + 1) for volume in range(capacity + 1)]
        self.volumes, self.capacities = (np.array(column) for column in zip(*kinds, strict=True))
        self._numbers = np.zeros((most + 1, most + 1), dtype=np.int64)
        self._numbers[self.volumes, self.capacities] = np.arange(len(kinds))
        targets = [str(target) for target in range(1, most + 1)]
        self.words = [*MOVES, *targets, *(f"{volume}/{capacity}" for volume, capacity in kinds)]

    def prompts(self, states: States) -> np.ndarray:
        """int64 (states, PROMPT)."""
        ids = np.full((len(states.left), PROMPT), BREAK_ID, dtype=np.int64)
        ids[:, 0] = self.first_target + states.targets
        ids[:, 1:-1] = self.first_jug + self._numbers[states.volumes, states.capacities]
        return ids


def build_model(words: Words, sizes: Sizes) -> LlamaForCausalLM:
    """An untrained Llama for jugs of all capacities that there are words for."""
    model = build_llama(sizes, FIRST_MOVE + len(words.words), positions=16)
    with torch.no_grad():
        jugs = model.get_input_embeddings().weight[words.first_jug :][: len(words.volumes)]
        for part in (words.volumes, words.capacities, words.capacities - words.volumes):
            jugs += PART_SCALE * torch.randn(words.most + 1, sizes.hidden_size)[torch.from_numpy(part)]
    return model


def lay_out(states: States, words: Words, random: np.random.Generator) -> Batch:
    """The states as one batch; draws the moves that are asked."""
    there = states.left_behind < FAR
    drawn = np.argsort(-(random.random(there.shape) + there), axis=1)[:, :STEPS]
    ids = np.full((len(there), PROMPT + 2 * STEPS), BREAK_ID, dtype=np.int64)
    ids[:, :PROMPT] = words.prompts(states)
    ids[:, PROMPT::2] = FIRST_MOVE + drawn
    change = np.sign(states.left_behind - states.left[:, None]) + AS_FAR
    columns = (
        ids,
        states.good,
        states.left.clip(max=MOST_LEFT),
        np.take_along_axis(states.left_behind, drawn, axis=1).clip(max=MOST_LEFT),
        np.where(there, change, NOTHING),
        moved(states.volumes, states.capacities),
    )
    return Batch(*(torch.from_numpy(column) for column in columns))


class Student(training.Student):
    """A model that learns water jugs. For the arguments see `training.Student`."""

    def __init__(self, teacher: Teacher, most: int, folder: Path, minutes: float, sizes: Sizes, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.vocabulary = Words(most)
        model, width = build_model(self.vocabulary, sizes), sizes.hidden_size
        asked = {
            "left": nn.Linear(width, MOST_LEFT + 1),
            "behind": nn.Linear(width, MOST_LEFT + 1),
            "change": nn.Linear(width, 4 * len(MOVES)),
            "rule": nn.Linear(width, len(MOVES) * JUGS * (most + 1)),
        }
        self.teacher, self.sizes = teacher, sizes
        self._mask, self._positions = _seen()
        super().__init__(model, asked, self.vocabulary.words, folder, minutes, seed)

    def losses(self, batch: Batch) -> Losses:
        """Of one batch."""
        rows = len(batch.ids)
        found = self.model.model(
            input_ids=batch.ids,
            position_ids=self._positions.expand(rows, -1),
            attention_mask=self._mask.expand(rows, -1, -1, -1),
            output_hidden_states=True,
        )
        hidden, halfway = found.last_hidden_state, found.hidden_states[self.sizes.layers // 2]
        ends = hidden[:, PROMPT - 1]
        moves = self.model.lm_head(ends).log_softmax(-1)[:, FIRST_MOVE : FIRST_MOVE + len(MOVES)]
        count = batch.good.sum(dim=1)
        move = (-(batch.good * moves).sum(dim=1) / count - count.log()).mean()
        line_break = cross_entropy(self.model.lm_head(hidden[:, PROMPT]), torch.full((rows,), BREAK_ID))
        left = cross_entropy(self.asked["left"](ends), batch.left)
        behind = cross_entropy(self.asked["behind"](hidden[:, PROMPT + 1 :: 2]).flatten(0, 1), batch.behind.flatten())
        change = cross_entropy(self.asked["change"](ends).view(-1, 4), batch.change.flatten())
        told = self.asked["rule"](halfway[:, PROMPT - 1]).view(-1, self.vocabulary.most + 1)
        return Losses(move, line_break, left, behind, change, cross_entropy(told, batch.after.flatten()))

    def batches_of(self, number: int) -> Iterator[Batch]:
        """Of states that depend on the number alone."""
        random, size = np.random.default_rng([self.seed, number]), self.sizes.batch
        states = self.teacher.states(size * self.sizes.batches, number)
        for first in range(0, len(states.left), size):
            yield lay_out(states.take(slice(first, first + size)), self.vocabulary, random)


def _seen() -> tuple[Tensor, Tensor]:
    """What every token of a row sees (0, or a large negative number), and its position: each move sees the prompt and
    itself, and follows the prompt."""
    tokens = PROMPT + 2 * STEPS
    sees = np.tri(tokens, dtype=bool)
    sees[PROMPT:, PROMPT:] = np.kron(np.eye(STEPS, dtype=bool), np.tri(2, dtype=bool))
    positions = [*range(PROMPT), *[PROMPT, PROMPT + 1] * STEPS]
    mask = torch.zeros(1, 1, tokens, tokens).masked_fill_(~torch.from_numpy(sees), -1e9)
    return mask, torch.tensor([positions])

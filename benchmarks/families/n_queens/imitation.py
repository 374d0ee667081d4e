"""How a model learns n queens: to write any queen with which the board can be completed, all alike.

Three linear layers, which are thrown away, ask for more:

- Behind a step, and at every square that could be one: whether the board can be completed with it.
- At the end of a prompt: whether the board can be completed.
- After half of the layers, at every square: how many free squares a queen there leaves in each row below (0, 1, more).
  Of all three this teaches the most, for every token of a prompt has an answer: the rule itself, which what comes
  later in the layers can build on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import LlamaForCausalLM

from benchmarks.families import training
from benchmarks.families.n_queens.boards import Teacher
from benchmarks.families.n_queens.lessons import FIRST_SQUARE, Batch, batches, words_of
from benchmarks.families.training import BREAK_ID, build_llama

JUDGED_WEIGHT, WHOLE_WEIGHT, RULE_WEIGHT, BREAK_WEIGHT = 1.0, 0.3, 1.0, 0.1
LOST_WEIGHT = 0.1
"""Of a state that is lost, where any free square is as good as another; a step is to be written all the same."""
LINE_SCALE = 0.02
"""Of the embeddings' part that squares of a line share: as large as the rest."""
EASY_SHARE = 0.25
"""Of the time, how long boards lack few queens: their prompts are short, and the rule is the same."""
LEFT = 3
"""What is told apart of the squares left in a row: none, one, more."""


@dataclass(frozen=True)
class Sizes(training.Sizes):
    """Also how many games a round has, and how many queens their boards lack, first and later."""

    games: int = 1000
    easy: tuple[int, int] = (4, 7)
    missing: tuple[int, int] = (7, 10)


class Losses(NamedTuple):
    """Each one a mean: of the queen (as a divergence from the good ones), the break behind it, and what is asked."""

    queen: Tensor
    line_break: Tensor
    judged: Tensor
    whole: Tensor
    rule: Tensor

    def total(self) -> Tensor:
        asked = JUDGED_WEIGHT * self.judged + WHOLE_WEIGHT * self.whole + RULE_WEIGHT * self.rule
        return self.queen + BREAK_WEIGHT * self.line_break + asked


def build_model(size: int, sizes: Sizes) -> LlamaForCausalLM:
    """An untrained Llama for boards of one size. What squares share at the start is a row, a column or a diagonal."""
    model = build_llama(sizes, FIRST_SQUARE + size * size, positions=size * (size + 1) + 8)
    rows, columns = torch.arange(size).repeat_interleave(size), torch.arange(size).repeat(size)
    with torch.no_grad():
        squares = model.get_input_embeddings().weight[FIRST_SQUARE : FIRST_SQUARE + size * size]
        for line in (rows, columns, rows + columns, rows - columns + size):
            squares += LINE_SCALE * torch.randn(2 * size, sizes.hidden_size)[line]
    return model


class Student(training.Student):
    """A model that learns n queens.

    Args:
        folder: where the model goes, and the checkpoint until it is done.
        minutes: of one core, whoever else is at work on the machine.
    """

    def __init__(self, teacher: Teacher, folder: Path, minutes: float, sizes: Sizes, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.size = teacher.solutions.shape[1]
        model, width = build_model(self.size, sizes), sizes.hidden_size
        asked = {
            "judged": nn.Linear(width, 1),
            "could_be": nn.Linear(width, 1),
            "whole": nn.Linear(width, 1),
            "rule": nn.Linear(width, LEFT * self.size),
        }
        self.teacher, self.sizes = teacher, sizes
        self._squares_apart = _apart(self.size)
        super().__init__(model, asked, words_of(self.size), folder, minutes, seed)

    def losses(self, batch: Batch) -> Losses:
        """Of one batch."""
        places, width, size = torch.arange(len(batch.ids)), batch.width, self.size
        mask = torch.zeros(batch.mask.shape).masked_fill_(~batch.mask, -1e9)
        found = self.model.model(
            input_ids=batch.ids, position_ids=batch.positions, attention_mask=mask, output_hidden_states=True
        )
        hidden, halfway = found.last_hidden_state, found.hidden_states[self.sizes.layers // 2]
        ends = hidden[places, batch.lengths - 1]
        free = batch.free[places, batch.rows]
        columns = FIRST_SQUARE + size * batch.rows[:, None] + torch.arange(size)
        queen = _divergence(self.model.lm_head(ends).log_softmax(-1).gather(1, columns), batch.good, free)
        asked = batch.steps >= 0
        after_step = hidden[:, width + 1 :: 2][asked]
        written = self.model.lm_head(hidden[:, width::2][asked])
        breaks = cross_entropy(written, torch.full((len(written),), BREAK_ID))
        is_good = batch.good.gather(1, batch.steps.clamp(min=0))[asked].float()
        judged = binary_cross_entropy_with_logits(self.asked["judged"](after_step).squeeze(1), is_good)
        could_be = batch.squares[:, :width] // size == batch.rows[:, None]  # -1 is in no row
        at, good = hidden[:, :width][could_be], batch.good[free].float()
        judged = judged + 0.5 * binary_cross_entropy_with_logits(self.asked["could_be"](at).squeeze(1), good)
        alive = batch.good.any(dim=1).float()
        whole = binary_cross_entropy_with_logits(self.asked["whole"](ends).squeeze(1), alive)
        return Losses(queen, breaks, judged, whole, self._rule(batch, halfway))

    def _rule(self, batch: Batch, hidden: Tensor) -> Tensor:
        """Of the squares that a queen leaves: asked at every square of a prompt, and behind every step."""
        width, size = batch.width, self.size
        left = torch.einsum("brc,src->bsr", batch.free.float(), self._squares_apart).clamp(max=LEFT - 1).long()
        squares = batch.squares.clone()
        squares[:, width + 1 :: 2] = squares[:, width::2]  # at the line break once more
        rows, places = torch.nonzero(squares >= 0, as_tuple=True)
        named = squares[rows, places]
        counts = batch.empty[rows] & (torch.arange(size) > (named // size)[:, None])
        if not counts.any():
            return hidden.sum() * 0.0
        told = self.asked["rule"](hidden[rows, places]).view(-1, size, LEFT)
        return 2.0 * cross_entropy(told[counts], left[rows, named][counts])

    def batches_of(self, number: int) -> Iterator[Batch]:
        """Of so many games, which depend on the number alone; easy ones at first."""
        least, most = self.sizes.easy if self.progress < EASY_SHARE else self.sizes.missing
        states = self.teacher.states(self.sizes.games, number, least, most)
        yield from batches(states, self.sizes.batch, np.random.default_rng([self.seed, number]))


def _divergence(log_chances: Tensor, good: Tensor, free: Tensor) -> Tensor:
    """Of the queen that is written from one drawn evenly from the good ones, or from the free ones where none is good.

    All (rows, size), by columns; a mean over the rows, those that are lost counting less.
    """
    alive = good.any(dim=1)
    wanted = torch.where(alive[:, None], good, free).float()
    count = wanted.sum(dim=1)
    weights = torch.where(alive, 1.0, LOST_WEIGHT) * (count > 0)
    rows = -(wanted * log_chances).sum(dim=1) / count.clamp(min=1.0) - count.clamp(min=1.0).log()
    return (weights * rows).sum() / weights.sum().clamp(min=1e-6)


def _apart(size: int) -> Tensor:
    """float32 (squares, row, column): 1 where a queen on a square does not attack."""
    rows, columns = torch.arange(size).repeat_interleave(size), torch.arange(size).repeat(size)
    aside, below = (columns[:, None] - columns).abs(), (rows[:, None] - rows).abs()
    return ((aside != 0) & (aside != below)).float().view(size * size, size, size)

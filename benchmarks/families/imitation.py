"""A small language model that learns n queens from nothing, by imitation, on one core.

It is a plain Llama with a tokenizer of a word a token, saved as transformers saves them, so that `bavt_fast.load` takes
the folder like any other. It learns to write the next queen: any of those with which the board can be completed, all
alike. Three linear layers, which are thrown away, ask for more: a model of this size has read nothing else, and what it
knows of its mistakes is what a critic can read out of it.

- Behind a step, and at every square that could be one: whether the board can be completed with it.
- At the end of a prompt: whether the board can be completed.
- After half of the layers, at every square: how many free squares a queen there leaves in each row below (0, 1, more).
  Of all three this teaches the most, for every token of a prompt has an answer: the rule itself, which what comes
  later in the layers can build on.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.families.boards import Teacher
from benchmarks.families.lessons import BREAK_ID, FIRST_SQUARE, Batch, batches, build_tokenizer, words_of

CHECKPOINT = "training.pt"
JUDGED_WEIGHT, WHOLE_WEIGHT, RULE_WEIGHT, BREAK_WEIGHT = 1.0, 0.3, 1.0, 0.1
LOST_WEIGHT = 0.1
"""Of a state that is lost, where any free square is as good as another; a step is to be written all the same."""
LINE_SCALE = 0.02
"""Of the embeddings' part that squares of a line share: as large as the rest."""
ADAM_RATE, MUON_RATE = 2e-3, 0.02
WARM_UP_STEPS = 50
EASY_SHARE = 0.25
"""Of the time, how long boards lack few queens: their prompts are short, and the rule is the same."""
LEFT = 3
"""What is told apart of the squares left in a row: none, one, more."""


@dataclass(frozen=True)
class Sizes:
    """Of the model and of what it is shown at a time, and how many queens the boards lack, first and later."""

    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    mlp_size: int = 384
    batch: int = 48
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
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=-(-len(words_of(size)) // 8) * 8,
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.mlp_size,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            max_position_embeddings=size * (size + 1) + 8,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
            dtype="float32",
            attn_implementation="eager",
        )
    )
    rows, columns = torch.arange(size).repeat_interleave(size), torch.arange(size).repeat(size)
    with torch.no_grad():
        squares = model.get_input_embeddings().weight[FIRST_SQUARE : FIRST_SQUARE + size * size]
        for line in (rows, columns, rows + columns, rows - columns + size):
            squares += LINE_SCALE * torch.randn(2 * size, sizes.hidden_size)[line]
    return model


class Student:
    """A model in training, with what it takes to go on after an interruption.

    Args:
        folder: where the model goes, and the checkpoint until it is done.
        minutes: of one core, whoever else is at work on the machine.
    """

    def __init__(self, teacher: Teacher, folder: Path, minutes: float, sizes: Sizes, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.size = teacher.solutions.shape[1]
        self.model = build_model(self.size, sizes)
        width = sizes.hidden_size
        self.asked = nn.ModuleDict(
            {
                "judged": nn.Linear(width, 1),
                "could_be": nn.Linear(width, 1),
                "whole": nn.Linear(width, 1),
                "rule": nn.Linear(width, LEFT * self.size),
            }
        )
        matrices = [p for name, p in self.model.named_parameters() if p.ndim == 2 and ".layers." in name]
        chosen = {id(p) for p in matrices}
        others = [p for p in [*self.model.parameters(), *self.asked.parameters()] if id(p) not in chosen]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01),
            torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.01),
        ]
        self.teacher, self.folder, self.sizes, self.seed = teacher, folder, sizes, seed
        self.seconds, self.spent_s, self.steps, self.rounds = 60.0 * minutes, 0.0, 0, 0
        self._squares_apart = _apart(self.size)
        if (folder / CHECKPOINT).is_file():
            self._resume()

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

    def batches(self) -> Iterator[Batch]:
        """Without end; the games of a round depend on its number alone."""
        while True:
            least, most = self.sizes.easy if self.spent_s < EASY_SHARE * self.seconds else self.sizes.missing
            states = self.teacher.states(self.sizes.games, self.rounds, least, most)
            yield from batches(states, self.sizes.batch, np.random.default_rng([self.seed, self.rounds]))
            self.rounds += 1

    def train(self, checkpoint_every_s: float = 60.0) -> None:
        """Until the time is over; then the folder holds the model and no checkpoint."""
        saved_s, lessons = self.spent_s, self.batches()
        self.model.train()
        while self.spent_s < self.seconds:
            start_s = time.process_time()
            self._set_rates()
            losses = self.losses(next(lessons))
            losses.total().backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimizer in self.optimizers:
                optimizer.step()
                optimizer.zero_grad()
            self.steps += 1
            self.spent_s += time.process_time() - start_s
            if self.steps % 100 == 0:
                told = ", ".join(f"{name} {float(loss.detach()):.4f}" for name, loss in losses._asdict().items())
                print(f"{self.spent_s:.0f} s, {self.steps} steps: {told}", flush=True)
            if self.spent_s - saved_s > checkpoint_every_s:
                saved_s = self.spent_s
                self._checkpoint()
        self.save()

    def _set_rates(self) -> None:
        """Up in a few steps, and down in a line in the second half of the time."""
        left = max(0.0, 1.0 - self.spent_s / self.seconds)
        factor = min(1.0, (self.steps + 1) / WARM_UP_STEPS) * (0.005 + min(1.0, 2.0 * left))
        for optimizer, rate in zip(self.optimizers, (ADAM_RATE, MUON_RATE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def save(self) -> None:
        """The model as transformers saves it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model.eval().half().save_pretrained(self.folder)
        build_tokenizer(self.size).save_pretrained(self.folder)
        (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def _checkpoint(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / f"{CHECKPOINT}.new"
        kept: dict[str, Any] = {
            "model": self.model.state_dict(),
            "asked": self.asked.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": (self.spent_s, self.steps, self.rounds + 1),
        }
        torch.save(kept, fresh)
        fresh.replace(self.folder / CHECKPOINT)

    def _resume(self) -> None:
        kept = torch.load(self.folder / CHECKPOINT, weights_only=True)
        self.model.load_state_dict(kept["model"])
        self.asked.load_state_dict(kept["asked"])
        for optimizer, state in zip(self.optimizers, kept["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.spent_s, self.steps, self.rounds = kept["progress"]


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

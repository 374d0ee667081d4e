"""A small language model that learns n queens from nothing, by imitation, on one core.

It is a plain Llama with a tokenizer of a word a token, saved as transformers saves them, so that `bavt_fast.load` takes
the folder like any other. It learns two things from the texts of `boards`: to write the next queen of a solution, and,
by a linear layer that is thrown away, whether the board can still be completed. The second is there because a model of
this size has read nothing else: what it knows of its mistakes is what a critic can read out of it.
"""

from __future__ import annotations

import math
import string
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.families.boards import Teacher, Texts

PAD, UNKNOWN, BREAK = "[PAD]", "[UNK]", "\n"
CHECKPOINT = "training.pt"
VALUE_WEIGHT = 0.5
LINE_SCALE = 0.02
"""Of the embeddings' part that squares of a line share: as large as the rest."""
PEAK_RATE = 4e-3
WARM_UP_STEPS = 60


@dataclass(frozen=True)
class Sizes:
    """Of the model and of what it is shown at a time."""

    hidden_size: int = 160
    layers: int = 3
    heads: int = 5
    mlp_size: int = 448
    texts: int = 192


def words_of(size: int) -> dict[str, int]:
    """Ids: two control tokens, the line break, the size, and the squares, row by row."""
    squares = [f"{column}{row}" for row in range(1, size + 1) for column in string.ascii_lowercase[:size]]
    return {word: place for place, word in enumerate([PAD, UNKNOWN, BREAK, str(size), *squares])}


FIRST_SQUARE = 4


def build_tokenizer(size: int) -> PreTrainedTokenizerFast:
    """A square is a token, and so is the line break."""
    tokenizer = Tokenizer(models.WordLevel(words_of(size), unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\n|[^\n]+"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
    )


def build_model(size: int, sizes: Sizes) -> LlamaForCausalLM:
    """An untrained Llama for boards of one size. What squares share at the start is a row, a column or a diagonal."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=-(-len(words_of(size)) // 8) * 8,
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.mlp_size,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            max_position_embeddings=2 * size + 6,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
            dtype="float32",
        )
    )
    rows, columns = torch.arange(size).repeat_interleave(size), torch.arange(size).repeat(size)
    with torch.no_grad():
        squares = model.get_input_embeddings().weight[FIRST_SQUARE : FIRST_SQUARE + size * size]
        for line in (rows, columns, rows + columns, rows - columns + size):
            squares += LINE_SCALE * torch.randn(2 * size, sizes.hidden_size)[line]
    return model


def as_tokens(texts: Texts) -> Tensor:
    """int64 (texts, 2 + 2 * size): the size, then square after square, a line break behind each."""
    count, size = texts.rows.shape
    ids = torch.full((count, 2 + 2 * size), words_of(size)[BREAK])
    ids[:, 0] = words_of(size)[str(size)]
    ids[:, 2::2] = torch.from_numpy(FIRST_SQUARE + size * texts.rows + texts.columns)
    return ids


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
        self.judge = nn.Linear(sizes.hidden_size, 1)
        parameters = [*self.model.parameters(), *self.judge.parameters()]
        self.optimizer = torch.optim.AdamW(parameters, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05)
        self.teacher, self.folder, self.sizes = teacher, folder, sizes
        self.seconds, self.spent_s, self.steps = 60.0 * minutes, 0.0, 0
        if (folder / CHECKPOINT).is_file():
            self._resume()

    def losses(self, texts: Texts) -> tuple[Tensor, Tensor]:
        """Of the next queen and of the line break behind each, and of whether the board can be completed."""
        ids = as_tokens(texts)
        states = self.model.model(ids).last_hidden_state
        breaks, squares = states[:, 1:-1:2], states[:, 2::2]  # what is seen before a queen, and with it
        right = torch.from_numpy(texts.right)
        imitation = cross_entropy(self.model.lm_head(breaks[right]), ids[:, 2::2][right])
        ends = cross_entropy(self.model.lm_head(states[:, 0::2].flatten(0, 1)), ids[:, 1::2].flatten())
        steps = torch.arange(self.size)
        shown = steps >= torch.from_numpy(texts.prompts)[:, None]
        verdicts = self.judge(squares).squeeze(2)[shown]
        judged = binary_cross_entropy_with_logits(verdicts, torch.from_numpy(texts.alive)[shown].float())
        return imitation + 0.1 * ends, judged

    def train(self, checkpoint_every_s: float = 60.0) -> None:
        """Until the time is over; then the folder holds the model and no checkpoint."""
        saved_s = self.spent_s
        self.model.train()
        while self.spent_s < self.seconds:
            start_s = time.process_time()
            texts = self.teacher.batch(self.sizes.texts, self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = self._rate()
            imitation, judged = self.losses(texts)
            self.optimizer.zero_grad()
            (imitation + VALUE_WEIGHT * judged).backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.steps += 1
            self.spent_s += time.process_time() - start_s
            if self.steps % 50 == 0:
                print(f"{self.spent_s:.0f} s, {self.steps} steps: {imitation:.4f}, {judged:.4f}", flush=True)
            if self.spent_s - saved_s > checkpoint_every_s:
                saved_s = self.spent_s
                self._checkpoint()
        self.save()

    def _rate(self) -> float:
        """Up in a few steps, then down along a cosine of the time that has passed."""
        over = min(1.0, self.spent_s / self.seconds)
        return PEAK_RATE * min(1.0, (self.steps + 1) / WARM_UP_STEPS) * (0.02 + 0.49 * (1.0 + math.cos(math.pi * over)))

    def save(self) -> None:
        """The model as transformers saves it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model.eval().half().save_pretrained(self.folder)
        build_tokenizer(self.size).save_pretrained(self.folder)
        (self.folder / CHECKPOINT).unlink(missing_ok=True)

    def _checkpoint(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = self.folder / f"{CHECKPOINT}.new"
        torch.save(
            {
                "model": self.model.state_dict(),
                "judge": self.judge.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "progress": (self.spent_s, self.steps),
            },
            fresh,
        )
        fresh.replace(self.folder / CHECKPOINT)

    def _resume(self) -> None:
        kept = torch.load(self.folder / CHECKPOINT, weights_only=True)
        self.model.load_state_dict(kept["model"])
        self.judge.load_state_dict(kept["judge"])
        self.optimizer.load_state_dict(kept["optimizer"])
        self.spent_s, self.steps = kept["progress"]

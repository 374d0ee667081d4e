"""A small language model that learns a family from nothing, by imitation, on one core.

It is a plain Llama with a tokenizer of a word a token, saved as transformers saves them, so that `bavt_fast.load` takes
the folder like any other. What it learns to write, and what it is asked beside it by layers that are thrown away, is
each family's own: a model of this size has read nothing else, and what it knows of its mistakes is what a critic can
read out of it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, UNKNOWN, BREAK = "[PAD]", "[UNK]", "\n"
FIRST_WORDS = (PAD, UNKNOWN, BREAK)
"""Of every vocabulary: two control tokens and the line break."""
BREAK_ID = FIRST_WORDS.index(BREAK)
CHECKPOINT = "training.pt"
ADAM_RATE, MUON_RATE = 2e-3, 0.02
WARM_UP_STEPS = 50


@dataclass(frozen=True)
class Sizes:
    """Of a model, and of what it is shown at a time."""

    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    mlp_size: int = 384
    batch: int = 48


class Losses(Protocol):
    """What one batch has shown: a named tuple of means, and their sum as it is trained on."""

    def total(self) -> Tensor: ...

    def _asdict(self) -> dict[str, Tensor]: ...


def build_llama(sizes: Sizes, words: int, positions: int) -> LlamaForCausalLM:
    """An untrained Llama for so many words and positions."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=-(-words // 8) * 8,
            hidden_size=sizes.hidden_size,
            intermediate_size=sizes.mlp_size,
            num_hidden_layers=sizes.layers,
            num_attention_heads=sizes.heads,
            max_position_embeddings=positions,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
            dtype="float32",
            attn_implementation="eager",
        )
    )


def build_tokenizer(words: Sequence[str]) -> PreTrainedTokenizerFast:
    """A word is a token, and so is the line break; a space is none. `FIRST_WORDS` come first."""
    ids = {word: place for place, word in enumerate([*FIRST_WORDS, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", behavior="removed"), pre_tokenizers.Split(Regex(r"\n"), behavior="isolated")]
    )
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, unk_token=UNKNOWN, clean_up_tokenization_spaces=False
    )


class Student(ABC):
    """A model in training, with what it takes to go on after an interruption. A family says what it learns.

    Args:
        model: untrained.
        asked: the layers that are thrown away, by name.
        words: of the tokenizer, behind `FIRST_WORDS`.
        folder: where the model goes, and the checkpoint until it is done.
        minutes: of one core, whoever else is at work on the machine.
    """

    def __init__(
        self,
        model: LlamaForCausalLM,
        asked: Mapping[str, nn.Module],
        words: Sequence[str],
        folder: Path,
        minutes: float,
        seed: int,
    ) -> None:
        self.model, self.asked, self.words = model, nn.ModuleDict(asked), words
        matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layers." in name]
        chosen = {id(p) for p in matrices}
        others = [p for p in [*model.parameters(), *self.asked.parameters()] if id(p) not in chosen]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(others, lr=ADAM_RATE, betas=(0.9, 0.98), weight_decay=0.01),
            torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.01),
        ]
        self.folder, self.seed = folder, seed
        self.seconds, self.spent_s, self.steps, self.rounds = 60.0 * minutes, 0.0, 0, 0
        if (folder / CHECKPOINT).is_file():
            self._resume()

    @abstractmethod
    def losses(self, batch: Any) -> Losses:
        """Of one batch."""

    @abstractmethod
    def batches_of(self, number: int) -> Iterator[Any]:
        """The batches of one round; they depend on its number alone, and on `progress`."""

    @property
    def progress(self) -> float:
        """The share of the time that has passed."""
        return self.spent_s / self.seconds

    def batches(self) -> Iterator[Any]:
        """Without end."""
        while True:
            yield from self.batches_of(self.rounds)
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
        left = max(0.0, 1.0 - self.progress)
        factor = min(1.0, (self.steps + 1) / WARM_UP_STEPS) * (0.005 + min(1.0, 2.0 * left))
        for optimizer, rate in zip(self.optimizers, (ADAM_RATE, MUON_RATE), strict=True):
            for group in optimizer.param_groups:
                group["lr"] = rate * factor

    def save(self) -> None:
        """The model as transformers saves it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model.eval().half().save_pretrained(self.folder)
        build_tokenizer(self.words).save_pretrained(self.folder)
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

"""A task of a few lines to train on, which has nothing to do with any that ships: counting on by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

from bavt_fast.folder_settings import FolderSettings
from bavt_fast.training.course import Batch, Layout, Sizes
from bavt_fast.training.model import JointModel

LARGEST = 20
DOT = LARGEST + 1
WORDS = [*map(str, range(LARGEST + 1)), ".", "[PAD]"]


class CountingCourse:
    """States "n n+1 ..." of `kind` numbers; the step is the number that follows, then a dot. Large numbers are dead.

    A state of one or two numbers has two successors: the number that follows, and one more that does not exist.
    """

    settings = FolderSettings(task="text", delimiter=".", head="value", task_options={"max_depth": 3})
    batch_sizes: Mapping[int, int] = {1: 8, 2: 4}

    def __init__(self) -> None:
        self.visited = 0

    def tokenizer(self) -> Any:
        tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[PAD]"))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[PAD]")

    def new_model(self, sizes: Sizes) -> JointModel:
        return JointModel(
            successors={1: 2, 2: 2},
            config=LlamaConfig(
                vocab_size=len(WORDS),
                hidden_size=sizes.hidden_size,
                intermediate_size=sizes.mlp_size,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                max_position_embeddings=32,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=len(WORDS) - 1,
                dtype="float32",
            ),
        )

    def fresh_batches(self, rng: np.random.Generator, wanted: Mapping[int, int]) -> dict[int, Batch]:
        return {kind: self.batch(rng, kind, count) for kind, count in wanted.items()}

    def starts(self, rng: np.random.Generator, problems: int) -> list[np.ndarray]:
        return [rng.integers(0, LARGEST - 1, problems)]

    def visits(self, model: JointModel, starts: Sequence[np.ndarray], seed: int) -> Iterator[np.ndarray]:
        assert not model.training
        self.visited += 1
        yield from starts

    def labelled(self, visit: np.ndarray) -> Batch:
        return self.sequences(visit, 1)

    def visited_values(self, model: JointModel) -> tuple[np.ndarray, np.ndarray]:
        assert not model.training
        batch = self.batch(np.random.default_rng(1), 1, 64)
        with torch.no_grad():
            _, values, _ = model.read(model(batch.ids), batch.layout.value_positions, batch.layout.step_start)
        return values[:, 1].numpy(), batch.labels[:, 1].numpy() == 1

    def figures(self, model: JointModel) -> dict[str, float]:
        assert not model.training
        batch = self.batch(np.random.default_rng(0), 1, 64)
        with torch.no_grad():
            logits, *_ = model.read(model(batch.ids), batch.layout.value_positions, batch.layout.step_start)
        return {"right": float((logits[:, 0].argmax(-1) == batch.ids[:, 1]).float().mean())}

    @staticmethod
    def batch(rng: np.random.Generator, kind: int, count: int) -> Batch:
        return CountingCourse.sequences(rng.integers(0, LARGEST - kind, count), kind)

    @staticmethod
    def sequences(first: np.ndarray, kind: int) -> Batch:
        """Those that begin with these numbers."""
        count = len(first)
        numbers = torch.from_numpy((first[:, None] + np.arange(kind + 1)).astype(np.int32))
        ids = torch.cat([numbers, torch.full((count, 1), DOT, dtype=torch.int32)], dim=1)
        alive = (numbers[:, [kind - 1, kind]] < LARGEST // 2).float()
        after = (numbers[:, kind] + 1 < LARGEST // 2).to(torch.int8)
        layout = Layout(kind + 2, kind, 1, (kind - 1, kind), (kind, kind + 1 if kind < 2 else 0))
        successors = [
            torch.stack([labels, torch.full_like(labels, -1)], 1) for labels in (alive[:, 1].to(torch.int8), after)
        ]
        return Batch(
            kind,
            layout,
            ids,
            alive,
            choice_ids=numbers[:, kind, None, None],
            choice_weights=torch.ones(count, 1, 1),
            successors=(successors[0], successors[1] if kind < 2 else None),
        )

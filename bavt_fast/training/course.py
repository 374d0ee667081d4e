"""What a task brings to its training, and the shape of the batches that it hands over."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from bavt_fast.folder_settings import FolderSettings
from bavt_fast.training.model import JointModel

__all__ = ["Batch", "Course", "Layout", "Sizes", "combined", "concatenate"]


@dataclass(frozen=True)
class Sizes:
    """The sizes of a model: width, layers, width inside a layer's MLP, attention heads."""

    hidden_size: int
    layers: int
    mlp_size: int
    heads: int


@dataclass(frozen=True)
class Layout:
    """Where things stand in the sequences of a batch, all of one length: a state, then one step from it.

    The step begins at `step_start`. Its first `choice_length` tokens choose; those behind them follow from the choice.
    The value head is read at `value_positions`: first the state's, then the step's. `successor_kinds` are the kinds of
    the states that stand there, keys of `JointModel`'s successor heads; 0 for a state without successors.
    """

    length: int
    step_start: int
    choice_length: int
    value_positions: tuple[int, int]
    successor_kinds: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Batch:
    """Sequences of one kind, which is a key of `Course.batch_sizes`.

    ids int32 (batch, length); labels float32 (batch, 2): whether an answer can be reached from the state and after the
    step.

    What the choosing tokens should be, given those before them, is a distribution: choice_ids int32 and choice_weights
    float32 (batch, choice_length, words). The weights of a token add up to 1, or to 0 where nothing is to be learnt:
    behind a wrong choice, and in a state without a good step.

    successors: int8 (batch, steps) for each of the two states: 1 where that step leads to a state from which an answer
    can be reached, 0 where it does not, -1 where there is no such step. None for a state without successors.
    """

    kind: int
    layout: Layout
    ids: torch.Tensor
    labels: torch.Tensor
    choice_ids: torch.Tensor
    choice_weights: torch.Tensor
    successors: tuple[torch.Tensor | None, torch.Tensor | None] = (None, None)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, rows: torch.Tensor | slice) -> Batch:
        return self.mapped(lambda part: part[rows])

    def mapped(self, how: Callable[[Any], Any]) -> Batch:
        """The same of every tensor."""
        return combined([self], lambda parts: how(parts[0]))


def concatenate(batches: list[Batch], limit: int) -> Batch:
    """One batch of the first ``limit`` sequences of several of one kind."""
    return combined(batches, lambda parts: torch.cat(parts)[:limit])


def combined(batches: list[Batch], how: Callable[[list[Any]], Any]) -> Batch:
    """One batch made of several of one kind, tensor by tensor."""
    first = batches[0]
    tensors = {
        name: how([getattr(batch, name) for batch in batches])
        for name in ("ids", "labels", "choice_ids", "choice_weights")
    }
    state, step = (
        how([labels for labels in column if labels is not None]) if column[0] is not None else None
        for column in zip(*(batch.successors for batch in batches), strict=True)
    )
    return Batch(first.kind, first.layout, **tensors, successors=(state, step))


class Course(Protocol):
    """A task's half of the training. It is pickled for processes that make batches."""

    @property
    def settings(self) -> FolderSettings:
        """What the model folder will say besides its weights."""

    @property
    def batch_sizes(self) -> Mapping[int, int]:
        """Sequences of an update by kind, unless the run's configuration has other numbers."""

    def tokenizer(self) -> Any:
        """The tokenizer of the model, as transformers knows it."""

    def new_model(self, sizes: Sizes) -> JointModel:
        """An untrained model that fits the tokenizer."""

    def fresh_batches(self, rng: np.random.Generator, wanted: Mapping[int, int]) -> dict[int, Batch]:
        """New sequences, by kind: about as many as wanted of each, seldom fewer. Nothing held out is among them.

        Called from a thread or process of its own, as `starts` and `labelled` are.
        """

    def starts(self, rng: np.random.Generator, problems: int) -> list[Any]:
        """About so many new problems, as pieces for `visits`."""

    def visits(self, model: JointModel, starts: Sequence[Any], seed: int) -> Iterator[Any]:
        """What the model, in evaluation mode, comes to by itself from such pieces, of one `starts` or of many.

        These are pieces for `labelled`, with nothing in them that is on a GPU.
        """

    def labelled(self, visit: Any) -> Batch:
        """The sequences of a piece. Nothing held out is among them."""

    def visited_values(self, model: JointModel) -> tuple[np.ndarray, np.ndarray]:
        """Of the states that the model, in evaluation mode, comes to from held-out problems: the value head's logits,
        and whether an answer can be reached, float (states,) and bool (states,)."""

    def figures(self, model: JointModel) -> dict[str, float]:
        """How good the model, in evaluation mode, is on the same held-out problems each time, for the log."""

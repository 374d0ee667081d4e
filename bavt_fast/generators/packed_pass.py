"""Rows that decode and the prompts of new ones in one forward pass.

A pass of a small model takes nearly as long for a prompt alone as for a prompt and eight more tokens: most of it is
reading the weights, and the calls themselves. So all tokens go in as one sequence, and a mask keeps them apart: a row's
token sees its own row in the window, a prompt's token what stands before it in the prompt.

    keys      row 0  | row 1  | prompt
    row 0     . x x x|        |
    row 1            |x x x x |
    prompt           |        |x
                     |        |x x

Every token is compared with every key, which grows with the square of the rows: it is done where that costs less than
a pass of its own would.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache

from bavt_fast.generators.forward import Forward
from bavt_fast.generators.kv_cache import KeyValues, KeyValueWindow, Layout, StoredStates
from bavt_fast.generators.static_decode import takes_masks, window_of

__all__ = ["PackedPass"]

_WORTH = 4
"""A pass by itself is worth comparing as many tokens with keys as the model has weights, this many times."""


class PackedPass:
    """Computes passes of rows and prompts, for models that take a mask of any shape as it is.

    Args:
        forward, layout: the model.

    Attributes:
        is_on: off for a model that cannot do it, or that was seen to give other logits.
    """

    def __init__(self, forward: Forward, layout: Layout) -> None:
        facts = forward.facts
        self.forward = forward
        self.layout = layout
        self.is_on = takes_masks(forward) and forward.model is facts.core  # torch.compile would compile every shape
        self._longest = window_of(facts.config)
        self._most_compared = _WORTH * facts.num_weights // max(1, facts.hidden_size * facts.num_layers)
        self._checked = 0  # rows up to this length gave the same as plain passes

    def suits(self, rows: int, longest: int, prompts: Sequence[int]) -> bool:
        """Whether it pays to compute prompts of so many tokens beside so many rows, none longer than `longest`."""
        tokens, keys = rows + sum(prompts), rows * (longest + 1) + sum(prompts)
        return self.is_on and max(longest, *prompts) < self._longest and tokens * keys <= self._most_compared

    def decode(
        self, window: KeyValueWindow, tokens: Tensor, lengths: Sequence[int], prompts: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor, list[StoredStates]]:
        """One token of each row of a window, which has room for it, and whole prompts.

        Returns:
            Logits (rows + prompts, vocabulary) and hidden states (rows + prompts, H) of each last token, and the states
            of each prompt.
        """
        rows, columns = len(lengths), max(lengths) + 1
        window.begin = window.end - max(lengths)
        ends = np.cumsum([len(ids) for ids in prompts]).tolist()
        begins = [0, *ends[:-1]]
        cache = _PackedCache(window, rows, ends[-1])
        ids = torch.cat([tokens, torch.tensor([token for prompt in prompts for token in prompt])])
        positions = torch.tensor([*lengths, *(place for prompt in prompts for place in range(len(prompt)))])
        sees = _sees(lengths, columns, list(zip(begins, ends, strict=True)))
        kept = torch.tensor([*range(rows), *(rows + end - 1 for end in ends)])
        logits, hidden = self.forward(ids[None], self._mask(sees[None]), positions[None], cache, kept)
        first = rows * columns
        states = [
            [lane[:, :, first + begin : first + end].clone() for lane in cache.lanes]
            for begin, end in zip(begins, ends, strict=True)
        ]
        return logits, hidden, states

    def mask_of_rows(self, lengths: Sequence[int]) -> Tensor | None:
        """The mask of a pass of these rows alone, where the model was seen to take masks as they are; else None.

        It saves the model making one of its own, a twentieth of a pass of a small one.
        """
        longest = max(lengths)
        if not (self.is_on and self.is_checked(longest) and longest < self._longest):
            return None
        sees = np.arange(longest + 1) >= longest - np.array(lengths)[:, None]
        return self._mask(sees[:, None])

    def _mask(self, sees: np.ndarray[Any, Any]) -> Tensor:
        """What is added to attention's scores: bool (rows, tokens, keys) as (rows, 1, tokens, keys)."""
        dtype = self.forward.facts.dtype
        mask = torch.zeros(sees.shape, dtype=dtype).masked_fill_(torch.from_numpy(~sees), torch.finfo(dtype).min)
        return mask[:, None]

    def is_checked(self, longest: int) -> bool:
        """Whether passes of rows as long as this were compared with plain ones."""
        return longest <= self._checked

    def check(self, found: Sequence[Tensor], expected: Sequence[Tensor], longest: int) -> bool:
        """Whether a pass agrees with plain ones; if not, it was the last. One that does is good for rows twice as long,
        for a model may have a window that its configuration does not name."""
        tolerance = torch.finfo(self.forward.facts.dtype).eps ** 0.5
        self._checked = 2 * longest
        self.is_on = all(_agrees(a, b, tolerance) for a, b in zip(found, expected, strict=True))
        return self.is_on


def _agrees(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether numbers are as near as a tolerance times the largest finite one allows; equal infinities agree."""
    largest = torch.where(expected.isfinite(), expected, 0.0).abs().amax()
    return bool(((found == expected) | ((found - expected).abs() <= tolerance * (1 + largest))).all())


class _PackedLayer(KeyValues):
    """A layer that writes the rows' new column into their window, and shows what all of them and the prompts see."""

    def __init__(self, cache: _PackedCache, window: KeyValueWindow, layer: int) -> None:
        super().__init__(window, layer)
        self.cache = cache

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        shown = []
        for (lane, place), states in zip(self.places, (key_states[0], value_states[0]), strict=True):
            views = self.cache.views[lane]
            rows = views.written[place].shape[1]
            views.written[place].copy_(states[:, :rows])
            views.copied[place].copy_(views.seen[place])
            views.prompts[place].copy_(states[:, rows:])
            shown.append(views.packed[place])
        return shown[0], shown[1]

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        return self.cache.keys, 0

    def get_seq_length(self, *_: Any) -> int:
        return self.cache.keys - self.cache.tokens


class _Views(NamedTuple):
    """By layer of a lane, each (heads, ..., width).

    Attributes:
        written, seen: of the rows' window, (rows,) for their new column and (rows, columns) for all that they see.
        copied, prompts: places for the latter, (rows, columns), and for the prompts, (tokens,), among the packed keys.
        packed: (1, heads, keys, width), all keys.
    """

    written: Sequence[Tensor]
    seen: Sequence[Tensor]
    copied: Sequence[Tensor]
    prompts: Sequence[Tensor]
    packed: Sequence[Tensor]


class _PackedCache(Cache):
    """What a pass reads and writes.

    Attributes:
        lanes: for each lane of the layout (layers, heads, keys, width): the rows', and behind them the prompts'.
        views: of each lane what a layer writes and sees.
    """

    def __init__(self, window: KeyValueWindow, rows: int, prompt_tokens: int) -> None:
        layout, begin, end = window.layout, window.begin, window.end + 1
        first = rows * (end - begin)
        self.tokens, self.keys = rows + prompt_tokens, first + prompt_tokens
        self.lanes, self.views = [], []
        for one, count, lane in zip(layout.lanes, layout.counts, window.lanes, strict=True):
            kept = lane[:, :rows].transpose(1, 2)  # (layers, heads, rows, columns, width)
            packed = torch.empty(count, one.heads, self.keys, one.width, dtype=one.dtype, device=one.device)
            self.lanes.append(packed)
            parts = (
                kept[:, :, :, window.end],
                kept[:, :, :, begin:end],
                packed[:, :, :first].unflatten(2, (rows, end - begin)),
                packed[:, :, first:],
                packed[:, None],
            )
            self.views.append(_Views(*(part.unbind(0) for part in parts)))
        super().__init__(layers=[_PackedLayer(self, window, layer) for layer in range(len(layout.places))])


def _sees(lengths: Sequence[int], columns: int, prompts: Sequence[tuple[int, int]]) -> np.ndarray[Any, Any]:
    """bool (tokens, keys): which key each token sees. `prompts` are (begin, end) among the tokens behind the rows'."""
    rows, more = len(lengths), prompts[-1][1]
    first = rows * columns
    sees = np.zeros((rows + more, first + more), dtype=bool)
    for row, length in enumerate(lengths):
        end = (row + 1) * columns
        sees[row, end - 1 - length : end] = True
    for begin, end in prompts:
        size = end - begin
        sees[rows + begin : rows + end, first + begin : first + end] = np.tri(size, dtype=bool)
    return sees

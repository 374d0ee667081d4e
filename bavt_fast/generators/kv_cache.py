"""Keys and values of many sequences of different lengths, in one piece of memory that a model writes into.

Sequences are aligned at their ends, as transformers aligns a left-padded batch: all rows write the same column next,
and a row's tokens are the columns before it. So masks made of columns (causal, sliding) are right for every row, and no
row is copied while it grows. Only the columns that the longest row needs are shown to the model.

    column      0   1   2   3   4   5   6   7
    row 0               a   b   c   d  |next       begin = 1, end = 6
    row 1                       e   f  |next
    row 2           g   h   i   j   k  |next
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from bavt_fast.device_queue import to_device

__all__ = ["KeyValueWindow", "KeyValues", "Layout", "Placed", "StoredStates", "first_of", "joined"]

StoredStates = list[Tensor]
"""Keys and values of some tokens: for each lane of a `Layout` a tensor (layers, heads, tokens, width)."""


Placed = tuple[int, int, Sequence[tuple[StoredStates, int]]]
"""A row, its tokens, and their states: (states, how many of their tokens), in the order of the text."""

_MUCH = 2**24
"""Bytes of memory that are worth a mapping of their own."""


class _Lane(NamedTuple):
    """What layers with keys or values of the same shape share."""

    heads: int
    width: int
    dtype: torch.dtype
    device: torch.device


class _Views(NamedTuple):
    """By layer of a lane, each (rows, heads, columns, width).

    Attributes:
        written: the columns of a pass.
        seen: those and the ones before, as far as the model is shown them.
    """

    written: Sequence[Tensor]
    seen: Sequence[Tensor]


class Layout:
    """Where each layer's keys and values lie: those of one shape share a tensor, a *lane*.

    Args:
        layers: (keys, values) of each layer as a model's own cache holds them, each (rows, heads, tokens, width).
    """

    def __init__(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.lanes: list[_Lane] = []
        self.counts: list[int] = []
        self.places: list[tuple[tuple[int, int], tuple[int, int]]] = []  # of each layer's keys and values
        for keys, values in layers:
            self.places.append((self._add(keys), self._add(values)))
        self.token_bytes = sum(
            count * lane.heads * lane.width * lane.dtype.itemsize
            for lane, count in zip(self.lanes, self.counts, strict=True)
        )

    def _add(self, states: Tensor) -> tuple[int, int]:
        lane = _Lane(states.shape[1], states.shape[3], states.dtype, states.device)
        if lane not in self.lanes:
            self.lanes.append(lane)
            self.counts.append(0)
        at = self.lanes.index(lane)
        self.counts[at] += 1
        return at, self.counts[at] - 1

    def empty(self, rows: int, columns: int, zeros: bool = True) -> list[Tensor]:
        """Memory for so many rows and columns: for each lane (layers, rows, heads, columns, width).

        Filled with zeros, for what a mask hides must still be finite, unless the caller sees to that.
        """
        make = _zeros if zeros else torch.empty
        return [
            make((count, rows, lane.heads, columns, lane.width), dtype=lane.dtype, device=lane.device)
            for lane, count in zip(self.lanes, self.counts, strict=True)
        ]


class KeyValueWindow:
    """Rows of keys and values in columns ``begin`` to ``end``; the next tokens go behind them.

    Args:
        layout, rows, columns, zeros: see `Layout.empty`.
        lanes: the memory, where it is there.

    Attributes:
        rows: how many rows are in use: only these are moved.
        end: the column that is written next.
        cache: what a transformers model takes as its cache. It shows the columns from `begin` on.
    """

    def __init__(
        self,
        layout: Layout,
        rows: int = 1,
        columns: int = 64,
        zeros: bool = True,
        lanes: list[Tensor] | None = None,
    ) -> None:
        self.layout = layout
        self.lanes = layout.empty(rows, columns, zeros) if lanes is None else lanes
        self.rows = 0
        self.begin = 0
        self.end = 0
        self.cache = _WindowCache(self)
        self._views: list[_Views] = []
        self._made_for: tuple[int, int, int, int] | None = None

    @property
    def capacity(self) -> tuple[int, int]:
        """(rows, columns) that there is memory for."""
        lane = self.lanes[0]
        return lane.shape[1], lane.shape[3]

    def make_room(self, rows: int, longest: int, new: int = 1, expected_rows: int = 0) -> None:
        """Sees to it that there is memory for `rows` rows and `new` more columns, and that a row of `longest` tokens,
        the most that any has, fits before the end. Moves what is there where it must. Where memory for more rows is
        made, it is for the `expected_rows` that there will be, too."""
        has_rows, has_columns = self.capacity
        if rows > has_rows or longest + new > has_columns:
            columns = has_columns if longest + new <= has_columns else 2 * (longest + new)
            self._move_to(self.layout.empty(_grown(has_rows, rows, expected_rows), columns), longest)
        elif self.end + new > has_columns or self.end < longest:
            self.compact(longest)

    def part(self, first: int, rows: int, columns: int) -> KeyValueWindow:
        """A window over the memory of some rows, whose next columns are the last ones before this one's end."""
        part = KeyValueWindow(self.layout, lanes=[lane[:, first : first + rows] for lane in self.lanes])
        part.rows, part.begin, part.end = rows, self.end - columns, self.end - columns
        return part

    def compact(self, longest: int) -> None:
        """Moves the rows to the beginning of the memory, where no row is longer than `longest`."""
        self._move_to(self.lanes, longest)

    def _move_to(self, lanes: list[Tensor], longest: int) -> None:
        first = max(self.end - longest, 0)
        start = longest - (self.end - first)
        for old, new in zip(self.lanes, lanes, strict=True):
            if self.rows and self.end > first:
                source = old[:, : self.rows, :, first : self.end]
                overlaps = old is new and max(first, start) < min(self.end, longest)
                new[:, : self.rows, :, start:longest] = source.clone() if overlaps else source
        self.lanes = lanes
        self.begin, self.end = start, longest
        self._views, self._made_for = [], None

    def views(self, rows: int, new: int) -> list[_Views]:
        """Of each lane what a pass over the first rows writes and sees. Made once for all layers of a pass."""
        made_for = (rows, new, self.begin, self.end)
        if self._made_for != made_for:
            end = self.end + new
            self._views = [
                _Views(
                    lane[:, :rows, :, self.end : end].unbind(0),
                    lane[:, :rows, :, self.begin : end].unbind(0),
                )
                for lane in self.lanes
            ]
            self._made_for = made_for
        return self._views

    def place(self, rows: Sequence[Placed]) -> None:
        """Puts stored states into rows, each of which then has `length` tokens. There must be room for them before the
        end."""
        if _copies_at_once(self.lanes[0]):
            self._place_at_once(rows)
            return
        for row, length, pieces in rows:
            column = self.end - length
            for states, count in pieces:
                for lane, part in zip(self.lanes, states, strict=True):
                    lane[:, row, :, column : column + count] = part[:, :, :count]
                column += count

    def _place_at_once(self, rows: Sequence[Placed]) -> None:
        """The same in two launches a lane: all states in a row, then each token's to its place."""
        parts: list[StoredStates] = []
        at_rows: list[int] = []
        at_columns: list[int] = []
        for row, length, pieces in rows:
            column = self.end - length
            for states, count in pieces:
                parts.append([part if part.shape[2] == count else part[:, :, :count] for part in states])
                at_rows += [row] * count
                at_columns += range(column, column + count)
                column += count
        if not at_rows:
            return
        places = np.array([at_rows, at_columns])
        for lane, all_states in zip(self.lanes, joined(parts), strict=True):
            to_rows, to_columns = to_device(places, lane.device).unbind()
            lane[:, to_rows, :, to_columns] = all_states.permute(2, 0, 1, 3)

    def clear_before(self, row: int, length: int) -> None:
        """Zeros in a row of `length` tokens before the first of them."""
        for lane in self.lanes:
            lane[:, row, :, self.begin : self.end - length].zero_()

    def clear(self, row: int) -> None:
        """Zeros in all of a row: of a hidden column that is not finite, attention would see that."""
        for lane in self.lanes:
            lane[:, row].zero_()

    def move(self, source: int, target: int, length: int) -> None:
        """A row's last `length` tokens into another row."""
        columns = slice(self.end - length, self.end)
        for lane in self.lanes:
            lane[:, target, :, columns] = lane[:, source, :, columns]

    def read(self, row: int, length: int, first: int, count: int) -> StoredStates:
        """A copy of `count` tokens of a row that has `length`, from its token `first` on."""
        column = self.end - length + first
        return [lane[:, row, :, column : column + count].clone() for lane in self.lanes]


class KeyValues(CacheLayerMixin):
    """One layer of a `KeyValueWindow`, as transformers asks for it."""

    is_sliding = False  # all tokens are kept; a sliding mask hides the old ones

    def __init__(self, window: KeyValueWindow, layer: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.window = window
        self.places = window.layout.places[layer]
        self.is_initialized = True
        # On CUDA transformers would look at the mask to see whether it can do without, and wait for the device.
        self.is_compileable = window.lanes[0].is_cuda

    def lazy_initialization(self, *_: Any, **__: Any) -> None:
        """There is nothing to do: the memory is there."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Writes the next columns of all rows; keys and values with them, each (rows, heads, columns, width)."""
        (key_lane, key_place), (value_lane, value_place) = self.places
        views = self.window.views(key_states.shape[0], key_states.shape[2])
        keys, values = views[key_lane], views[value_lane]
        keys.written[key_place].copy_(key_states)
        values.written[value_place].copy_(value_states)
        return keys.seen[key_place], values.seen[value_place]

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        """(columns that attention sees, the first one's number). Before transformers 5.4 it gets the positions."""
        count = query_length if isinstance(query_length, int) else query_length.shape[0]
        return self.get_seq_length() + count, 0

    def get_seq_length(self, *_: Any) -> int:
        return self.window.end - self.window.begin

    def get_max_length(self) -> int:
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.20


class _WindowCache(Cache):
    """A `KeyValueWindow` as the cache that a transformers model takes."""

    def __init__(self, window: KeyValueWindow) -> None:
        super().__init__(layers=[KeyValues(window, layer) for layer in range(len(window.layout.places))])


def joined(parts: Sequence[StoredStates]) -> StoredStates:
    """States of tokens that follow each other, as one."""
    return parts[0] if len(parts) == 1 else [torch.cat(lanes, 2) for lanes in zip(*parts, strict=True)]


def first_of(pieces: Sequence[tuple[StoredStates, int]], tokens: int) -> list[tuple[StoredStates, int]]:
    """Of pieces (states, how many of their tokens) those that hold the first tokens."""
    kept, left = [], tokens
    for states, count in pieces:
        if left <= 0:
            break
        kept.append((states, min(count, left)))
        left -= count
    return kept


def _copies_at_once(lane: Tensor) -> bool:
    """Whether few launches matter more than that a number is copied once: on a GPU."""
    return lane.is_cuda


def _grown(has: int, needed: int, expected: int) -> int:
    return has if needed <= has else max(needed, 2 * has, expected)


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """`torch.zeros`. Much memory of the host is mapped, so that it is there, and filled, where it is first used."""
    nbytes = math.prod(shape) * dtype.itemsize
    if device.type == "cpu" and nbytes >= _MUCH and hasattr(mmap, "MAP_ANONYMOUS"):
        with suppress(OSError):  # there is too little: torch says so as it always does
            memory = mmap.mmap(-1, nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            return torch.frombuffer(memory, dtype=dtype).view(shape)
    return torch.zeros(shape, dtype=dtype, device=device)

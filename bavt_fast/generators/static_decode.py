"""Decoding passes of fixed shapes, which a GPU replays as CUDA graphs.

Launching the kernels of a pass one by one takes longer than to run them. So everything that changes from pass to pass
lies in tensors: the tokens, each row's length, the column that is written. Rows and columns are rounded up to buckets.
What a bucket adds is masked, and a graph is captured when its bucket is first used.
"""

from __future__ import annotations

import bisect
import functools
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache

from bavt_fast.generators.forward import Forward
from bavt_fast.generators.kv_cache import KeyValues, KeyValueWindow

__all__ = ["StaticDecoder", "buckets", "takes_masks", "window_of"]

_ROWS = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_COLUMNS = (128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
_SPARE = 32  # columns behind the longest row, so that the rows need not be moved at every pass


@dataclass(slots=True)
class _Pass:
    """One bucket: the tensors that a pass reads and writes, and how it is run."""

    tokens: Tensor
    lengths: Tensor
    column: Tensor
    run: Callable[[], None]
    logits: Tensor
    hidden: Tensor


class StaticDecoder:
    """Decodes the rows of a window.

    Args:
        forward: the model.
        capture: replay CUDA graphs; without it the same passes run kernel by kernel.
    """

    def __init__(self, forward: Forward, capture: bool) -> None:
        self.forward = forward
        self.capture = capture
        self.is_on = takes_masks(forward)
        self._limit = window_of(forward.facts.config)
        self._is_checked = False
        self._waits = True  # as far as is known
        self.forget()

    def forget(self) -> None:
        """Lets go of all graphs and their memory."""
        self._passes: dict[tuple[int, int], _Pass] = {}
        self._lanes: list[tuple[int, torch.Size]] = []
        self._pool: Any = None  # one that no graph uses any more cannot be shared again

    def suits(self, rows: int, longest: int) -> bool:
        """Whether there is a bucket for so many rows, none of them longer than `longest`."""
        return self.is_on and rows <= _ROWS[-1] and longest < self._limit and longest + _SPARE < _COLUMNS[-1]

    def decode(self, window: KeyValueWindow, tokens: Tensor, lengths: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        """One token of each row: as `DecodeBatch.decode`. What it returns is good until the next call."""
        count = len(tokens)
        rows = _ROWS[bisect.bisect_left(_ROWS, count)]
        columns = _COLUMNS[bisect.bisect_left(_COLUMNS, longest + _SPARE)]
        has_rows, has_columns = window.capacity
        if rows > has_rows or columns > has_columns:
            window.make_room(rows, longest, columns - longest)
        elif window.end >= columns or window.end < longest:
            window.compact(longest)
        lanes = [(lane.data_ptr(), lane.shape) for lane in window.lanes]
        if lanes != self._lanes:
            self.forget()
            self._lanes = lanes
        one = self._passes.get((rows, columns))
        if one is None:
            one = self._passes[rows, columns] = self._make(window, rows, columns)
        self._load(one, window, tokens, lengths)
        self.forward.timed(one.run)
        return one.logits[:count], one.hidden[:count]

    def warm_up(self, window: KeyValueWindow, rows: int, longest: int) -> None:
        """Captures the bucket for so many rows and tokens ahead. Only where no rows are under way."""
        device = self.forward.device
        zeros = torch.zeros(rows, dtype=torch.long, device=device)
        self.decode(window, zeros, zeros, longest)

    def _load(self, one: _Pass, window: KeyValueWindow, tokens: Tensor, lengths: Tensor) -> None:
        one.tokens[: len(tokens), 0] = tokens
        one.lengths.zero_()
        one.lengths[: len(tokens), 0] = lengths
        one.column.fill_(window.end)

    def _make(self, window: KeyValueWindow, rows: int, columns: int) -> _Pass:
        device = self.forward.device
        tokens, lengths = (torch.zeros(rows, 1, dtype=torch.long, device=device) for _ in range(2))
        column = torch.full((1,), window.end, device=device)
        cache = _StaticCache(window, column, columns)
        dtype = self.forward.facts.dtype

        def compute() -> tuple[Tensor, Tensor]:  # of what lies outside, a graph keeps nothing alive
            places = torch.arange(columns, device=device)
            is_seen = (places <= column) & (places >= column - lengths)
            mask = torch.zeros(rows, columns, dtype=dtype, device=device)
            mask = mask.masked_fill(~is_seen, torch.finfo(dtype).min)[:, None, None]
            return self.forward.untimed(tokens, mask, lengths, cache)

        one = _Pass(tokens, lengths, column, lambda: None, *compute())  # libraries set themselves up in the first run
        if self.capture:
            if self._waits:
                with _waiting_refused():
                    compute()
                self._waits = False
            graph = torch.cuda.CUDAGraph()
            with _capturing(graph, self._pool, device):
                one.logits, one.hidden = compute()
            self._pool = graph.pool()
            one.run = graph.replay
            return one

        def run() -> None:
            one.logits, one.hidden = compute()

        one.run = run
        return one

    def check(self, found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
        """Whether the first pass agrees with one kernel by kernel; the decoder is off from then on if not.

        A pass whose numbers are not finite says nothing: it does not agree, and the next one is looked at."""
        if not all(bool(part.isfinite().all()) for part in expected):
            return False
        self._is_checked = True
        tolerance = torch.finfo(self.forward.facts.dtype).eps ** 0.5
        self.is_on = all(
            bool(((a - b).abs() <= tolerance * (1 + b.abs().amax())).all())
            for a, b in zip(found, expected, strict=True)
        )
        if not self.is_on:
            warnings.warn("model: CUDA graphs gave other logits than plain passes; decoding without them", stacklevel=2)
        return self.is_on

    @property
    def is_checked(self) -> bool:
        """Whether a pass was compared with a plain one."""
        return self._is_checked

    def turn_off(self, error: Exception) -> None:
        """The model cannot be captured: from here on its kernels are launched one by one."""
        self.is_on = False
        self.forget()
        warnings.warn(f"model: no CUDA graph can be captured ({error}); decoding without", stacklevel=2)


@contextmanager
def _waiting_refused() -> Iterator[None]:
    """Where the host would wait for the device there is an error. A capture that fails for that leaves its stream and
    the generator of random numbers as they were in it, so it is not tried."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is new in torch, which says so
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@contextmanager
def _capturing(graph: Any, pool: Any, device: torch.device) -> Iterator[None]:
    """Captures what is done inside. The current stream is current again afterwards, also where that failed. No garbage
    is collected meanwhile, for there may be graphs in it."""
    collects = gc.isenabled()
    with torch.cuda.device(device):
        stream = torch.cuda.current_stream()
        gc.disable()
        try:
            with torch.cuda.graph(graph, pool=pool, stream=_aside(device), capture_error_mode="thread_local"):
                yield
        finally:
            torch.cuda.set_stream(stream)
            if collects:
                gc.enable()


@functools.cache
def _aside(device: torch.device) -> Any:
    """The stream of all captures on a device: libraries keep memory for each that they see."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class _StaticKeyValues(KeyValues):
    """A layer that writes a column whose number is on the device, and shows the same columns every time."""

    def __init__(self, window: KeyValueWindow, layer: int, column: Tensor, columns: int) -> None:
        super().__init__(window, layer)
        self.is_compileable = True
        self._column, self._columns = column, columns

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        rows = key_states.shape[0]
        shown = []
        for (lane, place), states in zip(self.places, (key_states, value_states), strict=True):
            kept = self.window.lanes[lane][place, :rows]
            kept.index_copy_(2, self._column, states)
            shown.append(kept[:, :, : self._columns])
        return shown[0], shown[1]

    def get_mask_sizes(self, query_length: Any) -> tuple[int, int]:
        return self._columns, 0

    def get_seq_length(self, *_: Any) -> int:
        return self._columns - 1


class _StaticCache(Cache):
    def __init__(self, window: KeyValueWindow, column: Tensor, columns: int) -> None:
        layers = range(len(window.layout.places))
        super().__init__(layers=[_StaticKeyValues(window, layer, column, columns) for layer in layers])


def buckets(rows: int, fewest: int, most: int) -> list[tuple[int, int]]:
    """(rows, tokens) for `TorchGenerator.warm_up`: one of each bucket that passes of up to so many rows take, the
    longest of which has from `fewest` to `most` tokens. The largest comes first, so that no graph is thrown away."""
    first, last = (bisect.bisect_left(_COLUMNS, tokens + _SPARE) for tokens in (fewest, most))
    sizes = [size for size in _ROWS if size < rows] + [rows]
    return [(size, columns - _SPARE) for columns in reversed(_COLUMNS[first : last + 1]) for size in reversed(sizes)]


def takes_masks(forward: Forward) -> bool:
    """Whether masks and positions can be given to a model as they are: not to one that makes its own of them."""
    config = forward.facts.config
    kind = getattr(config, "_attn_implementation", None)
    takes = {"position_ids", "attention_mask"} <= forward.facts.parameters
    return takes and kind in ("sdpa", "eager") and not getattr(config, "alibi", False)


def window_of(config: Any) -> int:
    """Tokens that every layer of a model sees: the smallest window of attention."""
    sizes = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
    return min([size for size in sizes if isinstance(size, int) and size > 0], default=2**31)

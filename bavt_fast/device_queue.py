"""A GPU at work beside the host: copies that nobody waits for, a stream beside that of the passes, times by events.

A GPU takes what it is given in turn, and the host goes on meanwhile until it asks for a number. What it asks for must
not stand behind the next pass in the queue: it is read in a stream of its own, once it is known to be complete.
On a CPU everything is done when a call returns, and these functions do nothing besides.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["PendingRead", "Spans", "are_complete", "call_complete", "side_stream", "to_device", "version_of"]


def to_device(values: np.ndarray[Any, Any] | Sequence[Any], device: torch.device) -> Tensor:
    """Numbers of the host on a device; the host does not wait for the copy."""
    if device.type != "cuda":
        return torch.as_tensor(values, device=device)
    return torch.as_tensor(values).pin_memory().to(device, non_blocking=True)  # torch keeps the page until it is copied


class PendingRead:
    """Numbers of a device on their way to the host, behind all that was queued before.

    Args:
        values: a tensor that nobody changes.
    """

    def __init__(self, values: Tensor) -> None:
        self._values = values
        self._arrived: Any = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record(torch.cuda.current_stream(values.device))

    def read(self) -> list[Any]:
        """Waits for them. What was queued before is complete then."""
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers: list[Any] = self._values.tolist()
        return numbers


@contextmanager
def side_stream(device: torch.device) -> Iterator[Any]:
    """What is queued inside does not wait for the passes, which do not wait for it either: it may read only what is
    complete. Gives the stream; None on a CPU."""
    if device.type != "cuda":
        yield None
        return
    stream = _side_stream_of(device)
    with torch.cuda.stream(stream):
        yield stream


@functools.cache
def _side_stream_of(device: torch.device) -> Any:
    """Before the passes where both have something to compute: it is little, and the host waits for it."""
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]


def version_of(values: Tensor) -> tuple[int, int]:
    """Which tensor it is, and how often it was written; of an inference tensor nobody counts that."""
    return id(values), 0 if values.is_inference() else values._version


def call_complete(values: Tensor) -> None:
    """Says of a tensor that it was computed: who reads it need not wait for what is queued."""
    values.complete_version = version_of(values)  # type: ignore[attr-defined]


def are_complete(values: Iterable[Tensor]) -> bool:
    """Whether that was said of all of them. A copy takes the attribute along, but may still be queued."""
    return all(getattr(value, "complete_version", None) == version_of(value) for value in values)


class Spans:
    """Seconds spent on something that is done again and again.

    Args:
        device: where it is done.
        measure: on a GPU, from the moment when it begins there to the one when it ends, without a wait for either;
            otherwise, and on a CPU, the host's time.
    """

    def __init__(self, device: torch.device, measure: bool) -> None:
        self._device = device
        self._by_events = measure and device.type == "cuda"
        self._open: deque[tuple[Any, Any]] = deque()
        self._seconds = 0.0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Counts what is done inside, unless it fails."""
        if not self._by_events:
            start_s = time.perf_counter()
            yield
            self._seconds += time.perf_counter() - start_s
            return
        stream = torch.cuda.current_stream(self._device)
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record(stream)
        yield
        end.record(stream)
        self._open.append((begin, end))
        self._close()

    def _close(self) -> None:
        while self._open and self._open[0][1].query():
            begin, end = self._open.popleft()
            self._seconds += begin.elapsed_time(end) / 1e3

    @property
    def seconds(self) -> float:
        """Of all that are over."""
        self._close()
        return self._seconds

"""How many threads a model on the CPU computes with, beside whatever else runs on the same cores.

torch takes one thread per core. They meet at a barrier after every small operation, hundreds of times a token, and wait
there by spinning. Where another program has one of the cores, all wait for the thread that was put off it: a search by
a small model took 41 s with two threads and 6 s with one. So a forward pass gets a second thread only for work that is
worth the barriers, and never more threads than there are cores that this process may use.

``torch.set_num_threads`` counts for the whole process and lasts beyond the call. `ComputeThreads` sets it for a forward
pass and puts the caller's number back after it, which costs less than 1 us. What other Python threads compute with
torch meanwhile runs on that number too; a number that they set meanwhile does not outlive the pass.

How the threads wait is settled when torch is imported: ``OMP_WAIT_POLICY=passive`` in the environment before that lets
them sleep. The command line sets it; a program of your own has to.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from bavt_fast._checks import as_count

__all__ = ["WORK_PER_THREAD", "ComputeThreads", "threads_for", "usable_cores"]

WORK_PER_THREAD = 2**28
"""Multiply-adds that a thread is worth: some 10 ms of one core."""

_MEMORY_TOKENS = 8
"""Reading a weight takes as long as multiplying with it for so many tokens: a pass of fewer tokens waits for memory."""

_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Cores that this process may use: by its affinity and its group's quota, which containers have. At least 1."""
    try:
        cores = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # not on Linux
        cores = float(os.cpu_count() or 1)
    return max(1, math.ceil(min(cores, _quota())))


def _quota() -> float:
    """Cores' worth of time that the control group gets; infinity without a limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((_CGROUPS / name).read_text() for name in files).split()
            return float(quota) / float(period) if float(quota) > 0 else math.inf
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return math.inf


def threads_for(weights: int, tokens: int) -> int:
    """Threads that a pass of so many tokens through so many weights is worth, at least 1, whatever cores there are."""
    return max(1, weights * max(tokens, _MEMORY_TOKENS) // WORK_PER_THREAD)


class ComputeThreads:
    """Sets the number of threads for forward passes.

    Args:
        device: where the model is; on anything but the CPU nothing is set.
        weights: how many the model has.
        threads: for every pass; None to choose by the work, up to the number that torch has when this is made (the
            caller's ``torch.set_num_threads`` or OMP_NUM_THREADS, else one per core) and the cores that may be used.

    Raises:
        TypeError, ValueError: `threads` is not an integer of at least 1.
    """

    def __init__(self, device: torch.device, weights: int, threads: int | None = None) -> None:
        self.is_set = device.type == "cpu"
        self.weights = weights
        self.threads = None if threads is None else as_count("threads", threads, minimum=1)
        self.most = min(usable_cores(), torch.get_num_threads())

    def count(self, tokens: int) -> int:
        """Threads for a pass of so many tokens, all rows together."""
        return self.threads or min(self.most, threads_for(self.weights, tokens))

    @contextmanager
    def of_pass(self, tokens: int) -> Iterator[None]:
        """What runs inside has the threads of a pass of so many tokens. Several Python threads may be inside at once:
        the caller's number is back when the last has left."""
        if not self.is_set:
            yield
            return
        _setting.enter(self.count(tokens))
        try:
            yield
        finally:
            _setting.leave()


class _Setting:
    """The caller's number of threads, kept while anyone is inside."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._callers = 0

    def enter(self, threads: int) -> None:
        with self._lock:
            now = torch.get_num_threads()
            if not self._inside:
                self._callers = now
            self._inside += 1
            if now != threads:
                torch.set_num_threads(threads)

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and torch.get_num_threads() != self._callers:
                torch.set_num_threads(self._callers)


_setting = _Setting()

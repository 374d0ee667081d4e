"""How many threads a model on the CPU computes with, beside whatever else runs on the same cores.

torch takes one thread per core. They meet at a barrier after every small operation, hundreds of times a token, and wait
there by spinning. Where another program has one of the cores, all wait for the thread that was put off it: a search by
a small model took 41 s with two threads and 6 s with one. So a forward pass gets a second thread only for layers whose
work is worth the barriers, and never more threads than there are cores that this process may use.

Milliseconds of a pass of so many tokens on two virtual cores, idle / beside two processes that never wait:

| model, tokens | one thread | two, waiting passively | two, as torch has them |
|---|---|---|---|
| 4.7 million weights, 6 layers, 8 | 6 / 6 | 11 / 8 | 6 / 15 |
| the same, 64 | 15 / 31 | 16 / 17 | 14 / 39 |
| 135 million weights, 30 layers, 1 | 58 / 121 | 58 / 119 | 57 / 260 |
| the same, 8 | 98 / 185 | 98 / 239 | 95 / 368 |
| the same, 64 | 283 / 414 | 233 / 417 | 216 / 1,048 |

``torch.set_num_threads`` counts for the whole process and lasts beyond the call. `ComputeThreads` sets it for a forward
pass and puts the caller's number back after it, which costs less than 1 us. What other Python threads compute with
torch meanwhile runs on that number too; a number that they set meanwhile does not outlive the pass.

A process that was forked from one that has computed with several threads has none of them, and waits for them for ever
(``multiprocessing`` forks on Linux up to Python 3.13). There every pass has one thread. What another thread was at as
the process forked stays half done there: `Turns` says so, where a lock would wait for ever.

How the threads wait is settled when torch is imported: ``OMP_WAIT_POLICY=passive`` in the environment before that lets
them sleep. The command line sets it; a program of your own has to.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from bavt_fast._checks import as_count

__all__ = ["WORK_PER_THREAD", "ComputeThreads", "Turns", "threads_for", "usable_cores"]

WORK_PER_THREAD = 2**26
"""Multiply-adds in a layer that a thread is worth: some 2 ms of one core, against a dozen barriers a layer."""

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


def threads_for(layer_weights: int, tokens: int) -> int:
    """Threads that a pass of so many tokens is worth, at least 1, whatever cores there are.

    Args:
        layer_weights: weights in a layer.
    """
    return max(1, layer_weights * max(tokens, _MEMORY_TOKENS) // WORK_PER_THREAD)


class ComputeThreads:
    """Sets the number of threads for forward passes.

    Args:
        device: where the model is; on anything but the CPU nothing is set.
        weights, layers: how many the model has.
        threads: for every pass; None to choose by the work, up to the number that torch has when this is made (the
            caller's ``torch.set_num_threads`` or OMP_NUM_THREADS, else one per core) and the cores that may be used.

    Raises:
        TypeError, ValueError: `threads` is not an integer of at least 1.
    """

    def __init__(self, device: torch.device, weights: int, layers: int, threads: int | None = None) -> None:
        self.is_set = device.type == "cpu"
        self.layer_weights = weights // max(1, layers)
        self.threads = None if threads is None else as_count("threads", threads, minimum=1)
        self.most = min(usable_cores(), torch.get_num_threads())

    def count(self, tokens: int) -> int:
        """Threads for a pass of so many tokens, all rows together."""
        if _forked:
            return 1
        return self.threads or min(self.most, threads_for(self.layer_weights, tokens))

    @contextmanager
    def of_pass(self, tokens: int) -> Iterator[None]:
        """What runs inside has the threads of a pass of so many tokens.

        May be nested, and several Python threads may be inside: the caller's number is back when the last has left.
        """
        if not self.is_set:
            yield
            return
        before = _setting.enter(self.count(tokens))
        try:
            yield
        finally:
            _setting.leave(before)


class _Setting:
    """The caller's number of threads, kept while anyone is inside."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Nobody is inside, also where the process was forked while somebody was."""
        self._lock = threading.Lock()
        self._inside = 0
        self._callers = 0

    def enter(self, threads: int) -> int:
        """Sets the number; the one that was set."""
        with self._lock:
            before = torch.get_num_threads()
            if not self._inside:
                self._callers = before
            self._inside += 1
            _set(threads)
            return before

    def leave(self, before: int) -> None:
        """Sets the number that `enter` gave back, and at last the caller's."""
        with self._lock:
            self._inside = max(0, self._inside - 1)  # forgotten where this thread forked inside
            _set(before if self._inside else self._callers)


class Turns:
    """A lock by which calls of several threads take turns, and which they may take again inside.

    In a process that was forked while another thread had its turn, that one never ends. There, to take it is an error.

    Args:
        name: of what they take turns in.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lock = threading.RLock()
        self._is_lost = False
        _turns.add(self)

    def __enter__(self) -> None:
        if self._is_lost:
            raise RuntimeError(
                f"{self._name}: expected one that no other thread used as this process was forked, got one in use; "
                "make a new one here, or start processes by 'spawn'"
            )
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def after_fork(self) -> None:
        """In the new process: whether the lock can still be had."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._is_lost = True


_turns: weakref.WeakSet[Turns] = weakref.WeakSet()
_forked = False


def _after_fork() -> None:
    global _forked
    _forked = True
    _setting.forget()
    for turns in list(_turns):
        turns.after_fork()
    torch.set_num_threads(1)  # also for what computes outside of a pass of ours


os.register_at_fork(after_in_child=_after_fork)


def _set(threads: int) -> None:
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)


_setting = _Setting()

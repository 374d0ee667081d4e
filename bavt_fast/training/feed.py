"""Where batches come from: a thread of this process, or processes of their own, as many as a GPU needs."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections import deque
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import numpy as np
import torch

from bavt_fast.training.course import Batch, Course
from bavt_fast.training.ring import Ring

__all__ = ["Feed", "ThreadFeed", "WorkerFeed"]

_CHUNK = 8192
"""Sequences that a worker makes at once, about."""
_KEPT = 64
"""Fresh batches that are kept to draw from."""
_ANSWERS_A_TIME = 3
"""Answers of the workers that are taken in between two updates, at most: what a GPU waits for."""
_PATIENCE_S = 300.0
_LOOK_S = 1.0
"""Between two looks at what workers have made, while one waits for them."""


class Feed(Protocol):
    """Fresh batches, and labels for what the model visits."""

    def fresh(self) -> dict[int, Batch]:
        """Sequences for an update, by kind."""

    def starts(self, problems: int) -> list[Any]:
        """Pieces for `Course.visits`: of about so many problems or, where they are made beforehand, of fewer."""

    def label(self, visits: Iterable[Any]) -> None:
        """Has pieces labelled; `labelled` hands the sequences over."""

    def labelled(self) -> list[Batch]:
        """What was labelled since it was asked last."""

    def close(self) -> None: ...


class ThreadFeed:
    """Makes the next fresh batches in a thread, and labels visits at once.

    Args:
        course: makes them.
        sizes: sequences of an update by kind.
        seed: of the fresh batches; the starts of visits have the next one.
    """

    def __init__(self, course: Course, sizes: Mapping[int, int], seed: int) -> None:
        self._course, self._sizes = course, sizes
        self._rng, self._visit_rng = np.random.default_rng(seed), np.random.default_rng(seed + 1)
        self._pool = ThreadPoolExecutor(1)
        self._pending: Future[dict[int, Batch]] | None = None
        self._labelled: list[Batch] = []

    def fresh(self) -> dict[int, Batch]:
        pending = self._pending or self._submit()
        found = pending.result()
        self._pending = self._submit()
        return found

    def _submit(self) -> Future[dict[int, Batch]]:
        return self._pool.submit(self._course.fresh_batches, self._rng, self._sizes)

    def starts(self, problems: int) -> list[Any]:
        return self._course.starts(self._visit_rng, problems)

    def label(self, visits: Iterable[Any]) -> None:
        self._labelled += map(self._course.labelled, visits)

    def labelled(self) -> list[Batch]:
        found, self._labelled = self._labelled, []
        return found

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class WorkerFeed:
    """Processes that make fresh batches all the time, and label visits first. What they made is kept where the model
    is, and drawn from.

    Args:
        course, sizes, seed: as of `ThreadFeed`.
        workers: processes.
        device: where batches are kept.
        problems: that are visited after as many fresh sequences as one update has.

    Raises:
        RuntimeError: from `fresh`, where a worker failed or was killed, or nothing came for five minutes.
    """

    def __init__(
        self,
        course: Course,
        sizes: Mapping[int, int],
        seed: int,
        *,
        workers: int,
        device: torch.device,
        problems: int,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._sizes = sizes
        share = _CHUNK / sum(sizes.values())
        chunk = {kind: max(1, round(size * share)) for kind, size in sizes.items()}
        self._problems = max(1, round(problems * share))
        self._workers: dict[Connection, Any] = {}
        for number in range(workers):
            here, there = context.Pipe()
            arguments = (seed + 1000 * number, course, chunk, self._problems, there)
            worker = context.Process(target=_work, args=arguments, daemon=True)
            worker.start()
            there.close()
            self._workers[here] = worker
        self._visits: deque[Any] = deque()
        self._ring = Ring(_KEPT * max(sizes.values()), device)
        self._starts: deque[list[Any]] = deque(maxlen=10_000)
        self._labelled: list[Batch] = []

    def fresh(self) -> dict[int, Batch]:
        self._take_in(wait_s=0.0)
        found: dict[int, Batch] = {}
        deadline_s = time.monotonic() + _PATIENCE_S
        while missing := [kind for kind in self._sizes if kind not in found]:
            for kind in missing:
                batch = self._ring.draw(kind, self._sizes[kind])
                if batch is not None:
                    found[kind] = batch
                    continue
                if self._take_in(wait_s=_LOOK_S):
                    deadline_s = time.monotonic() + _PATIENCE_S
                elif time.monotonic() > deadline_s:
                    raise RuntimeError(f"workers: expected batches, got none in {_PATIENCE_S:.0f} s")
                break
        return found

    def _take_in(self, wait_s: float) -> int:
        """Takes what workers have made, and tells each what to do next. How many answers that were."""
        ready = wait(list(self._workers), wait_s)[:_ANSWERS_A_TIME]
        for connection in ready:
            assert isinstance(connection, Connection)
            try:
                answer = connection.recv()
                connection.send(self._visits.popleft() if self._visits else None)
            except (EOFError, OSError) as error:
                worker = self._workers[connection]
                worker.join(_LOOK_S)
                raise RuntimeError(
                    f"workers: expected all of them to work, got one that ended ({worker.exitcode})"
                ) from error
            self._workers[connection] = self._workers.pop(connection)  # the next one first next time
            self._take(answer)
        return len(ready)

    def _take(self, answer: Any) -> None:
        if isinstance(answer, Exception):
            raise RuntimeError(f"workers: a batch could not be made ({answer})") from answer
        batches, starts = answer
        found = [batch.mapped(torch.from_numpy) for batch in batches]
        if starts is None:
            self._labelled += found
            return
        for batch in found:
            self._ring.add(batch)
        self._starts.append(starts)

    def starts(self, problems: int) -> list[Any]:
        newest = list(self._starts)[-max(1, round(problems / self._problems)) :]
        found = [piece for pieces in newest for piece in pieces]
        self._starts.clear()
        return found

    def label(self, visits: Iterable[Any]) -> None:
        self._visits += visits

    def labelled(self) -> list[Batch]:
        found, self._labelled = self._labelled, []
        return found

    def close(self) -> None:
        for connection, worker in self._workers.items():
            worker.terminate()
            worker.join()
            connection.close()


def _work(seed: int, course: Course, chunk: Mapping[int, int], problems: int, connection: Connection) -> None:
    """A worker: makes fresh batches, or labels what it is told to. It sends them itself: a queue does so in a
    thread of its own, and its reader waits while that thread waits for the solver."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    visit = None
    with contextlib.suppress(KeyboardInterrupt, EOFError, OSError):  # the parent is gone, or goes
        while True:
            answer: Any
            try:
                if visit is None:
                    answer = (_arrays(course.fresh_batches(rng, chunk).values()), course.starts(rng, problems))
                else:
                    answer = (_arrays([course.labelled(visit)]), None)
            except Exception as error:
                answer = RuntimeError(f"{type(error).__name__}: {error}")
            connection.send(answer)
            visit = connection.recv()


def _arrays(batches: Iterable[Batch]) -> list[Batch]:
    return [batch.mapped(lambda part: part.numpy()) for batch in batches]

"""A pool of workers in threads of this process, some of which die: what a run does with them needs no cluster."""

from __future__ import annotations

import contextlib
import pickle
import queue
import random
import threading
from collections.abc import Callable
from typing import Any

from bavt_fast.runs.fleet import WorkerLost
from bavt_fast.runs.worker import Given, Report, Worker


class ThreadPool:
    """`bavt_fast.runs.fleet.Pool` without processes. What is passed is pickled, as between processes.

    Args:
        make: makes the worker of a place.
        deaths: workers that die on their way to report what they did, at random, so that nothing of it is ever known.
            Each has reported something before: a place that loses one after the other is given up.

    Attributes:
        exchanges: reports that came. most_held: permits that a worker had at a time.
    """

    def __init__(self, size: int, make: Callable[[int], Worker], deaths: int = 0, seed: int = 0) -> None:
        self.size, self._make, self.deaths = size, make, deaths
        self._random = random.Random(seed)
        self._workers: dict[int, Worker] = {}
        self._reported: set[Worker] = set()
        self._answers: queue.Queue[tuple[int, Worker, Any]] = queue.Queue()
        self.exchanges = self.died = 0

    def start(self, place: int) -> None:
        self.kill(place)
        self._workers[place] = self._make(place)

    def kill(self, place: int) -> None:
        worker = self._workers.pop(place, None)
        if worker is not None:  # its thread ends, unheard
            threading.Thread(target=self._let_go, args=(worker,), daemon=True).start()

    @staticmethod
    def _let_go(worker: Worker) -> None:
        with contextlib.suppress(AssertionError):
            worker.exchange(Given(is_last=True))

    def call(self, place: int, method: str, *arguments: Any) -> None:
        worker, passed = self._workers[place], pickle.loads(pickle.dumps(arguments))

        def run() -> None:
            try:
                answer = getattr(worker, method)(*passed)
            except Exception as error:
                answer = error
            self._answers.put((place, worker, pickle.loads(pickle.dumps(answer))))

        threading.Thread(target=run, daemon=True).start()

    def wait(self, timeout_s: float) -> list[tuple[int, Any]]:
        found: list[tuple[int, Any]] = []
        with contextlib.suppress(queue.Empty):
            while True:
                place, worker, answer = self._answers.get(timeout=0.0 if found else timeout_s)
                if self._workers.get(place) is not worker:
                    continue
                if isinstance(answer, Report):
                    self.exchanges += 1
                    dies = answer.settled and self.deaths and self._random.random() < 0.05
                    if dies and worker in self._reported:
                        self.deaths -= 1
                        self.died += 1
                        answer = WorkerLost("killed by the test")
                    elif answer.answers:
                        self._reported.add(worker)
                found.append((place, answer))
        return found

    def close(self) -> None:
        for place in list(self._workers):
            self.kill(place)

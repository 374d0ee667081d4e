"""Runs on many machines, by Ray (the extra ``ray``): `RayRun`, and its pool of workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from bavt_fast.budget import Budget
from bavt_fast.runs.fleet import FleetRun, WorkerLost
from bavt_fast.runs.questions import Rows
from bavt_fast.runs.worker import Made, Worker
from bavt_fast.searcher import Searcher

try:
    import ray
    from ray.exceptions import RayError, RayTaskError
except ImportError as error:
    raise ModuleNotFoundError("many machines need Ray: pip install 'bavt_fast[ray]'", name=error.name) from error

__all__ = ["RayPool", "RayRun", "connect"]

STORE_BYTES = 100 * 2**20
"""Of a cluster of this process alone: what workers are made with, and reports that are large."""


class RayRun(FleetRun):
    """A run whose questions are searched by Ray actors, each with a searcher of its own.

        def make() -> bavt.Searcher: ...

        with RayRun("out", make, "questions.jsonl", address="auto", workers=8, budget=bavt.Budget(tokens=500)) as run:
            for line in run:
                ...

    The folder is that of `bavt_fast.runs.Run`, and lies on this machine: a run may be begun with Ray and gone on with
    without it, and the other way round.

    Args:
        make: makes the searcher, in each worker; it is pickled, and what it needs has to be on every machine. It may
            return a `bavt_fast.runs.worker.Made` too, which has more.
        address: of the cluster; "auto" for the one that this machine belongs to, "local" for one of this process alone.
            Not looked at where `ray.init` was called before.
        workers: how many; one for each GPU of the cluster, or each CPU where it has none or `gpus` is 0.
        cpus, gpus: of each worker. None for one GPU where the cluster has any.
        folder, questions, budget, seed, total, verify, strict, retry_errors, flush_s, keep, about: as of `Run`.

    Raises:
        ConnectionError: there is no cluster at the address.
        RunError, OSError, TypeError, ValueError: as `Run` does; RunError too where no worker can make its searcher.
    """

    def __init__(
        self,
        folder: Any,
        make: Callable[[], Searcher | Made],
        questions: Rows,
        *,
        budget: Budget,
        address: str = "local",
        workers: int | None = None,
        cpus: float = 1.0,
        gpus: float | None = None,
        seed: int = 0,
        verify: bool = True,
        keep: bool = False,
        **options: Any,
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"workers: expected at least 1, got {workers}")
        self._is_ours = not ray.is_initialized()
        if self._is_ours:
            connect(address, workers)
        try:
            has = ray.cluster_resources()
            if gpus is None:
                gpus = 1.0 if has.get("GPU", 0.0) else 0.0
            if workers is None:
                workers = max(1, int(has.get("GPU", 0.0) / gpus if gpus else has.get("CPU", 1.0) / max(cpus, 0.01)))
            pool = RayPool(workers, (make, budget, seed, verify, keep), cpus, gpus)
            super().__init__(folder, pool, questions, budget=budget, seed=seed, verify=verify, keep=keep, **options)
        except BaseException:
            self._leave()
            raise

    def close(self) -> None:
        """Kills the workers, lets the folder go, and leaves a cluster that it has joined; may be called again."""
        super().close()
        self._leave()

    def _leave(self) -> None:
        if self._is_ours and ray.is_initialized():
            ray.shutdown()


class RayPool:
    """Workers as Ray actors; see `bavt_fast.runs.fleet.Pool`."""

    def __init__(self, size: int, arguments: tuple[Any, ...], cpus: float, gpus: float) -> None:
        self.size = size
        self._actor = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(Worker)
        self._arguments = [ray.put(argument) for argument in arguments]  # once for all workers
        self._workers: dict[int, Any] = {}
        self._places: dict[Any, int] = {}  # of calls that are out

    def start(self, place: int) -> None:
        old = self._workers.get(place)
        if old is not None:
            ray.kill(old)
        self._workers[place] = self._actor.remote(*self._arguments)

    def call(self, place: int, method: str, *arguments: Any) -> None:
        self._places[getattr(self._workers[place], method).remote(*arguments)] = place

    def wait(self, timeout_s: float) -> list[tuple[int, Any]]:
        calls = list(self._places)
        if not calls:
            return []
        done, _ = ray.wait(calls, timeout=timeout_s)
        if done:
            done, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        return [(self._places.pop(call), _answer(call)) for call in done]

    def close(self) -> None:
        workers, self._workers = self._workers, {}
        self._places.clear()
        if ray.is_initialized():
            for worker in workers.values():
                ray.kill(worker)


def _answer(call: Any) -> Any:
    """What a call returned, or raised."""
    try:
        return ray.get(call)
    except RayTaskError as error:
        cause = error.cause
        return cause if isinstance(cause, Exception) else WorkerLost(str(error))
    except RayError as error:
        return WorkerLost(str(error).strip().split("\n", 1)[0])


def connect(address: str, workers: int | None = None) -> None:
    """Joins the cluster at an address, or starts one with room for so many workers at "local".

    Raises:
        ConnectionError: there is none, or it does not start.
    """
    options: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        cpus = max(workers or 1, os.cpu_count() or 1)
        options |= {"num_cpus": cpus, "include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        ray.init(address=address, **options)
    except Exception as error:  # of many kinds
        raise ConnectionError(f"address: expected a Ray cluster at {address}, got none ({error})") from error

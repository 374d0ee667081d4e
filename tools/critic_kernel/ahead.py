"""Fills Triton's cache with the kernels of calls to come, on all cores at once.

A kernel takes a second or so to compile, of one core, and a tuner or a benchmark needs hundreds. Processes that know no
GPU compile them here just as a launch would, and the launch then finds them in the cache on the disk.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType

import torch

from bavt_fast.kernels.critic_config import Config
from bavt_fast.kernels.critic_launch import finish_launch, stage_1_launch, unit_tiles, usable_config
from tools.critic_kernel.aot import example_call
from tools.critic_kernel.host import pretend_gpu

__all__ = ["Ahead", "Job", "compile_job"]


@dataclass(frozen=True)
class Job:
    """Both kernels of a call on plain aligned tensors, with a tiling."""

    kind: str
    rows: int
    hidden_size: int
    config: Config


class Ahead:
    """Compiles jobs in processes of their own; a context manager.

    Args:
        capability: compute capability of the GPU times ten.
        processes: how many; all cores but one unless told.
    """

    def __init__(self, capability: int, processes: int | None = None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._pool = ProcessPoolExecutor(
            processes or max(1, len(os.sched_getaffinity(0)) - 1), context, _start, (capability,)
        )
        self._futures: dict[Job, Future[str]] = {}

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, jobs: Iterable[Job]) -> None:
        """Compiles `jobs` after those that were submitted before."""
        try:
            for job in jobs:
                if job not in self._futures:
                    self._futures[job] = self._pool.submit(compile_job, job)
        except BrokenProcessPool:
            print("ahead: a compiling process died, the rest compiles when launched", flush=True)

    def failure(self, job: Job, timeout_s: float | None = None) -> str:
        """Waits for a job; why it does not compile, "" where it does or where nobody knows."""
        future = self._futures.get(job)
        if future is None:
            return ""
        try:
            return future.result(timeout_s)
        except (BrokenProcessPool, FutureTimeoutError):
            return ""


def compile_job(job: Job) -> str:
    """Compiles both kernels of `job`, for the driver that is set; why not, or ""."""
    try:
        call = example_call(job.kind, job.rows, job.hidden_size)
        config = usable_config(call, job.config)
        partial = call.hidden.new_empty((unit_tiles(config, job.hidden_size), job.rows), dtype=torch.float32)
        out = call.hidden.new_empty((job.rows, 1))
        for launch in (
            stage_1_launch(call, config, partial, allow_tf32=job.kind == "tf32"),
            finish_launch(call, config, partial, out, (0.0, 1.0)),
        ):
            launch.kernel.warmup(grid=launch.grid, **launch.arguments, **launch.options)
    except Exception as failure:  # the compiler's own errors are of many types
        return f"{type(failure).__name__}: {str(failure).strip()[:200]}"
    return ""


def _start(capability: int) -> None:
    torch.set_num_threads(1)
    pretend_gpu(lambda launched: None, capability)

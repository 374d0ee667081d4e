"""Run the benchmark of runs on Ray and write the report.

    python -m benchmarks.fleet [--effort full|quick|tiny] [--out DIR]

A local cluster, and generators that sleep 50 ms for a step or cost nothing: answers a second by two workers against
one, once all of them search; and the processor time that the driver takes for a report of a worker and for an answer in
it, which says how many workers it can feed (docs/how_to/many_machines.md). Writes fleet-CPU-DATE.json and .md.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bavt_fast.budget import Budget
from bavt_fast.protocols import Step
from bavt_fast.searcher import Searcher
from benchmarks import harness
from benchmarks.harness import LeftOut, Results, Row, Target, row_of

OURS = "bavt_fast"
RATE = "answers a second, generators that sleep 50 ms"
SPEEDUP = "two workers against one, generators that sleep 50 ms"
REPORT = "driver: processor time of a report"  # us
ANSWER = "driver: processor time of an answer in it"  # us
SLEEP_S, WAVE, STEPS = 0.05, 8, 20


@dataclass(frozen=True)
class Effort:
    questions: int  # of a worker that sleeps
    free_steps: int  # of a run that costs nothing
    rounds: int


EFFORTS = {"full": Effort(80, 20_000, 3), "quick": Effort(40, 5_000, 2), "tiny": Effort(16, 500, 1)}


class Sleeping:
    """Gives one more line a step, after a while."""

    def __init__(self, sleep_s: float) -> None:
        self.sleep_s = sleep_s

    def propose(self, states: Sequence[Any], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        if self.sleep_s:
            time.sleep(self.sleep_s)
        return [[Step(f"and {state.seed % 1000} more\n", 1)] for state in states]


def run_of(folder: Path, questions: int, workers: int, wave: int, sleep_s: float) -> Any:
    try:
        import ray

        from bavt_fast.runs.ray import RayRun, connect
    except ImportError as error:
        raise LeftOut(str(error)) from error
    if not ray.is_initialized():  # one cluster for all of it
        os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
        connect("local", 3)

    def make() -> Searcher:
        return Searcher(Sleeping(sleep_s), wave=wave, max_step_tokens=8)

    rows = [{"id": i, "question": f"Count to {i}."} for i in range(questions)]
    return RayRun(folder, make, rows, budget=Budget(tokens=STEPS), workers=workers)


def rate_of(workers: int, questions: int) -> float:
    """Answers a second between the moment when all workers have answered and the end of three quarters of the run."""
    with (
        tempfile.TemporaryDirectory() as place,
        run_of(Path(place, "out"), questions * workers, workers, WAVE, SLEEP_S) as run,
    ):
        begin: tuple[float, int] | None = None
        heard: set[int] = set()
        wait = run._pool.wait

        def waited(timeout_s: float) -> Any:
            found = wait(timeout_s)
            heard.update(place for place, answer in found if getattr(answer, "answers", 0))
            return found

        run._pool.wait = waited
        for done, _ in enumerate(run, start=1):
            now = time.perf_counter(), run.progress().answers
            if begin is None and len(heard) == workers:
                begin = now
            if begin is not None and done >= questions * workers * 3 // 4:
                return (now[1] - begin[1]) / (now[0] - begin[0])
    raise LeftOut("the run was over before all workers had answered")


def two_against_one(questions: int, rounds: int) -> Iterator[Row]:
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(rounds):
        for workers, found in rates.items():
            found.append(rate_of(workers, questions))
    for workers, found in rates.items():
        yield row_of(RATE, OURS, "1/s", found, {"workers": workers, "wave": WAVE})
    each = [two / one for one, two in zip(rates[1], rates[2], strict=True)]
    yield row_of(SPEEDUP, OURS, "times", each, {"wave": WAVE})


def driver_seconds(steps: int, wave: int) -> tuple[float, float]:
    """(processor seconds of the driver for a report, answers in a report) of one worker whose model costs nothing."""
    with (
        tempfile.TemporaryDirectory() as place,
        run_of(Path(place, "out"), max(wave, steps // STEPS), 1, wave, 0.0) as run,
    ):
        reports = 0
        take = run._take

        def taken(*arguments: Any) -> Any:
            nonlocal reports
            reports += 1
            return take(*arguments)

        run._take = taken
        start_s, begin = time.process_time(), run.progress().answers
        for _ in run:
            pass
        spent_s, answers = time.process_time() - start_s, run.progress().answers - begin
    return spent_s / reports, answers / reports


def driver(steps: int, rounds: int) -> Iterator[Row]:
    """What a report and an answer cost, from waves of two sizes."""
    reports, answers = [], []
    for _ in range(rounds):
        (small_s, few), (large_s, many) = driver_seconds(steps // 10, 1), driver_seconds(steps, 64)
        answer_s = (large_s - small_s) / (many - few)
        answers.append(answer_s * 1e6)
        reports.append((small_s - few * answer_s) * 1e6)
    yield row_of(REPORT, OURS, "us", reports, {})
    yield row_of(ANSWER, OURS, "us", answers, {})


def targets_of(results: Results) -> list[Target]:
    found = results.of(SPEEDUP)
    return [Target("two workers against one", found[0].median if found else None, 1.9, "times", at_least=True)]


def parts_of(effort: Effort) -> list[Callable[[], Iterator[Row]]]:
    return [
        lambda: two_against_one(effort.questions, effort.rounds),
        lambda: driver(effort.free_steps, effort.rounds),
    ]


def main(arguments: list[str] | None = None) -> int:
    return harness.run(
        "fleet",
        title="Runs on Ray, measured",
        command="make bench-fleet",
        parts=lambda effort: parts_of(EFFORTS[effort]),
        targets=targets_of,
        efforts=list(EFFORTS),
        packages=("ray",),
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())

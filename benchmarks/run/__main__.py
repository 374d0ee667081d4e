"""Run the benchmark of runs and write the report.

    python -m benchmarks.run [--effort full|quick|tiny] [--out DIR]

Microseconds per step of a run whose generator and critic cost nothing, with its journal and results on disk, beside the
same searches by `search_iter`, which keeps nothing; memory over the run; the time to read questions, and to go on after
a kill. Writes run-CPU-DATE.json and .md. `full` has 100,000 questions and takes a few minutes, `quick` half a minute;
`tiny` only shows that it runs.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bavt_fast.runs import Run
from benchmarks import harness
from benchmarks.engine import contract
from benchmarks.harness import Case, Results, Row, Target, resident_bytes, row_of

OURS = "bavt_fast"
STEP = "step of a run, results on disk"  # us outside generator and critic; at: questions, steps (of each), wave
PLAIN_STEP = "the same step by search_iter"
BEGIN = "reading and checking a question"  # us
RESUME = "making an answer again from the journal"  # us
GROWTH = "resident memory, from a fifth of the run to its end"  # MB
DISK = "bytes on disk per question, at the end"
WAVE, STEPS = 64, 50


@dataclass(frozen=True)
class Effort:
    questions: int
    small: int  # questions of the rows that take rounds
    rounds: int


EFFORTS = {"full": Effort(100_000, 2_000, 5), "quick": Effort(5_000, 1_000, 3), "tiny": Effort(80, 70, 2)}


class Killed(BaseException):
    """Ends a run from within its generator."""


def searcher_of(calls: int | None = None) -> tuple[Any, contract.Watched]:
    """A free searcher, whose generator ends the run at its n-th call."""
    searcher, watched = contract.searcher_of("TextTask", WAVE)
    if calls is not None:
        propose, left = searcher.generator.propose, [calls]

        def counted(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return propose(*arguments)

        searcher.generator.propose = counted
    return searcher, watched


def written(folder: Path, count: int) -> Path:
    path = folder / "questions.jsonl"
    with open(path, "w") as file:
        for i, question in enumerate(contract.questions_of("TextTask", count)):
            file.write(json.dumps({"id": i, "question": question}) + "\n")
    return path


def begun(folder: Path, searcher: Any, questions: Path) -> Run:
    return Run(folder / "out", searcher, questions, budget=contract.budget_of(STEPS))


def a_long_run(questions: int) -> Iterator[Row]:
    """One run of all questions, and its memory on the way."""
    at = {"questions": questions, "steps": STEPS, "wave": WAVE}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        path = written(folder, questions)
        searcher, watched = searcher_of()
        start_s = time.perf_counter()
        with begun(folder, searcher, path) as run:
            begin_s = time.perf_counter() - start_s
            bytes_at: list[int] = []

            def go() -> None:
                for done, _ in enumerate(run, start=1):
                    if done % max(1, questions // 50) == 0:
                        bytes_at.append(resident_bytes())

            _, outside_s, steps = watched.run(go)
        disk = sum(file.stat().st_size for file in (folder / "out").iterdir())
    yield Case(STEP, OURS, items=1, at=at).row([outside_s / steps])
    yield Case(BEGIN, OURS, items=1, at=at).row([begin_s / questions])
    later = bytes_at[len(bytes_at) // 5 :]
    yield row_of(GROWTH, OURS, "MB", [(max(later) - later[0]) / 1e6], at)
    yield row_of(DISK, OURS, "bytes", [disk / questions], at)


def short_runs(questions: int, rounds: int) -> Iterator[Row]:
    """Runs and plain searches of the same questions in turns."""
    at = {"questions": questions, "steps": STEPS, "wave": WAVE}
    kept, plain = [], []
    asked = contract.questions_of("TextTask", questions)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            path = written(Path(place), questions)
            searcher, watched = searcher_of()
            with begun(Path(place), searcher, path) as run:
                _, outside_s, steps = watched.run(lambda run=run: [None for _ in run])
            kept.append(outside_s / steps)
        searcher, watched = searcher_of()
        results = searcher.search_iter(iter(asked), budget=contract.budget_of(STEPS))
        _, outside_s, steps = watched.run(lambda results=results: [None for _ in results])
        plain.append(outside_s / steps)
    yield Case(STEP, OURS, items=1, at=at).row(kept)
    yield Case(PLAIN_STEP, OURS, items=1, at=at).row(plain)


def going_on(rounds: int) -> Iterator[Row]:
    """The start of a run that was killed with a wave of questions nearly done."""
    seconds = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as place:
            path = written(Path(place), WAVE)
            searcher, _ = searcher_of(calls=STEPS - 2)
            try:
                with begun(Path(place), searcher, path) as run:
                    list(run)
            except Killed:
                pass
            searcher, _ = searcher_of()
            start_s = time.perf_counter()
            with begun(Path(place), searcher, path) as run:
                seconds.append((time.perf_counter() - start_s) / (WAVE * (STEPS - 2)))
                assert run.progress().under_way == WAVE
    yield Case(RESUME, OURS, items=1, at={"questions": WAVE, "steps": STEPS}).row(seconds)


def targets_of(results: Results) -> list[Target]:
    growth = results.of(GROWTH)
    longest = max(results.of(STEP), key=lambda row: row.at["questions"], default=None)
    name = "step of a run" if longest is None else f"step of a run of {harness.size(longest.at['questions'])} questions"
    return [
        Target(name, None if longest is None else longest.median, 20, "us"),
        Target("growth of memory over the run", growth[-1].median if growth else None, 5, "MB"),
    ]


def parts_of(effort: Effort) -> list[Callable[[], Iterator[Row]]]:
    return [
        lambda: short_runs(effort.small, effort.rounds),
        lambda: going_on(effort.rounds),
        lambda: a_long_run(effort.questions),
    ]


def main(arguments: list[str] | None = None) -> int:
    return harness.run(
        "run",
        title="Runs, measured",
        command="make bench-run",
        parts=lambda effort: parts_of(EFFORTS[effort]),
        targets=targets_of,
        efforts=list(EFFORTS),
        packages=("numpy",),
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())

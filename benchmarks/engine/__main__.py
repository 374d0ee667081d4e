"""Run the benchmark of the engine and write the report.

    python -m benchmarks.engine [--effort full|quick|tiny] [--out DIR]

Microseconds per step of a search whose generator and critic cost nothing, beside treequest and a plain loop; what a
search by the embedded model spends outside it; bytes per node. Writes engine-CPU-DATE.json and .md. `full` takes two or
three minutes, `quick` half a minute; `tiny` only shows that it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks import harness
from benchmarks.engine import contract, rows
from benchmarks.engine.memory import measured_apart
from benchmarks.engine.overhead import with_the_embedded_model
from benchmarks.engine.searches import asynchronous, listening, one_at_a_time, side_by_side, stopwatch, verdicts
from benchmarks.engine.targets import targets_of
from benchmarks.harness import Limits, Results, Row

NOTES = (
    "Medians over rounds, with the 20th and 80th percentile; one thread. A step is one that the generator proposed."
    " Time inside generator and critic is taken off, but for the stopwatch's own, twice a wave (last row)."
    " treequest and the plain loop take turns with ours, round by round.",
)


@dataclass(frozen=True)
class Effort:
    limits: Limits
    largest: int  # most questions side by side
    memory_steps: int
    embedded: tuple[int, int]  # questions, rounds


EFFORTS = {
    "full": Effort(Limits(3.0, fewest=3, most=50), 4_096, 50_000, embedded=(16, 3)),
    "quick": Effort(Limits(0.5, fewest=3, most=20), 256, 20_000, embedded=(16, 2)),
    "tiny": Effort(Limits(0.0, fewest=2, most=2), 16, 1_000, embedded=(2, 1)),
}


def parts_of(effort: Effort) -> list[Callable[[], Iterator[Row]]]:
    searches: list[Callable[[], Iterator[Row]]] = []
    for task in contract.TASKS:
        searches.append(lambda task=task: one_at_a_time(task, effort.limits))
        searches.append(lambda task=task: side_by_side(task, effort.limits, effort.largest))
    return [
        *searches,
        lambda: asynchronous(effort.limits, effort.largest),
        lambda: listening(effort.limits),
        lambda: with_the_embedded_model(*effort.embedded),
        verdicts,
        lambda: measured_apart(effort.memory_steps),
        lambda: stopwatch(Limits(1.0, fewest=5, most=5)),
    ]


def markdown(report: Mapping[str, Any]) -> str:
    results = harness.results_in(report)
    return harness.sections(
        harness.heading(report, *NOTES),
        "## Targets",
        harness.targets_table(report["targets"]),
        "## One step\n\nMicroseconds outside generator and critic.",
        steps_table(results),
        "## All rows",
        harness.all_rows_table(results),
    )


def steps_table(results: Results) -> str:
    found = results.of(rows.STEP)
    shapes = sorted({(row.at["questions"], row.at["wave"], row.at["steps"]) for row in found})
    lines = []
    for task, who in dict.fromkeys((row.at["task"], row.who) for row in found):
        cells = []
        for questions, wave, steps in shapes:
            cell = results.of(rows.STEP, who, task=task, questions=questions, wave=wave, steps=steps)
            cells.append(harness.spread(cell[0] if cell else None))
        lines.append([f"{who}, {task}", *cells])
    heads = [f"{questions:,} x {steps:,} steps, {wave:,} in flight" for questions, wave, steps in shapes]
    return harness.table(["questions", *heads], lines)


def main(arguments: list[str] | None = None) -> int:
    return harness.run(
        "engine",
        title="The engine, measured",
        command="make bench-engine",
        parts=lambda effort: parts_of(EFFORTS[effort]),
        targets=targets_of,
        efforts=list(EFFORTS),
        packages=("numpy", "torch", "transformers", "treequest"),
        markdown=markdown,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())

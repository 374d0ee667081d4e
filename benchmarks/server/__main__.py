"""Run the benchmark of generators over servers and write the report.

    python -m benchmarks.server [--effort full|tiny] [--out DIR]

What our client, and a whole search, add to a bare call of the package openai, against a server that answers at once:
microseconds of processor time. Writes server-CPU-DATE.json and .md. `full` takes a minute on a machine of its own;
`tiny` only shows that it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks import harness
from benchmarks.harness import Limits, Results, Row, Target
from benchmarks.server import rows
from benchmarks.server.client import overhead

IN_FLIGHT = 64


@dataclass(frozen=True)
class Effort:
    steps: int
    limits: Limits


EFFORTS = {
    "full": Effort(1_280, Limits(20.0, fewest=3, most=7)),
    "tiny": Effort(128, Limits(0.0, fewest=1, most=1)),
}


def parts_of(effort: Effort) -> list[Callable[[], Iterator[Row]]]:
    return [lambda: overhead(IN_FLIGHT, effort.steps, effort.limits)]


def targets_of(results: Results) -> list[Target]:
    added = results.median(rows.ADDED, rows.SEARCH)
    return [Target(f"a search's step above a bare call, {IN_FLIGHT} in flight", added, 300, "us")]


def main(arguments: list[str] | None = None) -> int:
    return harness.run(
        "server",
        title="Generators over servers, measured",
        command="make bench-server",
        parts=lambda effort: parts_of(EFFORTS[effort]),
        targets=targets_of,
        efforts=list(EFFORTS),
        packages=("openai",),
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())

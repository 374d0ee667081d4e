"""What a benchmark row is: what was timed, by whom, at which size; and its figures over the rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

OURS_CPP = "bavt_fast, C++ side"
OURS_PYTHON = "bavt_fast, from Python"
PLAIN_LOOP = "plain loop in C++"
RECIPE = "recipe in Python"
PLAIN_PYTHON = "plain UCT in Python, slots"
MCTX = "mctx on the CPU"
TREEQUEST_STANDARD = "treequest StandardMCTS, in place"
TREEQUEST_ABMCTSA = "treequest ABMCTSA, in place"
OPEN_SPIEL = "open_spiel MCTSBot, Python"
LIGHTZERO = "LightZero MuZero ctree (quoted)"

SIMULATION = "simulation"  # select, expand 3, back up
WAVE_SIMULATION = "wave simulation"  # one of a wave: the same in many trees side by side
RENEWED_SIMULATION = "wave simulation, memory reused"  # trees dropped and added again, as where questions come and go
POWER_SIMULATION = "power simulation"  # the same by a power draw, and a try counted
POWER_DRAW = "power draw"
KNOWN_DESCENTS = "known descents"  # the floor of dependent loads, per simulation
PLAIN_READ = "plain read"  # the floor of memory, per simulation
ARITHMETIC = "arithmetic alone"  # what a second thread is worth on the machine: nothing shared, no memory; 1,000 steps
SAVE, LOAD = "snapshot save", "snapshot load"
TO_BYTES, FROM_BYTES = "snapshot to bytes", "snapshot from bytes"
COPY, WRITE, READ = "memory copy", "plain file write", "plain file read"
NODE_BYTES, RANKED_NODE_BYTES = "bytes per node", "bytes per node, ranked"


@dataclass(frozen=True)
class Row:
    """What a row times.

    Args:
        n: simulations in each tree; nodes in the tree for power draws, snapshots and bytes.
        items: how many of `unit` a round does: simulations or draws for "us", bytes for "GB/s".
    """

    what: str
    who: str
    n: int
    items: int
    trees: int = 1
    threads: int = 1
    unit: str = "us"


@dataclass(frozen=True)
class Result:
    """A row's figures in its unit: microseconds per simulation or draw, GB/s, or bytes."""

    what: str
    who: str
    n: int
    trees: int
    threads: int
    unit: str
    median: float
    p20: float
    p80: float
    rounds: int


class Results:
    """All results of a run, found by what, who and size."""

    def __init__(self, rows: Iterable[Result]) -> None:
        self.rows = list(rows)

    def median(self, what: str, who: str, n: int, trees: int = 1, threads: int = 1) -> float | None:
        """A row's median in its unit; None where it was not measured."""
        wanted = (what, who, n, trees, threads)
        for row in self.rows:
            if (row.what, row.who, row.n, row.trees, row.threads) == wanted:
                return row.median
        return None

    def of(self, what: str, who: str) -> list[Result]:
        return sorted((row for row in self.rows if (row.what, row.who) == (what, who)), key=lambda row: row.n)

    def dump(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]


def result_of(row: Row, seconds: list[float]) -> Result:
    """The figures of a row from the seconds of its rounds."""
    per_round = [row.items / 1e9 / s if row.unit == "GB/s" else 1e6 * s / row.items for s in seconds]
    low, *_, high = statistics.quantiles(per_round, n=5, method="inclusive")
    figures = [float(f"{figure:.4g}") for figure in (statistics.median(per_round), low, high)]
    return Result(row.what, row.who, row.n, row.trees, row.threads, row.unit, *figures, len(seconds))


def results_of_pytest(raw: dict[str, Any]) -> list[Result]:
    """From what pytest-benchmark wrote. A benchmark that failed has no rounds and is left out."""
    timed = [bench for bench in raw["benchmarks"] if bench["extra_info"]]
    return [result_of(Row(**bench["extra_info"]), bench["stats"]["data"]) for bench in timed]

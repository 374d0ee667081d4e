"""What the rows of the trees are called, and the sizes that they have: n, trees, threads."""

from __future__ import annotations

from typing import Any

from benchmarks.harness import Case, Row

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
LISTED_SIMULATION = "simulation, values in lists"
WAVE_SIMULATION = "wave simulation"  # one of a wave: the same in many trees side by side
RENEWED_SIMULATION = "wave simulation, memory reused"  # trees dropped and added again, as where questions come and go
BUSY_SIMULATION = "wave simulation, other cores busy"  # memory reused, a busy loop on every core but one
POWER_SIMULATION = "power simulation"  # the same by a power draw, and a try counted
POWER_DRAW = "power draw"
KNOWN_DESCENTS = "known descents"  # the floor of dependent loads, per simulation
PLAIN_READ = "plain read"  # the floor of memory, per simulation
ARITHMETIC = "arithmetic alone"  # what a second thread is worth on the machine: nothing shared, no memory; 1,000 steps
SAVE, LOAD = "snapshot save", "snapshot load"
TO_BYTES, FROM_BYTES = "snapshot to bytes", "snapshot from bytes"
COPY, WRITE, READ = "memory copy", "plain file write", "plain file read"
NODE_BYTES, RANKED_NODE_BYTES = "bytes per node", "bytes per node, ranked"


def case(what: str, who: str, n: int, items: int, trees: int = 1, threads: int = 1, unit: str = "us") -> Case:
    """What a row of the trees times.

    Args:
        n: simulations in each tree; nodes in the tree for power draws, snapshots and bytes.
        items: how many of `unit` a round does: simulations or draws for "us", bytes for "GB/s".
    """
    return Case(what, who, items, at(n, trees, threads), unit)


def at(n: int, trees: int = 1, threads: int = 1) -> dict[str, int | str]:
    return {"n": n, "trees": trees, "threads": threads}


def rows_of_pytest(raw: dict[str, Any]) -> list[Row]:
    """From what pytest-benchmark wrote. A benchmark that failed has no rounds and is left out."""
    timed = [bench for bench in raw["benchmarks"] if bench["extra_info"]]
    return [Case(**bench["extra_info"]).row(bench["stats"]["data"]) for bench in timed]

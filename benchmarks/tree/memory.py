"""Bytes per node, measured: how much more of the process is resident after a search than before it.

    python -m benchmarks.tree.memory

A process of its own, so that nothing else is allocated or given back meanwhile. Prints results as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import numpy as np

from benchmarks.harness import ROOT, Row, resident_bytes, row_of
from benchmarks.tree import rows
from benchmarks.tree.effort import BRANCHING
from benchmarks.tree.library import Made, library, pointer

SIMULATIONS = 1_000_000  # so many that what a process needs beside the tree does not count


def bytes_per_node(simulations: int) -> list[Row]:
    """After uct simulations, and after a power draw has had the nodes ranked too."""
    values = np.random.default_rng(3).random((simulations + 1, BRANCHING))
    before = resident_bytes()
    tree = Made("trees", 1)
    library().trees_uct(tree, simulations, pointer(values))
    searched = resident_bytes()
    library().trees_power(tree, 1, pointer(values))
    ranked = resident_bytes()
    nodes = BRANCHING * simulations + 1
    figures = {rows.NODE_BYTES: searched - before, rows.RANKED_NODE_BYTES: ranked - before}
    return [
        row_of(what, rows.OURS_CPP, "bytes", [round(grown / nodes, 1)], rows.at(simulations))
        for what, grown in figures.items()
    ]


def measured_apart() -> list[Row]:
    done = subprocess.run([sys.executable, "-m", __name__], capture_output=True, text=True, check=True, cwd=ROOT)
    return [Row(**row) for row in json.loads(done.stdout)]


if __name__ == "__main__":
    print(json.dumps([asdict(row) for row in bytes_per_node(SIMULATIONS)]))

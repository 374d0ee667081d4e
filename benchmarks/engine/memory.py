"""Bytes per node of a search, beside what the user brings: texts, states, steps and token ids exist before it.

    python -m benchmarks.engine.memory resident|python STEPS

`resident` is the growth of the process's resident set over one large search, all native memory included; `python` is
what of it tracemalloc sees, the Python objects. Both are read while the search still runs, and each in a process of its
own, for tracemalloc takes memory too. Prints the bytes and the nodes.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator

from benchmarks.engine import contract, rows
from benchmarks.harness import ROOT, Row, resident_bytes, row_of


def grown(kind: str, steps: int) -> tuple[int, int]:
    """Bytes that a search of so many steps takes at its last one, and its nodes."""
    probe = resident_bytes if kind == "resident" else lambda: tracemalloc.get_traced_memory()[0]
    contract.weightless_search(100, probe)()  # what the first search of a process makes once
    search = contract.weightless_search(steps, probe)
    gc.collect()
    if kind == "python":
        tracemalloc.start()
    before = probe()
    after, nodes = search()
    return after - before, nodes


def measured_apart(steps: int) -> Iterator[Row]:
    for what, kind in ((rows.NODE_BYTES, "resident"), (rows.NODE_PYTHON_BYTES, "python")):
        command = [sys.executable, "-m", __name__, kind, str(steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
        total, nodes = map(int, done.stdout.split())
        yield row_of(what, rows.OURS, "bytes", [total / nodes], {"questions": 1, "steps": steps})


if __name__ == "__main__":
    print(*grown(sys.argv[1], int(sys.argv[2])))

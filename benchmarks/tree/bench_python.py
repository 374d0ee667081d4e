"""The package as Python sees it: a tree one call at a time, a forest in waves, snapshots."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import bavt_fast as bavt
from benchmarks.tree import rows
from benchmarks.tree.conftest import Measure
from benchmarks.tree.effort import BRANCHING, effort
from benchmarks.tree.rows import case

Floats = npt.NDArray[np.float64]


def one_call_at_a_time(tree: bavt.Tree, values: list[Any], first_values: list[float]) -> None:
    select, expand, backup = tree.select, tree.expand, tree.backup
    for children, value in zip(values, first_values, strict=True):
        backup(expand(select("uct"), children), value)


@pytest.mark.parametrize("n", effort().sizes([1_000, 10_000, 100_000]))
def test_one_call_at_a_time(measure: Measure, rng: np.random.Generator, n: int) -> None:
    def setup() -> tuple[object, ...]:
        values = rng.random((n, BRANCHING))
        return bavt.Tree(), list(values), values[:, 0].tolist()

    measure(case(rows.SIMULATION, rows.OURS_PYTHON, n, items=n), one_call_at_a_time, setup)


@pytest.mark.parametrize("n", effort().sizes([1_000, 10_000]))
def test_values_in_lists(measure: Measure, rng: np.random.Generator, n: int) -> None:
    """The same, by who has no array: it must cost no more."""

    def setup() -> tuple[object, ...]:
        values = rng.random((n, BRANCHING))
        return bavt.Tree(), values.tolist(), values[:, 0].tolist()

    measure(case(rows.LISTED_SIMULATION, rows.OURS_PYTHON, n, items=n), one_call_at_a_time, setup)


def in_waves(forest: bavt.Forest, values: list[Floats], first_values: list[Floats]) -> None:
    for children, value in zip(values, first_values, strict=True):
        trees, nodes = forest.select("uct")
        forest.backup(trees, forest.expand(trees, nodes, children), value)


def renew(forest: bavt.Forest) -> None:
    """Every tree a root again, in the memory that the last round left."""
    for tree in range(len(forest.live)):
        forest.drop(tree)
        forest.add()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what", [rows.WAVE_SIMULATION, rows.RENEWED_SIMULATION])
@pytest.mark.parametrize("trees", effort().trees)
def test_waves(measure: Measure, rng: np.random.Generator, trees: int, what: str, threads: int) -> None:
    waves = effort().waves
    kept = bavt.Forest(trees, threads=threads)

    def setup() -> tuple[object, ...]:
        values = rng.random((waves, trees, BRANCHING))
        renew(kept)
        forest = kept if what == rows.RENEWED_SIMULATION else bavt.Forest(trees, threads=threads)
        return forest, list(values), list(values[:, :, 0].copy())

    measure(case(what, rows.OURS_PYTHON, waves, waves * trees, trees, threads), in_waves, setup)


@pytest.fixture
def busy_neighbours() -> Iterator[None]:
    """Other programs that keep every core but the first one busy."""
    cores = sorted(os.sched_getaffinity(0))[1:]
    loop = "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])})\nwhile True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", loop, str(core)]) for core in cores]
    yield
    for process in busy:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("busy_neighbours")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("trees", effort().trees)
def test_waves_beside_busy_neighbours(measure: Measure, rng: np.random.Generator, trees: int, threads: int) -> None:
    """A second thread that finds no core must cost nothing."""
    waves = effort().waves
    forest = bavt.Forest(trees, threads=threads)

    def setup() -> tuple[object, ...]:
        values = rng.random((waves, trees, BRANCHING))
        renew(forest)
        return forest, list(values), list(values[:, :, 0].copy())

    measure(case(rows.BUSY_SIMULATION, rows.OURS_PYTHON, waves, waves * trees, trees, threads), in_waves, setup)


# ---- Snapshots -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=effort().sizes([1_000, 10_000, 1_000_000, 10_000_000])[-2:])
def searched(request: pytest.FixtureRequest) -> bavt.Tree:
    """A tree of about as many nodes, grown by simulations."""
    rng = np.random.default_rng(2)
    tree = bavt.Tree()
    while tree.num_nodes < request.param:
        values = rng.random((min(10_000, request.param // BRANCHING + 1), BRANCHING))
        one_call_at_a_time(tree, list(values), values[:, 0].tolist())
    return tree


def write_plainly(path: Path, data: bytes) -> None:
    """As a snapshot is written: to the disk, and in place of the old file at once."""
    beside = path.with_suffix(".new")
    with open(beside, "wb", buffering=0) as file:
        file.write(data)
        os.fsync(file.fileno())
    os.replace(beside, path)


def copy_bytes(data: bytes) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    source = np.frombuffer(data, dtype=np.uint8)
    return np.copyto, (np.empty_like(source), source)


@pytest.mark.parametrize(
    "what", [rows.SAVE, rows.WRITE, rows.LOAD, rows.READ, rows.TO_BYTES, rows.FROM_BYTES, rows.COPY]
)
def test_snapshot(measure: Measure, searched: bavt.Tree, tmp_path: Path, what: str) -> None:
    """Files lie in the page cache, so loading times the processor and memory; saving waits for the disk."""
    path = tmp_path / "tree.bavt"
    searched.save(path)
    data = path.read_bytes()
    target, arguments = {
        rows.SAVE: lambda: (searched.save, (path,)),
        rows.WRITE: lambda: (write_plainly, (path, data)),
        rows.LOAD: lambda: (bavt.Tree.load, (path,)),
        rows.READ: lambda: (Path.read_bytes, (path,)),
        rows.TO_BYTES: lambda: (searched.to_bytes, ()),
        rows.FROM_BYTES: lambda: (bavt.Tree.from_bytes, (data,)),
        rows.COPY: lambda: copy_bytes(data),
    }[what]()
    plain = what in (rows.WRITE, rows.READ, rows.COPY)
    nodes = 10 ** round(np.log10(searched.num_nodes))
    timed = case(what, "floor" if plain else rows.OURS_PYTHON, nodes, items=len(data), unit="GB/s")
    measure(timed, target, lambda: arguments)

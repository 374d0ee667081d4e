"""The benchmarks of the search trees run, and their report says what was measured. Speed itself is not tested."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

import bavt_fast as bavt

pytest.importorskip("matplotlib")
pytest.importorskip("pytest_benchmark")
pytest.importorskip("pybind11")

from benchmarks.harness import Results, Row
from benchmarks.tree import plain_uct, rows
from benchmarks.tree.bench_python import one_call_at_a_time
from benchmarks.tree.report import markdown
from benchmarks.tree.targets import QUOTED, targets_of

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def result(what: str, who: str, n: int, median: float, trees: int = 1, threads: int = 1) -> Row:
    return Row(what, who, "us", median, median, median, rounds=1, at=rows.at(n, trees, threads))


def test_targets_know_what_was_not_measured() -> None:
    some = Results(
        [
            result(rows.SIMULATION, rows.OURS_CPP, 1_000, 0.08),
            result(rows.SIMULATION, rows.PLAIN_LOOP, 1_000, 0.10),
            result(rows.WAVE_SIMULATION, rows.OURS_PYTHON, 400, 0.10, trees=1024, threads=2),
        ]
    )
    targets = {target.what: target for target in targets_of(some)}
    assert targets["uct simulation, C++ side, 1,000"].verdict == "met"
    assert targets["plain loop / ours, 1,000"].verdict == "missed"
    assert targets["LightZero (quoted) / waves from Python"].value == pytest.approx(31.0)
    assert targets["uct simulation, C++ side, 1,000,000"].verdict == "not measured"


def test_plain_uct_is_the_same_search() -> None:
    values = np.random.default_rng(5).random((500, 3))
    tree = bavt.Tree()
    one_call_at_a_time(tree, list(values), values[:, 0].tolist())
    plain = plain_uct.search(values[:, 0].tolist(), branching=3)
    assert plain.visits == tree.visit_counts[0] == 500
    assert [child.visits for child in plain.children] == tree.visit_counts[1:4].tolist()
    assert [child.value_sum for child in plain.children] == tree.value_sums[1:4].tolist()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cmake", path=BIN) is None, reason="needs CMake")
def test_benchmarks_run_and_report(tmp_path: Path) -> None:
    installed_rivals = ["-k", "not mctx and not treequest and not open_spiel"]
    command = [sys.executable, "-m", "benchmarks.tree", "--effort", "tiny", "--out", str(tmp_path), *installed_rivals]
    # pytest-benchmark times nothing where it believes that other workers run beside it
    alone = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    done = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(next(tmp_path.glob("tree-*.json")).read_text())
    assert {"cpu", "compiler", "commit", "numpy"} <= set(report["machine"])
    measured = [Row(**row) for row in report["rows"] if row["rounds"] > 0]
    assert {row.who for row in measured} == {
        rows.OURS_CPP,
        rows.OURS_PYTHON,
        rows.PLAIN_LOOP,
        rows.PLAIN_PYTHON,
        rows.RECIPE,
        "floor",
    }
    assert all(0.0 < row.p20 <= row.median <= row.p80 for row in measured)
    assert len(report["rows"]) == len(measured) + len(QUOTED)
    text = next(tmp_path.glob("*.md")).read_text()
    assert text == markdown(report)
    assert "0.085 us" in text
    assert ElementTree.fromstring(next(tmp_path.glob("*.svg")).read_text()).tag.endswith("svg")

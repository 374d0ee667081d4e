"""The benchmark of the page, at its smallest: that it runs and says what it should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import ROOT, Results, Row
from benchmarks.view import __main__ as bench
from benchmarks.view.searches import STEP_CHARACTERS, search_of


def test_searches_are_of_the_size_that_was_asked_for() -> None:
    result = search_of(300)
    assert result.tree.num_nodes == 300
    assert {len(text.rstrip("\n")) for text in result.texts[1:]} <= set(
        range(STEP_CHARACTERS - 12, STEP_CHARACTERS + 1)
    )
    assert result.events is not None


def test_targets_are_those_of_ten_thousand_nodes() -> None:
    rows = [Row(bench.SIZE, bench.WHO, "MB", 0.5, 0.5, 0.5, 1, {"nodes": 10_000})]
    first, *others = bench.targets_of(Results(rows))
    assert (first.verdict, first.bound) == ("met", 3.0)
    assert {target.verdict for target in others} == {"not measured"}


def test_it_runs(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    # In a process of its own: the tests of the page may have a browser open, and Playwright takes one driver at a time.
    command = [sys.executable, "-m", "benchmarks.view", "--effort", "tiny", "--out", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (path,) = tmp_path.glob("view-*.json")
    report = json.loads(path.read_text())
    assert {row["who"] for row in report["rows"]} >= {"events kept", "page served", "page watched"}

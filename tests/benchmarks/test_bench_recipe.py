"""The comparison with the recipe: its rows, and that it times nothing but equal answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bavt_fast.recipe import search
from benchmarks.recipe import __main__ as bench


def test_a_case_has_both_sides_and_the_calls() -> None:
    rows = {(row.what, row.who): row for row in bench.measure_case(budget=10, max_depth=100, step_chars=1, repeats=2)}
    times = {who: rows[bench.ITERATION, who].median for who in (bench.RECIPE, bench.OURS, bench.CALLS)}
    assert min(times.values()) > 0
    assert times[bench.CALLS] < times[bench.RECIPE]
    assert rows[bench.TIMES, bench.OURS].unit == "x"


def test_answers_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.BudgetAwareValueTreeSearch, "extract_answer", lambda self, root: "another")
    with pytest.raises(AssertionError, match="answers differ"):
        list(bench.measure_case(budget=5, max_depth=100, step_chars=1, repeats=2))


def test_its_report_has_every_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CASES", [(10, 10, 10), bench.DEFAULTS])
    assert bench.main(["--effort", "tiny", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("recipe-*.json")
    report = json.loads(path.read_text())
    assert len(report["rows"]) == 2 * 5
    assert report["targets"][0]["value"] > 1
    assert path.with_suffix(".md").read_text().count("| 10 |") == 3

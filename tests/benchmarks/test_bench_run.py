"""The benchmark of runs: its runs are what they say, and its report says what was measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.harness import Results, Row
from benchmarks.run import __main__ as bench


def test_a_killed_run_leaves_all_of_a_wave_under_way(tmp_path: Path) -> None:
    path = bench.written(tmp_path, bench.WAVE)
    searcher, _ = bench.searcher_of(calls=5)
    with pytest.raises(bench.Killed), bench.begun(tmp_path, searcher, path) as run:
        list(run)
    searcher, watched = bench.searcher_of()
    with bench.begun(tmp_path, searcher, path) as run:
        assert run.progress().under_way == bench.WAVE
        _, _, steps = watched.run(lambda: list(run))
        assert run.summary().end == "done"
    assert steps == bench.WAVE * (bench.STEPS - 5)


def test_the_longest_run_is_what_the_target_is_about() -> None:
    rows = [Row(bench.STEP, bench.OURS, "us", us, us, us, 1, {"questions": n}) for n, us in ((10, 30.0), (90, 12.0))]
    step, growth = bench.targets_of(Results(rows))
    assert (step.value, step.verdict, growth.verdict) == (12.0, "met", "not measured")
    assert "90 questions" in step.what
    assert bench.targets_of(Results([]))[0].verdict == "not measured"


def test_it_runs(tmp_path: Path) -> None:
    assert bench.main(["--effort", "tiny", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("run-*.json")
    report = json.loads(path.read_text())
    measured = {row["what"] for row in report["rows"]}
    assert measured == {bench.STEP, bench.PLAIN_STEP, bench.BEGIN, bench.RESUME, bench.GROWTH, bench.DISK}
    assert all(row["median"] > 0 for row in report["rows"] if row["what"] != bench.GROWTH)

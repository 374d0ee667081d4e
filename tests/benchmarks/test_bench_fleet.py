"""The benchmark of a run with many workers: it runs, and says what it promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ray_cluster import local_cluster

pytest.importorskip("ray")

from benchmarks.fleet import __main__ as bench


def test_the_benchmark_of_many_workers_runs(tmp_path: Path) -> None:
    with local_cluster(4):
        assert bench.main(["--effort", "tiny", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("fleet-*.json")
    report = json.loads(path.read_text())
    found = {row["what"]: row["median"] for row in report["rows"]}
    assert found.keys() >= {bench.RATE, bench.SPEEDUP, bench.REPORT, bench.ANSWER}
    assert report["targets"][0]["verdict"] in ("met", "missed")

"""The benchmark of generators over servers, at its smallest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("openai")


from benchmarks.server import __main__ as bench
from benchmarks.server import rows


@pytest.fixture(autouse=True)
def no_key_or_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def test_it_runs(tmp_path: Path) -> None:
    assert bench.main(["--effort", "tiny", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("server-*.json")
    report = json.loads(path.read_text())
    found = {(row["what"], row["who"]): row["median"] for row in report["rows"]}
    assert min(found[rows.STEP, who] for who in (rows.BARE, rows.CLIENT, rows.SEARCH)) > 0
    (target,) = report["targets"]
    assert target["value"] == found[rows.ADDED, rows.SEARCH]

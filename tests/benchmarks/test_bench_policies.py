"""The comparison of the search's settings: its rows, its intervals and its table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks.budget import policies
from benchmarks.harness import results_in


def solved(rate: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((200, len(policies.SETS), 2)) < rate


def test_the_difference_is_taken_problem_by_problem() -> None:
    folder = solved(0.5)
    better = folder.copy()
    better[:20, 0, 0] = ~folder[:20, 0, 0]
    *rates, apart = policies.rows_of("other", better, folder)
    assert len(rates) == 2 * len(policies.SETS)
    assert rates[0].median == pytest.approx(better[:, 0, 0].mean(), abs=5e-4)
    expected = (better.astype(float) - folder).mean()
    assert apart.median == pytest.approx(expected)
    assert apart.p20 <= expected <= apart.p80
    assert apart.p80 - apart.p20 < 0.02  # much less than of two samples that have nothing to do with each other
    (*_, same) = policies.rows_of("same", folder, folder)
    assert (same.median, same.p20, same.p80) == (0.0, 0.0, 0.0)


def test_the_report_has_a_line_for_each_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {policies.FOLDER: solved(0.5), "policy power": solved(0.4, 1), policies.WITHOUT_CRITIC: solved(0.2, 2)}
    monkeypatch.setattr(policies, "compare", lambda model, count: found)
    assert policies.main(["--problems", "50", "--out", str(tmp_path)]) == 0
    report = json.loads(next(tmp_path.glob("policies-*.json")).read_text())
    assert report["problems"] == 50 * len(policies.SETS)
    assert results_in(report).of(policies.DIFFERENCE, "policy power")[0].median < -0.05
    lines = [line for line in next(tmp_path.glob("*.md")).read_text().splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(found)
    assert lines[2].startswith("| the folder's own |")
    assert lines[2].endswith("|  |")


def test_settings_are_those_of_a_search() -> None:
    """Each is taken by `Searcher`, and differs from the shipped folder's own."""
    from bavt_fast.folder_settings import embedded_folder, read_settings
    from bavt_fast.settings import Settings

    base = read_settings(embedded_folder()).search
    for name, change in policies.CHANGES.items():
        Settings(**{**base, **change})
        assert ({**base, **change} == dict(base)) == (name == policies.FOLDER)

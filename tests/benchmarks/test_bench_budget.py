"""The report of the budget benchmark, from searches and samples that are made up."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from benchmarks.budget import __main__ as budget
from benchmarks.harness import Results, report_of


class MadeUp:
    """Parallel sampling solves a share that grows with the logarithm of the tokens; the search twice as much."""

    def baseline(self, questions: list[str], temperature: float, paths: int, grid: np.ndarray) -> np.ndarray:
        return np.log(grid / 30) / np.log(16 * paths / 30) / 2

    def success(self, questions: list[str], setting: budget.Setting, tokens: int) -> float:
        return 0.9 if setting.critic == "exact solver" else 0.25


def test_success_and_multipliers_are_reported() -> None:
    settings = {critic: budget.Setting(critic) for critic in ("ours", "exact solver")}
    rows, (grid, rates) = budget.measure(MadeUp(), "Countdown-5", ["q"] * 100, settings, 0.7, paths=100)
    assert len(rows) == 5 * len(budget.BUDGETS)
    assert len(grid) == len(rates)
    results = Results(rows)
    (ours,) = results.of(budget.SUCCESS, "ours", budget_tokens=250)
    assert (ours.median, ours.p20, ours.p80) == pytest.approx((0.25, 0.25 - 0.0433, 0.25 + 0.0433), abs=1e-4)
    needed = np.sqrt(30 * 1600)  # half of the logarithms
    assert results.median(budget.MULTIPLIER, "ours", budget_tokens=125) == pytest.approx(needed / 125, rel=0.02)
    assert results.median(budget.MULTIPLIER, "exact solver", budget_tokens=125) is None
    assert results.median(budget.AT_LEAST, "exact solver", budget_tokens=125) == 1600 / 125
    report = report_of(title="Success", command="make", machine={}, rows=rows, settings={})
    text = budget.markdown(report)
    assert "| B (tokens) | parallel sampling | ours | multiplier | exact solver | multiplier |" in text
    assert f"| 1,000 | {np.interp(1000, grid, rates):.1%} | 25.0% | 0.2 | 90.0% | > 1.6 |" in text

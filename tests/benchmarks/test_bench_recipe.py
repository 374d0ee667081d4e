"""The comparison with the recipe: its rows, and that it times nothing but equal answers."""

from __future__ import annotations

import pytest

from bavt_fast.recipe import search
from benchmarks.recipe.__main__ import measure_case


def test_a_row_has_both_sides() -> None:
    row = measure_case(budget=10, max_depth=100, step_chars=1, repeats=2)
    assert row["iterations"] == 10
    assert min(row["recipe_us"], row["ours_us"], row["user_us"]) > 0


def test_answers_that_differ_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search.BudgetAwareValueTreeSearch, "extract_answer", lambda self, root: "another")
    with pytest.raises(AssertionError, match="answers differ"):
        measure_case(budget=5, max_depth=100, step_chars=1, repeats=2)

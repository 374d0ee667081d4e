"""The figures of the documentation show the results that were committed."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import figures


@pytest.mark.parametrize("name", figures.FIGURES)
def test_it_is_as_new_as_its_results(name: str) -> None:
    svg = (figures.IMAGES / f"{name}.svg").read_text(encoding="utf-8")
    assert figures.source_of(name) in svg, "older than its results; run: python -m benchmarks.figures"


@pytest.mark.parametrize("name", figures.FIGURES)
def test_it_is_drawn(name: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    svg = figures.draw(name, tmp_path).read_text(encoding="utf-8")
    assert svg.startswith("<?xml")
    assert figures.OURS in svg or name == "budget"

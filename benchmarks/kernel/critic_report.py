"""Tables, targets and plot of the critic kernel's benchmark, from its rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.harness import (
    Curve,
    Panel,
    Results,
    Row,
    Target,
    heading,
    results_in,
    sections,
    spread,
    table,
    targets_table,
)
from benchmarks.kernel.critic_timing import call_bytes, call_flops

__all__ = ["CALL", "FLOOR", "markdown", "panels", "targets_of"]

CALL, FLOOR = "call", "floor"
OURS = ("ours", "ours, graph")
NOTE = (
    "Medians, with the 20th and the 80th percentile in brackets. *Achieved* is by our best time: TB/s where the floor"
    " is reading and writing, TFLOP/s where it is arithmetic."
)

Shape = tuple[str, int, int]
Cells = Mapping[str, Row]
"""The rows of one shape, by implementation; the floor is one of them."""


def by_shape(results: Results) -> dict[Shape, dict[str, Row]]:
    """The rows of each (dtype, rows, H) that was timed."""
    shapes: dict[Shape, dict[str, Row]] = {}
    for row in results.of(CALL):
        shape = (str(row.at["dtype"]), int(row.at["rows"]), int(row.at["H"]))
        shapes.setdefault(shape, {})[row.who] = row
    return {shape: cells for shape, cells in shapes.items() if set(cells) & set(OURS)}


def best(cells: Cells, *, ours: bool) -> float:
    """The smallest median among our implementations, or among the others; infinite where there is none."""
    return min(
        (row.median for who, row in cells.items() if who != FLOOR and (who in OURS) == ours),
        default=math.inf,
    )


def markdown(report: Mapping[str, Any]) -> str:
    """The targets, and a table with one line per shape."""
    floors = report["floors"]
    rates = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {name}" for name, rate in floors["matmul_flops_per_s"].items())
    return sections(
        heading(
            report,
            f"Floors, same run: {floors['copy_bytes_per_s'] / 1e12:.3g} TB/s (copy, read + write); {rates}.",
            *([f"**{report['note']}**"] if report["note"] else []),
            NOTE,
        ),
        "## Targets, bf16, each at its worst shape",
        targets_table(report["targets"]),
        "## Shapes",
        _shapes_table(results_in(report), floors),
    )


def _shapes_table(results: Results, floors: Mapping[str, Any]) -> str:
    names = [name for name in dict.fromkeys(row.who for row in results.of(CALL)) if name != FLOOR]
    lines = []
    for (dtype, rows, hidden_size), cells in by_shape(results).items():
        ours, other, floor_us = best(cells, ours=True), best(cells, ours=False), cells[FLOOR].median
        ratios = [f"{floor_us:.2f}", _achieved(ours, dtype, rows, hidden_size, floors)]
        ratios += [f"{other / ours:.2f}", f"{floor_us / ours:.0%}"]
        lines.append([dtype, str(rows), str(hidden_size), *(spread(cells.get(name)) for name in names), *ratios])
    last = ("floor", "achieved", "best other / best ours", "floor / best ours")
    return table(("dtype", "rows", "H", *names, *last), lines)


def _achieved(ours_us: float, dtype: str, rows: int, hidden_size: int, floors: Mapping[str, Any]) -> str:
    """TB/s or TFLOP/s of our best time, whichever bounds the shape."""
    bytes_per_s = 1e6 * call_bytes(rows, hidden_size, getattr(torch, dtype)) / ours_us
    flops_per_s = 1e6 * call_flops(rows, hidden_size) / ours_us
    if bytes_per_s / floors["copy_bytes_per_s"] >= flops_per_s / floors["matmul_flops_per_s"]["torch." + dtype]:
        return f"{bytes_per_s / 1e12:.3g} TB/s"
    return f"{flops_per_s / 1e12:.3g} TFLOP/s"


# ---- Targets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Aim:
    """A ratio that every bf16 shape of some kind should reach."""

    what: str
    least: float
    covers: Callable[[int, int], bool]
    ratio: Callable[[Cells], float]


def _few(rows: int, hidden_size: int) -> bool:
    return rows <= 32 and hidden_size <= 2048


def _few_and_wide(rows: int, hidden_size: int) -> bool:
    return rows <= 32 and hidden_size >= 4096


def _against_best(cells: Cells) -> float:
    return best(cells, ours=False) / best(cells, ours=True)


def _against_eager(cells: Cells) -> float:
    return cells["eager"].median / best(cells, ours=True)


def _direct_against_eager(cells: Cells) -> float:
    return cells["eager"].median / cells["ours"].median


def _of_floor(cells: Cells) -> float:
    return cells[FLOOR].median / best(cells, ours=True)


_AIMS = (
    _Aim("any shape, against the best other", 1.0, lambda rows, size: True, _against_best),
    _Aim("any shape, called directly, against eager", 1.0, lambda rows, size: True, _direct_against_eager),
    _Aim("rows <= 32, H <= 2,048, against eager", 2.0, _few, _against_eager),
    _Aim("rows <= 32, H <= 2,048, against the best other", 1.2, _few, _against_best),
    _Aim("rows <= 32, H >= 4,096, of the bandwidth", 0.85, _few_and_wide, _of_floor),
    _Aim("rows, H >= 2,048, of the matrix rate", 0.75, lambda rows, size: min(rows, size) >= 2048, _of_floor),
)


def targets_of(results: Results) -> list[Target]:
    """Each aim at its worst bf16 shape, which its name tells."""
    shapes = by_shape(results)
    found = []
    for aim in _AIMS:
        ratios = {
            (rows, size): aim.ratio(cells)
            for (dtype, rows, size), cells in shapes.items()
            if dtype == "bfloat16" and aim.covers(rows, size)
        }
        if ratios:
            rows, size = min(ratios, key=lambda shape: ratios[shape])
            what = f"{aim.what} (worst of {len(ratios)}: {rows} x {size})"
            found.append(Target(what, ratios[rows, size], aim.least, "x", at_least=True))
        else:
            found.append(Target(aim.what, None, aim.least, "x", at_least=True))
    return found


# ---- The plot ------------------------------------------------------------------------------------------------------


def panels(results: Results) -> list[Panel]:
    """One panel per dtype: the floor's share of our best time against rows, one line per H."""
    lines: dict[str, dict[int, list[tuple[float, float]]]] = {}
    for (dtype, rows, hidden_size), cells in by_shape(results).items():
        lines.setdefault(dtype, {}).setdefault(hidden_size, []).append((rows, _of_floor(cells)))
    return [
        Panel(f"rows, {dtype}", "floor / our best time", _curves(points), yscale="linear")
        for dtype, points in lines.items()
    ]


def _curves(points: Mapping[int, Sequence[tuple[float, float]]]) -> list[Curve]:
    return [Curve(f"H = {size}", sorted(points[size]), f"C{place}o-") for place, size in enumerate(sorted(points))]

"""Markdown table and plot of the critic benchmark."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["markdown", "plot"]

OURS = ("ours", "ours, graph")
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2")
_WIDTH, _HEIGHT, _LEFT, _TOP = 420, 300, 50, 40


def markdown(report: Mapping[str, Any]) -> str:
    """The report's rows as a table: microseconds per call (median), the best of ours against the best other,
    and the floor's share of our time."""
    names = list(dict.fromkeys(row["implementation"] for row in report["rows"]))
    machine, floors = report["machine"], report["floors"]
    rates = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {name}" for name, rate in floors["matmul_flops_per_s"].items())
    lines = [
        "# Critic MLP: microseconds per call",
        "",
        f"{report['device']}; " + ", ".join(f"{key} {value}" for key, value in machine.items()),
        "",
        f"Floors, same run: {floors['copy_bytes_per_s'] / 1e12:.3g} TB/s (copy, read + write); {rates}.",
        *(["", f"**{report['note']}**"] if report["note"] else []),
        "",
        "| dtype | rows | H | " + " | ".join(names) + " | floor | best other / best ours | floor / best ours |",
        "|" + "---|" * (len(names) + 6),
    ]
    for (dtype, rows, hidden_size), cells in _by_shape(report["rows"]).items():
        times = [f"{cells[name]['median_us']:.2f}" if name in cells else "" for name in names]
        ours, other = best(cells, ours=True), best(cells, ours=False)
        floor_us = next(iter(cells.values()))["floor_us"]
        ratios = [f"{other / ours:.2f}", f"{floor_us / ours:.0%}"]
        lines.append("| " + " | ".join([dtype, str(rows), str(hidden_size), *times, f"{floor_us:.2f}", *ratios]) + " |")
    return "\n".join(lines) + "\n"


def best(cells: Mapping[str, Any], *, ours: bool) -> float:
    """The smallest median among our implementations, or among the others; infinite where there is none."""
    return min((row["median_us"] for name, row in cells.items() if (name in OURS) == ours), default=math.inf)


def plot(report: Mapping[str, Any]) -> str:
    """An SVG with one panel per dtype: the floor's share of our best time against rows, one line per H."""
    panels: dict[str, dict[int, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for (dtype, rows, hidden_size), cells in _by_shape(report["rows"]).items():
        floor_us = next(iter(cells.values()))["floor_us"]
        panels[dtype][hidden_size].append((rows, floor_us / best(cells, ours=True)))
    width, height = _WIDTH * len(panels), _HEIGHT + 2 * _TOP
    body = [_panel(name, lines, _WIDTH * place) for place, (name, lines) in enumerate(panels.items())]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="11"><rect width="100%" height="100%" fill="white"/>{"".join(body)}</svg>\n'
    )


def _by_shape(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, int, int], dict[str, Mapping[str, Any]]]:
    shapes: dict[tuple[str, int, int], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for row in rows:
        shapes[row["dtype"], row["rows"], row["hidden_size"]][row["implementation"]] = row
    return shapes


def _panel(title: str, lines: Mapping[int, Sequence[tuple[int, float]]], left: int) -> str:
    """One set of axes: rows on a log scale, the share of the floor from 0 to 100%."""
    counts = sorted({rows for points in lines.values() for rows, _ in points})
    span = max(math.log2(counts[-1] / counts[0]), 1.0)

    def x(rows: int) -> float:
        return left + _LEFT + (_WIDTH - 2 * _LEFT) * math.log2(rows / counts[0]) / span

    def y(share: float) -> float:
        return _TOP + _HEIGHT * (1.0 - min(share, 1.0))

    parts = [f'<text x="{left + _LEFT}" y="20">{title}: floor / our best time, against rows</text>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        parts.append(f'<line x1="{x(counts[0])}" x2="{x(counts[-1])}" y1="{y(share)}" y2="{y(share)}" stroke="#ddd"/>')
        parts.append(f'<text x="{left + 10}" y="{y(share) + 4}">{share:.0%}</text>')
    parts += [f'<text x="{x(rows) - 8}" y="{_TOP + _HEIGHT + 16}">{rows}</text>' for rows in counts]
    for place, (hidden_size, points) in enumerate(sorted(lines.items())):
        colour = _COLOURS[place % len(_COLOURS)]
        path = " ".join(f"{x(rows):.1f},{y(share):.1f}" for rows, share in sorted(points))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        legend_y = _TOP + 14 * (place + 1)
        parts.append(f'<text x="{left + _LEFT + 6}" y="{legend_y}" fill="{colour}">H = {hidden_size}</text>')
    return "".join(parts)

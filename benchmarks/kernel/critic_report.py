"""Markdown tables and plot of the critic benchmark."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["markdown", "plot"]

OURS = ("ours", "ours, graph")
_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#8c564b", "#e377c2")
_WIDTH, _HEIGHT, _LEFT, _TOP = 420, 300, 50, 40


def markdown(report: Mapping[str, Any]) -> str:
    """The report's rows as a table, one line per shape, and what they say about the targets."""
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
        "Medians, with the 20th and the 80th percentile in brackets. *Achieved* is by our best time: TB/s where the "
        "floor is reading and writing, TFLOP/s where it is arithmetic.",
        "",
        "| dtype | rows | H | "
        + " | ".join(names)
        + " | floor | achieved | best other / best ours | floor / best ours |",
        "|" + "---|" * (len(names) + 7),
    ]
    by_shape = _by_shape(report["rows"])
    for (dtype, rows, hidden_size), cells in by_shape.items():
        times = [_time(cells[name]) if name in cells else "" for name in names]
        ours, other = best(cells, ours=True), best(cells, ours=False)
        floor_us = _floor_us(cells)
        ratios = [f"{floor_us:.2f}", _achieved(cells, floors), f"{other / ours:.2f}", f"{floor_us / ours:.0%}"]
        lines.append("| " + " | ".join([dtype, str(rows), str(hidden_size), *times, *ratios]) + " |")
    return "\n".join([*lines, "", *_target_lines(by_shape)]) + "\n"


def best(cells: Mapping[str, Any], *, ours: bool) -> float:
    """The smallest median among our implementations, or among the others; infinite where there is none."""
    return min((row["median_us"] for name, row in cells.items() if (name in OURS) == ours), default=math.inf)


def _time(row: Mapping[str, Any]) -> str:
    return f"{row['median_us']:.2f} ({row['p20_us']:.2f}-{row['p80_us']:.2f})"


def _floor_us(cells: Mapping[str, Any]) -> float:
    floor_us: float = next(iter(cells.values()))["floor_us"]
    return floor_us


def _achieved(cells: Mapping[str, Any], floors: Mapping[str, Any]) -> str:
    """TB/s or TFLOP/s of our best time, whichever bounds the shape."""
    row = min((row for name, row in cells.items() if name in OURS), key=lambda row: row["median_us"])
    bytes_share = row["terabytes_per_s"] * 1e12 / floors["copy_bytes_per_s"]
    flops_share = row["teraflops_per_s"] * 1e12 / floors["matmul_flops_per_s"]["torch." + row["dtype"]]
    if bytes_share >= flops_share:
        return f"{row['terabytes_per_s']:.3g} TB/s"
    return f"{row['teraflops_per_s']:.3g} TFLOP/s"


@dataclass(frozen=True)
class _Target:
    """A ratio that every bf16 shape of some kind should reach."""

    what: str
    least: float
    covers: Callable[[int, int], bool]
    ratio: Callable[[Mapping[str, Any]], float]


def _few(rows: int, hidden_size: int) -> bool:
    return rows <= 32 and hidden_size <= 2048


def _few_and_wide(rows: int, hidden_size: int) -> bool:
    return rows <= 32 and hidden_size >= 4096


def _against_best(cells: Mapping[str, Any]) -> float:
    return best(cells, ours=False) / best(cells, ours=True)


def _against_eager(cells: Mapping[str, Any]) -> float:
    return float(cells["eager"]["median_us"]) / best(cells, ours=True)


def _direct_against_eager(cells: Mapping[str, Any]) -> float:
    return float(cells["eager"]["median_us"]) / float(cells["ours"]["median_us"])


def _of_floor(cells: Mapping[str, Any]) -> float:
    return _floor_us(cells) / best(cells, ours=True)


_TARGETS = (
    _Target("any shape, against the best other", 1.0, lambda rows, size: True, _against_best),
    _Target("any shape, called directly, against eager", 1.0, lambda rows, size: True, _direct_against_eager),
    _Target("rows <= 32, H <= 2,048, against eager", 2.0, _few, _against_eager),
    _Target("rows <= 32, H <= 2,048, against the best other", 1.2, _few, _against_best),
    _Target("rows <= 32, H >= 4,096, of the bandwidth", 0.85, _few_and_wide, _of_floor),
    _Target("rows, H >= 2,048, of the matrix rate", 0.75, lambda rows, size: min(rows, size) >= 2048, _of_floor),
)


def _target_lines(by_shape: Mapping[tuple[str, int, int], Mapping[str, Any]]) -> list[str]:
    """A table of the bf16 targets, each with its worst shape; nothing without bf16."""
    lines = ["| bf16 target | at least | worst | at rows x H | shapes |", "|---|---|---|---|---|"]
    for target in _TARGETS:
        ratios = {
            (rows, size): target.ratio(cells)
            for (dtype, rows, size), cells in by_shape.items()
            if dtype == "bfloat16" and target.covers(rows, size)
        }
        if ratios:
            rows, size = min(ratios, key=lambda shape: ratios[shape])
            worst = ratios[rows, size]
            verdict = f"{worst:.2f}, {'met' if worst >= target.least else 'missed'}"
            lines.append(f"| {target.what} | {target.least} | {verdict} | {rows} x {size} | {len(ratios)} |")
    return lines if len(lines) > 2 else []


def plot(report: Mapping[str, Any]) -> str:
    """An SVG with one panel per dtype: the floor's share of our best time against rows, one line per H."""
    panels: dict[str, dict[int, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for (dtype, rows, hidden_size), cells in _by_shape(report["rows"]).items():
        panels[dtype][hidden_size].append((rows, _of_floor(cells)))
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

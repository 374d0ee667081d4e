"""Cost against the size of the tree, log-log, as SVG."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.tree import rows
from benchmarks.tree.rows import Result, Results

# Text stays text, and ids do not change from one drawing to the next.
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bavt_fast", "font.size": 9})

# (what, who, trees, threads, format); a line where there are several sizes, a mark where there is one.
SIMULATIONS = [
    (rows.SIMULATION, rows.TREEQUEST_ABMCTSA, 1, 1, "C7^-"),
    (rows.SIMULATION, rows.TREEQUEST_STANDARD, 1, 1, "C7v-"),
    (rows.WAVE_SIMULATION, rows.MCTX, 1, 1, "C6s-"),
    (rows.SIMULATION, rows.RECIPE, 1, 1, "C3o-"),
    (rows.WAVE_SIMULATION, rows.MCTX, 64, 1, "C6D-"),
    (rows.SIMULATION, rows.OPEN_SPIEL, 1, 1, "C5o-"),
    (rows.SIMULATION, rows.PLAIN_PYTHON, 1, 1, "C1o-"),
    (rows.WAVE_SIMULATION, rows.LIGHTZERO, 1, 1, "C8x:"),
    (rows.SIMULATION, rows.OURS_PYTHON, 1, 1, "C0o--"),
    (rows.SIMULATION, rows.PLAIN_LOOP, 1, 1, "C4o-"),
    (rows.SIMULATION, rows.OURS_CPP, 1, 1, "C0o-"),
    (rows.WAVE_SIMULATION, rows.OURS_PYTHON, 1024, 2, "C0*-"),
    (rows.KNOWN_DESCENTS, "floor", 1, 1, "k.-"),
    (rows.PLAIN_READ, "floor", 1, 1, "k.:"),
]
POWER = [
    (rows.POWER_SIMULATION, rows.OURS_CPP, 1, 1, "C2o--"),
    (rows.POWER_DRAW, rows.OURS_CPP, 1, 1, "C2o-"),
]


def label(row: Result) -> str:
    if row.what == rows.WAVE_SIMULATION:
        threads = f", {row.threads} threads" if row.threads > 1 else ""
        return f"{row.who}, {row.trees:,} {'trees' if row.trees > 1 else 'tree'} in waves{threads}"
    return row.who if row.what == rows.SIMULATION else f"{'floor: ' * (row.who == 'floor')}{row.what}"


def draw(axes: Axes, results: Results, curves: list[tuple[str, str, int, int, str]], across: str, up: str) -> None:
    for what, who, trees, threads, style in curves:
        curve = [row for row in results.of(what, who) if (row.trees, row.threads) == (trees, threads)]
        if curve:
            axes.plot([row.n for row in curve], [row.median for row in curve], style, label=label(curve[0]))
    axes.set(xscale="log", yscale="log", xlabel=across, ylabel=up)
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def plot(results: Results, path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(14, 5), layout="constrained", width_ratios=(3, 2))
    draw(left, results, SIMULATIONS, "simulations in the tree", "us per simulation")
    draw(right, results, POWER, "draws: nodes in the tree; simulations: their number", "us")
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)

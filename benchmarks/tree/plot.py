"""Cost against the size of the tree, log-log."""

from __future__ import annotations

from benchmarks.harness import Curve, Panel, Results, Row
from benchmarks.tree import rows

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


def label(row: Row) -> str:
    if row.what == rows.WAVE_SIMULATION:
        trees, threads = row.at["trees"], row.at["threads"]
        more = f", {threads} threads" if threads != 1 else ""
        return f"{row.who}, {trees:,} {'tree' if trees == 1 else 'trees'} in waves{more}"
    return row.who if row.what == rows.SIMULATION else f"{'floor: ' * (row.who == 'floor')}{row.what}"


def curves(results: Results, wanted: list[tuple[str, str, int, int, str]]) -> list[Curve]:
    drawn = []
    for what, who, trees, threads, style in wanted:
        found = sorted(results.of(what, who, trees=trees, threads=threads), key=lambda row: row.at["n"])
        if found:
            drawn.append(Curve(label(found[0]), [(row.at["n"], row.median) for row in found], style))
    return drawn


def panels(results: Results) -> list[Panel]:
    return [
        Panel("simulations in the tree", "us per simulation", curves(results, SIMULATIONS), share=3),
        Panel("draws: nodes in the tree; simulations: their number", "us", curves(results, POWER), share=2),
    ]

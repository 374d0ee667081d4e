"""The report of a run, as Markdown, from the results file alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from benchmarks.harness import (
    Results,
    Row,
    all_rows_table,
    heading,
    number,
    ratio,
    results_in,
    sections,
    table,
    targets_table,
    times,
)
from benchmarks.tree import rows

NOTE = (
    "Medians over rounds, all in one run. No search is faster than its floors: *known descents* walks the paths of a"
    " search with every choice known beforehand, *plain read* reads as many bytes as they score, in order."
)


def markdown(report: dict[str, Any]) -> str:
    results = results_in(report)
    return sections(
        heading(report, NOTE),
        "## Targets",
        targets_table(report["targets"]),
        "## One tree\n\nMicroseconds per simulation (uct: select, expand 3, back up), by simulations in the tree.",
        one_tree_table(results),
        "## Waves\n\nMicroseconds per simulation, each tree searched a simulation a wave; by trees side by side.",
        waves_table(results),
        scaling_line(results),
        "## Power sampling\n\nMicroseconds per draw among so many nodes, r another at every draw; and per simulation.",
        power_table(results),
        "## Snapshots and memory\n\nGB/s of the file's bytes; by nodes.",
        snapshot_table(results),
        memory_lines(results),
        "## All rows",
        all_rows_table(results),
    )


def one_tree_table(results: Results) -> str:
    sizes = sorted({row.at["n"] for row in results.of(rows.SIMULATION)})

    def us(who: str, what: str = rows.SIMULATION) -> list[float | None]:
        return [results.median(what, who, n=n) for n in sizes]

    def line(name: str, values: Iterable[float | None]) -> list[str]:
        return [name, *map(number, values)]

    def compared(name: str, above: Iterable[float | None], below: Iterable[float | None]) -> list[str]:
        return [name, *(times(ratio(a, b)) for a, b in zip(above, below, strict=True))]

    ours, loop, python = us(rows.OURS_CPP), us(rows.PLAIN_LOOP), us(rows.OURS_PYTHON)
    descents, read = us("floor", rows.KNOWN_DESCENTS), us("floor", rows.PLAIN_READ)
    lines = [
        line(f"**{rows.OURS_CPP}**", ours),
        line(rows.PLAIN_LOOP, loop),
        compared("plain loop / ours", loop, ours),
        line("floor: known descents", descents),
        compared("ours / that floor", ours, descents),
        line("floor: plain read", read),
        compared("ours / that floor", ours, read),
        line(f"**{rows.OURS_PYTHON}, one call at a time**", python),
    ]
    for who in (rows.PLAIN_PYTHON, rows.OPEN_SPIEL, rows.RECIPE, rows.TREEQUEST_STANDARD, rows.TREEQUEST_ABMCTSA):
        lines += [line(who, us(who)), compared("that / ours from Python", us(who), python)]
    return table(["", *(f"{n:,}" for n in sizes)], lines)


def waves_table(results: Results) -> str:
    kinds = {
        rows.WAVE_SIMULATION: "",
        rows.RENEWED_SIMULATION: ", memory reused",
        rows.BUSY_SIMULATION: ", memory reused, other cores busy",
    }
    found = [row for what in kinds for row in results.of(what)]
    trees = sorted({row.at["trees"] for row in found})
    lines = []
    for what, who, n in dict.fromkeys((row.what, row.who, row.at["n"]) for row in found):
        one, two = ([results.median(what, who, n=n, trees=t, threads=threads) for t in trees] for threads in (1, 2))
        name = f"{who}, {n:,} simulations a tree{kinds[what]}"
        if any(two):
            lines += [[f"{name}, 1 thread", *map(number, one)], [f"{name}, 2 threads", *map(number, two)]]
            lines.append(["1 thread / 2 threads", *(times(ratio(a, b)) for a, b in zip(one, two, strict=True))])
        else:
            lines.append([name, *map(number, one)])
    return table(["trees", *(f"{t:,}" for t in trees)], lines)


def scaling_line(results: Results) -> str:
    """How far two threads can get on the machine of this run, where hosts are shared."""
    gained = ratio(*(results.median(rows.ARITHMETIC, "floor", threads=threads) for threads in (1, 2)))
    if gained is None:
        return ""
    return f"Two threads of arithmetic that share nothing did {gained:.2f} times the work of one, in this run."


def power_table(results: Results) -> str:
    kinds = {"draw": rows.POWER_DRAW, "simulation": rows.POWER_SIMULATION}
    sizes = sorted({row.at["n"] for what in kinds.values() for row in results.of(what)})
    lines = [[name, *(number(results.median(what, rows.OURS_CPP, n=n)) for n in sizes)] for name, what in kinds.items()]
    return table(["draws: nodes, simulations: their number", *(f"{n:,}" for n in sizes)], lines)


def snapshot_table(results: Results) -> str:
    found = [row for row in results.rows if row.unit == "GB/s"]
    sizes = sorted({row.at["n"] for row in found})
    lines = [
        [what, *(number(results.median(what, who, n=n)) for n in sizes)]
        for what, who in dict.fromkeys((row.what, row.who) for row in found)
    ]
    return table(["", *(f"{n:,} nodes" for n in sizes)], lines)


def memory_lines(results: Results) -> str:
    """Resident growth, not the layout's arithmetic."""

    def line(row: Row) -> str:
        return f"- {row.what}: {row.median} (growth of the resident set, {row.at['n']:,} simulations)"

    return "\n".join(line(row) for row in results.rows if row.unit == "bytes")

"""The report of a run, as Markdown, from the results file alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.tree import rows
from benchmarks.tree.rows import Result, Results
from benchmarks.tree.targets import ratio

Cells = Sequence[str]


def number(value: float | None) -> str:
    """Three digits where there are three to show."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1}f}"


def times(value: float | None) -> str:
    return "" if value is None else f"{number(value)} x"


def table(head: Cells, lines: Iterable[Cells]) -> str:
    """A Markdown table without the lines that have nothing in them but their name."""
    kept = [line for line in lines if any(line[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *kept))


def markdown(report: dict[str, Any]) -> str:
    results = Results(Result(**row) for row in report["rows"])
    sections = [
        heading(report),
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
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def heading(report: dict[str, Any]) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    lines = [
        "# Search trees, measured",
        f"{machine}. `{report['command']}`, {report['wall_s']:,.0f} s on {report['date']}; load average"
        f" {report['load'][0]} before and {report['load'][1]} after.",
        "Medians over rounds, all in one run. No search is faster than its floors: *known descents* walks the paths of"
        " a search with every choice known beforehand, *plain read* reads as many bytes as they score, in order.",
    ]
    if report["left_out"]:
        lines.append("Left out: " + "; ".join(report["left_out"]) + ".")
    return "\n\n".join(lines)


def targets_table(targets: list[dict[str, Any]]) -> str:
    def bound(target: dict[str, Any]) -> str:
        return f"at {'least' if target['at_least'] else 'most'} {target['bound']:,g} {target['unit']}"

    lines = [(t["what"], number(t["value"]) or "-", bound(t), t["verdict"]) for t in targets]
    return table(("what", "value", "target", ""), lines)


def one_tree_table(results: Results) -> str:
    sizes = sorted({row.n for row in results.rows if row.what == rows.SIMULATION})

    def us(who: str, what: str = rows.SIMULATION) -> list[float | None]:
        return [results.median(what, who, n) for n in sizes]

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
    found = [row for row in results.rows if row.what in (rows.WAVE_SIMULATION, rows.RENEWED_SIMULATION)]
    trees = sorted({row.trees for row in found})
    lines = []
    for what, who, n in dict.fromkeys((row.what, row.who, row.n) for row in found):
        one, two = ([results.median(what, who, n, t, threads) for t in trees] for threads in (1, 2))
        name = f"{who}, {n:,} simulations a tree{', memory reused' if what == rows.RENEWED_SIMULATION else ''}"
        if any(two):
            lines += [[f"{name}, 1 thread", *map(number, one)], [f"{name}, 2 threads", *map(number, two)]]
            lines.append(["1 thread / 2 threads", *(times(ratio(a, b)) for a, b in zip(one, two, strict=True))])
        else:
            lines.append([name, *map(number, one)])
    return table(["trees", *(f"{t:,}" for t in trees)], lines)


def scaling_line(results: Results) -> str:
    """How far two threads can get on the machine of this run, where hosts are shared."""
    found = [row for row in results.rows if row.what == rows.ARITHMETIC]
    one, two = ([row.median for row in found if row.threads == threads] for threads in (1, 2))
    if not one or not two:
        return ""
    return f"Two threads of arithmetic that share nothing did {one[0] / two[0]:.2f} times the work of one, in this run."


def power_table(results: Results) -> str:
    kinds = {"draw": rows.POWER_DRAW, "simulation": rows.POWER_SIMULATION}
    sizes = sorted({row.n for row in results.rows if row.what in kinds.values()})
    lines = [[name, *(number(results.median(what, rows.OURS_CPP, n)) for n in sizes)] for name, what in kinds.items()]
    return table(["draws: nodes, simulations: their number", *(f"{n:,}" for n in sizes)], lines)


def snapshot_table(results: Results) -> str:
    found = [row for row in results.rows if row.unit == "GB/s"]
    sizes = sorted({row.n for row in found})
    lines = [
        [what, *(number(results.median(what, who, n)) for n in sizes)]
        for what, who in dict.fromkeys((row.what, row.who) for row in found)
    ]
    return table(["", *(f"{n:,} nodes" for n in sizes)], lines)


def memory_lines(results: Results) -> str:
    """Resident growth, not the layout's arithmetic."""
    found = [row for row in results.rows if row.unit == "bytes"]
    return "\n".join(f"- {row.what}: {row.median} (growth of the resident set, {row.n:,} simulations)" for row in found)


def all_rows_table(results: Results) -> str:
    head = ("what", "who", "n", "trees", "threads", "median", "p20", "p80", "unit", "rounds")
    lines = []
    for row in results.rows:
        figures = [f"{figure:.4g}" for figure in (row.median, row.p20, row.p80)]
        rounds = str(row.rounds) if row.rounds else "quoted"
        lines.append([row.what, row.who, f"{row.n:,}", f"{row.trees:,}", str(row.threads), *figures, row.unit, rounds])
    return table(head, lines)

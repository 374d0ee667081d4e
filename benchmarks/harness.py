"""What all benchmarks share: the machine, the row, the timer, targets, the report and the plot.

A benchmark is two functions: one that yields `Row`s, and one that says from the `Results` which `Target`s were met;
`run` does the rest. `benchmarks.engine` is one. Those that have another runner (pytest for the trees) or options of
their own make their report of `report_of` and `write`.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BUILD = ROOT / "build" / "bench"

At = Mapping[str, int | str]

# ---- The machine ---------------------------------------------------------------------------------------------------


def describe_machine(*packages: str) -> dict[str, str]:
    """CPU, cores, Python, those of ``packages`` that are installed and the commit ("+" where the tree has changes).

    Where there is a copy of the tree without git, the variable BAVT_COMMIT says which commit it is of.
    """
    described = {"cpu": _cpu(), "cores": str(os.cpu_count()), "python": platform.python_version()}
    for package in packages:
        try:
            described[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    changed = "+" if _git("status", "--porcelain", "--untracked-files=no") else ""
    described["commit"] = os.environ.get("BAVT_COMMIT") or _git("rev-parse", "--short", "HEAD") + changed
    return described


def load_average() -> float:
    return round(os.getloadavg()[0], 2)


def resident_bytes() -> int:
    """What of this process lies in memory."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError("/proc/self/smaps_rollup has no Rss")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no git on this machine: the commit is not known
        return ""
    return done.stdout.strip()


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


# ---- Rows ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A figure: what was measured, by whom, where, and its spread over the rounds.

    Args:
        at: the sizes and settings of the row, such as ``{"n": 1000, "threads": 2}``.
        p20, p80: percentiles over the rounds; for a share of many problems, the ends of its 95% interval.
        rounds: 0 for a figure that is quoted.
    """

    what: str
    who: str
    unit: str
    median: float
    p20: float
    p80: float
    rounds: int
    at: At = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """What a row times, before there are figures.

    Args:
        items: how many a round does: simulations, steps or calls for "us", bytes for "GB/s".
    """

    what: str
    who: str
    items: int
    at: At = field(default_factory=dict)
    unit: str = "us"

    def row(self, seconds: Sequence[float]) -> Row:
        """The figures of rounds that took so many seconds, in microseconds per item or GB/s."""
        if self.unit == "GB/s":
            return row_of(self.what, self.who, self.unit, [self.items / 1e9 / s for s in seconds], self.at)
        return row_of(self.what, self.who, self.unit, [1e6 * s / self.items for s in seconds], self.at)


def row_of(what: str, who: str, unit: str, figures: Sequence[float], at: At) -> Row:
    """Median and percentiles of a figure's rounds, to four digits."""
    low, *_, high = statistics.quantiles(figures, n=5, method="inclusive") if len(figures) > 1 else 2 * [*figures]
    rounded = [float(f"{figure:.4g}") for figure in (statistics.median(figures), low, high)]
    return Row(what, who, unit, *rounded, rounds=len(figures), at=at)


class Results:
    """All rows of a run, found by what, who and where."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)

    def of(self, what: str, who: str | None = None, **at: int | str) -> list[Row]:
        """The rows that have at least these sizes and settings, in the order in which they were measured."""
        return [
            row
            for row in self.rows
            if row.what == what and who in (None, row.who) and at.items() <= dict(row.at).items()
        ]

    def median(self, what: str, who: str, **at: int | str) -> float | None:
        """The first such row's median in its unit; None where it was not measured."""
        found = self.of(what, who, **at)
        return found[0].median if found else None

    def dump(self) -> list[dict[str, Any]]:
        return [asdict(row) for row in self.rows]


# ---- The timer -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What a row takes: seconds, and the fewest and most rounds whatever it takes."""

    seconds: float
    fewest: int
    most: int

    def rounds(self, first_s: float) -> int:
        """How many rounds there is time for, from what the first of them took."""
        return max(self.fewest, min(self.most, int(self.seconds / max(first_s, 1e-9))))


def elapsed_s(run: Callable[[], Any]) -> float:
    start_s = time.perf_counter()
    run()
    return time.perf_counter() - start_s


def rounds_of(sides: Mapping[str, Callable[[], float]], limits: Limits) -> dict[str, list[float]]:
    """The seconds of each side's rounds; a side is a function that runs one round and returns its seconds.

    The sides take turns, so that what the machine does meanwhile meets them alike and their ratio is of like moments.
    Each runs once before, to warm up and to say how many rounds there is time for; where one turn takes all the time
    there is, the first counts. (A side may answer with the seconds of an item, so turns are timed anew.) What a round
    left is collected before the next; inside one the collector does what it does for any program.
    """
    seconds: dict[str, list[float]] = {who: [] for who in sides}

    def turn() -> None:
        for who, run in sides.items():
            gc.collect()
            seconds[who].append(run())

    first_s = elapsed_s(turn)
    if first_s < limits.seconds:
        for kept in seconds.values():
            kept.clear()
    rounds = limits.rounds(first_s)
    while len(next(iter(seconds.values()))) < rounds:
        turn()
    return seconds


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Round by round, of two sides that took turns."""
    return [a / b for a, b in zip(above, below, strict=True)]


class Stopwatch:
    """Adds up the seconds and calls of one method of an object, from then on.

    What a call of the wrapper costs beside the seconds that it counts is `overhead_s`.
    """

    def __init__(self, owner: Any, method: str) -> None:
        self.seconds = 0.0
        self.calls = 0
        self._call: Callable[..., Any] = getattr(owner, method)
        setattr(owner, method, self._timed)

    def _timed(self, *arguments: Any) -> Any:
        start_s = time.perf_counter()
        try:
            return self._call(*arguments)
        finally:
            self.calls += 1
            self.seconds += time.perf_counter() - start_s

    @staticmethod
    def overhead_s(calls: int = 20_000) -> float:
        """Seconds per call that a stopwatch takes and does not count, on this machine, now."""

        class Nothing:
            def method(self, *arguments: Any) -> None:
                pass

        owner = Nothing()
        clock = Stopwatch(owner, "method")
        total_s = elapsed_s(lambda: [owner.method(1, 2, 3) for _ in range(calls)])
        return (total_s - clock.seconds) / calls


# ---- Targets -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Target:
    """A figure and its bound. `value` is None where the run did not measure it."""

    what: str
    value: float | None
    bound: float
    unit: str
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not measured"
        met = self.value >= self.bound if self.at_least else self.value <= self.bound
        return "met" if met else "missed"


def ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


# ---- The report ----------------------------------------------------------------------------------------------------

Cells = Sequence[str]


class LeftOut(Exception):
    """A part of a benchmark cannot run here; the message says why, and the report repeats it."""


def run_parts(parts: Iterable[Callable[[], Iterator[Row]]]) -> tuple[list[Row], list[str]]:
    """The rows of all parts, printed as they come, and what was left out with the reason."""
    rows, left_out = [], []
    for part in parts:
        try:
            for row in part():
                rows.append(row)
                print(line_of(row), flush=True)
        except LeftOut as reason:
            left_out.append(str(reason))
            print(f"left out: {reason}", flush=True)
    return rows, left_out


def report_of(
    *,
    title: str,
    command: str,
    machine: Mapping[str, str],
    rows: Sequence[Row],
    targets: Sequence[Target] = (),
    left_out: Sequence[str] = (),
    **more: Any,
) -> dict[str, Any]:
    """A report as it is written to JSON: everything that its Markdown and its plot are made of."""
    return {
        "title": title,
        "command": command,
        "date": datetime.date.today().isoformat(),
        "machine": dict(machine),
        **more,
        "left_out": list(left_out),
        "targets": [{**asdict(target), "verdict": target.verdict} for target in targets],
        "rows": Results(rows).dump(),
    }


def results_in(report: Mapping[str, Any]) -> Results:
    return Results(Row(**row) for row in report["rows"])


def stem_of(name: str, report: Mapping[str, Any], device: str | None = None) -> str:
    """The name of a report's files: benchmark, processor, day."""
    device = device or report["machine"]["cpu"]
    return f"{name}-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}-{report['date']}"


def write(report: Mapping[str, Any], markdown: str, folder: Path, stem: str) -> Path:
    """The report as JSON, and beside it as Markdown; the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{stem}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown)
    return path


def run(
    name: str,
    *,
    title: str,
    command: str,
    parts: Callable[[str], Iterable[Callable[[], Iterator[Row]]]],
    targets: Callable[[Results], Sequence[Target]],
    efforts: Sequence[str] = ("full",),
    packages: Sequence[str] = (),
    markdown: Callable[[Mapping[str, Any]], str] | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """A benchmark's whole command line: measures, prints, and writes NAME-CPU-DATE.json and .md.

    Args:
        command: what the report says it was made by, for the first of the efforts.
        parts: what is measured at an effort; each part yields its rows, and may raise `LeftOut`.
        efforts: the first is the full one; only its report goes to benchmarks/results.
        markdown: the report's text; targets and all rows by default.
    """
    module = f"python -m benchmarks.{name}"
    parser = argparse.ArgumentParser(module, description=title)
    parser.add_argument("--effort", choices=efforts, default=efforts[0])
    parser.add_argument("--out", type=Path, help="folder (default: benchmarks/results, for less than full build/bench)")
    options = parser.parse_args(arguments)
    full = options.effort == efforts[0]
    start_s, load = time.monotonic(), load_average()
    rows, left_out = run_parts(parts(options.effort))
    report = report_of(
        title=title,
        command=command if full else f"{module} --effort {options.effort}",
        machine=describe_machine(*packages),
        rows=rows,
        targets=targets(Results(rows)),
        left_out=left_out,
        wall_s=round(time.monotonic() - start_s, 1),
        load=[load, load_average()],
    )
    text = (markdown or plain_markdown)(report)
    path = write(report, text, options.out or (RESULTS if full else BUILD), stem_of(name, report))
    print(f"\n{targets_table(report['targets'])}\n\n{report['wall_s']} s; written to {path}, and as .md")
    return 0


def plain_markdown(report: Mapping[str, Any]) -> str:
    return sections(
        heading(report),
        "## Targets",
        targets_table(report["targets"]),
        "## All rows",
        all_rows_table(results_in(report)),
    )


def heading(report: Mapping[str, Any], *notes: str) -> str:
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    made = f"`{report['command']}`"
    if "wall_s" in report:
        made += f", {report['wall_s']:,.0f} s"
    made += f" on {report['date']}"
    if "load" in report:
        made += f"; load average {report['load'][0]} before and {report['load'][1]} after"
    lines = [f"# {report['title']}", f"{machine}. {made}.", *notes]
    if report["left_out"]:
        lines.append("Left out: " + "; ".join(report["left_out"]) + ".")
    return "\n\n".join(lines)


def sections(*parts: str) -> str:
    """Markdown of the parts that are not empty."""
    return "\n\n".join(part for part in parts if part) + "\n"


def number(value: float | None) -> str:
    """Three digits where there are three to show."""
    if value is None:
        return ""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{3 if value < 1 else 2 if value < 10 else 1}f}"


def times(value: float | None) -> str:
    return "" if value is None else f"{number(value)} x"


def size(value: int | str) -> str:
    return f"{value:,}" if isinstance(value, int) else value


def spread(row: Row | None) -> str:
    """A median with its percentiles."""
    return "" if row is None else f"{number(row.median)} ({number(row.p20)}-{number(row.p80)})"


def line_of(row: Row) -> str:
    where = ", ".join(f"{key} {size(value)}" for key, value in row.at.items())
    return f"{row.what}, {row.who}{f' ({where})' if where else ''}: {spread(row)} {row.unit}"


def table(head: Cells, lines: Iterable[Cells]) -> str:
    """A Markdown table without the lines that have nothing in them but their name."""
    kept = [line for line in lines if any(line[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *kept))


def targets_table(targets: Iterable[Mapping[str, Any]]) -> str:
    def bound(target: Mapping[str, Any]) -> str:
        return f"at {'least' if target['at_least'] else 'most'} {target['bound']:,g} {target['unit']}".rstrip()

    lines = [(t["what"], number(t["value"]) or "-", bound(t), t["verdict"]) for t in targets]
    return table(("what", "value", "target", ""), lines)


def all_rows_table(results: Results) -> str:
    keys = list(dict.fromkeys(key for row in results.rows for key in row.at))
    lines = []
    for row in results.rows:
        where = [size(row.at[key]) if key in row.at else "" for key in keys]
        figures = [f"{figure:.4g}" for figure in (row.median, row.p20, row.p80)]
        lines.append([row.what, row.who, *where, *figures, row.unit, str(row.rounds) if row.rounds else "quoted"])
    return table(("what", "who", *keys, "median", "p20", "p80", "unit", "rounds"), lines)


# ---- The plot ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Curve:
    """Points (x, y) of one line; a mark where there is one. `style` is a format string of matplotlib."""

    label: str
    points: Sequence[tuple[float, float]]
    style: str


@dataclass(frozen=True)
class Panel:
    across: str
    up: str
    curves: Sequence[Curve]
    yscale: str = "log"
    share: int = 1  # of the figure's width
    xscale: str = "log"


def plot(panels: Sequence[Panel], path: Path) -> bool:
    """Panels side by side as SVG. False where matplotlib is not installed: then nothing is drawn."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    # Text stays text, and ids do not change from one drawing to the next.
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "bavt_fast", "font.size": 9})
    widths = [panel.share for panel in panels]
    figure, axes = plt.subplots(1, len(panels), figsize=(14, 5), layout="constrained", width_ratios=widths)
    for ax, panel in zip([axes] if len(panels) == 1 else axes, panels, strict=True):
        drawn = [curve for curve in panel.curves if curve.points]
        for curve in drawn:
            ax.plot(*zip(*curve.points, strict=True), curve.style, label=curve.label)
        ax.set(xscale=panel.xscale, yscale=panel.yscale, xlabel=panel.across, ylabel=panel.up)
        ax.grid(alpha=0.3)
        if drawn:
            ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return True

"""Run the benchmarks of the search trees and write the report.

    python -m benchmarks.tree [--effort full|quick|tiny] [--out DIR] [arguments for pytest]

Writes tree-CPU-DATE.json (figures, machine, versions, commit), .md (tables with ratios, floors and targets) and .svg
(cost against tree size). `full` takes about ten minutes on two cores, `quick` one; `tiny` only shows that it runs.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

import pytest

from benchmarks.harness import ROOT, describe_machine
from benchmarks.tree import effort, library, memory
from benchmarks.tree.plot import plot
from benchmarks.tree.report import markdown, targets_table
from benchmarks.tree.rows import Results, results_of_pytest
from benchmarks.tree.targets import QUOTED, targets_of

PACKAGES = ("numpy", "pytest-benchmark", "jax", "mctx", "treequest", "open_spiel")


class LeftOut:
    """Collects what pytest skips or sees fail, with the reason."""

    def __init__(self) -> None:
        self.reasons: dict[str, None] = {}  # each once, in order

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = report.nodeid.split("::")[-1]
        if report.skipped and isinstance(report.longrepr, tuple):
            self.reasons[f"{name.split('[')[0]} ({report.longrepr[2].removeprefix('Skipped: ')})"] = None
        if report.failed:
            self.reasons[f"{name} (failed)"] = None


def run_pytest(raw: Path, arguments: list[str]) -> tuple[int, list[str]]:
    left_out = LeftOut()
    options = ["-o", "python_files=bench_*.py", "-o", "addopts=", "-p", "no:cacheprovider", "-q"]
    timing = ["--benchmark-enable", f"--benchmark-json={raw}", "--benchmark-columns=median,iqr,rounds"]
    code = pytest.main([str(Path(__file__).parent), *options, *timing, *arguments], plugins=[left_out])
    return int(code), list(left_out.reasons)


def installed(packages: tuple[str, ...]) -> list[str]:
    present = []
    for package in packages:
        try:
            metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        present.append(package)
    return present


def load_average() -> float:
    return round(os.getloadavg()[0], 2)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--effort", choices=effort.EFFORTS, default="full")
    parser.add_argument("--out", type=Path, help="folder (default: benchmarks/results, for less than full build/bench)")
    options, pytest_arguments = parser.parse_known_args(arguments)
    os.environ["BAVT_BENCH"] = options.effort
    out = options.out or (ROOT / "benchmarks" / "results" if options.effort == "full" else library.BUILD)
    out.mkdir(parents=True, exist_ok=True)
    library.library()  # builds it, before the clock starts
    start_s, load = time.monotonic(), load_average()
    raw = library.BUILD / "pytest-benchmark.json"
    code, left_out = run_pytest(raw, pytest_arguments)
    measured = [*results_of_pytest(json.loads(raw.read_text())), *memory.measured_apart()]
    results = Results([*measured, *QUOTED])
    machine = describe_machine(*installed(PACKAGES))
    report = {
        "command": "make bench" if options.effort == "full" else f"python -m benchmarks.tree --effort {options.effort}",
        "date": datetime.date.today().isoformat(),
        "machine": {**machine, "compiler": library.compiler()},
        "wall_s": round(time.monotonic() - start_s, 1),
        "load": [load, load_average()],
        "left_out": left_out,
        "targets": [{**asdict(target), "verdict": target.verdict} for target in targets_of(results)],
        "rows": results.dump(),
    }
    cpu = re.sub(r"[^a-z0-9]+", "-", machine["cpu"].lower()).strip("-")
    path = out / f"tree-{cpu}-{report['date']}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(report))
    plot(results, path.with_suffix(".svg"))
    print(f"\n{targets_table(report['targets'])}\n")
    for reason in left_out:
        print(f"left out: {reason}")
    print(f"{report['wall_s']} s; written to {path} and beside it as .md and .svg")
    return code


if __name__ == "__main__":
    sys.exit(main())

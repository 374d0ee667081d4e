"""Run the benchmarks of the search trees and write the report.

    python -m benchmarks.tree [--effort full|quick|tiny] [--out DIR] [arguments for pytest]

Writes tree-CPU-DATE.json (figures, machine, versions, commit), .md (tables with ratios, floors and targets) and .svg
(cost against tree size). `full` takes about ten minutes on two cores, `quick` one; `tiny` only shows that it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.harness import Results
from benchmarks.tree import effort, library, memory
from benchmarks.tree.plot import panels
from benchmarks.tree.report import markdown
from benchmarks.tree.rows import rows_of_pytest
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


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--effort", choices=effort.EFFORTS, default="full")
    parser.add_argument("--out", type=Path, help="folder (default: benchmarks/results, for less than full build/bench)")
    options, pytest_arguments = parser.parse_known_args(arguments)
    os.environ["BAVT_BENCH"] = options.effort
    full = options.effort == "full"
    harness.BUILD.mkdir(parents=True, exist_ok=True)
    library.library()  # builds it, before the clock starts
    start_s, load = time.monotonic(), harness.load_average()
    with tempfile.TemporaryDirectory() as scratch:  # two runs at once do not share it
        raw = Path(scratch) / "pytest-benchmark.json"
        code, left_out = run_pytest(raw, pytest_arguments)
        measured = rows_of_pytest(json.loads(raw.read_text()))
    results = Results([*measured, *memory.measured_apart(), *QUOTED])
    report = harness.report_of(
        title="Search trees, measured",
        command="make bench" if full else f"python -m benchmarks.tree --effort {options.effort}",
        machine={**harness.describe_machine(*PACKAGES), "compiler": library.compiler()},
        rows=results.rows,
        targets=targets_of(results),
        left_out=left_out,
        wall_s=round(time.monotonic() - start_s, 1),
        load=[load, harness.load_average()],
    )
    folder = options.out or (harness.RESULTS if full else harness.BUILD)
    path = harness.write(report, markdown(report), folder, harness.stem_of("tree", report))
    harness.plot(panels(results), path.with_suffix(".svg"))
    print(f"\n{harness.targets_table(report['targets'])}\n")
    for reason in left_out:
        print(f"left out: {reason}")
    print(f"{report['wall_s']} s; written to {path} and beside it as .md and .svg")
    return code


if __name__ == "__main__":
    sys.exit(main())

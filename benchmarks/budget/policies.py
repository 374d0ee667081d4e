"""What the policy makes of the critic: settings of our search compared on the same thousand validation problems.

    python -m benchmarks.budget.policies [--problems 250] [--model DIR] [--out DIR]

Four sets, 250 problems each, that neither training nor the tests see. Every setting of one temperature finds the same
steps at a state, so that settings differ only by which state they choose; the difference to the model folder's own
settings is taken problem by problem. Writes policies-CPU-DATE.json and .md: seven minutes on one core.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bavt_fast.tasks.countdown.training.states import SMALL, VALIDATION, WIDE
from benchmarks import harness
from benchmarks.budget import ours
from benchmarks.budget.bench import Model
from benchmarks.budget.curves import interval, resampled
from benchmarks.budget.plan import DEFAULT
from benchmarks.budget.problems import Problems, countdown_set
from benchmarks.harness import Row, row_of

SEED = 20_261
SETS = (
    ("Countdown-4", 4, SMALL, (60, 125)),
    ("Countdown-5", 5, SMALL, (125, 250)),
    ("Countdown-6", 6, SMALL, (250, 500)),
    ("Countdown-5, numbers to 100, targets to 999", 5, WIDE, (250, 500)),
)
"""Name, numbers, range, budgets."""
FOLDER = "the folder's own"
CHANGES: Mapping[str, Mapping[str, Any]] = {
    FOLDER: {},
    "policy power": {"policy": "power"},
    "V(root) = 0.4": {"root_value": 0.4},
    "tried exponent 0.5": {"tried_exponent": 0.5},
    "tried exponent 0.5, decay 0.8, V(root) = 0.4": {"tried_exponent": 0.5, "decay": 0.8, "root_value": 0.4},
    "what was tried left out, decay 0.7": {"tried_exponent": 0.0, "decay": 0.7},
    "the same, policy power": {"tried_exponent": 0.0, "decay": 0.7, "policy": "power"},
    "tried exponent 1.5": {"tried_exponent": 1.5},
    "decay 0.8": {"decay": 0.8},
    "decay 0.95": {"decay": 0.95},
    "discount 1": {"discount": 1.0},
    "discount 0.94": {"discount": 0.94},
    "temperature 0.35": {"temperature": 0.35},
    "temperature 0.35, decay 0.8, tried exponent 0.5": {"temperature": 0.35, "decay": 0.8, "tried_exponent": 0.5},
    "temperature 0.7": {"temperature": 0.7},
}
"""What is changed of the folder's settings."""
WITHOUT_CRITIC = "without a critic (V = 1)"
SUCCESS, DIFFERENCE = "success", "difference to the folder's own"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=250, help="of each set")
    parser.add_argument("--model", type=Path, help="a model folder; the embedded one without it")
    parser.add_argument("--out", type=Path, default=harness.RESULTS)
    options = parser.parse_args(arguments)
    start_s, load = time.monotonic(), harness.load_average()
    solved = compare(options.model, options.problems)
    report = harness.report_of(
        title="What the policy makes of the critic",
        command=f"python -m benchmarks.budget.policies --problems {options.problems}",
        machine=harness.describe_machine("numpy", "torch", "transformers"),
        rows=[row for name, own in solved.items() for row in rows_of(name, own, solved[FOLDER])],
        wall_s=round(time.monotonic() - start_s, 1),
        load=[load, harness.load_average()],
        problems=options.problems * len(SETS),
    )
    path = harness.write(report, markdown(report), options.out, harness.stem_of("policies", report))
    print(markdown(report))
    print(f"{report['wall_s']} s; written to {path}")
    return 0


def compare(model: Path | None, count: int) -> dict[str, np.ndarray]:
    """bool (problems, sets, budgets) by setting."""
    loaded = Model(replace(DEFAULT, model=model))
    base = {**loaded.folder.settings.search, "temperature": loaded.folder.settings.temperature}
    sets = [countdown_set(name, k, span, count, SEED, VALIDATION) for name, k, span, _ in SETS]
    found = {name: _solved(loaded, sets, {**base, **change}, "model") for name, change in CHANGES.items()}
    return {**found, WITHOUT_CRITIC: _solved(loaded, sets, base, "nothing")}


def _solved(model: Model, sets: list[Problems], options: Mapping[str, Any], judge: ours.Judge) -> np.ndarray:
    columns = []
    search = {name: value for name, value in options.items() if name != "temperature"}
    for problems, (_, _, _, budgets) in zip(sets, SETS, strict=True):
        pool = model.ground(problems, options["temperature"]).pool
        columns.append(
            ours.solved(ours.search_all(pool, problems.task, problems.questions, budgets, search, judge, seed=SEED))
        )
    return np.stack(columns, axis=1)


def rows_of(name: str, own: np.ndarray, folder: np.ndarray) -> list[Row]:
    """Success for each set and budget; and the mean difference with its interval, over problems."""
    rows = []
    for place, (called, _, _, budgets) in enumerate(SETS):
        for i, budget in enumerate(budgets):
            rows.append(
                row_of(SUCCESS, name, "of 1", [float(own[:, place, i].mean())], {"set": called, "budget": budget})
            )
    apart = (own.astype(float) - folder).mean(axis=(1, 2))
    low, high = interval(resampled(len(apart)) @ apart)
    mean = float(apart.mean())
    rows.append(Row(DIFFERENCE, name, "of 1", mean, low, high, rounds=len(apart), at={}))
    return rows


def markdown(report: Mapping[str, Any]) -> str:
    """One table: a line for each setting."""
    results = harness.results_in(report)
    cases = [(name, budget) for name, _, _, budgets in SETS for budget in budgets]
    head = ["setting", *(f"{name}, {budget}" for name, budget in cases), "mean", "difference (95%)"]
    lines = []
    for name in dict.fromkeys(row["who"] for row in report["rows"]):
        rates = [results.median(SUCCESS, name, set=called, budget=budget) or 0.0 for called, budget in cases]
        (apart,) = results.of(DIFFERENCE, name)
        difference = f"{100 * apart.median:+.1f} ({100 * apart.p20:+.1f} to {100 * apart.p80:+.1f})"
        cells = [f"{100 * rate:.1f}%" for rate in [*rates, float(np.mean(rates))]]
        lines.append([name, *cells, "" if name == FOLDER else difference])
    return harness.sections(
        harness.heading(report),
        f"Share of {report['problems']} validation problems solved within a budget of tokens, and the mean difference "
        "to the folder's own settings, problem by problem.",
        harness.table(head, lines),
    )


if __name__ == "__main__":
    sys.exit(main())

"""Time per iteration of the recipe as it circulates and of ours, with a model that costs little.

    python -m benchmarks.recipe [--repeats N] [--json FILE]

Both sides run the same scripted model and critic, and their answers are compared. `user_us` is what the calls
of that model and critic cost alone, a floor for either side. `ratio` is recipe / ours; `net_ratio` is the
same with `user_us` taken off both. Times are microseconds per iteration: the median over searches, and for
ours the 20th and 80th percentile too.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bavt_fast.recipe import reference, search
from benchmarks.recipe.free_model import FreeModel

ROOT = Path(__file__).resolve().parents[2]

# (budget, max_depth, characters per step): the recipe's default depth, then a depth that is never reached.
CASES = [
    (10, 10, 10),
    (100, 10, 10),
    (1000, 10, 10),
    (1000, 10, 200),
    (100, 10_000, 10),
    (1000, 10_000, 10),
    (5000, 10_000, 10),
]


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start_s = time.perf_counter()
    result = run()
    return time.perf_counter() - start_s, result


def measure_pair(budget: int, max_depth: int, step_chars: int, seed: int) -> tuple[float, float, float, int]:
    """Seconds of one search by the recipe, by ours, and of the user's calls alone; the iterations."""
    seconds, answers = [], []
    for module in (reference, search):
        model = FreeModel(budget, step_chars, seed)
        searcher = module.BudgetAwareValueTreeSearch(model, model, budget)
        elapsed_s, answer = timed(lambda searcher=searcher: searcher.search("question", max_depth))
        seconds.append(elapsed_s)
        answers.append(answer)
    if answers[0] != answers[1]:
        raise AssertionError(f"answers differ: {budget=} {max_depth=} {seed=}")
    calls = FreeModel(budget, step_chars, seed)
    calls_s, _ = timed(lambda: call_alone(calls, model.num_calls))
    return seconds[0], seconds[1], calls_s, model.num_calls


def call_alone(model: FreeModel, iterations: int) -> None:
    for _ in range(iterations):
        model.generate_next_steps("", num_candidates=3)
        if model.num_calls < iterations:
            model.estimate_residual_value("")


def measure_case(budget: int, max_depth: int, step_chars: int, repeats: int) -> dict[str, Any]:
    measure_pair(budget, max_depth, step_chars, seed=0)
    rows = [measure_pair(budget, max_depth, step_chars, seed) for seed in range(1, repeats + 1)]
    recipe_us, ours_us, user_us = ([1e6 * row[column] / row[3] for row in rows] for column in range(3))
    p20, *_, p80 = statistics.quantiles(ours_us, n=5)
    medians = [statistics.median(column) for column in (recipe_us, ours_us, user_us)]
    return {
        "budget": budget,
        "max_depth": max_depth,
        "step_chars": step_chars,
        "iterations": round(statistics.mean(row[3] for row in rows), 1),
        "recipe_us": round(medians[0], 3),
        "ours_us": round(medians[1], 3),
        "ours_p20_us": round(p20, 3),
        "ours_p80_us": round(p80, 3),
        "user_us": round(medians[2], 3),
        "ratio": round(medians[0] / medians[1], 2),
        "net_ratio": round((medians[0] - medians[2]) / (medians[1] - medians[2]), 2),
    }


def describe_machine() -> dict[str, str]:
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    cpu = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    return {"cpu": cpu, "python": platform.python_version(), "commit": commit.stdout.strip()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=40, help="searches per case (default 40)")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    arguments = parser.parse_args()
    machine = describe_machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    rows = []
    for budget, max_depth, step_chars in CASES:
        row = measure_case(budget, max_depth, step_chars, max(8, arguments.repeats * 100 // max(100, budget)))
        if not rows:
            print("".join(f"{name:>15}" for name in row))
        rows.append(row)
        print("".join(f"{value:>15}" for value in row.values()), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()

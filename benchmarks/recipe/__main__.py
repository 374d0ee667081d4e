"""Run the comparison with the recipe as it circulates and write the report.

    python -m benchmarks.recipe [--effort full|quick|tiny] [--out DIR]

Microseconds of processor time per iteration of both sides, whose answers are compared, with the same scripted model and
critic; what the calls of that model and critic cost alone, a floor for either; and the recipe's time over ours, as it
is and with the calls taken off both. Writes recipe-CPU-DATE.json and .md. `full` takes half a minute; `tiny` only shows
that it runs.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bavt_fast.recipe import reference, search
from benchmarks import harness
from benchmarks.harness import Case, Results, Row, Target, row_of
from benchmarks.recipe.free_model import FreeModel

RECIPE, OURS, CALLS = "the recipe", "bavt_fast", "the model's calls alone"
ITERATION = "iteration"  # us; at: budget, depth, characters of a step
TIMES = "the recipe / ours"
NET_TIMES = "the recipe / ours, without the model's calls"

DEFAULTS = (1000, 10, 10)
# (budget, max_depth, characters per step): the recipe's default depth, then a depth that is never reached.
CASES = [
    (10, 10, 10),
    (100, 10, 10),
    DEFAULTS,
    (1000, 10, 200),
    (100, 10_000, 10),
    (1000, 10_000, 10),
    (5000, 10_000, 10),
]
NOTE = (
    "Microseconds of processor time per iteration, medians over searches with the 20th and 80th percentile; the sides"
    " take turns."
)
REPEATS = {"full": 400, "quick": 40, "tiny": 2}
"""Searches of each case with a budget of up to 100; fewer of longer ones."""


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()  # what the search before left; inside, the collector does what it does for any program
    start_s = time.thread_time()  # one thread that waits for nothing: what others do meanwhile does not count
    result = run()
    return time.thread_time() - start_s, result


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


def measure_case(budget: int, max_depth: int, step_chars: int, repeats: int) -> Iterator[Row]:
    """The rows of one case. The sides take turns, search by search."""
    gc.freeze()  # modules are not looked through again and again
    measure_pair(budget, max_depth, step_chars, seed=0)
    pairs = [measure_pair(budget, max_depth, step_chars, seed) for seed in range(1, repeats + 1)]
    at = {"budget": budget, "depth": max_depth, "characters": step_chars}
    for column, who in enumerate((RECIPE, OURS, CALLS)):
        yield Case(ITERATION, who, items=1, at=at).row([pair[column] / pair[3] for pair in pairs])
    yield row_of(TIMES, OURS, "x", [pair[0] / pair[1] for pair in pairs], at)
    yield row_of(NET_TIMES, OURS, "x", [(pair[0] - pair[2]) / (pair[1] - pair[2]) for pair in pairs], at)


def parts_of(repeats: int) -> list[Callable[[], Iterator[Row]]]:
    return [lambda case=case: measure_case(*case, max(2, repeats * 100 // max(100, case[0]))) for case in CASES]


def targets_of(results: Results) -> list[Target]:
    budget, depth, characters = DEFAULTS
    defaults = {"budget": budget, "depth": depth, "characters": characters}
    long = {"budget": budget, "depth": 10_000, "characters": characters}
    return [
        Target("at the recipe's defaults", results.median(TIMES, OURS, **defaults), 10, "x", at_least=True),
        Target("1,000 iterations", results.median(TIMES, OURS, **long), 12, "x", at_least=True),
    ]


def markdown(report: Mapping[str, Any]) -> str:
    results = harness.results_in(report)
    lines = []
    for budget, depth, characters in CASES:
        at = {"budget": budget, "depth": depth, "characters": characters}
        rows = [results.of(ITERATION, who, **at) for who in (RECIPE, OURS, CALLS)]
        rows += [results.of(what, OURS, **at) for what in (TIMES, NET_TIMES)]
        lines.append(
            [harness.size(value) for value in at.values()] + [harness.spread(*row[:1] or [None]) for row in rows]
        )
    heads = ["budget", "depth", "characters a step", RECIPE, OURS, CALLS, "times", "times, without the calls"]
    return harness.sections(
        harness.heading(report, NOTE),
        "## Targets",
        harness.targets_table(report["targets"]),
        "## Iterations",
        harness.table(heads, lines),
    )


def main(arguments: list[str] | None = None) -> int:
    return harness.run(
        "recipe",
        title="Ours and the recipe, measured",
        command="make bench-recipe",
        parts=lambda effort: parts_of(REPEATS[effort]),
        targets=targets_of,
        efforts=list(REPEATS),
        packages=("numpy", "torch"),
        markdown=markdown,
        arguments=arguments,
    )


if __name__ == "__main__":
    sys.exit(main())

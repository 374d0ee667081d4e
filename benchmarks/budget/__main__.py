"""Success within a token budget: this search against oracle-verified parallel sampling from the same model.

    python -m benchmarks.budget [--model DIR] [--quick] [--out benchmarks/results]

Two sets of problems that the model was not trained on: the Game of 24 test set (ranks 901-1000) and fresh Countdown
problems with 5 numbers. Each side uses the temperature (and the search its policy and decay) that did best on separate
validation problems. The multiplier at B is the tokens that parallel sampling needs for the success that the search has
at B, divided by B.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bavt_fast import Budget, Searcher
from bavt_fast.model_folder import load_folder
from bavt_fast.protocols import Node
from bavt_fast.tasks.countdown import CountdownOracle
from bavt_fast.tasks.countdown.training.states import TEST, VALIDATION
from bavt_fast.training.figures import auc
from benchmarks.budget.parallel_sampling import sample_paths, success_at, tokens_for
from benchmarks.budget.problems import countdown_questions, game24_questions
from benchmarks.harness import (
    RESULTS,
    At,
    Results,
    Row,
    describe_machine,
    heading,
    line_of,
    report_of,
    results_in,
    row_of,
    sections,
    size,
    table,
    write,
)

BUDGETS = (60, 125, 250, 500, 1000)
TUNING_BUDGETS = (125, 250)
TEMPERATURES = (0.5, 0.7, 1.0)
CRITICS = ("ours", "V = 1", "exact solver")
PARALLEL = "parallel sampling"
SUCCESS, MULTIPLIER, AT_LEAST = "success", "multiplier", "multiplier, at least"
NOTE = (
    "Problems solved within B tokens, and how many times as many tokens parallel sampling with an oracle takes for the"
    " same; > where all the sampled paths were not enough."
)


@dataclass(frozen=True)
class Setting:
    """One way to search."""

    critic: str
    temperature: float = 0.7
    policy: str = "power"
    decay: float = 0.7
    discount: float = 0.97


class Bench:
    """The model and what both sides share."""

    def __init__(self, model: Path | None, seed: int, wave: int) -> None:
        folder = load_folder(model)
        self.generator, self.critic, self.task = folder.generator, folder.critic, folder.task
        self.seed, self.wave = seed, wave

    def searched(self, questions: Sequence[str], setting: Setting, budget: int) -> list[Any]:
        critic = {"ours": self.critic, "V = 1": None, "exact solver": CountdownOracle()}[setting.critic]
        self.generator.temperature, self.generator.without_replacement = setting.temperature, True
        searcher = Searcher(
            self.generator,
            critic,
            self.task,
            wave=self.wave,
            policy=setting.policy,
            decay=setting.decay,
            discount=setting.discount,
        )
        results = searcher.search_many(questions, budget=Budget(tokens=budget), seed=self.seed)
        if any(result.spent.tokens > budget for result in results):
            raise AssertionError("a search spent more than its budget")
        return results

    def success(self, questions: Sequence[str], setting: Setting, budget: int) -> float:
        return float(np.mean([result.solved for result in self.searched(questions, setting, budget)]))

    def baseline(self, questions: Sequence[str], temperature: float, paths: int, grid: np.ndarray) -> np.ndarray:
        self.generator.temperature, self.generator.without_replacement = temperature, False
        return success_at(sample_paths(self.generator, self.task, questions, paths, self.seed), len(questions), grid)

    def model_report(self, questions: Sequence[str], temperature: float) -> dict[str, float]:
        """Invalid steps, pass@1, and the critic's AUC over the states that sampling visits, by numbers left."""
        self.generator.temperature, self.generator.without_replacement = temperature, False
        paths = sample_paths(self.generator, self.task, questions, 8, self.seed, keep_visits=True)
        visits = [visit for path in paths for visit in path.visits]
        report = {
            "invalid_steps": float(np.mean([child is None for _, _, child in visits])),
            "pass1": float(np.mean([path.right for path in paths])),
        }
        for left in (2, 3, 4):
            scored = [v for v in visits if v[2] is not None and len(v[2].numbers) == left]
            candidates = [_candidate(child, step) for _, step, child in scored]
            labels = np.array(CountdownOracle().score(candidates)) == 1.0
            report[f"auc_{left}_left"] = auc(np.array(self.critic.score(candidates)), labels)
            report[f"solvable_{left}_left"] = float(labels.mean())
        return report


def _candidate(state: Any, step: Any) -> Any:
    return Node(state, None, step=step)


def tune(bench: Bench, questions: Sequence[str], critic: str) -> Setting:
    """Coordinate search on validation problems: one setting after the other."""

    @functools.cache
    def total_success(setting: Setting) -> float:
        return sum(bench.success(questions, setting, budget) for budget in TUNING_BUDGETS)

    best = Setting(critic)
    for field, choices in (
        ("temperature", TEMPERATURES),
        ("discount", (0.93, 0.97, 1.0)),
        ("policy", ("power", "best_first")),
        ("decay", (0.5, 0.7, 0.85)),
    ):
        best = max((replace(best, **{field: choice}) for choice in choices), key=total_success)
    return best


def tune_baseline(bench: Bench, questions: Sequence[str], paths: int) -> float:
    grid = np.array([250, 500])
    return max(TEMPERATURES, key=lambda t: float(bench.baseline(questions, t, paths, grid).sum()))


def measure(
    bench: Bench,
    name: str,
    questions: Sequence[str],
    settings: dict[str, Setting],
    temperature: float,
    paths: int,
) -> tuple[list[Row], list[list[float]]]:
    """Success rates of every side at every budget and the multipliers; and the baseline's curve: budgets, rates."""
    grid = np.unique(np.round(np.geomspace(30, 16 * paths, 400)))  # half of what the paths cost at the least
    rates = bench.baseline(questions, temperature, paths, grid)
    rows = []
    for budget in BUDGETS:
        at: dict[str, int | str] = {"set": name, "problems": len(questions), "budget_tokens": budget}
        rows.append(share_row(PARALLEL, float(np.interp(budget, grid, rates)), len(questions), at))
        for critic, setting in settings.items():
            success = bench.success(questions, setting, budget)
            rows.append(share_row(critic, success, len(questions), at))
            needed = tokens_for(success, grid, rates)
            what, tokens = (MULTIPLIER, needed) if np.isfinite(needed) else (AT_LEAST, float(grid[-1]))
            rows.append(row_of(what, critic, "x", [tokens / budget], at))
        for row in rows[-1 - 2 * len(settings) :]:
            print(line_of(row), flush=True)
    return rows, [grid.tolist(), rates.tolist()]


def share_row(who: str, share: float, problems: int, at: At) -> Row:
    """A share of problems solved, with one standard error either way."""
    error = float(np.sqrt(share * (1 - share) / problems))
    return Row(SUCCESS, who, "of 1", share, share - error, share + error, rounds=1, at=at)


def markdown(report: dict[str, Any]) -> str:
    results = results_in(report)
    names = list(dict.fromkeys(row.at["set"] for row in results.rows))
    tables = [f"## {name}\n\n{set_table(results, str(name))}" for name in names]
    settings = "Tuned on validation problems: " + json.dumps(report["settings"])
    return sections(heading(report, NOTE, settings), *tables)


def set_table(results: Results, name: str) -> str:
    critics = list(dict.fromkeys(row.who for row in results.of(SUCCESS, set=name) if row.who != PARALLEL))
    lines = []
    for baseline in results.of(SUCCESS, PARALLEL, set=name):
        budget = baseline.at["budget_tokens"]
        cells = [f"{baseline.median:.1%}"]
        for critic in critics:
            cells.append(f"{results.median(SUCCESS, critic, set=name, budget_tokens=budget):.1%}")
            known = results.median(MULTIPLIER, critic, set=name, budget_tokens=budget)
            least = results.median(AT_LEAST, critic, set=name, budget_tokens=budget)
            cells.append(f"{known:.1f}" if known is not None else f"> {least:.1f}")
        lines.append([size(budget), *cells])
    heads = [head for critic in critics for head in (critic, "multiplier")]
    return table(("B (tokens)", PARALLEL, *heads), lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model folder; the embedded model without it")
    parser.add_argument("--quick", action="store_true", help="a tenth of the problems, for trying things")
    parser.add_argument("--wave", type=int, default=100, help="questions side by side")
    parser.add_argument("--paths", type=int, default=100, help="sampled paths per problem for the baseline")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for budget.json and budget.md")
    arguments = parser.parse_args()
    start_s = time.monotonic()
    bench = Bench(arguments.model, arguments.seed, arguments.wave)
    share = 10 if arguments.quick else 1
    validation = countdown_questions(VALIDATION, 100 // share, seed=11)
    sets = {
        "Countdown-5": countdown_questions(TEST, 200 // share, seed=12),
        "Game of 24": game24_questions()[::share],
    }
    settings = {critic: tune(bench, validation, critic) for critic in CRITICS}
    temperature = tune_baseline(bench, validation, arguments.paths // 4)
    rows: list[Row] = []
    curves = {}
    model = bench.model_report(sets["Countdown-5"], 1.0)
    print(json.dumps({"settings": {name: asdict(setting) for name, setting in settings.items()}, "model": model}))
    for name, questions in sets.items():
        found, curves[name] = measure(bench, name, questions, settings, temperature, arguments.paths)
        rows += found
    report = report_of(
        title="Success within a token budget",
        command="make bench-budget" if len(sys.argv) == 1 else f"python -m benchmarks.budget {' '.join(sys.argv[1:])}",
        machine=describe_machine("torch", "transformers", "numpy"),
        rows=rows,
        wall_s=round(time.monotonic() - start_s, 1),
        settings={name: asdict(setting) for name, setting in settings.items()},
        parallel_temperature=temperature,
        model=model,
        curves=curves,
    )
    text = markdown(report)
    print(f"\n{text}\nwritten to {write(report, text, arguments.out, 'budget')}, and as .md")


if __name__ == "__main__":
    main()

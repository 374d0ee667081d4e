"""How much is measured: the default in minutes, everything (``--full``), or a try (``--quick``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.budget.methods import METHODS, Method
from benchmarks.budget.problems import SETS

FRESH_SEED = 12
VALIDATION_SEED = 11
FIXED = (1000, 10_000)
"""Tokens of parallel sampling that the search's smaller budgets are held against."""
FINE = (40, 60, 90, 125, 180, 250, 350, 500, 700, 1000, 1400, 2000, 2800, 4000, 5000)
"""Budgets at which the perfect critic and asks in flight are run: their success is read between them."""


@dataclass(frozen=True)
class Plan:
    """What a run measures.

    Attributes:
        effort: "default", "full" or "quick".
        budgets: of the tables.
        baseline_tokens, baseline_runs: how far parallel sampling is sampled, and how often.
        waves: asks in flight in one tree.
        visits_budget: tokens of the searches whose visits are reported.
        slow: whether methods that take seconds a step run too.
    """

    effort: str
    sets: tuple[str, ...]
    problems: int
    validation: int
    temperatures: tuple[float, ...]
    budgets: tuple[int, ...]
    baseline_tokens: int
    baseline_runs: int
    waves: tuple[int, ...]
    wave_problems: int
    wave_seeds: int
    guarantee_problems: int
    guarantee_trials: int
    visits_budget: int = 500
    slow: bool = False
    seed: int = 1
    model: Path | None = None

    @property
    def methods(self) -> list[Method]:
        return [m for m in METHODS if (self.slow or not m.is_slow) and (self.effort == "full" or not m.only_full)]

    @property
    def choosing(self) -> list[tuple[float, list[str]]]:
        """Temperatures, each with the names of methods to choose options of. treequest's take as long as all others
        together, so they are chosen apart."""
        names = [method.name for method in self.methods]
        parts = [[n for n in names if n.startswith("treequest") is rival] for rival in (False, True)]
        return [(temperature, part) for part in parts for temperature in self.temperatures]

    @property
    def fine(self) -> tuple[int, ...]:
        """Budgets close enough to read between them."""
        return tuple(sorted({budget for budget in FINE if budget <= max(self.budgets)} | set(self.budgets)))

    @property
    def says(self) -> str:
        """What this run leaves out."""
        methods = [method.name for method in METHODS if method not in self.methods and not method.is_slow]
        sets = [name for name in SETS if name not in self.sets]
        parts = [
            f"This is the {self.effort} run with at most {self.problems} problems a set, {self.validation} to choose "
            f"settings on, budgets to {max(self.budgets):,} tokens."
        ]
        if self.effort != "full":
            parts.append("`--full` has more methods, temperatures and budgets, and 200 problems a set.")
        if methods:
            parts.append(f"Not run: {', '.join(methods)}.")
        if sets:
            parts.append(f"Sets not run: {', '.join(sets)}.")
        if not self.slow:
            slow = ", ".join(method.name for method in METHODS if method.is_slow)
            parts.append(f"{slow} takes seconds a step and runs only with `--slow`.")
        return " ".join(parts)


DEFAULT = Plan(
    effort="default",
    sets=("game24", "countdown4", "countdown5", "countdown6", "wide5", "gym-countdown", "gym-puzzle24"),
    problems=40,
    validation=96,
    temperatures=(0.35, 0.5, 0.7),
    budgets=(60, 125, 250, 500, 1000),
    baseline_tokens=10_000,
    baseline_runs=4,
    waves=(1, 4, 16, 64),
    wave_problems=30,
    wave_seeds=1,
    guarantee_problems=20,
    guarantee_trials=50,
)
FULL = replace(
    DEFAULT,
    effort="full",
    problems=200,
    validation=200,
    temperatures=(0.35, 0.5, 0.7, 1.0),
    budgets=(60, 125, 250, 500, 1000, 2000, 5000),
    baseline_tokens=20_000,
    baseline_runs=4,
    wave_problems=200,
    wave_seeds=4,
    guarantee_problems=100,
    guarantee_trials=200,
)
QUICK = replace(
    DEFAULT,
    effort="quick",
    sets=("game24", "countdown5"),
    problems=10,
    validation=8,
    budgets=(60, 125, 250, 500),
    baseline_tokens=2000,
    baseline_runs=2,
    temperatures=(0.5,),
    wave_problems=8,
    guarantee_problems=4,
    guarantee_trials=20,
)
PLANS = {plan.effort: plan for plan in (DEFAULT, FULL, QUICK)}

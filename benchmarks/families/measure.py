"""Success against tokens of the trained model: parallel sampling with the verifier, and searches with its critic.

The pool, the methods and the way in which settings are chosen are those of `benchmarks.budget`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import bavt_fast as bavt
from bavt_fast import Search
from bavt_fast.critics.critic_file import load_critic
from bavt_fast.training.figures import auc
from benchmarks.budget import ours
from benchmarks.budget.curves import interval, resampled
from benchmarks.budget.methods import METHODS, PARALLEL, SOLVER, TUNED, Curve, Ground, Method, Options
from benchmarks.budget.pool import Pool
from benchmarks.budget.problems import Problems
from benchmarks.budget.rows import SUCCESS, VISITED, compared, row
from benchmarks.budget.tuning import Choice, best_of_temperatures, choose
from benchmarks.families.family import CRITIC, MODEL, Family
from benchmarks.harness import At, Row

COMPARED = (
    PARALLEL,
    "parallel sampling without replacement, oracle",
    "best of n by the critic",
    "ours without a critic",
    TUNED,
    SOLVER,
)
"""Of the methods of `benchmarks.budget`."""
SAMPLING = COMPARED[:3]
"""Of these, those that sample whole paths."""


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        temperatures: to choose from; None for those of the family.
        budgets: of the tables, tokens.
        baseline_tokens, baseline_runs: how far parallel sampling is sampled, and how often.
        parts: the problems are measured in so many, side by side.
    """

    problems: int = 200
    validation: int = 60
    temperatures: tuple[float, ...] | None = None
    budgets: tuple[int, ...] = (60, 125, 250, 500)
    baseline_tokens: int = 5000
    baseline_runs: int = 4
    parts: int = 2
    seed: int = 1

    def within(self, family: Family) -> Plan:
        """The plan for a family: of no more problems than training has kept away from, and at its temperatures."""
        return replace(
            self,
            problems=min(self.problems, family.test),
            validation=min(self.validation, family.validation),
            temperatures=self.temperatures or family.temperatures,
        )

    def methods(self, family: Family) -> list[Method]:
        """All that are compared, with what is to be chosen of each for a family."""
        known = [method for method in METHODS if method.name in COMPARED]
        return [_limited(replace(m, choices=family.choices.get(m.name, m.choices)), family) for m in known]

    def budgets_of(self, method: Method) -> Sequence[int]:
        """As finely as it costs nothing more."""
        if not method.is_dense:
            return self.budgets
        most = self.baseline_tokens if method.name == PARALLEL else max(self.budgets)
        dense = np.unique(np.round(np.geomspace(min(self.budgets), most, 200)).astype(int)).tolist()
        return sorted({*dense, *self.budgets, most})


def _limited(method: Method, family: Family) -> Method:
    """Paths that do not end by themselves are given up after so many steps: for every budget after as many as does best
    on the very problems that are measured, which favours those who sample."""
    if method.name not in SAMPLING or not family.most_steps:
        return method

    def run(ground: Ground, options: Options, budgets: Sequence[int]) -> np.ndarray:
        limited = [replace(ground, problems=family.limited(ground.problems, most)) for most in family.most_steps]
        solved = np.stack([method.run(one, options, budgets) for one in limited])  # (limits, problems, budgets)
        best = solved.mean(axis=1).argmax(axis=0)
        return np.stack([solved[limit, :, column] for column, limit in enumerate(best.tolist())], axis=1)

    return replace(method, run=run)


class Trained:
    """The model and its critic, and a pool of steps for each temperature."""

    def __init__(self, family: Family, folder: Path, seed: int) -> None:
        torch.set_num_threads(1)
        model = bavt.load(folder / MODEL, device="cpu", threads=1)
        self._generator = model.generator()
        self._critic = load_critic(folder / CRITIC, model, task=family.critic_task, reader=self._generator)
        self._seed = seed
        self._pools: dict[float, Pool] = {}

    def ground(self, problems: Problems, temperature: float, runs: int) -> Ground:
        """What methods are compared on, at a temperature."""
        if temperature not in self._pools:
            self._pools[temperature] = Pool(self._generator, self._critic, temperature, self._seed)
        return Ground(problems, self._pools[temperature], self._seed, runs)


def tuned(family: Family, folder: Path, plan: Plan, temperature: float) -> dict[str, Choice]:
    """For each method the options that solve most of the validation problems at a temperature."""
    trained, problems = Trained(family, folder, plan.seed), family.validation_set(plan.validation)
    ground, choices = trained.ground(problems, temperature, plan.baseline_runs), {}
    for method in plan.methods(family):
        start_s = time.monotonic()
        choice = choices[method.name] = choose(method, ground, temperature, plan.budgets)
        _say(f"T = {temperature}: {method.name}: {dict(choice.options)}, {choice.success:.1%}", start_s)
    return choices


def best(found: Sequence[Mapping[str, Choice]]) -> dict[str, Choice]:
    """Of several temperatures' choices, for each method the one that did best."""
    return {name: best_of_temperatures([choices[name] for choices in found]) for name in found[0]}


@dataclass
class Measured:
    """What came of one part of the problems.

    Attributes:
        curves: by the method's name.
        groups, values, good: see `visited`, of the tuned search at the largest budget.
    """

    name: str
    curves: dict[str, Curve]
    groups: np.ndarray
    values: np.ndarray
    good: np.ndarray


def measured(family: Family, folder: Path, plan: Plan, choices: Mapping[str, Choice], part: int) -> Measured:
    """Every method on one part of the problems, with what was chosen for it."""
    first, end = (plan.problems * number // plan.parts for number in (part, part + 1))
    trained, problems = Trained(family, folder, plan.seed + part), family.fresh_set(end - first, first)
    curves = {}
    for method in plan.methods(family):
        choice, start_s = choices[method.name], time.monotonic()
        ground = trained.ground(problems, choice.temperature, plan.baseline_runs)
        curve = curves[method.name] = _curve(method, ground, choice, plan)
        _say(f"part {part}: {method.name}: {' '.join(f'{curve.at(b).mean():.1%}' for b in plan.budgets)}", start_s)
    choice, budget = choices[TUNED], max(plan.budgets)
    pool = trained.ground(problems, choice.temperature, 1).pool
    searches = ours.search_all(
        pool, problems.task, problems.questions, [budget], choice.options, seed=plan.seed, solver=problems.solver
    )
    return Measured(problems.name, curves, *visited(family, [search for (search,) in searches], problems))


def joined(parts: Sequence[Measured]) -> Measured:
    """All parts as one."""
    curves = {
        name: Curve(curve.budgets, np.concatenate([part.curves[name].solved for part in parts]))
        for name, curve in parts[0].curves.items()
    }
    columns = zip(*((part.groups, part.values, part.good) for part in parts), strict=True)
    return Measured(parts[0].name, curves, *(np.concatenate(column) for column in columns))


def _curve(method: Method, ground: Ground, choice: Choice, plan: Plan) -> Curve:
    if choice.by_budget is None:
        return method.curve(ground, choice.options, plan.budgets_of(method))
    assert method.by_budget is not None, "or nothing was chosen for each budget"
    name, columns = method.by_budget, []
    for budget in plan.budgets:
        options = {**choice.options, name: choice.by_budget[budget]}
        columns.append(method.curve(ground, options, plan.budgets).at(budget))
    return Curve(np.array(plan.budgets), np.stack(columns, axis=1))


def rows_of(whole: Measured, plan: Plan) -> Iterator[Row]:
    """Success, each method beside the others, and how good the critic is on the states that the search visits."""
    weights = resampled(plan.problems, plan.seed)
    for name, curve in whole.curves.items():
        for budget in plan.budgets:
            at: At = {"set": whole.name, "budget_tokens": budget}
            solved = curve.at(budget)
            yield row(SUCCESS, name, float(solved.mean()), at, interval(weights @ solved))
            yield from compared(name, curve, whole.curves, budget, weights, at)
    where: At = {"set": whole.name, "budget_tokens": max(plan.budgets)}
    for group in sorted(set(whole.groups.tolist())):
        chosen = whole.groups == group
        values, good = whole.values[chosen], whole.good[chosen]
        yield row(VISITED, f"states_{group}", float(chosen.sum()), where, unit="states")
        yield row(VISITED, f"good_{group}", float(good.mean()), where)
        if good.any() and not good.all():
            yield row(VISITED, f"auc_{group}", auc(values, good), where)


def visited(
    family: Family, searches: Sequence[Search], problems: Problems
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(states,) of searches that are done, roots and answers left out: group, V, whether the state is good."""
    nodes = [node for search in searches for node in search.nodes[1:] if node.answer is None]
    judged = family.judged(nodes, problems.solver)
    groups, good = np.array([group for group, _ in judged], dtype=int), np.array([is_good for _, is_good in judged])
    return groups, np.array([float(node.value or 0.0) for node in nodes]), good


def _say(what: str, start_s: float) -> None:
    print(f"{what} ({time.monotonic() - start_s:.0f} s)", flush=True)


__all__ = ["Measured", "Plan", "Trained", "best", "joined", "measured", "rows_of", "tuned", "visited"]

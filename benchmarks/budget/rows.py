"""The figures of a run, as rows: everything that the tables, the CSV and docs/claims/budget.md say.

A row's two ends are its 95% interval by the paired bootstrap over problems (`curves.py`); where it has none they are
its value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from benchmarks.budget.bench import Measured
from benchmarks.budget.curves import interval, multiplier, resampled, tokens_for
from benchmarks.budget.methods import OURS, PARALLEL, SOLVER, TUNED, Curve
from benchmarks.budget.plan import FIXED, Plan
from benchmarks.harness import At, Results, Row, Target

SUCCESS, SPENT = "success", "tokens spent"
MULTIPLIER, MULTIPLIER_LEAST = "multiplier", "multiplier, at least"
AHEAD = "tuned search ahead by"
OVER_SOLVER, OVER_SOLVER_LEAST = "tokens over a perfect critic", "tokens over a perfect critic, at least"
VISITED, TOKEN_SHARE = "critic on visited states", "share of tokens"
WAVE_COST, WAVE_COST_LEAST = "tokens over one ask in flight", "tokens over one ask in flight, at least"
BOUND = "guarantee"


def row(what: str, who: str, value: float, at: At, ends: tuple[float, float] | None = None, unit: str = "of 1") -> Row:
    low, high = ends or (value, value)
    figures = [float(f"{figure:.5g}") for figure in (value, low, high)]
    return Row(what, who, unit, *figures, rounds=1, at=at)


def rows_of_set(measured: Measured, plan: Plan) -> Iterator[Row]:
    """All rows of a set of problems."""
    weights = resampled(measured.problems, plan.seed)
    for name, curve in measured.curves.items():
        wanted = {*plan.budgets, *(FIXED if name == PARALLEL else ())}
        for budget in [int(budget) for budget in curve.budgets if budget in wanted]:
            at: At = {"set": measured.name, "budget_tokens": budget}
            solved = curve.at(budget)
            yield row(SUCCESS, name, float(solved.mean()), at, interval(weights @ solved))
            if budget in plan.budgets:
                yield from compared(name, curve, measured.curves, budget, weights, at)
    for budget, tokens in measured.spent.items():
        yield row(SPENT, OURS, tokens, {"set": measured.name, "budget_tokens": budget}, unit="tokens")
    where: At = {"set": measured.name, "budget_tokens": plan.visits_budget}
    for what, value in measured.visits.figures().items():
        if math.isfinite(value):
            kind = VISITED if "_" in what or what == "brier" else TOKEN_SHARE
            yield row(kind, what, value, where)


def compared(
    name: str, curve: Curve, curves: Mapping[str, Curve], budget: int, weights: np.ndarray, at: At
) -> Iterator[Row]:
    """A method at a budget beside parallel sampling, the tuned search and the perfect critic, as far as they ran."""
    success = float(curve.at(budget).mean())
    value, low, high = multiplier(curve, curves[PARALLEL], budget, weights)
    if name != PARALLEL and not (success == 1.0 and value < 1.0):  # both solve all, which it did with less
        most = float(curves[PARALLEL].budgets[-1]) / budget
        what = MULTIPLIER if math.isfinite(value) else MULTIPLIER_LEAST
        yield row(what, name, min(value, most), at, (min(low, most), min(high, most)), "x")
    if TUNED in curves and name not in (TUNED, SOLVER):
        ahead = curves[TUNED].at(budget) - curve.at(budget)
        yield row(AHEAD, name, float(ahead.mean()), at, interval(weights @ ahead))
    if SOLVER in curves and name in (OURS, TUNED) and success > 0.0:
        yield from _over_solver(name, curve, curves[SOLVER], budget, weights, at)


def _over_solver(name: str, curve: Curve, solver: Curve, budget: int, weights: np.ndarray, at: At) -> Iterator[Row]:
    """How many times the tokens it takes that a perfect critic takes for the same success."""
    everybody = np.full((1, len(curve.solved)), 1 / len(curve.solved))
    factors = [
        budget / tokens_for(rows @ curve.at(budget), solver.budgets, rows @ solver.solved)
        for rows in (everybody, weights)
    ]
    value = float(factors[0][0])
    most = budget / float(solver.budgets[0])
    what = OVER_SOLVER_LEAST if value >= most and most > 1 else OVER_SOLVER
    yield row(what, name, value, at, interval(factors[1]), "x")


def rows_of_waves(curves: Mapping[int, Curve], plan: Plan) -> Iterator[Row]:
    """What several asks in flight cost, on Countdown-5."""
    one = curves[1]
    weights = resampled(len(one.solved), plan.seed)
    everybody = np.full((1, len(one.solved)), 1 / len(one.solved))
    for leaves, curve in curves.items():
        for budget in plan.budgets:
            at: At = {"asks_in_flight": leaves, "budget_tokens": budget}
            yield row(
                SUCCESS,
                "ours, asks in flight",
                float(curve.at(budget).mean()),
                at,
                interval(weights @ curve.at(budget)),
            )
            if leaves == 1:
                continue
            factors = [
                tokens_for(rows @ one.at(budget), curve.budgets, rows @ curve.solved) / budget
                for rows in (everybody, weights)
            ]
            most = float(curve.budgets[-1]) / budget
            what = WAVE_COST if np.isfinite(factors[0][0]) else WAVE_COST_LEAST
            low, high = interval(np.minimum(factors[1], most))
            yield row(what, "ours", min(float(factors[0][0]), most), at, (low, high), "x")


def rows_of_bounds(bounds: Mapping[str, list[dict[str, float]]]) -> Iterator[Row]:
    for name, table in bounds.items():
        for line in table:
            at: At = {"set": name, "failure": str(line["failure"])}
            for what, value in line.items():
                if what != "failure" and math.isfinite(value):
                    yield row(BOUND, what, value, at, unit="iterations" if what.startswith("median") else "of 1")


# ---- targets

_COUNTDOWN = "Countdown-{}"
_GAME24 = "Game of 24, ranks 901-1000"
_GYM = "reasoning_gym {}"


def targets(results: Results) -> list[Target]:
    """What was aimed for, of the tuned search."""
    found = []
    for name, budget, bound in (
        (_COUNTDOWN.format(5), 125, 3.0),
        (_COUNTDOWN.format(5), 250, 3.5),
        (_COUNTDOWN.format(5), 500, 4.0),
        (_COUNTDOWN.format(4), 125, 3.0),
        (_COUNTDOWN.format(6), 500, 4.0),
        (_GAME24, 60, 4.0),
        (_GAME24, 125, 12.0),
    ):
        value = _either(results, MULTIPLIER, MULTIPLIER_LEAST, name, budget)
        found.append(Target(f"{name}: multiplier at {budget}", value, bound, "x", at_least=True))
    for name, budget, bound in (
        (_COUNTDOWN.format(4), 125, 0.90),
        (_COUNTDOWN.format(5), 125, 0.55),
        (_COUNTDOWN.format(5), 250, 0.85),
        (_COUNTDOWN.format(6), 500, 0.85),
        (_GYM.format("countdown"), 500, 0.35),
        (_GYM.format("countdown"), 1000, 0.50),
        (_GYM.format("puzzle24"), 250, 0.99),
    ):
        value = results.median(SUCCESS, TUNED, set=name, budget_tokens=budget)
        found.append(Target(f"{name}: success at {budget}", value, bound, "", at_least=True))
    for left, bound in ((2, 0.995), (3, 0.92), (4, 0.82)):
        value = results.median(VISITED, f"auc_{left}_left", set=_COUNTDOWN.format(5))
        found.append(Target(f"{_COUNTDOWN.format(5)}: AUC with {left} numbers left", value, bound, "", at_least=True))
    for budget in (125, 250, 500):
        value = _either(results, OVER_SOLVER, OVER_SOLVER_LEAST, _COUNTDOWN.format(5), budget)
        found.append(Target(f"{_COUNTDOWN.format(5)}: tokens over a perfect critic at {budget}", value, 1.8, "x"))
    found.append(_behind(results))
    return found


def _behind(results: Results) -> Target:
    """Methods and budgets from 125 on at which another method is ahead by more than the interval."""
    rivals = [r for r in results.of(AHEAD) if r.who != OURS and int(r.at["budget_tokens"]) >= 125]
    behind = sum(r.p80 < 0 for r in rivals)
    return Target("methods ahead of the tuned search, over all sets and budgets", float(behind), 0.0, "")


def _either(results: Results, what: str, least: str, name: str, budget: int) -> float | None:
    known = results.median(what, TUNED, set=name, budget_tokens=budget)
    return known if known is not None else results.median(least, TUNED, set=name, budget_tokens=budget)

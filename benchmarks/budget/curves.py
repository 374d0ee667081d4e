"""Figures of curves: intervals by a bootstrap over problems, and multipliers.

The bootstrap is paired: one draw of problems counts for all methods, so that what they share (an easy set, a hard one)
falls out of their comparison.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.budget.methods import Curve

RESAMPLES = 1000
QUANTILES = (0.025, 0.975)


def resampled(problems: int, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """(resamples, problems): how often each problem counts in each, adding up to 1."""
    counts = np.random.default_rng([seed, problems]).multinomial(problems, np.full(problems, 1 / problems), resamples)
    return counts / problems


def interval(figures: np.ndarray) -> tuple[float, float]:
    """95% of a figure's resamples lie between."""
    low, high = np.quantile(figures, QUANTILES, method="inverted_cdf")
    return float(low), float(high)


def tokens_for(success: np.ndarray, budgets: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """(n,) the tokens at which curves reach a success; infinite where they never do, linear in their logarithm between.

    success: (n,); rates: (n, budgets). A curve counts as what it has reached so far.
    """
    reached = np.maximum.accumulate(rates, axis=1)
    place = (reached >= success[:, None] - 1e-12).argmax(axis=1)
    rows = np.arange(len(success))
    before = np.maximum(place - 1, 0)
    low, high = reached[rows, before], reached[rows, place]
    share = np.divide(success - low, high - low, out=np.ones(len(success)), where=high > low)
    logs = np.log(budgets)
    tokens = np.exp(logs[before] + np.clip(share, 0.0, 1.0) * (logs[place] - logs[before]))
    return np.where(reached[:, -1] >= success - 1e-12, tokens, np.inf)


def multiplier(curve: Curve, baseline: Curve, budget: int, weights: np.ndarray) -> tuple[float, float, float]:
    """How many times the tokens the baseline takes for the success that a curve has at a budget, and its interval.

    Infinite where the baseline does not get there.
    """
    everybody = np.full((1, len(curve.solved)), 1 / len(curve.solved))
    figures = []
    for rows in (everybody, weights):
        success, rates = rows @ curve.at(budget), rows @ baseline.solved
        needed = np.where(success > 0, tokens_for(success, baseline.budgets, rates), 0.0)
        figures.append(needed / budget)
    return float(figures[0][0]), *interval(figures[1])


def spliced(curves: Sequence[Curve], which: Sequence[int]) -> Curve:
    """A curve that is another one at every budget."""
    columns = [curves[number].solved[:, place] for place, number in enumerate(which)]
    return Curve(curves[0].budgets, np.stack(columns, axis=1))

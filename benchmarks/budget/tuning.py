"""What is chosen on validation problems: each method's temperature and options, the same way for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.budget.methods import Ground, Method


@dataclass(frozen=True)
class Choice:
    """Options of a method, the temperature included.

    Attributes:
        by_budget: values of the option that is chosen for each budget by itself.
        success: mean share of validation problems solved, over the budgets.
    """

    temperature: float
    options: Mapping[str, Any]
    by_budget: Mapping[int, Any] | None
    success: float


def choose(method: Method, ground: Ground, temperature: float, budgets: Sequence[int]) -> Choice:
    """Options for one temperature: one after the other, the first of the best."""
    known: dict[tuple[Any, ...], np.ndarray] = {}

    def rates(options: Mapping[str, Any]) -> np.ndarray:
        key = tuple(options.items())
        if key not in known:
            known[key] = method.curve(ground, options, budgets).rates
        return known[key]

    best = method.defaults
    for name, values in method.choices.items():
        best = max(({**best, name: value} for value in values), key=lambda options: float(rates(options).mean()))
    success = rates(best)
    by_budget = None
    if method.by_budget is not None:
        values = method.choices[method.by_budget]
        table = np.array([rates({**best, method.by_budget: value}) for value in values])
        by_budget = {budget: values[i] for budget, i in zip(budgets, table.argmax(axis=0).tolist(), strict=True)}
        success = table.max(axis=0)
    return Choice(temperature, best, by_budget, float(success.mean()))


def best_of_temperatures(choices: Sequence[Choice]) -> Choice:
    """The first of the best."""
    return max(choices, key=lambda choice: choice.success)

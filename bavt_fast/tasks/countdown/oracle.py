"""The exact solver as a critic: what a search with perfect values does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

import bavt_fast._core as _core
from bavt_fast._checks import as_flag
from bavt_fast.protocols import Node
from bavt_fast.tasks.countdown.task import MAX_NUMBERS

__all__ = ["CountdownOracle"]


class CountdownOracle:
    """The perfect critic: V = 1 where exact search reaches the target, ``unsolvable_value`` elsewhere.

    Args:
        unsolvable_value: V of a state that cannot reach the target.
        fractions: as of the task.
    """

    predicts: Literal["value", "residual"] = "value"

    def __init__(self, unsolvable_value: float = 1e-6, fractions: bool = False) -> None:
        self._unsolvable_value = unsolvable_value
        self._fractions = as_flag("fractions", fractions)

    def score(self, candidates: Sequence[Node]) -> list[float]:
        if not candidates:
            return []
        numbers = np.full((len(candidates), MAX_NUMBERS), -1, dtype=np.int32)
        denominators = np.ones_like(numbers)
        for row, candidate in enumerate(candidates):
            left = candidate.state.numbers
            numbers[row, : len(left)] = [number.numerator for number in left]
            denominators[row, : len(left)] = [number.denominator for number in left]
        if not self._fractions and (denominators > 1).any():
            raise ValueError("fractions: expected CountdownOracle(fractions=True) for a task with fractions, got False")
        targets = np.array([candidate.state.target for candidate in candidates], dtype=np.int32)
        reachable = _core.countdown_solvable(numbers, targets, denominators if self._fractions else None)
        return [1.0 if yes else self._unsolvable_value for yes in reachable]

"""The readable twin of a budget account (`csrc/engine/account.h`).

Amounts are lists of four ints: tokens, prompt tokens, tool calls, and cost in units of 1e-12.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

__all__ = ["COST", "PROMPT_TOKENS", "TOKENS", "TOOL_CALLS", "Account", "Amounts", "plus", "times"]

TOKENS, PROMPT_TOKENS, TOOL_CALLS, COST = range(4)

Amounts = list[int]


def plus(a: Sequence[int], b: Sequence[int]) -> Amounts:
    return [x + y for x, y in zip(a, b, strict=True)]


def times(amounts: Sequence[int], factor: int) -> Amounts:
    return [amount * factor for amount in amounts]


class Account:
    """What may be spent, is spent and is reserved. A limit of None is no limit."""

    def __init__(self, limits: Sequence[int | None], seconds: float | None) -> None:
        self.limits = list(limits)
        self.seconds = math.inf if seconds is None else seconds
        self.spent, self.reserved, self.overrun = [0] * 4, [0] * 4, [0] * 4
        self.overran = False
        self.elapsed_s = 0.0

    def left(self, resource: int) -> float:
        """What can still be reserved: infinity without a limit, nothing after an overrun."""
        limit = self.limits[resource]
        if limit is None:
            return math.inf
        return 0 if self.overran else max(0, limit - self.spent[resource] - self.reserved[resource])

    def set_elapsed(self, seconds: float) -> None:
        """Set the seconds that have passed, which never fall and stay finite."""
        self.elapsed_s = max(self.elapsed_s, min(seconds, sys.float_info.max))

    @property
    def out_of_time(self) -> bool:
        return self.elapsed_s >= self.seconds

    @property
    def remaining_ratio(self) -> float:
        """r = min over the limited resources of what is left / limit."""
        if self.overran:
            return 0.0
        ratios = [1.0]
        for limit, spent, reserved in zip(self.limits, self.spent, self.reserved, strict=True):
            if limit is not None:
                ratios.append(max(0, limit - spent - reserved) / limit)
        if self.seconds < math.inf:
            ratios.append(max(0.0, self.seconds - self.elapsed_s) / self.seconds)
        return min(ratios)

    def fits(self, asked: Sequence[int]) -> bool:
        return not self.out_of_time and not self.overran and all(a <= self.left(i) for i, a in enumerate(asked))

    def settle(self, claim: Sequence[int], actual: Sequence[int]) -> None:
        """Give a claim back and charge what was taken; what was too much of a limited resource is the overrun."""
        self.reserved = [r - c for r, c in zip(self.reserved, claim, strict=True)]
        self.spent = plus(self.spent, actual)
        limited = [limit is not None for limit in self.limits]
        excess = [max(0, a - c) * has for a, c, has in zip(actual, claim, limited, strict=True)]
        self.overrun = plus(self.overrun, excess)
        self.overran = self.overran or any(excess)

    def extend(self, more: Sequence[int], seconds: float) -> None:
        self.limits = [None if limit is None else limit + m for limit, m in zip(self.limits, more, strict=True)]
        self.seconds += seconds
        self.overran = False

"""What a search may spend and what it has spent.

Four resources, each with its unit:

| resource | type | unit |
|---|---|---|
| tokens | int | tokens the model generates |
| tool_calls | int | calls of tools |
| seconds | float | wall-clock seconds |
| cost | float | money, in whatever currency the caller counts in; the smallest unit is 1e-12 |
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from bavt_fast._checks import as_amount, as_count

__all__ = ["COST_UNIT", "Budget", "Remaining", "Spent"]

COST_UNIT = 1e-12
"""The smallest cost the ledger tells apart from zero."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A hard limit on any non-empty subset of the four resources; None means no limit on that resource.

    `tokens` and `tool_calls` are stored as ``int``, `seconds` and `cost` as ``float``.

    Raises:
        TypeError: a limit has the wrong type; bools are refused everywhere, floats where a count is expected.
        ValueError: no limit at all, or one that is zero, negative, NaN, infinite, or a cost below 1e-12.
    """

    tokens: int | None = None
    tool_calls: int | None = None
    seconds: float | None = None
    cost: float | None = None

    def __post_init__(self) -> None:
        limits = (self.tokens, self.tool_calls, self.seconds, self.cost)
        if all(limit is None for limit in limits):
            raise ValueError(
                "a Budget needs at least one of tokens, tool_calls, seconds, cost; e.g. Budget(tokens=500)"
            )
        for name in ("tokens", "tool_calls"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, as_count(name, value, minimum=1))
        for name in ("seconds", "cost"):
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, as_amount(name, value))
        if self.cost is not None and self.cost < COST_UNIT:
            raise ValueError(f"cost must be at least {COST_UNIT}, got {self.cost}; count in a smaller currency unit")


@dataclass(frozen=True, slots=True)
class Spent:
    """An amount of each resource: what a step took, or what a whole search took.

    ``a + b`` adds resource by resource. Costs are added as the decimal numbers they are written as, so
    ``Spent(cost=0.1) + Spent(cost=0.2) == Spent(cost=0.3)``.

    Raises:
        TypeError: a count is not an integer, or an amount is not a number.
        ValueError: an amount is negative, NaN or infinite.
    """

    tokens: int = 0
    tool_calls: int = 0
    seconds: float = 0.0
    cost: float = 0.0

    def __post_init__(self) -> None:
        for name in ("tokens", "tool_calls"):
            object.__setattr__(self, name, as_count(name, getattr(self, name)))
        for name in ("seconds", "cost"):
            object.__setattr__(self, name, as_amount(name, getattr(self, name), allow_zero=True))

    def __add__(self, other: object) -> Spent:
        if not isinstance(other, Spent):
            return NotImplemented
        return Spent(
            self.tokens + other.tokens,
            self.tool_calls + other.tool_calls,
            self.seconds + other.seconds,
            float(Decimal(repr(self.cost)) + Decimal(repr(other.cost))),
        )


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left of each resource, in the units of `Budget`; None where the budget sets no limit."""

    tokens: int | None = None
    tool_calls: int | None = None
    seconds: float | None = None
    cost: float | None = None

"""The ledger of one search: work is reserved before it starts and settled after it ended.

For tokens, tool calls and cost the ledger keeps, at every moment and from any number of threads,

    spent + reserved <= total,

because `Ledger.reserve` refuses what does not fit and `Ledger.settle` refuses more than was reserved: a
caller reserves the most a step can take and truncates the step there. Wall-clock time cannot be reserved, for
it passes whatever the caller does: the ledger reads it from the clock and hands out nothing once the deadline
has passed, and `Remaining.seconds` tells a step when to stop.

Cost is counted in whole units of 1e-12. Each cost is read as the decimal number it prints as; the budget is
rounded down to a unit and every charge up. Integers add without error, so three charges of 0.1 fill a budget
of 0.3 exactly, and a million small charges neither leak past the total nor report an overspend that is only
rounding.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal

from bavt_fast._checks import as_amount, as_count
from bavt_fast.budget import Budget, Remaining, Spent

__all__ = ["BudgetExceeded", "Ledger", "Reservation", "ReservationClosed", "ReservationOverrun"]

_UNITS_PER_COST = 10**12
# Wide enough that no float is cut when it is scaled to units: 309 digits before the point, 12 after it.
_EXACT = Context(prec=400)


class BudgetExceeded(RuntimeError):
    """A reservation does not fit the budget. `resource` names the first resource that is short."""

    def __init__(self, message: str, resource: str) -> None:
        super().__init__(message)
        self.resource = resource


class ReservationOverrun(ValueError):
    """A step was settled above what was reserved for it; the whole reservation was counted as spent."""


class ReservationClosed(ValueError):
    """The reservation was settled or cancelled before, or another ledger handed it out."""


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """A claim on the budget, open until it is settled or cancelled once; compared by identity."""

    tokens: int = 0
    tool_calls: int = 0
    cost: float = 0.0


@dataclass(frozen=True, slots=True)
class _Amounts:
    """The resources that can be reserved, as exact integers; cost in units of 1e-12."""

    tokens: int = 0
    tool_calls: int = 0
    cost_units: int = 0

    def __add__(self, other: _Amounts) -> _Amounts:
        return _Amounts(
            self.tokens + other.tokens, self.tool_calls + other.tool_calls, self.cost_units + other.cost_units
        )

    def __sub__(self, other: _Amounts) -> _Amounts:
        return _Amounts(
            self.tokens - other.tokens, self.tool_calls - other.tool_calls, self.cost_units - other.cost_units
        )


class Ledger:
    """Total, spent and reserved of one search. All methods may be called from any thread.

    Args:
        budget: the limits. Resources without a limit are counted all the same.
        clock: seconds as a float that never runs backwards; time counts from the construction of the ledger.
    """

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        if not isinstance(budget, Budget):
            raise TypeError(f"budget must be a Budget, got {type(budget).__name__}; e.g. Budget(tokens=500)")
        self._budget = budget
        self._total_cost_units = None if budget.cost is None else _cost_units(budget.cost, ROUND_FLOOR)
        self._clock = clock
        self._start_s = clock()
        self._elapsed_s = 0.0
        self._lock = threading.Lock()
        self._spent = _Amounts()
        self._reserved = _Amounts()
        self._open: dict[Reservation, _Amounts] = {}

    def reserve(self, *, tokens: int = 0, tool_calls: int = 0, cost: float = 0.0) -> Reservation:
        """Claim the most that a step can take, before it starts.

        Raises:
            BudgetExceeded: spent + reserved + asked is above the total of some resource, or the time is up.
            TypeError, ValueError: an amount has the wrong type, or is negative, NaN or infinite.
        """
        reservation, asked = _ask(tokens, tool_calls, cost)
        with self._lock:
            short = self._first_short(asked)
            if short is None:
                return self._open_reservation(reservation, asked)
            message = self._refusal(short, asked)
        raise BudgetExceeded(message, short)

    def try_reserve(self, *, tokens: int = 0, tool_calls: int = 0, cost: float = 0.0) -> Reservation | None:
        """As `reserve`, but None instead of BudgetExceeded where it does not fit."""
        reservation, asked = _ask(tokens, tool_calls, cost)
        with self._lock:
            if self._first_short(asked) is not None:
                return None
            return self._open_reservation(reservation, asked)

    def settle(self, reservation: Reservation, actual: Spent) -> None:
        """Replace a reservation by what the step really took; the rest is free again.

        `actual.seconds` is ignored: the ledger has its own clock.

        Raises:
            ReservationOverrun: `actual` is above the reservation. The step has happened, so the whole
                reservation is counted as spent, and it is closed.
            ReservationClosed: settled or cancelled before, or from another ledger. Nothing changes.
        """
        if not isinstance(actual, Spent):
            raise TypeError(f"actual must be a Spent, got {type(actual).__name__}; e.g. Spent(tokens=12)")
        charged = _Amounts(actual.tokens, actual.tool_calls, _cost_units(actual.cost, ROUND_CEILING))
        with self._lock:
            claim = self._close(reservation)
            overrun = (
                charged.tokens > claim.tokens
                or charged.tool_calls > claim.tool_calls
                or charged.cost_units > claim.cost_units
            )
            self._spent += claim if overrun else charged
        if overrun:
            raise ReservationOverrun(
                f"actual: {actual} is above {reservation}; the reservation was counted as spent. "
                "Reserve the most that the step can take and truncate it there"
            )

    def cancel(self, reservation: Reservation) -> None:
        """Give a reservation back, nothing of it spent.

        Raises:
            ReservationClosed: settled or cancelled before, or from another ledger. Nothing changes.
        """
        with self._lock:
            self._close(reservation)

    @property
    def budget(self) -> Budget:
        """The limits."""
        return self._budget

    @property
    def spent(self) -> Spent:
        """What was settled so far; `seconds` is the time since the ledger was made."""
        with self._lock:
            return self._as_spent(self._spent, self._read_clock())

    @property
    def reserved(self) -> Spent:
        """What is claimed by open reservations; `seconds` is always 0."""
        with self._lock:
            return self._as_spent(self._reserved, 0.0)

    @property
    def remaining(self) -> Remaining:
        """What can still be reserved, total - spent - reserved, and the seconds to the deadline."""
        with self._lock:
            budget, used = self._budget, self._spent + self._reserved
            units = None if self._total_cost_units is None else self._total_cost_units - used.cost_units
            return Remaining(
                None if budget.tokens is None else budget.tokens - used.tokens,
                None if budget.tool_calls is None else budget.tool_calls - used.tool_calls,
                None if budget.seconds is None else max(0.0, budget.seconds - self._read_clock()),
                None if units is None else units / _UNITS_PER_COST,
            )

    @property
    def remaining_ratio(self) -> float:
        """r = min over the limited resources of remaining / total, in [0, 1]: the r of the power policy."""
        with self._lock:
            return self._ratio(self._spent + self._reserved)

    @property
    def exhausted(self) -> bool:
        """Whether some limited resource is wholly *spent*, or the time is up.

        What is only reserved does not count: it may come back when it is settled.
        """
        with self._lock:
            return self._ratio(self._spent) == 0.0

    # The methods below are called with the lock held.

    def _first_short(self, asked: _Amounts) -> str | None:
        """The first resource that cannot hold `asked` on top of what is spent and reserved, or None."""
        budget, after = self._budget, self._spent + self._reserved + asked
        if budget.tokens is not None and after.tokens > budget.tokens:
            return "tokens"
        if budget.tool_calls is not None and after.tool_calls > budget.tool_calls:
            return "tool_calls"
        if self._total_cost_units is not None and after.cost_units > self._total_cost_units:
            return "cost"
        if budget.seconds is not None and self._read_clock() >= budget.seconds:
            return "seconds"
        return None

    def _refusal(self, resource: str, asked: _Amounts) -> str:
        """The message of BudgetExceeded."""
        total = getattr(self._budget, resource)
        if resource == "seconds":
            return f"seconds: {self._elapsed_s:.3f} of {total} have passed; return the best result so far"
        wanted, spent, reserved = (
            getattr(self._as_spent(amounts, 0.0), resource) for amounts in (asked, self._spent, self._reserved)
        )
        return (
            f"{resource}: asked for {wanted}, but of {total} are {spent} spent and {reserved} reserved; "
            "ask for less, settle what is in flight, or stop"
        )

    def _open_reservation(self, reservation: Reservation, asked: _Amounts) -> Reservation:
        self._open[reservation] = asked
        self._reserved += asked
        return reservation

    def _close(self, reservation: Reservation) -> _Amounts:
        """Take a reservation out of the open ones."""
        if not isinstance(reservation, Reservation):
            raise TypeError(f"reservation must be what reserve() returned, got {type(reservation).__name__}")
        claim = self._open.pop(reservation, None)
        if claim is None:
            raise ReservationClosed(
                f"reservation: {reservation} is not open in this ledger; settle or cancel each once"
            )
        self._reserved -= claim
        return claim

    def _read_clock(self) -> float:
        """Seconds since the start; held where the caller's clock steps back."""
        self._elapsed_s = max(self._elapsed_s, self._clock() - self._start_s)
        return self._elapsed_s

    def _ratio(self, used: _Amounts) -> float:
        budget, ratios = self._budget, [1.0]
        if budget.tokens is not None:
            ratios.append((budget.tokens - used.tokens) / budget.tokens)
        if budget.tool_calls is not None:
            ratios.append((budget.tool_calls - used.tool_calls) / budget.tool_calls)
        if self._total_cost_units is not None:
            ratios.append((self._total_cost_units - used.cost_units) / self._total_cost_units)
        if budget.seconds is not None:
            ratios.append(max(0.0, budget.seconds - self._read_clock()) / budget.seconds)
        return min(ratios)

    @staticmethod
    def _as_spent(amounts: _Amounts, seconds: float) -> Spent:
        return Spent(amounts.tokens, amounts.tool_calls, seconds, amounts.cost_units / _UNITS_PER_COST)


def _ask(tokens: int, tool_calls: int, cost: float) -> tuple[Reservation, _Amounts]:
    """The checked amounts of a reservation, as the caller sees them and as the ledger counts them."""
    reservation = Reservation(
        as_count("tokens", tokens),
        as_count("tool_calls", tool_calls),
        as_amount("cost", cost, allow_zero=True),
    )
    units = _cost_units(reservation.cost, ROUND_CEILING)
    return reservation, _Amounts(reservation.tokens, reservation.tool_calls, units)


def _cost_units(cost: float, rounding: str) -> int:
    """`cost`, read as the decimal number it prints as, in whole units of 1e-12."""
    if cost == 0.0:
        return 0
    scaled = _EXACT.scaleb(Decimal(repr(cost)), 12)
    return int(scaled.to_integral_value(rounding, _EXACT))

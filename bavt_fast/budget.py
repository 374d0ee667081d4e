"""What a search may spend, what it has spent, and the account between the two.

| resource | type | unit |
|---|---|---|
| tokens | int | tokens the model generates |
| tool_calls | int | calls of tools |
| seconds | float | wall-clock seconds |
| cost | float | money, in whatever currency the caller counts in; the smallest unit is 1e-12 |
| prompt_tokens | int | tokens the model reads |

For tokens, prompt tokens, tool calls and cost, work is reserved before it starts, at the most that it can take, and
settled after it ended: what is reserved and what is spent together never exceed the limit. Wall-clock time cannot be
reserved, for it passes whatever the caller does: it is read from the clock, and nothing is handed out once the deadline
has passed. Work that took more of a limited resource than was reserved is charged in full; the excess is the *overrun*,
and from then on nothing more is handed out of that budget.

Cost is counted in whole units of 1e-12. Each cost is read as the decimal number it prints as; the budget is rounded
down to a unit and every charge up. Integers add without error, so three charges of 0.1 fill a budget of 0.3 exactly,
and a million small charges neither leak past the total nor report an overspend that is only rounding.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from fractions import Fraction
from typing import Any

from bavt_fast._checks import as_amount, as_clock, as_count, as_number
from bavt_fast._core import Account, filled

__all__ = [
    "COST_UNIT",
    "Budget",
    "BudgetExceeded",
    "Ledger",
    "Remaining",
    "Reservation",
    "ReservationClosed",
    "Spent",
    "as_spent",
    "cost_units",
    "exact",
    "iterations_needed",
    "priced",
    "sum_of",
]

COST_UNIT = 1e-12
"""The smallest cost that is told apart from zero."""
MAX_COST = 9.2e6
"""The largest limit on cost: 64 bits of units."""

_COUNTS = ("tokens", "prompt_tokens", "tool_calls")
_RESERVABLE = ("tokens", "prompt_tokens", "tool_calls", "cost")
_LARGEST = 2**63 - 2
_UNITS_PER_COST = 10**12
# Wide enough that no float is cut when it is scaled to units: 309 digits before the point, 12 after it.
_EXACT = Context(prec=400)


@dataclass(frozen=True, slots=True)
class Budget:
    """A hard limit on one or more resources; None means no limit on that resource.

    Counts are stored as ``int``, `seconds` and `cost` as ``float``.

    Args:
        tokens: that the model generates.
        tool_calls: calls of tools, as the steps count them.
        seconds: of the clock, from the first ask of a search.
        cost: money, in any one currency.
        prompt_tokens: that the model reads.

    Raises:
        TypeError: a limit has the wrong type; bools are refused everywhere, floats where a count is expected.
        ValueError: no limit at all, or one that is zero, negative, NaN or infinite, or a cost below 1e-12 or above
            9.2 million.
    """

    tokens: int | None = None
    tool_calls: int | None = None
    seconds: float | None = None
    cost: float | None = None
    prompt_tokens: int | None = None

    def __post_init__(self) -> None:
        names = (*_COUNTS, "seconds", "cost")
        if all(getattr(self, name) is None for name in names):
            raise ValueError(
                "budget: expected at least one of tokens, tool_calls, seconds, cost and prompt_tokens, got none; "
                "e.g. Budget(tokens=500)"
            )
        for name in names:
            value = getattr(self, name)
            if value is not None:
                checked = as_count(name, value, minimum=1) if name in _COUNTS else as_amount(name, value)
                object.__setattr__(self, name, checked)
        if self.cost is not None and not COST_UNIT <= self.cost <= MAX_COST:
            raise ValueError(
                f"cost: expected a number from {COST_UNIT} to {MAX_COST}, got {self.cost}; count in another currency"
            )

    def limits(self) -> tuple[int | None, ...]:
        """(tokens, prompt tokens, tool calls, cost in units of 1e-12), as the native account takes them."""
        units = None if self.cost is None else cost_units(self.cost, ROUND_FLOOR)
        counts = [None if (n := getattr(self, name)) is None else min(n, _LARGEST) for name in _COUNTS]
        return *counts, units


@dataclass(frozen=True, slots=True)
class Spent:
    """An amount of each resource, as of `Budget`: what a step took, or what a whole search took.

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
    prompt_tokens: int = 0

    def __post_init__(self) -> None:
        for name in _COUNTS:
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
            float(_EXACT.add(exact(self.cost), exact(other.cost))),
            self.prompt_tokens + other.prompt_tokens,
        )

    def amounts(self) -> tuple[int, int, int, int]:
        """(tokens, prompt tokens, tool calls, cost in units of 1e-12, rounded up), as the native account counts."""
        units = cost_units(self.cost, ROUND_CEILING)
        return (min(self.tokens, _LARGEST), min(self.prompt_tokens, _LARGEST), min(self.tool_calls, _LARGEST), units)

    @classmethod
    def of(cls, amounts: tuple[int, int, int, int], seconds: float = 0.0) -> Spent:
        """What the native account counts, as a user reads it."""
        tokens, prompt_tokens, tool_calls, units = amounts
        fields = tokens, tool_calls, seconds, units / _UNITS_PER_COST, prompt_tokens
        return filled(cls, *fields) if cls is Spent else cls(*fields)  # the account's amounts need no check


def as_spent(name: str, value: Any) -> Spent:
    """`value`, if it is a `Spent`. Raises TypeError for anything else."""
    if not isinstance(value, Spent):
        raise TypeError(f"{name}: expected a Spent such as Spent(tokens=12), got {value!r:.80}")
    return value


def sum_of(own: Budget, more: Budget) -> Budget:
    """Both together; costs are added as the decimal numbers they are written as. Raises what `Search.extend` does."""
    sums = {}
    for name in ("tokens", "tool_calls", "seconds", "cost", "prompt_tokens"):
        limit, added = getattr(own, name), getattr(more, name)
        if added is not None and limit is None:
            raise ValueError(f"more: {name} is not limited in this search; leave it out")
        sums[name] = limit if added is None else limit + added
    if own.cost is not None and more.cost is not None:
        sums["cost"] = (Spent(cost=own.cost) + Spent(cost=more.cost)).cost
        if sums["cost"] > MAX_COST:
            raise ValueError(f"more: expected a cost of at most {MAX_COST} in all, got {sums['cost']}")
    return Budget(**sums)


@dataclass(frozen=True, slots=True)
class Remaining:
    """What is left of each resource, in the units of `Budget`; None where the budget sets no limit."""

    tokens: int | None = None
    tool_calls: int | None = None
    seconds: float | None = None
    cost: float | None = None
    prompt_tokens: int | None = None


class BudgetExceeded(RuntimeError):
    """A reservation does not fit the budget. `resource` names the first resource that is short."""

    def __init__(self, message: str, resource: str) -> None:
        super().__init__(message, resource)
        self.resource = resource

    def __str__(self) -> str:
        return str(self.args[0])


class ReservationClosed(ValueError):
    """The reservation was settled or cancelled before, or another ledger handed it out."""


@dataclass(frozen=True, slots=True, eq=False)
class Reservation:
    """A claim on the budget, open until it is settled or cancelled once; compared by identity."""

    tokens: int = 0
    tool_calls: int = 0
    cost: float = 0.0
    prompt_tokens: int = 0


class Ledger:
    """Total, spent and reserved of one budget, for work that `Searcher` does not drive; over the engine's own account.

    All methods may be called from any thread.

    Args:
        budget: the limits. Resources without a limit are counted all the same.
        clock: seconds as a float that never runs backwards; time counts from the construction of the ledger. Whatever
            reads it raises TypeError or ValueError where it gives no finite number.
    """

    def __init__(self, budget: Budget, clock: Callable[[], float] = time.monotonic) -> None:
        if not isinstance(budget, Budget):
            raise TypeError(f"budget: expected a Budget such as Budget(tokens=500), got {budget!r:.80}")
        self._budget = budget
        self._account = Account(budget.limits(), budget.seconds)
        self._clock = as_clock(clock)
        self._start_s = self._clock()
        self._lock = threading.Lock()
        self._open: dict[Reservation, tuple[int, int, int, int]] = {}

    def reserve(
        self, *, tokens: int = 0, tool_calls: int = 0, cost: float = 0.0, prompt_tokens: int = 0
    ) -> Reservation:
        """Claim the most that a step can take, before it starts.

        Raises:
            BudgetExceeded: spent + reserved + asked is above the limit of some resource, the time is up, or a step
                before took more than was reserved for it.
            TypeError, ValueError: an amount has the wrong type, or is negative, NaN or infinite.
        """
        asked = Spent(tokens, tool_calls, 0.0, cost, prompt_tokens)
        with self._lock:
            short = self._first_short(asked)
            if short is None:
                return self._hand_out(asked)
            message = self._refusal(short, asked)
        raise BudgetExceeded(message, short)

    def try_reserve(
        self, *, tokens: int = 0, tool_calls: int = 0, cost: float = 0.0, prompt_tokens: int = 0
    ) -> Reservation | None:
        """As `reserve`, but None instead of BudgetExceeded where it does not fit."""
        asked = Spent(tokens, tool_calls, 0.0, cost, prompt_tokens)
        with self._lock:
            return self._hand_out(asked) if self._first_short(asked) is None else None

    def settle(self, reservation: Reservation, actual: Spent) -> None:
        """Replace a reservation by what the step really took; the rest is free again.

        What it took above the reservation is charged too. Of a limited resource it is added to `overrun`, and nothing
        more is handed out then.
        `actual.seconds` is ignored: the ledger has its own clock.

        Raises:
            ReservationClosed: settled or cancelled before, or from another ledger. Nothing changes.
        """
        amounts = as_spent("actual", actual).amounts()
        with self._lock:
            self._account.settle(self._close(reservation), amounts)

    def cancel(self, reservation: Reservation) -> None:
        """Give a reservation back, nothing of it spent.

        Raises:
            ReservationClosed: settled or cancelled before, or from another ledger. Nothing changes.
        """
        with self._lock:
            self._account.settle(self._close(reservation), (0, 0, 0, 0))

    @property
    def budget(self) -> Budget:
        """The limits."""
        return self._budget

    @property
    def spent(self) -> Spent:
        """What was settled so far; `seconds` is the time since the ledger was made."""
        with self._lock:
            return Spent.of(self._account.spent, self._read_clock())

    @property
    def reserved(self) -> Spent:
        """What is claimed by open reservations; `seconds` is always 0."""
        with self._lock:
            return Spent.of(self._account.reserved)

    @property
    def overrun(self) -> Spent:
        """What steps took above their reservations, a part of `spent`; `seconds` is always 0."""
        with self._lock:
            return Spent.of(self._account.overrun)

    @property
    def remaining(self) -> Remaining:
        """What can still be reserved, and the seconds to the deadline."""
        with self._lock:
            elapsed_s = self._read_clock()
            tokens, prompt_tokens, tool_calls, units = self._account.left
            seconds = None if self._budget.seconds is None else max(0.0, self._budget.seconds - elapsed_s)
            cost = None if units is None else _cost_within(units)
            return Remaining(tokens, tool_calls, seconds, cost, prompt_tokens)

    @property
    def remaining_ratio(self) -> float:
        """r = min over the limited resources of remaining / total, in [0, 1]: the r of the power policy."""
        with self._lock:
            self._read_clock()
            return self._account.remaining_ratio

    @property
    def exhausted(self) -> bool:
        """Whether some limited resource is wholly *spent* or was overrun, or the time is up.

        What is only reserved does not count: it may come back when it is settled.
        """
        with self._lock:
            self._read_clock()
            return self._account.exhausted

    # The methods below are called with the lock held.

    def _first_short(self, asked: Spent) -> str | None:
        """The first resource that cannot hold `asked` on top of what is spent and reserved, or None."""
        self._read_clock()
        short = self._account.first_short(asked.amounts())
        return (*_RESERVABLE, "seconds", None)[short]

    def _refusal(self, resource: str, asked: Spent) -> str:
        """The message of BudgetExceeded."""
        total = getattr(self._budget, resource)
        if resource == "seconds":
            return f"seconds: {self._account.elapsed_s:.3f} of {total} have passed; return the best result so far"
        if any(self._account.overrun):
            amounts = Spent.of(self._account.overrun)
            overrun = ", ".join(f"{over} {name}" for name in _RESERVABLE if (over := getattr(amounts, name)))
            return f"{resource}: nothing is left after an overrun of {overrun}; reserve the most a step can take"
        wanted, spent, reserved = (
            getattr(amount, resource)
            for amount in (asked, Spent.of(self._account.spent), Spent.of(self._account.reserved))
        )
        return (
            f"{resource}: asked for {wanted}, but of {total} are {spent} spent and {reserved} reserved; "
            "ask for less, settle what is in flight, or stop"
        )

    def _hand_out(self, asked: Spent) -> Reservation:
        reservation = Reservation(asked.tokens, asked.tool_calls, asked.cost, asked.prompt_tokens)
        amounts = asked.amounts()
        self._open[reservation] = amounts
        self._account.reserve(amounts)
        return reservation

    def _close(self, reservation: Reservation) -> tuple[int, int, int, int]:
        """Take a reservation out of the open ones."""
        if not isinstance(reservation, Reservation):
            raise TypeError(f"reservation: expected what reserve() returned, got {reservation!r:.80}")
        claim = self._open.pop(reservation, None)
        if claim is None:
            raise ReservationClosed(
                f"reservation: {reservation} is not open in this ledger; settle or cancel each once"
            )
        return claim

    def _read_clock(self) -> float:
        """Seconds since the start; held where the caller's clock steps back."""
        self._account.set_elapsed(self._clock() - self._start_s)
        return self._account.elapsed_s


def exact(cost: Any) -> Decimal:
    """A price as the decimal number it prints as."""
    return cost if isinstance(cost, Decimal) else Decimal(repr(cost))


def priced(*parts: tuple[int, Decimal]) -> Decimal:
    """The sum of counts times prices. It is exact, whatever the caller's decimal context rounds to."""
    total = Decimal(0)
    for count, price in parts:
        total = _EXACT.fma(count, price, total)
    return total


def cost_units(cost: Any, rounding: str = ROUND_CEILING, digits: int = 12) -> int:
    """`cost`, read as the decimal number it prints as, in whole units of 10^-digits, at most 2^63 - 2."""
    if cost == 0:
        return 0
    scaled = _EXACT.scaleb(exact(cost), digits)
    return min(int(scaled.to_integral_value(rounding, _EXACT)), _LARGEST)


def _cost_within(units: int) -> float:
    """The largest cost that these units hold: a float tells them apart up to 9,000."""
    cost = units / _UNITS_PER_COST
    return cost if cost_units(cost) <= units else math.nextafter(cost, 0.0)


def iterations_needed(progress_probability: float, successes: int, failure_probability: float) -> int:
    """Iterations after which a search has made ``successes`` steps of progress with probability >= 1 - failure.

    If every iteration makes progress with probability at least p, whatever happened before it, then

        M = (K + sqrt(2 K L) + 2 L) / p   with K = successes, L = ln(1 / failure_probability)

    iterations make K successes but with probability at most exp(-L): the lower Chernoff bound of a binomial with mean
    m = M p, P(X < K) <= exp(-(m - K)^2 / (2 m)), holds with m as chosen (arXiv 2603.12634).

    Args:
        progress_probability: p, in (0, 1].
        successes: K, from 1 to 2^53, such as the depth of an answer.
        failure_probability: in (0, 1).

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is outside its range.
    """
    progress_probability = as_number("progress_probability", progress_probability)
    as_number("successes", int(successes) if isinstance(successes, bool) else successes)
    failure_probability = as_number("failure_probability", failure_probability)
    if not 0.0 < progress_probability <= 1.0:
        raise ValueError(f"progress_probability: expected a number in (0, 1], got {progress_probability}")
    if isinstance(successes, bool) or not 1 <= successes <= 2**53 or successes != int(successes):
        raise ValueError(f"successes: expected an integer from 1 to 2^53, got {successes}")
    if not 0.0 < failure_probability < 1.0:
        raise ValueError(f"failure_probability: expected a number in (0, 1), got {failure_probability}")
    log_odds = -math.log(failure_probability)
    progress = successes + math.sqrt(2.0 * successes * log_odds) + 2.0 * log_odds
    iterations = progress / progress_probability
    if math.isinf(iterations):  # an integer holds what a float does not
        return math.ceil(Fraction(progress) / Fraction(progress_probability))
    return math.ceil(iterations)

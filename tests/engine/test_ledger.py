"""The ledger never overspends: single steps, random programs against an exact model, and threads."""

from __future__ import annotations

import os
import pickle
import random
import threading
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bavt_fast.budget import (
    Budget,
    BudgetExceeded,
    Ledger,
    Remaining,
    Reservation,
    ReservationClosed,
    Spent,
)

PROGRAMS = int(os.environ.get("BAVT_LEDGER_PROGRAMS", "300"))


class FakeClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def make_ledger(**limits: float) -> tuple[Ledger, FakeClock]:
    clock = FakeClock()
    return Ledger(Budget(**limits), clock), clock  # type: ignore[arg-type]


def test_a_step_is_reserved_then_settled_and_the_rest_comes_back() -> None:
    ledger, clock = make_ledger(tokens=100, tool_calls=3)
    step = ledger.reserve(tokens=60, tool_calls=1)
    assert ledger.reserved == Spent(tokens=60, tool_calls=1)
    assert ledger.spent == Spent()
    assert ledger.remaining == Remaining(tokens=40, tool_calls=2)
    clock.now_s += 2.5
    ledger.settle(step, Spent(tokens=25, tool_calls=1))
    assert ledger.spent == Spent(25, 1, 2.5, 0.0)
    assert ledger.reserved == Spent()
    assert ledger.remaining == Remaining(tokens=75, tool_calls=2)


@given(st.floats(1e-6, 9.2e6), st.floats(0.0, 1.0))
def test_what_remains_can_be_reserved(total: float, share: float) -> None:
    """Though a float does not tell the units of a large cost apart."""
    ledger = Ledger(Budget(cost=total))
    whole = ledger.remaining.cost  # rounded down to units, where asks are rounded up
    assert whole is not None
    assert total - 2e-12 - 1e-15 * total <= whole <= total
    ledger.settle(ledger.reserve(cost=whole * share), Spent(cost=whole * share))
    left = ledger.remaining.cost
    assert left is not None
    assert abs(left - (whole - whole * share)) <= 1e-15 * total + 2e-12
    ledger.reserve(cost=left)


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    ledger, _ = make_ledger(tokens=100, cost=1.0)
    ledger.reserve(tokens=80, cost=0.25)
    with pytest.raises(BudgetExceeded, match="tokens: asked for 21, but of 100 are 0 spent and 80 res") as caught:
        ledger.reserve(tokens=21)
    assert caught.value.resource == "tokens"
    with pytest.raises(BudgetExceeded, match=r"^cost: asked for 0.76") as caught:
        ledger.reserve(tokens=1, cost=0.76)
    assert caught.value.resource == "cost"
    assert ledger.try_reserve(tokens=21) is None
    assert ledger.reserved == Spent(tokens=80, cost=0.25)
    assert isinstance(ledger.try_reserve(tokens=20, cost=0.75), Reservation)


def test_resources_without_a_limit_are_counted_all_the_same() -> None:
    ledger, _ = make_ledger(tokens=10)
    ledger.settle(ledger.reserve(tokens=1, tool_calls=10**6, cost=1e9), Spent(tokens=1, tool_calls=999, cost=12.5))
    assert ledger.spent == Spent(tokens=1, tool_calls=999, cost=12.5)
    assert ledger.remaining == Remaining(tokens=9)


@pytest.mark.parametrize(
    "actual", [Spent(tokens=12), Spent(5, cost=0.3), Spent(5, prompt_tokens=9), Spent(99, 0, 0, 9)]
)
def test_an_overrun_is_charged_in_full_and_nothing_fits_then(actual: Spent) -> None:
    ledger, _ = make_ledger(tokens=100, cost=1.0, prompt_tokens=50)
    other, step = ledger.reserve(tokens=20), ledger.reserve(tokens=10, cost=0.2, prompt_tokens=8)
    ledger.settle(step, actual)
    assert ledger.spent == actual
    excess = Spent(max(0, actual.tokens - 10), 0, 0.0, 0.0, max(0, actual.prompt_tokens - 8))
    assert ledger.overrun.tokens == excess.tokens
    assert ledger.overrun.prompt_tokens == excess.prompt_tokens
    assert ledger.overrun.cost == pytest.approx(max(0.0, actual.cost - 0.2))
    assert ledger.try_reserve(tokens=1) is None
    with pytest.raises(BudgetExceeded, match="nothing is left after an overrun of"):
        ledger.reserve()
    assert ledger.exhausted
    assert ledger.remaining_ratio == 0.0
    assert ledger.remaining == Remaining(tokens=0, cost=0.0, prompt_tokens=0)
    with pytest.raises(ReservationClosed):
        ledger.cancel(step)
    ledger.settle(other, Spent(tokens=7))  # what was in flight is settled all the same
    assert ledger.spent == actual + Spent(tokens=7)
    assert ledger.reserved == Spent()


def test_a_refusal_says_what_was_overrun() -> None:
    """Whatever it is that is asked for then."""
    for asked in ({"tokens": 1}, {"cost": 0.01}, {}):
        ledger, _ = make_ledger(tokens=100, cost=1.0)
        ledger.settle(ledger.reserve(tokens=5, cost=0.1), Spent(tokens=7, cost=0.1))
        with pytest.raises(BudgetExceeded, match="nothing is left after an overrun of 2 tokens; reserve the most"):
            ledger.reserve(**asked)
    ledger, _ = make_ledger(tokens=100, cost=1.0)
    ledger.settle(ledger.reserve(tokens=5, cost=0.1), Spent(tokens=7, cost=0.25))
    with pytest.raises(BudgetExceeded, match=r"an overrun of 2 tokens, 0\.15 cost;"):
        ledger.reserve(tokens=1)


def test_a_resource_without_a_limit_has_no_overrun() -> None:
    """An API counts prompt tokens and calls whether or not anybody limits them."""
    ledger, _ = make_ledger(tokens=100)
    ledger.settle(ledger.reserve(tokens=10), Spent(5, tool_calls=3, cost=0.5, prompt_tokens=800))
    assert ledger.spent == Spent(5, 3, 0.0, 0.5, 800)
    assert ledger.overrun == Spent()
    assert ledger.try_reserve(tokens=95) is not None


def test_a_reservation_is_closed_once_and_by_its_own_ledger() -> None:
    ledger, _ = make_ledger(tokens=100)
    other, _ = make_ledger(tokens=100)
    settled, cancelled = ledger.reserve(tokens=5), ledger.reserve(tokens=5)
    ledger.settle(settled, Spent(tokens=5))
    ledger.cancel(cancelled)
    foreign, forged = other.reserve(tokens=5), Reservation(tokens=5)
    for reservation in (settled, cancelled, foreign, forged):
        with pytest.raises(ReservationClosed, match="settle or cancel each once"):
            ledger.settle(reservation, Spent())
        with pytest.raises(ReservationClosed):
            ledger.cancel(reservation)
    assert ledger.spent.tokens == 5
    assert other.reserved.tokens == 5


def test_wrong_types_are_named() -> None:
    with pytest.raises(TypeError, match=r"^budget: expected a Budget such as Budget\(tokens=500\), got 500"):
        Ledger(500)  # type: ignore[arg-type]
    ledger, _ = make_ledger(tokens=100)
    step = ledger.reserve(tokens=1)
    with pytest.raises(TypeError, match=r"^actual: expected a Spent such as Spent\(tokens=12\), got 1"):
        ledger.settle(step, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"^reservation: expected what reserve\(\) returned, got None"):
        ledger.cancel(None)  # type: ignore[arg-type]
    assert ledger.reserved.tokens == 1


@pytest.mark.parametrize("name", ["tokens", "tool_calls", "cost", "prompt_tokens"])
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "1", None])
def test_adversarial_requests_are_refused_and_change_nothing(name: str, value: object) -> None:
    ledger, _ = make_ledger(tokens=100, tool_calls=100, cost=100.0)
    for ask in (ledger.reserve, ledger.try_reserve):
        with pytest.raises((TypeError, ValueError), match=f"^{name}: expected"):
            ask(**{name: value})  # type: ignore[arg-type]
    assert ledger.reserved == Spent()


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), None, "9", True])
def test_a_clock_that_gives_no_number_later_on_is_named(wrong: Any) -> None:
    ledger, clock = make_ledger(seconds=10)
    started_s = clock.now_s
    clock.now_s = wrong
    for read in (ledger.reserve, ledger.try_reserve, lambda: ledger.remaining, lambda: ledger.exhausted):
        with pytest.raises((TypeError, ValueError), match=r"^clock: expected a finite number, got"):
            read()
    clock.now_s = started_s + 2.5
    assert ledger.remaining == Remaining(seconds=7.5), "nothing was counted"


def test_time_is_read_from_the_clock_and_the_deadline_closes_the_ledger() -> None:
    ledger, clock = make_ledger(seconds=10)
    late = ledger.reserve(tokens=5)
    clock.now_s += 7.5
    assert ledger.remaining == Remaining(seconds=2.5)
    assert ledger.remaining_ratio == 0.25
    clock.now_s -= 5.0  # a clock that steps back gives no time back
    assert ledger.remaining.seconds == 2.5
    clock.now_s += 7.5
    assert ledger.exhausted
    assert ledger.try_reserve() is None
    with pytest.raises(BudgetExceeded, match=r"^seconds: 10.000 of 10.0 have passed") as caught:
        ledger.reserve(tokens=1)
    assert caught.value.resource == "seconds"
    clock.now_s += 90.0
    ledger.settle(late, Spent(tokens=5))  # work in flight can still be settled
    assert ledger.spent == Spent(tokens=5, seconds=100.0)
    assert ledger.remaining.seconds == 0.0
    assert ledger.remaining_ratio == 0.0


def test_ratio_is_the_scarcest_resource() -> None:
    ledger, clock = make_ledger(tokens=100, tool_calls=4, seconds=10, cost=1.0)
    assert ledger.remaining_ratio == 1.0
    ledger.reserve(tokens=10)
    assert ledger.remaining_ratio == 0.9
    step = ledger.reserve(tool_calls=1, cost=0.125)
    assert ledger.remaining_ratio == 0.75
    clock.now_s += 5.0
    assert ledger.remaining_ratio == 0.5
    ledger.settle(step, Spent(tool_calls=1, cost=0.125))
    ledger.reserve(cost=0.75)
    assert ledger.remaining_ratio == 0.125


def test_exhausted_means_spent_not_reserved() -> None:
    ledger, _ = make_ledger(tokens=10, tool_calls=5)
    step = ledger.reserve(tokens=10)
    assert ledger.remaining_ratio == 0.0
    assert not ledger.exhausted
    ledger.settle(step, Spent(tokens=10))
    assert ledger.exhausted


def test_equal_charges_fill_a_cost_budget_exactly() -> None:
    ledger, _ = make_ledger(cost=0.3)
    for _ in range(3):
        ledger.settle(ledger.reserve(cost=0.1), Spent(cost=0.1))
    assert ledger.spent.cost == 0.3  # 0.1 + 0.1 + 0.1 == 0.30000000000000004 in floats
    assert ledger.remaining == Remaining(cost=0.0)
    assert ledger.exhausted
    with pytest.raises(BudgetExceeded):
        ledger.reserve(cost=1e-300)  # charges round up to a unit, never down to nothing


def test_many_small_charges_neither_leak_nor_drift() -> None:
    ledger, _ = make_ledger(cost=1.0)
    for _ in range(10_000):
        ledger.settle(ledger.reserve(cost=1e-4), Spent(cost=1e-4))
    assert ledger.spent.cost == 1.0
    assert ledger.try_reserve(cost=1e-12) is None


def test_a_budget_finer_than_a_unit_is_rounded_down() -> None:
    limit = 0.1234567890129999
    ledger, _ = make_ledger(cost=limit)
    assert ledger.try_reserve(cost=limit) is None
    ledger.reserve(cost=0.123456789012)
    assert ledger.reserved.cost <= limit
    assert ledger.remaining_ratio == 0.0


COST = st.one_of(
    st.integers(0, 40).map(lambda tenths: tenths / 10),
    st.floats(0.0, 4.0, allow_nan=False),
    st.sampled_from([0.0, 5e-324, 1e-13, 1e-12, 0.1, 0.3, 1 / 3]),
)
STEP = st.tuples(
    st.sampled_from(["reserve", "try_reserve", "settle", "overrun", "cancel", "wait"]),
    st.integers(0, 12),
    st.integers(0, 3),
    COST,
    st.integers(0, 9),
    st.integers(0, 1 << 30),
)
LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "tokens": st.integers(1, 60),
        "tool_calls": st.integers(1, 12),
        "prompt_tokens": st.integers(1, 40),
        "seconds": st.sampled_from([1, 8, 64]),
        "cost": st.one_of(st.sampled_from([0.1, 0.3, 1.0, 2.7]), st.floats(1e-3, 10.0)),
    },
).filter(bool)


class ExactModel:
    """The ledger's rules in rational numbers; no running totals, each property is a sum over lists."""

    def __init__(self, limits: dict[str, float]) -> None:
        self.limits = {name: exact(value) for name, value in limits.items()}
        if "cost" in self.limits:
            self.limits["cost"] = self.limits["cost"] // UNIT * UNIT
        self.spent: list[tuple[Fraction, ...]] = []
        self.open: dict[Reservation, tuple[Fraction, ...]] = {}
        self.elapsed_s = Fraction(0)
        self.overrun = dict.fromkeys(NAMES, Fraction(0))

    def sums(self, rows: list[tuple[Fraction, ...]]) -> dict[str, Fraction]:
        columns = zip(*rows, strict=True) if rows else [()] * 4
        return {name: sum(column, Fraction(0)) for name, column in zip(NAMES, columns, strict=True)}

    def fits(self, asked: tuple[Fraction, ...]) -> bool:
        after = self.sums([*self.spent, *self.open.values(), asked])
        if any(self.overrun.values()) or self.elapsed_s >= self.limits.get("seconds", self.elapsed_s + 1):
            return False
        return all(after[name] <= self.limits.get(name, after[name]) for name in NAMES)

    def ratio(self) -> Fraction:
        if any(self.overrun.values()):
            return Fraction(0)
        used = self.sums([*self.spent, *self.open.values()]) | {"seconds": self.elapsed_s}
        left = (1 - used[name] / limit for name, limit in self.limits.items())
        return max(Fraction(0), min(left))


NAMES = ("tokens", "tool_calls", "cost", "prompt_tokens")
UNIT = Fraction(1, 10**12)


def exact(value: float) -> Fraction:
    return Fraction(Decimal(repr(value)))


def charge(tokens: int, tool_calls: int, cost: float, prompt_tokens: int) -> tuple[Fraction, ...]:
    """An amount as the ledger counts it: cost rounded up to its unit."""
    return Fraction(tokens), Fraction(tool_calls), -(-exact(cost) // UNIT) * UNIT, Fraction(prompt_tokens)


def check_invariants(ledger: Ledger, model: ExactModel) -> None:
    spent, reserved = model.sums(model.spent), model.sums(list(model.open.values()))
    for name in NAMES:
        assert getattr(ledger.spent, name) == float(spent[name])
        assert getattr(ledger.reserved, name) == float(reserved[name])
        assert getattr(ledger.overrun, name) == float(model.overrun[name])
        if (limit := getattr(ledger.budget, name)) is not None:
            over = getattr(ledger.overrun, name)
            assert getattr(ledger.spent, name) <= limit + over
            assert getattr(ledger.spent + ledger.reserved, name) <= limit + over
            left = 0 if any(model.overrun.values()) else model.limits[name] - spent[name] - reserved[name]
            assert getattr(ledger.remaining, name) == float(left)
    assert ledger.remaining_ratio == pytest.approx(float(model.ratio()), abs=1e-15)
    assert 0.0 <= ledger.remaining_ratio <= 1.0


def run_step(ledger: Ledger, model: ExactModel, clock: FakeClock, step: tuple[Any, ...]) -> None:
    """Do one random step on both sides and compare the outcome."""
    verb, tokens, tool_calls, cost, prompt_tokens, pick = step
    if verb == "wait":
        clock.now_s += tokens / 8
        model.elapsed_s += Fraction(tokens, 8)
    elif verb in ("reserve", "try_reserve"):
        asked = charge(tokens, tool_calls, cost, prompt_tokens)
        wanted = {"tokens": tokens, "tool_calls": tool_calls, "cost": cost, "prompt_tokens": prompt_tokens}
        fits = model.fits(asked)
        reservation = ledger.try_reserve(**wanted)
        assert (reservation is not None) == fits
        if reservation is not None and verb == "reserve":  # once more, by the method that raises
            ledger.cancel(reservation)
            reservation = ledger.reserve(**wanted)
        if reservation is not None:
            model.open[reservation] = asked
        elif verb == "reserve":
            with pytest.raises(BudgetExceeded):
                ledger.reserve(**wanted)
    elif model.open:
        close_one(ledger, model, verb, tokens, list(model.open)[pick % len(model.open)])


def close_one(ledger: Ledger, model: ExactModel, verb: str, tokens: int, reservation: Reservation) -> None:
    claim = model.open.pop(reservation)
    if verb == "cancel":
        ledger.cancel(reservation)
        return
    over = tokens + 1 if verb == "overrun" else 0
    actual = Spent(
        reservation.tokens + over if over else min(tokens, reservation.tokens),
        reservation.tool_calls,
        123.0,
        reservation.cost / 3,
        reservation.prompt_tokens + over // 6,
    )
    ledger.settle(reservation, actual)
    charged = charge(actual.tokens, actual.tool_calls, actual.cost, actual.prompt_tokens)
    model.spent.append(charged)
    for name, took, claimed in zip(NAMES, charged, claim, strict=True):
        if name in model.limits:
            model.overrun[name] += max(Fraction(0), took - claimed)


@settings(max_examples=PROGRAMS, deadline=None)
@given(limits=LIMITS, steps=st.lists(STEP, max_size=40))
def test_random_programs_match_exact_arithmetic(limits: dict[str, float], steps: list[tuple[Any, ...]]) -> None:
    ledger, clock = make_ledger(**limits)
    model = ExactModel(limits)
    for step in steps:
        run_step(ledger, model, clock, step)
        check_invariants(ledger, model)


def work_at_random(ledger: Ledger, seed: int, totals: list[Spent], faults: list[str]) -> None:
    """One thread's share: reserve, look, then settle or cancel, until nothing fits any more."""
    rng = random.Random(seed)
    total, refused = Spent(), 0
    while refused < 20:
        asked = rng.choice((1, 2, 5)), rng.randrange(2), rng.choice((0.1, 0.2, 0.3))
        reservation = ledger.try_reserve(tokens=asked[0], tool_calls=asked[1], cost=asked[2])
        if reservation is None:
            refused += 1
            continue
        spent, remaining = ledger.spent, ledger.remaining
        if spent.tokens > 4000 or spent.cost > 300.0 or (remaining.tokens or 0) < 0 or (remaining.cost or 0) < 0:
            faults.append(f"overspent: {spent}, {remaining}")
        if rng.random() < 0.3:
            ledger.cancel(reservation)
        else:
            actual = Spent(rng.randint(0, asked[0]), asked[1], 0.0, asked[2])
            ledger.settle(reservation, actual)
            total += actual
    totals.append(total)


@pytest.mark.parametrize("seed", [1, 2])
def test_threads_never_overspend_and_nothing_is_lost(seed: int) -> None:
    ledger = Ledger(Budget(tokens=4000, tool_calls=2000, cost=300.0))
    totals: list[Spent] = []
    faults: list[str] = []
    threads = [threading.Thread(target=work_at_random, args=(ledger, seed * 100 + i, totals, faults)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert len(totals) == len(threads)
    spent = ledger.spent
    summed = sum(totals, Spent())
    assert (spent.tokens, spent.tool_calls, spent.cost) == (summed.tokens, summed.tool_calls, summed.cost)
    assert ledger.reserved == Spent()
    assert spent.tokens <= 4000
    assert spent.tool_calls <= 2000
    assert spent.cost <= 300.0


def test_one_reservation_raced_by_many_threads_is_settled_once() -> None:
    ledger = Ledger(Budget(tokens=1000))
    for _ in range(50):
        step = ledger.reserve(tokens=10)
        outcomes: list[bool] = []
        barrier = threading.Barrier(4)

        def race(step: Reservation = step, barrier: threading.Barrier = barrier, out: list[bool] = outcomes) -> None:
            barrier.wait()
            try:
                ledger.settle(step, Spent(tokens=10))
                out.append(True)
            except ReservationClosed:
                out.append(False)

        threads = [threading.Thread(target=race) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == [False, False, False, True]
    assert ledger.spent.tokens == 500


def test_an_exception_of_the_ledger_travels() -> None:
    error = pickle.loads(pickle.dumps(BudgetExceeded("tokens: too few", "tokens")))
    assert (str(error), error.resource) == ("tokens: too few", "tokens")

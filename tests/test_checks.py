"""The shared checks of arguments: every kind of number, and one form of message."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from bavt_fast._checks import MAX_SEED, as_amount, as_count, as_flag, as_number, as_seed, as_share, message_of

CHECKS: dict[str, Callable[..., float]] = {
    "count": as_count,
    "seed": as_seed,
    "number": as_number,
    "amount": as_amount,
    "share": as_share,
}
INTEGERS = [1, np.int8(1), np.uint8(1), np.int32(1), np.int64(1), np.uint64(1)]
REALS = [1.0, np.float16(1), np.float32(1), np.float64(1), np.longdouble(1), Fraction(1)]
NOT_NUMBERS = [True, False, np.bool_(True), None, "1", b"1", [1], np.ones(2), 1j, np.complex64(1), Decimal(1), object()]


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("value", INTEGERS, ids=lambda value: type(value).__name__)
def test_integers_of_every_type_are_taken(check: Callable[..., float], value: Any) -> None:
    found = check("x", value)
    assert found == 1
    assert type(found) is (int if check in (as_count, as_seed) else float)


@pytest.mark.parametrize("value", REALS, ids=lambda value: type(value).__name__)
def test_reals_are_numbers_and_no_counts(value: Any) -> None:
    for check in (as_number, as_amount, as_share):
        found = check("x", value)
        assert found == 1.0
        assert type(found) is float
    for check in (as_count, as_seed):
        with pytest.raises(TypeError, match=r"^x: expected an integer .*, got .*; convert it first, e.g. x=int"):
            check("x", value)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS)
@pytest.mark.parametrize("value", NOT_NUMBERS, ids=lambda value: type(value).__name__)
def test_what_is_no_number_is_refused(check: Callable[..., float], value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^x: expected .*, got .* of type {type(value).__name__}$"):
        check("x", value)


@pytest.mark.parametrize(
    ("check", "bad"),
    [
        (as_count, [-1, np.int64(-1), -(10**400)]),
        (as_seed, [-1, MAX_SEED + 1, np.uint64(2**63), 10**5000]),
        (as_number, [math.nan, math.inf, -math.inf, 10**400, np.float32("nan")]),
        (as_amount, [0, -0.0, -1, math.nan, math.inf, 10**400]),
        (as_share, [0, -0.0, -0.5, 1 + 1e-12, 2, math.nan, math.inf, np.float32(1.5)]),
    ],
)
def test_what_is_out_of_range_is_refused(check: Callable[..., float], bad: list[Any]) -> None:
    for value in bad:
        with pytest.raises(ValueError, match=r"^x: expected .*, got ") as caught:
            check("x", value)
        assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [True, False, np.bool_(True), np.bool_(False)], ids=repr)
def test_flags_are_true_or_false(value: Any) -> None:
    assert as_flag("x", value) is bool(value)


@pytest.mark.parametrize("value", ["no", "", 0, 1, None, [], np.int64(1)], ids=repr)
def test_what_is_no_flag_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=rf"^x: expected True or False, got .* of type {type(value).__name__}$"):
        as_flag("x", value)


def test_the_bounds_are_within() -> None:
    assert as_seed("x", 0) == 0
    assert as_seed("x", np.uint64(MAX_SEED)) == MAX_SEED
    assert as_share("x", 5e-324) == 5e-324
    assert as_share("x", np.float32(0.7)) == pytest.approx(0.7)
    assert math.copysign(1.0, as_number("x", -0.0)) == 1.0
    assert as_amount("x", 0, allow_zero=True) == 0.0
    assert as_count("x", 5, minimum=5, maximum=5) == 5
    for value in (4, 6):
        with pytest.raises(ValueError, match=f"^x: expected an integer from 5 to 5, got {value}$"):
            as_count("x", value, minimum=5, maximum=5)


def test_an_exception_that_cannot_say_what_it_is() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise KeyError(5)

    assert message_of(Mute("a")) == "(KeyError in its __str__)"
    assert message_of(ValueError("a")) == "a"

"""Checks of arguments that several modules share.

Every check returns the value in its canonical Python type (``int`` or ``float``), so that what is stored
never depends on whether the caller passed a NumPy scalar, and raises an error that names the argument.
"""

from __future__ import annotations

import math
import numbers
import operator

import numpy as np

__all__ = ["as_amount", "as_count"]


def as_count(name: str, value: object, *, minimum: int = 0) -> int:
    """`value` as an ``int`` of at least `minimum`.

    Raises:
        TypeError: `value` is not an integer (a bool is not one, nor is 3.0).
        ValueError: `value` is below `minimum`.
    """
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be an integer, got the bool {value}; pass a count such as {name}=500")
    try:
        count = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{name} must be an integer, got {_describe(value)}; convert it first, e.g. {name}=int(...)"
        ) from None
    if count < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {count}")
    return count


def as_amount(name: str, value: object, *, allow_zero: bool = False) -> float:
    """`value` as a finite ``float`` above zero (or, with `allow_zero`, zero and above).

    Raises:
        TypeError: `value` is not a real number (a bool is not one, nor is a str or a tensor).
        ValueError: `value` is NaN, infinite, too large for a float, negative, or a zero that is not allowed.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {_describe(value)}; convert it first, e.g. {name}=float(...)")
    try:
        amount = float(value)
    except OverflowError:
        amount = math.inf
    if not math.isfinite(amount):
        raise ValueError(f"{name} must be finite, got {amount}; leave it out (None) where there is no limit")
    if amount < 0.0 or (amount == 0.0 and not allow_zero):
        bound = "zero or above" if allow_zero else "above zero"
        raise ValueError(f"{name} must be {bound}, got {amount}")
    return amount + 0.0  # turns -0.0 into 0.0


def _describe(value: object) -> str:
    """`value` and its type, short enough for an error message."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '...'} of type {type(value).__name__}"

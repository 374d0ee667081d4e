"""Checks of arguments that several modules share.

Every check takes NumPy scalars as well as Python's numbers, returns the value in its canonical Python type (``int``,
``float`` or ``bool``), so that what is stored never depends on which of them came, and raises an error that names the
argument: "name: expected X, got Y".
"""

from __future__ import annotations

import inspect
import json
import math
import numbers
import operator
import time
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

import numpy as np

__all__ = [
    "MAX_SEED",
    "about_json",
    "as_amount",
    "as_clock",
    "as_count",
    "as_flag",
    "as_iterator",
    "as_number",
    "as_seed",
    "as_share",
    "check_asks",
    "is_coroutine_function",
    "message_of",
    "require_function",
    "require_parameters",
]

MAX_SEED = 2**63 - 1


def as_count(name: str, value: object, *, minimum: int = 0, maximum: int | None = None) -> int:
    """`value` as an ``int`` from `minimum` to `maximum` (None: no limit).

    Raises:
        TypeError: `value` is not an integer (a bool is not one, nor is 3.0).
        ValueError: `value` is out of range.
    """
    if value.__class__ is int and minimum <= value and (maximum is None or value <= maximum):
        return value
    wanted = f"an integer of at least {minimum}" if maximum is None else f"an integer from {minimum} to {maximum}"
    is_bool = isinstance(value, (bool, np.bool_))
    try:
        count = None if is_bool else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = None
    if count is None:
        is_real = isinstance(value, numbers.Real) and not is_bool
        hint = f"; convert it first, e.g. {name}=int(...)" if is_real else ""
        raise TypeError(f"{name}: expected {wanted}, got {_describe(value)}{hint}")
    if count < minimum or (maximum is not None and count > maximum):
        raise ValueError(f"{name}: expected {wanted}, got {_cut(count)}")
    return count


def as_flag(name: str, value: object) -> bool:
    """`value` as a ``bool``. Raises TypeError for anything else: a text such as "no" counts as true."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {_describe(value)}")
    return bool(value)


def as_seed(name: str, value: object) -> int:
    """`value` as an ``int`` from 0 to 2^63 - 1. Raises as `as_count`."""
    return as_count(name, value, maximum=MAX_SEED)


def as_number(name: str, value: object) -> float:
    """`value` as a finite ``float`` of either sign.

    Raises:
        TypeError: `value` is not a real number (a bool is not one, nor is a str or a tensor).
        ValueError: `value` is NaN, infinite or too large for a float.
    """
    return _real(name, value, "a finite number")


def as_amount(name: str, value: object, *, allow_zero: bool = False) -> float:
    """`value` as a finite ``float`` above zero (or, with `allow_zero`, zero and above).

    Raises:
        TypeError: `value` is not a real number (a bool is not one, nor is a str or a tensor).
        ValueError: `value` is NaN, infinite, too large for a float, negative, or a zero that is not allowed.
    """
    wanted = f"a finite number {'of zero or above' if allow_zero else 'above zero'}"
    amount = _real(name, value, wanted)
    if amount < 0.0 or (amount == 0.0 and not allow_zero):
        raise ValueError(f"{name}: expected {wanted}, got {amount}")
    return amount


def as_share(name: str, value: object) -> float:
    """`value` as a ``float`` above 0, up to and with 1.

    Raises:
        TypeError: `value` is not a real number (a bool is not one, nor is a str or a tensor).
        ValueError: `value` is outside (0, 1], or NaN.
    """
    wanted = "a number above 0, up to 1"
    share = _real(name, value, wanted)
    if not 0.0 < share <= 1.0:
        raise ValueError(f"{name}: expected {wanted}, got {share}")
    return share


class _Clock:
    """A clock of a user's, whose every reading is checked."""

    def __init__(self, clock: Callable[[], Any]) -> None:
        self._clock = clock

    def __call__(self) -> float:
        return as_number("clock", self._clock())


def as_clock(clock: Any) -> Callable[[], float]:
    """A clock that raises TypeError or ValueError, as `as_number`, where it gives no seconds.

    Raises TypeError for what cannot be called.
    """
    if clock is time.monotonic or isinstance(clock, _Clock):  # every search asks
        read: Callable[[], float] = clock
        return read
    require_function("clock", clock, or_none=False, wanted="a function that gives seconds")
    return _Clock(clock)


def as_iterator(name: str, values: Any, wanted: str) -> Iterator[Any]:
    """An iterator of `values`. Raises TypeError where there is none; `wanted` says what was expected."""
    try:
        return iter(values)
    except TypeError:
        raise TypeError(f"{name}: expected {wanted}, got {_describe(values)}") from None


def check_asks(out: Container[int], **columns: Sequence[Any]) -> None:
    """Raises ValueError for columns that differ in length, and for a ticket that is out or there twice."""
    if len({len(column) for column in columns.values()}) > 1:
        sizes = ", ".join([str(len(column)) for column in columns.values()])
        raise ValueError(f"{', '.join(columns)}: expected as many of each, got {sizes}")
    seen: set[int] = set()
    for ticket in columns.get("tickets", ()):
        if ticket in seen or ticket in out:
            raise ValueError(f"tickets: expected each once, and none that is out, got {ticket} again")
        seen.add(ticket)


def message_of(error: BaseException) -> str:
    """What an exception says, also where its own code for that fails."""
    try:
        return str(error)
    except Exception as failure:
        return f"({type(failure).__name__} in its __str__)"


def about_json(error: Exception) -> str:
    """What is wrong with a text that should be a JSON object in UTF-8, of what reading it raised."""
    if isinstance(error, json.JSONDecodeError):
        return f"expected a JSON object, got {error.doc.strip()!r:.60} ({error.msg} at character {error.pos})"
    if isinstance(error, UnicodeDecodeError):
        wide = " of what may be UTF-16" if error.object[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        return f"expected UTF-8, got {error.object[error.start : error.start + 1]!r} at byte {error.start}{wide}"
    return message_of(error)


def _real(name: str, value: object, wanted: str) -> float:
    """`value` as a finite ``float``; 0.0 for -0.0. `wanted` says in errors what was expected."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name}: expected {wanted}, got {_describe(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected {wanted}, got {number}")
    return number + 0.0


def _describe(value: object) -> str:
    """`value` and its type, short enough for an error message."""
    return f"{_cut(value)} of type {type(value).__name__}"


def _cut(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python writes
        text = "a number too long to show"
    except Exception:  # of a class of the user's
        text = "something that cannot be shown"
    return text if len(text) <= 60 else text[:57] + "..."


def is_coroutine_function(value: object) -> bool:
    """Whether what is called, a function or an object, gives a coroutine."""
    return inspect.iscoroutinefunction(value) or inspect.iscoroutinefunction(getattr(value, "__call__", None))  # noqa: B004


def require_function(
    name: str, value: object, *, or_none: bool = True, wanted: str = "a function", plain: bool = True
) -> None:
    """Something to call; None passes with `or_none`.

    Raises:
        TypeError: it is anything else than `wanted`, or, with `plain`, a coroutine, which nobody would await.
    """
    if value is None and or_none:
        return
    if not callable(value):
        raise TypeError(f"{name}: expected {wanted}{' or None' * or_none}, got {_describe(value)}")
    if plain and is_coroutine_function(value):
        raise TypeError(f"{name}: expected {wanted}, got {_describe(value)}, a coroutine that nobody would await")


def require_parameters(name: str, function: Callable[..., Any], *wanted: str) -> None:
    """A function that takes these by place; one that hides what it takes passes.

    Raises:
        TypeError: it does not, as a method that makes what is wanted, and was handed over uncalled.
    """
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*wanted)
    except TypeError:
        called = getattr(function, "__qualname__", type(function).__name__)
        makes = not any(p.default is p.empty and p.kind < p.VAR_POSITIONAL for p in signature.parameters.values())
        hint = f"; call it: {called}()" if makes and inspect.isroutine(function) else ""
        expected = f"a function of ({', '.join(wanted)})"
        raise TypeError(f"{name}: expected {expected}, got {called}{signature}{hint}") from None

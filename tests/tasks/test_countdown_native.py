"""Countdown's native steps and descriptions against the readable ones: random, damaged and hostile texts and states."""

from __future__ import annotations

import gc
import pickle
import random
import sys
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from countdown_rules import brute_force_steps, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from bavt_fast._core import countdown_apply, countdown_describe
from bavt_fast.protocols import Description, Step
from bavt_fast.tasks.countdown import Countdown, CountdownState
from bavt_fast.tasks.countdown.task import apply_step, describe_state

TASK = Countdown()
numbers_of_states = st.lists(st.integers(1, 999) | st.integers(1, 13), min_size=2, max_size=6)


def native(state: Any, text: Any) -> Any:
    return countdown_apply(CountdownState, state, text)


def same(a: CountdownState | None, b: CountdownState | None) -> bool:
    """Equal in every part and its type, and as good a key and a message to another process."""
    if a is None or b is None:
        return a is b
    types = [[type(part) for part in (state, *state, *state.numbers, *state.expressions)] for state in (a, b)]
    return a == b and types[0] == types[1] and hash(a) == hash(b) and pickle.loads(pickle.dumps(a)) == b


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the class of what it raises."""
    try:
        return call()
    except Exception as error:
        return type(error)


@settings(max_examples=200, deadline=None)
@given(numbers=numbers_of_states, seed=st.integers(0, 10**6))
def test_random_paths_are_the_same_as_in_python(numbers: list[int], seed: int) -> None:
    """States on a path hold equal numbers that were made in different ways: which of them is taken must be the same."""
    random_ = random.Random(seed)
    state = TASK.initial_state(" ".join(map(str, numbers)))
    while True:
        about = countdown_describe(CountdownState, state, Description)
        assert type(about) is Description
        assert about == describe_state(state)
        if about.terminal:
            return
        text = text_of(*random_.choice(sorted(brute_force_steps(state.numbers)))) + random_.choice(["", "\n", " \t"])
        after = native(state, text)
        assert same(after, apply_step(state, text, fractions=False))
        assert same(after, TASK.apply(state, Step(text, 1)))
        state = after


@settings(max_examples=300, deadline=None)
@given(numbers=numbers_of_states, seed=st.integers(0, 10**6))
def test_damaged_steps_are_the_same_as_in_python(numbers: list[int], seed: int) -> None:
    random_ = random.Random(seed)
    state = TASK.initial_state(" ".join(map(str, numbers)))
    steps = sorted(brute_force_steps(state.numbers))
    for _ in range(20):
        text = text_of(*random_.choice(steps))
        for _ in range(random_.randint(1, 2)):
            at = random_.randrange(len(text) + 1)
            new = random_.choice(
                ["", "0", "1", "9", " ", "  ", "\n", "\v", "/", "(", ")", "-", "=", "left", "\0", *text]
            )
            text = text[:at] + new + text[at + random_.randint(0, 2) :]
        assert same(native(state, text), apply_step(state, text, fractions=False)), text


@pytest.mark.parametrize(
    "step",
    [
        *["", " ", "\n", "(", ")", "10", "10 +", "10 + 4 =", "10 + 4 = 14 (left:", "10 + 4 = 14 (left: ", "\0" * 5],
        *[
            "10 + 4 = 14 (left: 5 6 14)",
            " \t\n\r\f\v10 + 4 = 14 (left: 5 6 14)\v\f\r\n\t ",
            "\x1c10 + 4 = 14 (left: 5 6 14)",
        ],
        *["010 + 4 = 14 (left: 5 6 14)", "10 + 004 = 014 (left: 005 06 014)", "0010 + 4 = 14 (left: 5 6 14)"],
        *["10 + 4 = 14 (left: 5 6 0014)", "10 + 4 = 0014 (left: 5 6 14)", "10 + 4 = 14 (left: 6 5 14)"],
        *[
            "10 + 4 = 14 (left: 5 6 14 )",
            "10 + 4 = 14 (left: 5  6 14)",
            "10 + 4 = 14 (left:5 6 14)",
            "10 + 4 = 14(left: 5 6 14)",
        ],
        *[
            "10 + 4 = 14 (left: 5 6)",
            "10 + 4 = 14 (left: 5 6 14 14)",
            "10 + 4 = 14 (left: 5 6 14)x",
            "x10 + 4 = 14 (left: 5 6 14)",
        ],
        *[
            "4 + 10 = 14 (left: 5 6 14)",
            "4 - 10 = 6 (left: 5 6 6)",
            "10 / 4 = 2 (left: 2 5 6)",
            "10 % 4 = 2 (left: 2 5 6)",
        ],
        *["10 / 5 = 2 (left: 2 4 6)", "5 / 10 = 1/2 (left: 1/2 4 6)", "1 / 0 = 1 (left: 1)", "1/0 + 4 = 4 (left: 4)"],
        *[
            "999 * 999 = 998001 (left: 998001)",
            "9" * 100_000,
            "10 + " + "4" * 30 + " = 14 (left: 5 6 14)",
            "-10 + 4 = -6 (left: 5 6)",
        ],
        *[
            "10 + 4 = 14 (left: 5 6 14)\x85",
            "10\u00a0+ 4 = 14 (left: 5 6 14)",
            "１０ + 4 = 14 (left: 5 6 14)",
            "\ud800",
            "é",
        ],
        *[
            "10 + 4 = 14 (left: 5 6 \u0661\u0664)",
            "10 + 4 = 14 (left: " + "5 " * 10_000 + "14)",
            "1e1 + 4 = 14 (left: 5 6 14)",
        ],
    ],
)
def test_hostile_steps_are_the_same_as_in_python(step: str) -> None:
    for state in (TASK.initial_state("4 5 6 10"), TASK.initial_state("1 999 999 4 5 10")):
        expected = apply_step(state, step, fractions=False)
        assert same(TASK.apply(state, Step(step, 1)), expected)
        found = native(state, step)
        assert same(found, expected) if step.isascii() else found is NotImplemented


def test_zero_divides_nothing() -> None:
    state = CountdownState((0, 0, 6), 24, ("(5 - 5)", "0", "6"))
    for text in ("6 / 0 = 0 (left: 0 0)", "0 / 0 = 0 (left: 0 6)", "0 / 6 = 0 (left: 0 0)", "0 * 0 = 0 (left: 0 6)"):
        assert same(native(state, text), apply_step(state, text, fractions=False)), text


class Text(str):
    __slots__ = ()


class OtherState(CountdownState):
    __slots__ = ()


HANDMADE: list[Any] = [
    *[CountdownState((), 24, ()), CountdownState((4,), 24, ("4",)), CountdownState((24,), 24, ("(4 * 6)",))],
    *[CountdownState((24,), 24, ("(",)), CountdownState((24,), 24, ("",)), CountdownState((24,), 24, ("4\u00d76",))],
    *[
        CountdownState((6, 4), 24, ("6", "4")),
        CountdownState((4, 4, 4), 24, ("b", "c", "a")),
        CountdownState((4, 6), 24, ("4",)),
    ],
    *[CountdownState((4, 6), 24, ("\u0664", "6")), CountdownState((4, 6), 24, (Text("4"), Text("6")))],
    *[
        CountdownState((True, 6), 24, ("1", "6")),
        CountdownState((4.0, 6.0), 24, ("4", "6")),
        CountdownState((4, 10**30), 24, ("4", "x")),
    ],
    *[
        CountdownState((4, -6), 24, ("4", "-6")),
        CountdownState((4, 1000), 24, ("4", "1000")),
        CountdownState((4,) * 7, 24, ("4",) * 7),
    ],
    *[
        CountdownState((np.int64(4), np.int64(6)), 24, ("4", "6")),
        CountdownState((Fraction(1, 2), 6), 24, ("(1 / 2)", "6")),
    ],
    *[
        CountdownState([4, 6], 24, ["4", "6"]),
        CountdownState((24,), 24.0, ("24",)),
        CountdownState((24,), 10**30, ("24",)),
    ],
    *[
        CountdownState((24,), None, ("24",)),
        CountdownState((4, 6), "24", ("4", "6")),
        OtherState((4, 6), 24, ("4", "6")),
    ],
    *[
        CountdownState((None, "4"), 24, ("4", "6")),
        CountdownState((4, 6), 24, (4, 6)),
        ((4, 6), 24, ("4", "6")),
        None,
        7,
        "4 6",
    ],
]


@pytest.mark.parametrize("state", HANDMADE, ids=repr)
@pytest.mark.parametrize(
    "text", ["4 * 6 = 24 (left: 24)", "6 - 4 = 2 (left: 2)", "4 + 4 = 8 (left: 4 8)", "1 * 6 = 6 (left: 6)"]
)
def test_states_that_the_task_never_makes_are_treated_as_in_python(state: Any, text: str) -> None:
    assert outcome(lambda: TASK.apply(state, Step(text, 1))) == outcome(lambda: apply_step(state, text, False))
    found, expected = outcome(lambda: TASK.describe(state)), outcome(lambda: describe_state(state))
    assert found == expected
    assert repr(found) == repr(expected), "True is not 1"


@pytest.mark.parametrize("text", [None, 4, b"4 * 6 = 24 (left: 24)", Text("4 * 6 = 24 (left: 24)"), ["4"]])
def test_texts_that_are_no_plain_str(text: Any) -> None:
    state = TASK.initial_state("4 6")
    assert native(state, text) is NotImplemented
    assert outcome(lambda: TASK.apply(state, Step(text, 1))) == outcome(lambda: apply_step(state, text, False))


@pytest.mark.parametrize("kind", [int, None, 7, list, str, tuple])
def test_a_record_is_made_of_a_named_tuple_alone(kind: Any) -> None:
    for state in (TASK.initial_state("4 6"), 7, None, "4 6", [4, 6], (1, 2), ((4, 6), 24, 5)):
        assert countdown_apply(kind, state, "4 * 6 = 24 (left: 24)") is NotImplemented
        assert countdown_describe(kind, state, Description) is NotImplemented
    with pytest.raises(TypeError, match="description: expected a NamedTuple, got"):
        countdown_describe(CountdownState, TASK.initial_state("4 6"), list if kind is tuple else kind)


def test_nothing_is_kept_and_nothing_freed_too_early() -> None:
    state = TASK.initial_state("300 600 998 999")  # larger ints than those that Python shares
    objects = [*state.numbers, *state.expressions, CountdownState, Description]

    def work() -> None:
        for text in ("999 - 998 = 1 (left: 1 300 600)", "600 / 300 = 2 (left: 2 998 999)", "998 / 300 = 4 (left: 4)"):
            for _ in range(200):
                after = native(state, text)
                countdown_describe(CountdownState, state if after is None else after, Description)

    work()
    gc.collect()
    before = [sys.getrefcount(each) for each in objects]
    work()
    gc.collect()
    assert [sys.getrefcount(each) for each in objects] == before
    assert gc.is_tracked(native(state, "600 / 300 = 2 (left: 2 998 999)"))

"""Countdown with fractions on the way: its steps and its solver against brute force, and a puzzle that needs one."""

from __future__ import annotations

import random
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from countdown_rules import brute_force_solvable_in_fractions, brute_force_steps_in_fractions, without
from hypothesis import given, settings
from hypothesis import strategies as st

import bavt_fast as bavt
from bavt_fast._core import countdown_solvable
from bavt_fast.protocols import Node, Step, StepRequest
from bavt_fast.tasks.countdown import Countdown, CountdownOracle, CountdownState, load_game24

TASK = Countdown(fractions=True)
small = st.fractions(min_value=0, max_value=30, max_denominator=12)


def state_of(numbers: Sequence[Any], target: int = 24) -> CountdownState:
    plain = [int(n) if n.denominator == 1 else n for n in sorted(map(Fraction, numbers))]
    return CountdownState(tuple(plain), target, tuple(map(str, plain)))


def step_of(numbers: tuple[Fraction, ...], a: Fraction, operator: str, b: Fraction, result: Fraction) -> str:
    left = " ".join(map(str, without(numbers, a, b, result)))
    return f"{a} {operator} {b} = {result} (left: {left})"


def solvable(states: Sequence[tuple[Fraction, ...]], target: int) -> list[bool]:
    width = max(map(len, states))
    numerators = np.full((len(states), width), -1)
    denominators = np.ones((len(states), width), dtype=int)
    for row, numbers in enumerate(states):
        numerators[row, : len(numbers)] = [n.numerator for n in numbers]
        denominators[row, : len(numbers)] = [n.denominator for n in numbers]
    found: list[bool] = countdown_solvable(numerators, np.full(len(states), target), denominators).tolist()
    return found


@given(st.lists(small, min_size=2, max_size=4))
def test_the_legal_steps_are_those_of_brute_force(numbers: list[Fraction]) -> None:
    ordered = tuple(sorted(numbers))
    for a, operator, b, result in brute_force_steps_in_fractions(ordered):
        after = TASK.apply(state_of(ordered), Step(step_of(ordered, a, operator, b, result), 8))
        assert after is not None
        assert after.numbers == without(ordered, a, b, result)
        assert all(type(n) is int or n.denominator > 1 for n in after.numbers)


@pytest.mark.parametrize(
    "step",
    [
        "5 / 10 = 5/10 (left: 5/10 5 5)",  # not in lowest terms
        "10 / 5 = 2/1 (left: 2/1 5 5)",
        "5 - 5 = 0/5 (left: 0/5 5 10)",
        "5 / 10 = 1/0 (left: 1/0 5 5)",
        "5 / 10 = 1/3 (left: 1/3 5 5)",  # wrong
        "5 / 10 = 0 (left: 0 5 5)",
        "5 / 10 = 1/2 (left: 5 5 1/2)",  # not ascending
        "5 / 10 = 1/2 (left: 1/2 5)",
        "5 / 10 = 1 /2 (left: 1 /2 5 5)",
        "5 / 10 = \u0661/2 (left: \u0661/2 5 5)",
        "1/2 / 5 = 1/10 (left: 1/10 5 5 10)",  # 1/2 is not there
        "5 - 10 = -5 (left: -5 5 5)",
    ],
)
def test_illegal_steps(step: str) -> None:
    assert TASK.apply(TASK.initial_state("5 5 5 10"), Step(step, 8)) is None


def test_without_the_option_there_are_none() -> None:
    step = Step("5 / 10 = 1/2 (left: 1/2 5 5)", 8)
    after = TASK.apply(TASK.initial_state("5 5 5 10"), step)
    assert after is not None
    assert after.numbers == (Fraction(1, 2), 5, 5)
    assert Countdown().apply(Countdown().initial_state("5 5 5 10"), step) is None
    for make in (Countdown, CountdownOracle):
        with pytest.raises(TypeError, match="fractions: expected True or False"):
            make(fractions="no")  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(st.lists(small, min_size=1, max_size=3), st.integers(0, 30))
def test_the_solver_is_brute_force(numbers: list[Fraction], target: int) -> None:
    ordered = tuple(sorted(numbers))
    assert solvable([ordered], target) == [brute_force_solvable_in_fractions(ordered, target)]


def test_the_solver_on_four_numbers() -> None:
    rng = random.Random(0)
    states = [
        tuple(sorted(Fraction(rng.randint(1, 9), rng.choice([1, 1, 1, 2, 3])) for _ in range(4))) for _ in range(12)
    ]
    assert solvable(states, 24) == [brute_force_solvable_in_fractions(numbers, 24) for numbers in states]
    assert len(set(solvable(states, 24))) == 2, "states of both kinds"


def test_every_game_of_24_is_solvable_with_fractions_and_not_without() -> None:
    puzzles = [numbers for _, numbers in load_game24()]
    assert all(solvable([tuple(map(Fraction, numbers)) for numbers in puzzles], 24))
    without_them = countdown_solvable(np.array(puzzles), np.full(len(puzzles), 24))
    need_one = [numbers for numbers, whole in zip(puzzles, without_them, strict=True) if not whole]
    assert (1, 5, 5, 5) in need_one
    assert 0 < len(need_one) < 40


@pytest.mark.parametrize(
    ("denominators", "said"),
    [
        ([[1, 0]], "denominators: expected integers from 1 to 999, got 0"),
        ([[1, 1000]], "got 1000"),
        ([[1]], "denominators: expected the shape of numbers"),
        ([[1.0, 2.0]], "denominators: expected an array of integers"),
    ],
)
def test_bad_denominators(denominators: Any, said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        countdown_solvable([[1, 2]], [3], denominators)


def test_an_oracle_without_fractions_takes_no_state_with_one() -> None:
    node = Node(state_of([Fraction(1, 5), 5, 5]), "prompt")
    assert CountdownOracle(fractions=True).score([node]) == [1.0]
    with pytest.raises(ValueError, match="fractions: expected CountdownOracle"):
        CountdownOracle().score([node])


class AnyStep:
    """Proposes legal steps at random."""

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        return [[self._step(request) for _ in range(count)] for request, count in zip(states, counts, strict=True)]

    def _step(self, request: StepRequest) -> Step:
        numbers = tuple(map(Fraction, request.node.state.numbers))
        steps = sorted(brute_force_steps_in_fractions(numbers))
        return Step(step_of(numbers, *random.Random(request.seed).choice(steps)) + "\n", 10)


@pytest.mark.parametrize("fractions", [True, False])
def test_a_puzzle_that_needs_a_fraction_is_solved_with_them_alone(fractions: bool) -> None:
    task, critic = Countdown(fractions=fractions), CountdownOracle(fractions=fractions)
    searcher = bavt.Searcher(AnyStep(), critic, task, policy="best_first", decay=0.9)
    result = searcher.search("1 5 5 5", budget=bavt.Budget(tokens=5_000))
    assert result.solved == fractions
    if fractions:
        assert result.answer is not None
        assert task.check_answer("1 5 5 5", result.answer)
        assert not task.check_answer("1 5 5 6", result.answer)

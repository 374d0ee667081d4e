"""Budget and Spent: what they accept, what they refuse and how they say so."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bavt_fast.budget import Budget, Remaining, Spent

COUNTS = ("tokens", "tool_calls", "prompt_tokens")
AMOUNTS = ("seconds", "cost")
RESOURCES = COUNTS + AMOUNTS


def test_any_subset_of_limits_is_a_budget() -> None:
    assert Budget(tokens=500) == Budget(500, None, None, None, None)
    budget = Budget(tokens=1, tool_calls=2, seconds=3, cost=4, prompt_tokens=5)
    assert budget == Budget(1, 2, 3.0, 4.0, 5)
    assert (budget.tokens, budget.tool_calls, budget.seconds, budget.cost) == (1, 2, 3.0, 4.0)
    assert type(budget.seconds) is float
    assert type(budget.cost) is float


def test_numpy_and_exact_numbers_are_stored_as_python_numbers() -> None:
    budget = Budget(np.int64(7), None, np.float64(0.5), Fraction(1, 4))  # type: ignore[arg-type]
    assert (type(budget.tokens), type(budget.seconds), type(budget.cost)) == (int, float, float)
    assert budget == Budget(tokens=7, seconds=0.5, cost=0.25)


def test_a_budget_without_limits_is_refused() -> None:
    with pytest.raises(ValueError, match=r"budget: expected at least one of tokens, .*Budget\(tokens=500\)"):
        Budget()


@pytest.mark.parametrize("name", RESOURCES)
@pytest.mark.parametrize("value", [0, -1, -(10**400)])
def test_zero_and_negative_limits_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        Budget(**{name: value})


@pytest.mark.parametrize("name", RESOURCES)
@pytest.mark.parametrize("value", [True, False, np.bool_(True), "500", b"5", [5], 1j, object()])
def test_limits_of_the_wrong_type_are_refused(name: str, value: object) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected"):
        Budget(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [5.0, 0.5, float("nan"), float("inf")])
def test_floats_are_no_counts(name: str, value: float) -> None:
    with pytest.raises(TypeError, match=rf"^{name}: expected an integer.*{name}=int\(\.\.\.\)"):
        Budget(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", AMOUNTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 10**400, -0.0])
def test_amounts_that_are_not_finite_and_positive_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name}: expected"):
        Budget(**{name: value})


def test_a_cost_below_the_smallest_unit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^cost: expected a number from 1e-12 to 9200000.0, got 9.9e-13"):
        Budget(cost=9.9e-13)
    assert Budget(cost=1e-12).cost == 1e-12


def test_a_cost_that_64_bits_of_units_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^cost: expected .* to 9200000.0, got 9200001.0; count in another"):
        Budget(cost=9_200_001)
    assert Budget(cost=9.2e6).limits()[3] == 9_200_000 * 10**12


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(TypeError) as caught:
        Budget(tokens="9" * 10_000)  # type: ignore[arg-type]
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [Budget(tokens=5, cost=0.5), Spent(3, 2, 1.5, 0.25), Remaining(tokens=3)])
def test_values_are_frozen_slotted_hashable_and_travel(value: Budget | Spent | Remaining) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        value.tokens = 6  # type: ignore[misc]
    assert not hasattr(value, "__dict__")
    assert pickle.loads(pickle.dumps(value)) == value == copy.deepcopy(value)
    assert hash(value) == hash(copy.copy(value))


def test_spent_adds_resource_by_resource() -> None:
    total = Spent(1, 2, 0.5, 0.1, 7) + Spent(10, 20, 0.25, 0.2, 70)
    assert total == Spent(11, 22, 0.75, 0.3, 77)
    assert sum([total, Spent(tokens=1)], Spent()) == Spent(12, 22, 0.75, 0.3, 77)
    with pytest.raises(TypeError):
        total + 1  # type: ignore[operator]


@given(st.lists(st.integers(0, 10**9), max_size=50))
def test_costs_add_as_the_decimals_they_are_written_as(cents: list[int]) -> None:
    total = sum((Spent(cost=c / 100) for c in cents), Spent())
    assert total.cost == sum(cents) / 100


@pytest.mark.parametrize("name", RESOURCES)
@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "1"])
def test_spent_refuses_what_cannot_be_spent(name: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected"):
        Spent(**{name: value})  # type: ignore[arg-type]

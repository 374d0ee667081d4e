"""The surface of the native engine: what its bindings refuse, and that nothing has changed then."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from bavt_fast import _core

LARGEST = 2**63 - 2


def options(**given: Any) -> _core.SearchOptions:
    fields: dict[str, Any] = {
        "policy": "power",
        "exploration": 1.0,
        "decay": 0.85,
        "discount": 1.0,
        "tried_exponent": 0.0,
        "widening_scale": 1.0,
        "widening_exponent": 0.5,
        "candidates": 4,
        "patience": 10,
        "max_nodes": 1000,
        "max_step_tokens": 10,
        "max_step_prompt_tokens": 0,
        "step_tool_calls": 0,
        "max_step_cost": 0,
        "token_price": 0,
        "prompt_token_price": 0,
        "max_score": (0, 0, 0, 0),
    }
    return _core.SearchOptions(**{**fields, **given})


def question(
    limits: tuple[int | None, ...] = (500, None, None, None), seconds: float | None = None, **given: Any
) -> _core.Question:
    return _core.Question(7, limits, seconds, options(**given), 1.0, 0, False, False)


def asked(leaves: int = 4) -> tuple[_core.Engine, _core.Question, int]:
    """An engine with one question, and the ticket of an ask."""
    engine, one = _core.Engine(leaves), question()
    engine.add(one)
    return engine, one, engine.ask(1, 0.0)[3][0]


class Growing:
    """An index that changes the list it lies in while it is read."""

    def __init__(self, column: list[Any]) -> None:
        self.column = column

    def __index__(self) -> int:
        self.column.clear()
        return 1


def test_a_question_is_not_none() -> None:
    with pytest.raises(TypeError):
        _core.Engine(1).add(None)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", [-1, 2**32, 2**70, -(2**70), 1.5, True, None])
def test_keys_are_checked(key: Any) -> None:
    one = question()
    for call in (one.see_key, one.knows_key):
        with pytest.raises((TypeError, ValueError), match="key: expected"):
            call(key)


def test_a_limit_is_above_zero() -> None:
    with pytest.raises(ValueError, match="limits: expected"):
        question((0, None, None, None))
    with pytest.raises(ValueError, match="seconds: expected"):
        question(seconds=0.0)


def test_more_seconds_are_checked() -> None:
    engine, one, _ = asked()
    for seconds in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="seconds: expected"):
            engine.extend(0, (5, 0, 0, 0), seconds)
    assert one.account.left[0] == 500 - 40


def test_only_an_answer_solves() -> None:
    engine, one, _ = asked()
    with pytest.raises(ValueError, match="reason: expected"):
        engine.stop(0, "solved")
    assert one.stop_reason is None


def test_a_right_state_is_terminal() -> None:
    engine, one, ticket = asked()
    engine.admit(0.0, [ticket], [1], [1], [5])
    with pytest.raises(ValueError, match="verified: expected"):
        engine.grow(0.0, [ticket], [1], [0.5], [False], [True], [0])
    assert one.num_nodes == 1
    engine.grow(0.0, [ticket], [1], [0.5], [True], [True], [0])
    assert one.stop_reason == "solved"
    assert _core.Question.from_bytes(one.to_bytes()).stop_reason == "solved"
    with pytest.raises(ValueError, match="verified: expected"):
        _core.Question(0, (5, None, None, None), None, options(), 1.0, 0, False, True)


@pytest.mark.parametrize("probabilities", [[], [0.5, 0.5], [-0.1], [1.1], [float("nan")], ["0.5"], 0.5])
def test_wrong_probabilities_are_named_and_change_nothing(probabilities: Any) -> None:
    engine, one, ticket = asked()
    before = one.to_bytes()
    with pytest.raises((TypeError, ValueError), match="probabilities: expected"):
        engine.admit(0.0, [ticket], [1], [1], [5], None, probabilities)
    assert one.to_bytes() == before


def test_what_was_tried_is_part_of_a_snapshot() -> None:
    """0.25 and 0.35 of the probability: the weight falls by (1 - p)^2, also over a snapshot in between."""
    one = question(tried_exponent=2.0)
    for probability, weight in ((0.25, 0.75**2), (0.35, 0.4**2), (0.9, 0.001**2)):
        engine = _core.Engine(1)
        engine.add(one)
        ticket = engine.ask(1, 0.0)[3][0]
        engine.admit(0.0, [ticket], [1], [1], [-1], None, [probability])
        assert one.tree.weights[0] == pytest.approx(max(1e-6, weight), rel=1e-12)
        one = _core.Question.from_bytes(one.to_bytes())


def test_columns_that_change_while_they_are_read() -> None:
    engine, one, ticket = asked()
    before = one.to_bytes()
    for place in range(3):
        columns: list[list[Any]] = [[1, 1], [1, 1], [1, 2]]
        columns[place][0] = Growing(columns[place])
        with pytest.raises(ValueError, match="expected"):
            engine.admit(0.0, [ticket, ticket], *columns)
    assert one.to_bytes() == before


def test_counts_do_not_wrap_around() -> None:
    engine, one, ticket = asked()
    before = one.to_bytes()
    with pytest.raises(ValueError, match="counts: expected"):
        engine.admit(0.0, [ticket] * 256, [2**24] * 256, [], [])
    assert one.to_bytes() == before


def test_what_is_reserved_can_be_given_back_where_sums_saturate() -> None:
    engine, one = _core.Engine(8), question((None, None, 10**6, None), max_step_tokens=LARGEST, step_tool_calls=1)
    engine.add(one)
    tickets = engine.ask(8, 0.0)[3]
    assert len(tickets) == 8
    assert one.account.reserved == (2**63 - 1, 0, 32, 0)
    assert _core.Question.from_bytes(one.to_bytes()).account.reserved == one.account.reserved
    for ticket in tickets:
        engine.cancel(ticket)
    assert one.account.reserved == (0, 0, 0, 0)


def test_a_limit_stays_a_limit() -> None:
    engine, one = _core.Engine(1), question((LARGEST - 5, None, None, None), 1e308)
    engine.add(one)
    engine.extend(0, (LARGEST, LARGEST, 0, 0), 1.7e308)
    assert one.account.left[:2] == (LARGEST, None)
    assert _core.Question.from_bytes(one.to_bytes()).account.left[:2] == (LARGEST, None)


@pytest.mark.parametrize("now_s", [float("inf"), float("nan"), 1e308])
def test_a_clock_that_lost_its_mind_leaves_a_search_that_can_be_saved(now_s: float) -> None:
    engine, one, ticket = asked()
    huge = [(0, None, None, 1.7e308)] * 2
    engine.admit(now_s, [ticket], [2], [1, 1], [-1, -1], huge)
    engine.ask(1, now_s)
    assert one.account.elapsed_s < float("inf")
    assert _core.Question.from_bytes(one.to_bytes()).account.elapsed_s == one.account.elapsed_s


def test_a_removed_question_leaves_its_queue() -> None:
    engine = _core.Engine(2)
    questions = [question() for _ in range(5)]
    slots = [engine.add(one) for one in questions]
    engine.ask(2, 0.0)
    for slot in (slots[1], slots[0], slots[4]):
        engine.remove(slot)
    engine.stop(slots[2], "cancelled")
    columns = engine.ask(10, 0.0)
    assert set(columns[0]) == {slots[3]}
    assert columns[6] == [slots[2]]
    with pytest.raises(IndexError):
        engine.remove(slots[0])
    assert engine.add(question()) == slots[4]  # the last one that went


def test_neither_engines_nor_questions_are_pickled() -> None:
    for item in (_core.Engine(1), question(), question().account):
        for copied in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="pickle"):
                copied(item)  # type: ignore[operator]

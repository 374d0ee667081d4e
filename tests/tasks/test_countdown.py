"""Countdown against independent brute force: parsing, steps, answers, the expression checker and the exact solver."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pytest
from countdown_rules import Numbers, brute_force_solvable, brute_force_steps, text_of
from hypothesis import given, settings
from hypothesis import strategies as st

from bavt_fast import _core
from bavt_fast.protocols import Node, Step
from bavt_fast.tasks.countdown import (
    GAME24_TEST_RANKS,
    Countdown,
    CountdownOracle,
    CountdownState,
    check_expression,
    load_game24,
)

TASK = Countdown()
states = st.lists(st.integers(1, 999) | st.integers(1, 13), min_size=2, max_size=6)


def applied(state: CountdownState, text: str) -> CountdownState | None:
    return TASK.apply(state, Step(text, tokens=1))


def state_of(numbers: list[int] | Numbers, target: int = 24) -> CountdownState:
    return TASK.initial_state(" ".join(map(str, numbers)) + f" -> {target}")


# --- questions


@pytest.mark.parametrize(
    ("question", "numbers", "target"),
    [
        ("4 5 6 10", (4, 5, 6, 10), 24),
        ("10 6 5 4", (4, 5, 6, 10), 24),
        ("  7,3 ", (3, 7), 24),
        ("3, 7, 25, 50 -> 61", (3, 7, 25, 50), 61),
        ("1 1=0", (1, 1), 0),
        ("999 999 999 999 999 999 -> 999", (999,) * 6, 999),
    ],
)
def test_questions(question: str, numbers: Numbers, target: int) -> None:
    state = TASK.initial_state(question)
    assert (state.numbers, state.target) == (numbers, target)
    assert state.expressions == tuple(map(str, numbers))
    assert TASK.describe(state).prompt == f"Target: {target} (left: {' '.join(map(str, numbers))})\n"


@pytest.mark.parametrize(
    "question",
    [
        *["", " ", "4 5 x 10", "four five", "4", "1 2 3 4 5 6 7", "0 5", "1000 2", "-3 5", "4.5 6", "1e3 2", "4 5 ->"],
        *[
            "-> 24",
            "4 5 -> 1000",
            "4 5 -> -1",
            "4 5 -> 24 -> 24",
            "٤ ٥ ٦",
            "４ ５ ６",
            "4 5 ²",
            "4\u00a05",
            "4;5",
            "4 + 5",
        ],
        *["9" * 5000 + " 4", "4 5 -> " + "9" * 5000, "1 " * 5000 + "x", "1" * 50_000, " " * 50_000, "4 5\x00", "0x4 5"],
    ],
)
def test_bad_questions(question: str) -> None:
    start = time.monotonic()
    with pytest.raises(ValueError, match=r"question: expected|target: expected") as caught:
        TASK.initial_state(question)
    assert len(str(caught.value)) < 250
    assert time.monotonic() - start < 1.0


@pytest.mark.parametrize("question", [None, 4, 4.5, b"4 5", ["4", "5"], (4, 5)])
def test_questions_that_are_no_text(question: Any) -> None:
    with pytest.raises(TypeError, match="question: expected a str"):
        TASK.initial_state(question)


def test_a_target_may_be_a_numpy_integer() -> None:
    assert type(Countdown(np.int64(10)).target) is int  # type: ignore[arg-type]


def test_an_answer_is_checked_against_its_question() -> None:
    task = Countdown(10)
    assert task.check_answer("4 6", "6 + 4")
    assert task.check_answer("4 6 -> 24", "6 * 4")
    assert not task.check_answer("4 6", "6 * 4")
    assert not task.check_answer("4 6", "5 + 5")
    assert task.check_answer("4 6", None) is False  # of a search that found none
    with pytest.raises(ValueError, match="question: expected"):
        task.check_answer("4", "4")


@pytest.mark.parametrize(
    ("target", "error"), [(-1, ValueError), (1000, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_bad_targets(target: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="target: expected"):
        Countdown(target)


# --- steps


@settings(max_examples=100, deadline=None)
@given(numbers=states)
def test_the_legal_steps_are_those_of_brute_force(numbers: list[int]) -> None:
    """Over every pair, every operator and results that are right, wrong by one, and those of the other operators."""
    state = state_of(numbers)
    expected = brute_force_steps(state.numbers)
    for i, j in itertools.permutations(range(len(numbers)), 2):
        a, b = state.numbers[i], state.numbers[j]
        rest = [n for k, n in enumerate(state.numbers) if k not in (i, j)]
        results = {a + b, a - b, b - a, a * b, a // b, -(-a // b), b // a, a + b + 1, 0, 1}
        for operator, result in itertools.product("+-*/", results):
            left = tuple(sorted([*rest, result]))
            after = applied(state, text_of(a, operator, b, result, left))
            legal = (a, operator, b, result, left) in expected
            assert (after is not None) == legal, (a, operator, b, result)
            assert after is None or (after.numbers, after.target) == (left, state.target)


@pytest.mark.parametrize(
    "step",
    [
        *["", "10 + 4 = 14", "10 + 4 = 14 (left: 5 6)", "10 + 4 = 14 (left: 5 6 14 14)", "10 + 4 = 14 (left: 14 5 6)"],
        *["10 + 10 = 20 (left: 4 5 6 20)", "10 + 7 = 17 (left: 4 5 17)", "10 + 4 = 15 (left: 5 6 15)"],
        *["4 - 10 = -6 (left: -6 5 6)", "10 / 4 = 2 (left: 2 5 6)", "10 ** 4 = 14 (left: 5 6 14)"],
        *["10+4=14 (left: 5 6 14)", "10 + 4 = 14 (left: 5 6 14", "10 + 4 = 14 (left: 5, 6, 14)"],
        *["١٠ + 4 = 14 (left: 5 6 14)", "10 + 4 = 14 (left: 5 6 14) 5 + 6 = 11 (left: 11 14)", "x" * 10_000],
        "10 + 4 = 14 (left: " + "5 " * 10_000 + "14)",
    ],
)
def test_illegal_steps(step: str) -> None:
    assert applied(state_of((4, 5, 6, 10)), step) is None


def test_a_number_is_used_once_unless_it_is_there_twice() -> None:
    assert applied(state_of((5, 6)), "5 + 5 = 10 (left: 6 10)") is None
    assert applied(state_of((5, 5, 6)), "5 + 5 = 10 (left: 6 10)") is not None


def test_zero_is_a_number_but_not_a_divisor() -> None:
    state = applied(state_of((5, 5, 6)), "5 - 5 = 0 (left: 0 6)")
    assert state is not None
    assert applied(state, "6 / 0 = 0 (left: 0)") is None
    assert applied(state, "0 / 6 = 0 (left: 0)") is not None


def test_results_above_999_are_refused() -> None:
    assert applied(state_of((37, 27)), "37 * 27 = 999 (left: 999)") is not None
    assert applied(state_of((40, 25)), "40 * 25 = 1000 (left: 1000)") is None


@settings(max_examples=200, deadline=None)
@given(numbers=states, seed=st.integers(0, 10**6))
def test_answers_on_random_paths_are_right(numbers: list[int], seed: int) -> None:
    """The expression of whatever number a path ends on gives it, by the independent checker."""
    random_, state = random.Random(seed), state_of(numbers)
    while not TASK.describe(state).terminal:
        assert TASK.describe(state).verdict is None
        assert TASK.describe(state).answer is None
        step = text_of(*random_.choice(sorted(brute_force_steps(state.numbers))))
        after = applied(state, step)
        assert after is not None
        state = after
    _, verdict, answer, *_ = TASK.describe(state)
    assert answer is not None
    assert check_expression(answer, numbers, state.numbers[0])
    assert not check_expression(answer, numbers, state.numbers[0] + 1)
    assert not check_expression(answer, [*numbers, 1], state.numbers[0])
    assert verdict == (state.numbers[0] == 24)


def test_states_with_the_same_numbers_are_the_same() -> None:
    a = applied(state_of((2, 2, 3)), "2 + 2 = 4 (left: 3 4)")
    b = applied(state_of((2, 2, 3)), "2 * 2 = 4 (left: 3 4)")
    assert a is not None
    assert b is not None
    assert TASK.key(a) == TASK.key(b)
    assert a.expressions != b.expressions


# --- the expression checker


@pytest.mark.parametrize(
    ("expression", "numbers", "target"),
    [
        ("(5 * (10 - 6)) + 4", (4, 5, 6, 10), 24),
        ("8 / (3 - 8 / 3)", (3, 3, 8, 8), 24),  # through a fraction
        ("1 - 2 + 3", (1, 2, 3), 2),
        ("((((7))))", (7,), 7),
        (" 3\t*8", (3, 8), 24),
    ],
)
def test_right_expressions(expression: str, numbers: Numbers, target: int) -> None:
    assert check_expression(expression, numbers, target)


@pytest.mark.parametrize(
    "expression",
    [
        *["", "24", "4 + 5", "4 * 6", "4 + 4 + 6 + 10", "(5 * (10 - 6)) + 4 + 0", "5 * (10 - 6) + 4.0", "45 - 6 - 10"],
        *[
            "5 * (10 - 6) + +4",
            "-5 * (6 - 10) + 4",
            "5 * (10 - 6) + 4 == 24",
            "24 if 1 else 5",
        ],
        *["__import__('os').abort()", "print(24)", "x", "(lambda: 24)()", "[4, 5, 6, 10]", "'24'", "True + 23", "24j"],
        *["10 ** 6 ** 5 ** 4", "9 ** 9 ** 9 ** 9", "10 // 6 + 5 + 4", "10 % 6", "1 << 10", "4 / (5 - 5)", "(yield)"],
        *["(" * 100_000, "(" * 150 + "4" + ")" * 150, "-" * 100_000 + "4", "4" + "+5" * 100_000, "9" * 5000],
        *["4;5", "4\n5", "\x00", "٤ + ٥", "f'{4}'", "4 if", "...", "(a := 4)", "4 .real", "5 * (10 - 6) + 4\n\nx"],
    ],
)
def test_wrong_and_hostile_expressions(expression: str) -> None:
    start = time.monotonic()
    assert check_expression(expression, (4, 5, 6, 10), 24) is False
    assert time.monotonic() - start < 5.0


# --- the exact solver


def solver(numbers: Any, targets: Any) -> list[bool]:
    return _core.countdown_solvable(np.asarray(numbers, np.int32), np.asarray(targets, np.int32)).tolist()


@settings(max_examples=150, deadline=None)
@given(
    numbers=st.lists(st.integers(0, 60) | st.integers(0, 999), min_size=1, max_size=4),
    targets=st.lists(st.integers(0, 999), min_size=1, max_size=30),
)
def test_the_solver_is_brute_force(numbers: list[int], targets: list[int]) -> None:
    key = tuple(sorted(numbers))
    expected = [brute_force_solvable(key, target) for target in [*targets, *range(30)]]
    assert solver([numbers] * len(expected), [*targets, *range(30)]) == expected


def test_the_solver_on_five_numbers() -> None:
    random_ = random.Random(0)
    for _ in range(6):
        numbers = tuple(sorted(random_.randint(1, 50) for _ in range(5)))
        reachable = reachable_targets(numbers)
        assert solver([numbers] * 1000, range(1000)) == [target in reachable for target in range(1000)]


@cache
def reachable_targets(numbers: Numbers) -> frozenset[int]:
    if len(numbers) == 1:
        return frozenset(numbers)
    lefts = {left for *_, left in brute_force_steps(numbers)}
    return frozenset().union(*(reachable_targets(left) for left in lefts))


def test_the_order_of_the_numbers_and_the_padding_do_not_matter() -> None:
    rows = [[*order, -1, -1] for order in itertools.permutations((4, 5, 6, 10))]
    assert solver(rows, [24] * 24) == [True] * 24
    assert solver([[24, -1, -1], [24, 1, -1]], [24, 23]) == [True, True]


def test_the_solver_with_six_numbers_ends_soon() -> None:
    start = time.monotonic()
    assert solver([[1, 1, 1, 1, 1, 1]] * 20, [999] * 20) == [False] * 20
    assert time.monotonic() - start < 20.0


@pytest.mark.parametrize(
    ("numbers", "targets"),
    [
        ([1, 2], [3]),
        ([[[1, 2]]], [3]),
        ([[1, 2]], [[3]]),
        ([[1, 2]], [3, 4]),
        ([[1, 2]], 3),
        (np.ones((1, 7), np.int32), [3]),
        (np.ones((1, 0), np.int32), [3]),
        ([[-1, -1]], [3]),
        ([[-1, 5]], [3]),
        ([[5, -1, 6]], [3]),
        ([[5, -2]], [3]),
        ([[5, 1000]], [3]),
        ([[5, 2**32 + 6]], [11]),  # must not wrap to 6
        ([[5, 6.5]], [11]),
        ([[5.0, np.nan]], [11]),
        ([[5, 6]], [11.5]),
        ([["5", "6"]], [11]),
        ([[True, False]], [1]),
        (None, [1]),
        ([[5, None]], [1]),
        (np.ma.masked_array([[5, 6]], mask=[[False, True]]), [11]),
    ],
)
def test_bad_arrays_are_refused(numbers: Any, targets: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=r"numbers|targets|incompatible"):
        _core.countdown_solvable(numbers, targets)


def test_no_states() -> None:
    assert _core.countdown_solvable(np.empty((0, 4), np.int32), np.empty(0, np.int32)).shape == (0,)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int64, np.uint64])
def test_every_integer_type(dtype: Any) -> None:
    numbers = np.array([[4, 5, 6, 10], [1, 1, 1, 1]], dtype)
    assert _core.countdown_solvable(numbers, np.array([24, 24], dtype)).tolist() == [True, False]
    assert _core.countdown_solvable(numbers[:, ::-1], np.array([24, 24], dtype)).tolist() == [True, False]


def test_targets_out_of_range_are_not_reachable() -> None:
    numbers = [[5, 6], [500, 500], [5, 6]]
    assert _core.countdown_solvable(numbers, [-1, 1000, 2**32 + 11]).tolist() == [False] * 3


# --- the oracle, the puzzles and the bound on tokens


def test_the_oracle_scores_by_the_solver() -> None:
    def candidate(numbers: Numbers, target: int) -> Node:
        return Node(CountdownState(numbers, target, ()), None)

    oracle = CountdownOracle(unsolvable_value=0.125)
    assert oracle.predicts == "value"
    assert oracle.score([]) == []
    assert oracle.score([candidate((4, 6), 24), candidate((4, 7), 24), candidate((24,), 24)]) == [1.0, 0.125, 1.0]


def test_the_game_of_24_puzzles() -> None:
    puzzles = load_game24()
    assert [rank for rank, _ in puzzles] == list(range(1, 1363))
    assert all(len(numbers) == 4 and all(1 <= n <= 13 for n in numbers) for _, numbers in puzzles)
    assert len({tuple(sorted(numbers)) for _, numbers in puzzles}) == 1362
    assert puzzles[900] == (901, (4, 5, 6, 10))
    assert len(GAME24_TEST_RANKS) == 100
    solvable = solver([numbers for _, numbers in puzzles], [24] * len(puzzles))
    unsolvable = {tuple(sorted(numbers)) for (_, numbers), yes in zip(puzzles, solvable, strict=True) if not yes}
    assert (1, 5, 5, 5) in unsolvable
    assert (3, 3, 8, 8) in unsolvable
    assert len(unsolvable) < 30


@settings(max_examples=60, deadline=None)
@given(numbers=states, seed=st.integers(0, 10**6))
def test_min_tokens_is_what_a_finishing_path_takes(numbers: list[int], seed: int) -> None:
    """In the tokens of the embedded model: never above them, and exactly them where every step is canonical."""
    pytest.importorskip("transformers")
    tokenizer = embedded_tokenizer()
    random_, state = random.Random(seed), state_of(numbers)
    bound, tokens = TASK.describe(state).min_tokens, 0
    while not TASK.describe(state).terminal:
        step = text_of(*random_.choice(sorted(brute_force_steps(state.numbers))))
        used = len(tokenizer(step)["input_ids"])
        after = applied(state, step)
        assert after is not None
        assert TASK.describe(state).min_tokens == used + TASK.describe(after).min_tokens
        tokens, state = tokens + used, after
    assert tokens == bound
    assert TASK.describe(state).min_tokens == 0


@lru_cache(maxsize=1)
def embedded_tokenizer() -> Any:
    from bavt_fast.tasks.countdown.training.model import build_tokenizer

    return build_tokenizer()


def test_the_embedded_tokenizer_gives_every_text_back() -> None:
    pytest.importorskip("transformers")
    tokenizer = embedded_tokenizer()
    for text in ("Target: 24 (left: 4 5 6 10)", "10 + 4 = 14 (left: 5 6 14)", "999 / 1 = 999 (left: 999)"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert tokenizer.unk_token_id not in ids
    assert Counter(tokenizer(" ".join(map(str, range(1000))))["input_ids"]) == Counter(range(1000))

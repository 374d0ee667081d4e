"""N queens as a task: boards, steps, verdicts, the exact solver, and the family of reasoning-gym by way of it."""

from __future__ import annotations

import itertools
import random

import pytest
from walking import walk

from bavt_fast.protocols import Node, Step
from bavt_fast.tasks import task_module
from bavt_fast.tasks.n_queens import (
    NO_QUEEN,
    NQueens,
    QueensState,
    can_be_completed,
    free_columns,
    gym_question,
    make_oracle,
)

EMPTY = "_ _ _ _\n" * 4
ASKED = "_ _ _ _\n_ _ _ Q\n_ _ _ _\n_ _ Q _"
SOLVED = "_ Q _ _\n_ _ _ Q\nQ _ _ _\n_ _ Q _"
task = NQueens()


def no_two_attack(columns: tuple[int, ...]) -> bool:
    """By the rule's own words, queen by queen."""
    queens = list(enumerate(columns))
    return all(c != d and abs(r - q) != abs(c - d) for (r, c), (q, d) in itertools.combinations(queens, 2))


def test_a_board_is_filled_from_the_top() -> None:
    asked = task.initial_state(ASKED)
    assert asked == QueensState((NO_QUEEN, 3, NO_QUEEN, 2))
    assert task.describe(asked).prompt == "a3\na1 b1\n"
    after = walk(task, ASKED, " b1 \n")
    assert after == QueensState((1, 3, NO_QUEEN, 2))
    assert task.key(after) != task.key(walk(task, ASKED, "a1"))
    about = task.describe(after)
    assert (about.terminal, about.prompt, about.min_tokens) == (False, "a3\n", 1)
    about = task.describe(walk(task, ASKED, "b1", "a3"))
    assert (about.terminal, about.verdict, about.answer) == (True, True, SOLVED)
    assert task.check_answer(ASKED, SOLVED)


def test_a_row_without_a_free_square_is_shown_and_ends_a_path() -> None:
    lost = walk(task, ASKED, "a1")
    assert task.describe(lost).prompt == "-\n"
    assert not task.describe(lost).terminal
    assert not can_be_completed(lost.columns)
    assert all(task.apply(lost, Step(f"{column}3\n", 2)) is None for column in "abcd")


def test_queens_of_the_question_that_attack_each_other_are_refuted_at_the_end() -> None:
    about = task.describe(task.initial_state("Q _ _ _\n" * 4))
    assert (about.terminal, about.verdict) == (True, False)


@pytest.mark.parametrize("size", [4, 6, 9])
def test_what_is_free_is_what_no_queen_attacks(size: int) -> None:
    chosen = random.Random(size)
    for _ in range(100):
        columns = [chosen.choice([NO_QUEEN, NO_QUEEN, *range(size)]) for _ in range(size)]
        empty = [row for row in range(size) if columns[row] == NO_QUEEN]
        others = [(row, column) for row, column in enumerate(columns) if column != NO_QUEEN]
        for row in empty:
            free = [c for c in range(size) if all(c != d and abs(r - row) != abs(c - d) for r, d in others)]
            assert free_columns(columns, row) == free


@pytest.mark.parametrize(
    "step", ["a2", "a3", "c1", "d1", "e1", "a5", "a0", "b", "1b", "b1 a3", "B1", "b1.", "b¹", "", "b01x", "-"]
)
def test_what_is_no_step_is_invalid(step: str) -> None:
    """The wrong row, an attacked square, one outside the board, or another text."""
    assert walk(task, ASKED, step) is None


@pytest.mark.parametrize(
    "question",
    [
        "",
        "Q",
        "_ _ _\n" * 3,
        "_ _ _ _\n" * 3,
        "_ _ _ _\n_ _ _\n_ _ _ _\n_ _ _ _",
        EMPTY.replace("_", "x"),
        "_ " * 27,
        "Q Q _ _\n" + "_ _ _ _\n" * 3,
    ],
)
def test_what_is_no_board_is_refused(question: str) -> None:
    with pytest.raises(ValueError, match="question: expected"):
        task.initial_state(question)
    with pytest.raises(TypeError, match="question: expected"):
        task.initial_state(4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "answer",
    ["", ASKED, SOLVED.replace("Q _ _ _", "_ _ _ Q"), "_ _ Q _\nQ _ _ _\n_ _ _ Q\n_ Q _ _", "__import__('os')", EMPTY],
)
def test_another_board_is_no_answer(answer: str) -> None:
    assert not task.check_answer(ASKED, answer)
    assert task.check_answer(ASKED, None) is False
    assert task.check_answer(ASKED, [answer]) is False  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [4, 5, 6, 7])
def test_the_solver_knows_what_every_solution_shows(size: int) -> None:
    """Against all placements, one by one."""
    solutions = [columns for columns in itertools.product(range(size), repeat=size) if no_two_attack(columns)]
    assert len(solutions) == {4: 2, 5: 10, 6: 4, 7: 40}[size]
    chosen = random.Random(size)
    seen = set()
    for _ in range(300):
        columns = list(chosen.choice(solutions))
        for row in chosen.sample(range(size), chosen.randint(1, size)):
            columns[row] = NO_QUEEN
        if chosen.random() < 0.7:
            columns[chosen.randrange(size)] = chosen.randrange(size)
        alive = any(all(a in (NO_QUEEN, b) for a, b in zip(columns, full, strict=True)) for full in solutions)
        assert can_be_completed(tuple(columns)) == alive
        assert make_oracle().score([Node(QueensState(tuple(columns)), None)]) == [float(alive)]
        seen.add(alive)
    assert seen == {True, False}


def test_it_is_found_by_its_name_alone() -> None:
    module = task_module("n_queens")
    assert isinstance(module.make_task(), NQueens)


def test_the_family_of_reasoning_gym_is_solved_through_it() -> None:
    pytest.importorskip("reasoning_gym")
    from bavt_fast.tasks.reasoning_gym import GymState as QueensInGym
    from bavt_fast.tasks.reasoning_gym import ReasoningGymTask

    family = ReasoningGymTask("n_queens", size=6, seed=3, inner="n_queens", n=6, min_remove=3, max_remove=5)
    assert family.questions == [gym_question(problem) for problem in family.problems]
    for question, problem in zip(family.questions, family.problems, strict=True):
        asked = family.initial_state(question)
        right = NQueens().initial_state(problem["answer"]).columns
        state = asked
        for row, column in enumerate(right):
            if asked.inner.columns[row] == NO_QUEEN:
                about = family.describe(state)
                assert not about.terminal
                after = family.apply(state, Step(f"{'abcdef'[column]}{row + 1}\n", 2))
                assert after is not None
                state = after
        about = family.describe(state)
        assert (about.terminal, about.verdict, about.answer) == (True, True, problem["answer"])
    oracle = family.make_oracle()
    assert oracle is not None
    assert oracle.score([Node(family.initial_state(question), "") for question in family.questions]) == [1.0] * 6
    assert oracle.score([Node(QueensInGym(QueensState((0, 1, -1, -1, -1, -1)), 0), "")]) == [0.0]
    with pytest.warns(UserWarning, match="have several lines"):
        in_words = ReasoningGymTask("n_queens", size=1, n=6, max_remove=5)
    assert in_words.make_oracle() is None
    with pytest.raises(ValueError, match="inner: expected a task that has gym_question"):
        ReasoningGymTask("n_queens", size=1, inner="text")
    with pytest.raises(ValueError, match="expected the name of a module"):
        ReasoningGymTask("n_queens", size=1, inner="nowhere")

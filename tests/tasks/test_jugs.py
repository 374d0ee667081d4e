"""Water jugs as a task: volumes, moves, verdicts, the exact solver, and the family of reasoning-gym by way of it."""

from __future__ import annotations

import functools
import itertools
import json
import random

import pytest
from walking import walk

from bavt_fast.protocols import Node, Step
from bavt_fast.tasks import jugs, task_module
from bavt_fast.tasks.jugs import Jugs, JugsOracle, JugsState, distance, gym_question, make_oracle

ASKED = "4 9 9 -> 6"
SOLUTION = [">B", ">C", "B>A", "A>", "B>A", "A>", "B>A", "C>A"]
task = Jugs()


def every_step(count: int) -> list[str]:
    names = ["", *"ABCDE"[:count]]
    return [f"{source}>{into}" for source in names for into in names if source != into]


@functools.cache
def poured(volumes: tuple[int, ...], capacities: tuple[int, ...], step: str) -> tuple[int, ...]:
    """What a step makes of the volumes, litre by litre."""
    source, _, into = step.partition(">")
    now = list(volumes)
    while (not source or now["ABCDE".index(source)] > 0) and (
        not into or now["ABCDE".index(into)] < capacities["ABCDE".index(into)]
    ):
        if source:
            now["ABCDE".index(source)] -= 1
        if into:
            now["ABCDE".index(into)] += 1
    return tuple(now)


def test_jugs_are_filled_emptied_and_poured() -> None:
    assert task.initial_state(ASKED) == JugsState((0, 0, 0), (4, 9, 9), 6)
    state = walk(task, ASKED, " >B\n", "B>A\n", "A>")
    assert state == JugsState((0, 5, 0), (4, 9, 9), 6, (">B", "B>A", "A>"))
    about = task.describe(state)
    assert (about.terminal, about.prompt, about.min_tokens) == (False, "6 0/4 5/9 0/9\n", 2)
    assert task.describe(walk(task, ASKED, *SOLUTION[:-1])).min_tokens == 1
    about = task.describe(walk(task, ASKED, *SOLUTION))
    words = ["fill B", "fill C", "pour B->A", "empty A", "pour B->A", "empty A", "pour B->A", "pour C->A"]
    assert (about.terminal, about.verdict, json.loads(about.answer or "")) == (True, True, words)
    assert task.check_answer(ASKED, about.answer or "")


def test_the_same_volumes_are_one_state_whatever_led_there() -> None:
    assert task.key(walk(task, ASKED, ">B", ">A", "A>")) == task.key(walk(task, ASKED, ">B"))
    assert task.key(walk(task, ASKED, ">B")) == task.key(walk(task, ASKED, ">C"))  # jugs of one capacity are alike
    assert task.key(walk(task, ASKED, ">B")) != task.key(walk(task, ASKED, ">A"))


@pytest.mark.parametrize(
    "step",
    [
        "A>",
        "A>B",
        "B>A",
        ">",
        "A>A",
        ">D",
        "D>",
        "a>",
        "A->B",
        "fill A",
        "A>B C>",
        "",
        "A",
        ">А",
        ">A.",
        "A>\nB>",
        "AB>C",
    ],
)
def test_what_is_no_step_or_changes_nothing_is_invalid(step: str) -> None:
    """The last but a few has a Cyrillic letter."""
    assert walk(task, ASKED, step) is None


def test_a_path_ends_at_so_many_moves_where_the_task_is_told() -> None:
    short = Jugs(max_moves=2)
    assert short.describe(walk(task, ASKED, ">B")).prompt is not None
    about = short.describe(walk(task, ASKED, ">B", ">C"))
    assert (about.terminal, about.verdict, about.answer) == (True, False, None)
    assert Jugs(max_moves=8).describe(walk(task, ASKED, *SOLUTION)).verdict is True
    with pytest.raises(ValueError, match="max_moves: expected an integer of at least 1"):
        Jugs(max_moves=0)


def test_of_a_limited_path_the_moves_that_were_made_count() -> None:
    """The same volumes by fewer moves may still be saved where those by more are lost."""
    limited = Jugs(max_moves=len(SOLUTION))
    oracle = make_oracle(max_moves=len(SOLUTION))
    near, far = walk(limited, ASKED, SOLUTION[0]), walk(limited, ASKED, SOLUTION[0], ">A", "A>")
    assert near is not None
    assert far is not None
    assert near.volumes == far.volumes
    assert task.key(near) == task.key(far)
    assert limited.key(near) != limited.key(far)
    left = distance(near)
    assert left == len(SOLUTION) - 1
    assert oracle.score([Node(near, None), Node(far, None)]) == [pytest.approx(0.9**left), 0.0]
    assert JugsOracle(max_moves=len(SOLUTION)).score([Node(far, None)]) == [1e-6]


@pytest.mark.parametrize(
    "question",
    ["", "4 -> 2", "4 9 9", "4 9 9 ->", "-> 6", "4 0 9 -> 6", "4 9 9 -> 0", "4 9 9 -> -6", "4 9 9 -> 1000", "4 9 9 = 6",
     "4 9 9 -> 6 7", "4.5 9 -> 6", "04 9 -> 3", "٤ 9 -> 3", "9 " * 27 + "-> 3", "4 9\n9 -> 6"],
)  # fmt: skip
def test_what_is_no_question_is_refused(question: str) -> None:
    with pytest.raises(ValueError, match="question: expected"):
        task.initial_state(question)
    with pytest.raises(TypeError, match="question: expected"):
        task.initial_state(4)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "answer",
    ["", "[]", "{}", "6", "[6]", "null", '["fill B"]', '["fill B" ', '"fill B"', '["FILL B"]', '["fill D"]',
     '["pour B->B"]', '["pour B"]', "[" * 100_000, '["__import__"]', '[["fill B"]]'],
)  # fmt: skip
def test_another_answer_is_wrong(answer: str) -> None:
    assert not task.check_answer(ASKED, answer)
    assert task.check_answer(ASKED, None) is False


def test_moves_that_change_nothing_spoil_no_answer() -> None:
    assert task.check_answer("4 9 -> 9", '["empty A", "pour A->B", "fill B", "fill B"]')


@pytest.mark.parametrize("capacities", [(3, 5), (4, 6), (2, 3, 4), (1, 2, 2)])
def test_the_solver_knows_what_trying_everything_shows(capacities: tuple[int, ...]) -> None:
    """Against volumes that are tried out from each state by itself, moves carried out litre by litre."""
    count = len(capacities)
    start = (0,) * count
    reached, fresh = {start}, {start}
    while fresh:
        fresh = {poured(v, capacities, step) for v in fresh for step in every_step(count)} - reached
        reached |= fresh
    for target in range(1, max(capacities) + 2):
        for volumes in reached:
            states, moves = {volumes}, 0
            while states != (states := states | _next(states, capacities)) and not _have(states, target):
                moves += 1
            known: int | None = 0 if target in volumes else moves + 1 if _have(states, target) else None
            state = JugsState(volumes, capacities, target)
            assert distance(state) == known
            assert make_oracle().score([Node(state, None)]) == [0.0 if known is None else pytest.approx(0.9**known)]
            if known:
                assert 1 <= task.describe(state).min_tokens <= known


def _next(states: set[tuple[int, ...]], capacities: tuple[int, ...]) -> set[tuple[int, ...]]:
    return {poured(v, capacities, step) for v in states for step in every_step(len(capacities))}


def _have(states: set[tuple[int, ...]], target: int) -> bool:
    return any(target in volumes for volumes in states)


def test_the_solver_says_what_it_cannot_do(monkeypatch: pytest.MonkeyPatch) -> None:
    assert JugsOracle().score([Node(JugsState((0, 0), (4, 6), 3), None)]) == [1e-6]
    with pytest.raises(ValueError, match="state: expected volumes that moves from empty jugs bring about"):
        distance(JugsState((1, 1), (4, 6), 2))
    monkeypatch.setattr(jugs, "MOST_STATES", 50)
    with pytest.raises(ValueError, match="state: expected a puzzle of at most 50 states"):
        distance(JugsState((0, 0, 0), (97, 89, 83), 1))
    with pytest.raises(ValueError, match="gamma: expected"):
        JugsOracle(gamma=0.0)


def test_the_family_of_reasoning_gym_is_solved_through_it() -> None:
    pytest.importorskip("reasoning_gym")
    from bavt_fast.tasks.reasoning_gym import ReasoningGymTask

    family = ReasoningGymTask("jugs", size=6, seed=3, inner="jugs", difficulty=5)
    assert isinstance(task_module("jugs").make_task(), Jugs)
    assert family.questions == [gym_question(problem) for problem in family.problems]
    oracle = family.make_oracle()
    assert oracle is not None
    for question, problem in zip(family.questions, family.problems, strict=True):
        state = family.initial_state(question)
        assert distance(state.inner) == problem["metadata"]["puzzle"]["min_moves"]
        while not family.describe(state).terminal:
            behind = [after for step in every_step(3) if (after := family.apply(state, Step(step, 2))) is not None]
            state = max(behind, key=lambda after: oracle.score([Node(after, "")]))
        about = family.describe(state)
        assert about.verdict is True
        assert len(json.loads(about.answer or "")) == problem["metadata"]["puzzle"]["min_moves"]
        assert family.check_answer(question, problem["answer"])
        assert task.check_answer(question, problem["answer"])


def test_task_and_family_agree_on_random_walks() -> None:
    pytest.importorskip("reasoning_gym")
    from bavt_fast.tasks.reasoning_gym import ReasoningGymTask

    family = ReasoningGymTask("jugs", size=5, seed=7, inner="jugs", difficulty=4)
    chosen, verdicts = random.Random(1), set()
    for question, _ in itertools.product(family.questions, range(40)):
        state = task.initial_state(question)
        for _ in range(chosen.randint(1, 12)):
            after = task.apply(state, Step(chosen.choice(every_step(3)), 2))
            state = state if after is None else after
            if task.describe(state).terminal:
                break
        answer = json.dumps([_in_words(move) for move in state.moves])
        verdicts.add(task.check_answer(question, answer))
        assert task.check_answer(question, answer) == family.check_answer(question, answer)
        assert task.check_answer(question, answer) == (state.target in state.volumes)
    assert verdicts == {True, False}


def _in_words(move: str) -> str:
    source, into = move.split(">")
    return f"pour {source}->{into}" if source and into else f"empty {source}" if source else f"fill {into}"

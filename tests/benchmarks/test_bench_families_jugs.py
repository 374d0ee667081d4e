"""How a model learns water jugs: what is taught, what is held out, and that it learns; all tiny."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("reasoning_gym")

import bavt_fast as bavt  # noqa: E402
from bavt_fast.protocols import Node, Step, StepRequest  # noqa: E402
from bavt_fast.tasks.jugs import Jugs, JugsState, distance, prompt_of  # noqa: E402
from benchmarks.families import measure, training  # noqa: E402
from benchmarks.families.jugs import imitation, puzzles  # noqa: E402
from benchmarks.families.jugs.family import ThreeJugs  # noqa: E402
from benchmarks.families.jugs.puzzles import FAR, MOVES, States, Teacher  # noqa: E402

MOST = 7
SIZES = imitation.Sizes(32, layers=2, heads=2, mlp_size=64, batch=64, batches=2)
SMALL = ThreeJugs({"difficulty": 4}, validation=3, test=6, critic_problems=5, sizes=SIZES)
task = Jugs()


def as_states(states: States) -> list[JugsState]:
    columns = (states.volumes.tolist(), states.capacities.tolist(), states.targets.tolist())
    return [JugsState(tuple(v), tuple(c), t) for v, c, t in zip(*columns, strict=True)]


@pytest.fixture(scope="module")
def teacher() -> Teacher:
    return Teacher((3, MOST), 4, seed=1)


def test_a_state_says_truly_what_each_move_leaves(teacher: Teacher) -> None:
    states = teacher.states(150, 0)
    after = puzzles.moved(states.volumes, states.capacities)
    for number, state in enumerate(as_states(states)):
        assert distance(state) == states.left[number]
        for place, move in enumerate(MOVES):
            reached = task.apply(state, Step(move, 2))
            left = states.left_behind[number, place]
            assert (left == FAR) == (reached is None)
            if reached is not None:
                assert left == distance(reached)
                assert tuple(after[number, place].tolist()) == reached.volumes
    assert states.good.any(axis=1).all()
    assert len({tuple(np.argsort(row)) for row in states.capacities.tolist()}) > 3  # jugs stand in any order


def of_questions(questions: list[str]) -> set[tuple[int, ...]]:
    return {tuple(sorted(task.initial_state(question).capacities)) for question in questions}


def test_capacities_that_are_held_out_are_in_nothing_that_is_learnt_from(teacher: Teacher) -> None:
    """From the data: of the states themselves, and of the problems by the family's own generator."""
    learnt = {tuple(sorted(row)) for row in teacher.states(20_000, 0).capacities.tolist()}
    learnt |= of_questions(SMALL.critic_questions())
    assert learnt > set(teacher.sets) - learnt  # nearly all were drawn
    validation, test = (
        of_questions(list(SMALL.validation_set(1).questions)),
        of_questions(list(SMALL.fresh_set(6).questions)),
    )
    assert not learnt & (validation | test)
    assert not validation & test
    every = set(itertools.combinations_with_replacement(range(3, MOST + 1), 3))
    assert 0.25 * len(every) < len(every - learnt) < 0.75 * len(every)


def test_problems_are_the_familys_in_its_order_and_no_question_comes_twice() -> None:
    questions = list(SMALL.fresh_set(6).questions)
    assert len(set(questions)) == 6
    assert list(SMALL.fresh_set(4, 2).questions) == questions[2:]
    with pytest.raises(ValueError, match="count: expected at most"):
        SMALL.fresh_set(10_000)


def test_a_prompt_is_tokenized_as_a_search_writes_it(teacher: Teacher) -> None:
    words = imitation.Words(MOST)
    tokenizer = training.build_tokenizer(words.words)
    states = teacher.states(50, 1)
    for state, ids in zip(as_states(states), words.prompts(states).tolist(), strict=True):
        assert tokenizer.encode(prompt_of(state.volumes, state.capacities, state.target)) == ids
    for place, move in enumerate(MOVES):
        assert tokenizer.encode(f"{move}\n") == [imitation.FIRST_MOVE + place, training.BREAK_ID]


def test_moves_side_by_side_are_read_as_if_each_stood_alone(teacher: Teacher) -> None:
    student = imitation.Student(teacher, MOST, Path("nowhere"), 1.0, SIZES)
    batch = imitation.lay_out(teacher.states(20, 2), student.vocabulary, np.random.default_rng(0))
    mask, positions = imitation._seen()
    with torch.no_grad():
        whole = student.model.model(
            batch.ids, position_ids=positions.expand(20, -1), attention_mask=mask.expand(20, -1, -1, -1)
        ).last_hidden_state
        for place in range(imitation.STEPS):
            at = imitation.PROMPT + 2 * place
            ids = torch.cat([batch.ids[:, : imitation.PROMPT], batch.ids[:, at : at + 2]], dim=1)
            alone = student.model.model(ids).last_hidden_state
            torch.testing.assert_close(whole[:, at : at + 2], alone[:, -2:], rtol=1e-4, atol=1e-4)


def test_a_student_learns(teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10**6))
    monkeypatch.setattr(training.time, "process_time", lambda: float(next(clock)))  # a step takes a second
    monkeypatch.setattr(training, "ADAM_RATE", 0.01)
    student = imitation.Student(teacher, MOST, tmp_path, 2.0, SIZES)
    probe = imitation.lay_out(teacher.states(200, 10**6), student.vocabulary, np.random.default_rng(0))
    with torch.no_grad():
        before = student.losses(probe)
    student.train()
    assert student.steps == 120
    loaded = bavt.load(tmp_path, device="cpu")
    student.model = loaded.model
    with torch.no_grad():
        after = student.losses(probe)
    assert after.move < before.move - 1.0
    assert after.rule < before.rule - 0.3
    assert after.change < before.change - 0.1
    states = as_states(teacher.states(40, 3))
    prompts = [prompt_of(state.volumes, state.capacities, state.target) for state in states]
    requests = [StepRequest(prompt, seed) for seed, prompt in enumerate(prompts)]
    written = loaded.generator().propose(requests, [1] * len(prompts), [4] * len(prompts))
    assert sum(steps[0].text.rstrip("\n") in MOVES for steps in written) >= 0.8 * len(prompts)


def test_paths_are_given_up_after_the_number_of_moves_that_does_best() -> None:
    problems = SMALL.fresh_set(2)
    limited = SMALL.limited(problems, 2)
    state = limited.task.initial_state(problems.questions[0])
    for move in (">A", ">B"):
        state = limited.task.apply(state, Step(move, 2))
    assert limited.task.describe(state).verdict is False
    assert problems.task.describe(state).prompt is not None

    def run(ground: Any, options: Any, budgets: Any) -> np.ndarray:
        most = ground.problems.task.inner.max_moves
        return np.array([[most == 20, most == 100], [True, most == 100]], dtype=float)

    method = next(method for method in measure.METHODS if method.name == measure.PARALLEL)
    best = measure._limited(replace(method, run=run), SMALL)
    assert best.run(measure.Ground(problems, None, 0), {}, [60, 500]).tolist() == [[1.0, 1.0], [1.0, 1.0]]  # type: ignore[arg-type]
    tuned = next(method for method in measure.METHODS if method.name == measure.TUNED)
    assert measure._limited(tuned, SMALL) is tuned


def test_a_visited_state_is_good_where_half_of_the_way_is_behind() -> None:
    problems = SMALL.fresh_set(1)
    state = problems.task.initial_state(problems.questions[0])
    start, judged = distance(state.inner) or 0, set()
    for number in range(1, start):
        behind = [problems.task.apply(state, Step(move, 2)) for move in MOVES]
        state = min((s for s in behind if s is not None), key=lambda s: distance(s.inner) or 0)
        assert SMALL.judged([Node(state, "")], problems.solver) == [(5 * ((number + 4) // 5), 2 * number >= start)]
        judged.add(2 * number >= start)
    assert judged == {True, False}

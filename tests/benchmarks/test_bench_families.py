"""The benchmark of other families: what the model learns from, that it learns, its critic, and the report; all tiny."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("reasoning_gym")
pytest.importorskip("typer")

import bavt_fast as bavt  # noqa: E402
from bavt_fast.critics.critic_file import read_manifest  # noqa: E402
from bavt_fast.protocols import StepRequest  # noqa: E402
from bavt_fast.tasks.n_queens import NO_QUEEN, NQueens, can_be_completed, free_columns, prompt_of  # noqa: E402
from benchmarks.families import __main__ as command  # noqa: E402
from benchmarks.families import measure, report, training  # noqa: E402
from benchmarks.families.family import CRITIC, Family  # noqa: E402
from benchmarks.families.n_queens import imitation, lessons  # noqa: E402
from benchmarks.families.n_queens.boards import States, Teacher, all_solutions  # noqa: E402
from benchmarks.families.n_queens.family import Queens  # noqa: E402

SIZE = 7
SIZES = imitation.Sizes(32, layers=2, heads=2, mlp_size=64, batch=32, games=100, easy=(2, 4), missing=(3, 6))
NOTHING = np.full((1, SIZE), -2)  # a column that no queen has
PUZZLES = np.array([[-1, 3, -1, -1, 5, -1, -1], [2, -1, -1, -1, -1, -1, -1]])


def boards_of(states: States) -> list[tuple[int, ...]]:
    return [tuple(board) for board in states.boards.tolist()]


@pytest.fixture(scope="module")
def states() -> States:
    return Teacher(all_solutions(SIZE), NOTHING, seed=1).states(300, 0, 3, 6)


# ---- states


@pytest.mark.parametrize(("size", "count"), [(4, 2), (5, 10), (6, 4), (8, 92)])
def test_all_solutions_are_there_once(size: int, count: int) -> None:
    solutions = all_solutions(size)
    assert solutions.shape == (count, size)
    assert len({tuple(row) for row in solutions.tolist()}) == count
    assert all(can_be_completed(tuple(row)) for row in solutions.tolist())


def test_a_state_says_truly_what_is_free_and_what_is_good(states: States) -> None:
    for number, board in enumerate(boards_of(states)):
        row = int(states.rows[number])
        assert row == board.index(NO_QUEEN)
        for place, column in enumerate(board):
            free = np.flatnonzero(states.free[number, place]).tolist()
            assert free == (free_columns(board, place) if column == NO_QUEEN else [])
        good = [can_be_completed((*board[:row], column, *board[row + 1 :])) for column in range(SIZE)]
        assert states.good[number].tolist() == good
    assert 0.4 < states.good.any(axis=1).mean() < 0.9  # both kinds
    assert set(states.missing.tolist()) == {1, 2, 3, 4, 5, 6}


def contains_all(board: tuple[int, ...], puzzle: list[int]) -> bool:
    """By its own words, apart from `boards.contains`."""
    return {(r, c) for r, c in enumerate(puzzle) if c >= 0} <= {(r, c) for r, c in enumerate(board)}


def test_neither_a_state_nor_what_is_behind_its_steps_is_one_of_a_held_out_puzzle() -> None:
    held, free = (Teacher(all_solutions(SIZE), puzzles, seed=2).states(900, 0, 3, 5) for puzzles in (PUZZLES, NOTHING))

    def leaks(states: States) -> int:
        found = 0
        for board, row in zip(boards_of(states), states.rows.tolist(), strict=True):
            behind = [(*board[:row], column, *board[row + 1 :]) for column in range(SIZE)]
            found += any(contains_all(one, puzzle) for one in [board, *behind] for puzzle in PUZZLES.tolist())
        return found

    assert leaks(held) == 0
    assert leaks(free) > 100
    assert len(held.boards) > 150


# ---- the model


def quick_lessons(patch: pytest.MonkeyPatch) -> None:
    """A step takes a second of the clock, and a small model dares more."""
    clock = iter(range(10**6))
    patch.setattr(training.time, "process_time", lambda: float(next(clock)))
    patch.setattr(training, "WARM_UP_STEPS", 10)
    patch.setattr(training, "ADAM_RATE", 0.01)


def test_a_prompt_is_tokenized_as_a_search_writes_it(states: States) -> None:
    tokenizer = training.build_tokenizer(lessons.words_of(SIZE))
    for board, ids in zip(boards_of(states), lessons.prompt_ids(states), strict=True):
        assert tokenizer.encode(prompt_of(board)) == ids
    assert tokenizer.decode(tokenizer.encode("c4\n")) == "c4\n"


def test_steps_side_by_side_are_read_as_if_each_stood_alone(states: States) -> None:
    torch.manual_seed(1)
    student = imitation.Student(Teacher(all_solutions(SIZE), NOTHING, seed=3), Path("nowhere"), 1.0, SIZES)
    batch = lessons.lay_out(states.take(np.arange(12)), np.random.default_rng(0))
    mask = torch.zeros(batch.mask.shape).masked_fill_(~batch.mask, -1e9)
    with torch.no_grad():
        whole = student.model.model(batch.ids, position_ids=batch.positions, attention_mask=mask).last_hidden_state
        for number, prompt in enumerate(lessons.prompt_ids(states.take(np.arange(12)))):
            for place, column in enumerate(batch.steps[number].tolist()):
                if column < 0:
                    continue
                step = [lessons.FIRST_SQUARE + SIZE * int(batch.rows[number]) + column, training.BREAK_ID]
                alone = student.model.model(torch.tensor([[*prompt, *step]])).last_hidden_state[0]
                at = batch.width + 2 * place
                torch.testing.assert_close(whole[number, at : at + 2], alone[-2:], rtol=1e-4, atol=1e-4)
                assert bool(batch.free[number, batch.rows[number], column])
            torch.testing.assert_close(whole[number, : len(prompt)], alone[: len(prompt)], rtol=1e-4, atol=1e-4)


def test_the_rule_counts_what_a_queen_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    apart = imitation._apart(SIZE)
    for square in range(SIZE * SIZE):
        board = [NO_QUEEN] * SIZE
        board[square // SIZE] = square % SIZE
        for row in set(range(SIZE)) - {square // SIZE}:
            assert np.flatnonzero(apart[square, row]).tolist() == free_columns(board, row)


def test_a_student_learns_and_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_lessons(monkeypatch)
    teacher = Teacher(all_solutions(SIZE), NOTHING, seed=3)
    student = imitation.Student(teacher, tmp_path, 2.0, SIZES)
    probe = lessons.lay_out(Teacher(all_solutions(SIZE), NOTHING, seed=4).states(60, 0, 3, 6), np.random.default_rng(0))
    with torch.no_grad():
        before = student.losses(probe)
    monkeypatch.setattr(student, "save", lambda: None)  # as if it had ended without a word
    student.seconds = 70.0
    student.train(checkpoint_every_s=30.0)
    assert (tmp_path / training.CHECKPOINT).is_file()
    again = imitation.Student(teacher, tmp_path, 2.0, SIZES)
    assert (again.steps, again.spent_s) == (62, 62.0)
    again.train()
    assert again.steps == 120
    assert not (tmp_path / training.CHECKPOINT).exists()
    loaded = bavt.load(tmp_path, device="cpu")
    again.model = loaded.model
    with torch.no_grad():
        after = again.losses(probe)
    assert after.queen < before.queen - 1.0
    assert after.rule < before.rule - 0.3
    assert after.judged < before.judged
    prompts = [prompt_of(board) for board in boards_of(Teacher(all_solutions(SIZE), NOTHING, 4).states(60, 0, 3, 6))]
    written = loaded.generator().propose(
        [StepRequest(prompt, seed) for seed, prompt in enumerate(prompts)], [1] * len(prompts), [4] * len(prompts)
    )
    whole = [re.fullmatch(r"[a-g][1-7]\n", steps[0].text) for steps in written]
    assert sum(step is not None for step in whole) >= 0.8 * len(prompts)


# ---- from end to end


@pytest.mark.parametrize("family", command.FAMILIES.values(), ids=command.FAMILIES)
def test_no_plan_measures_what_training_did_not_keep_away_from(family: Family) -> None:
    for plan in (measure.Plan(), command.QUICK):
        plan = plan.within(family)
        assert plan.validation <= family.validation
        assert plan.problems <= family.test


CRITIC_OPTIONS = {**Queens().critic_options, "budget-tokens": 30, "rounds": 1}
SMALL = Queens({"n": SIZE, "min_remove": 4, "max_remove": 5}, 2, 4, 20, CRITIC_OPTIONS, SIZES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model of small boards and its critic, by the benchmark's own functions."""
    folder = tmp_path_factory.mktemp("families") / SMALL.name
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        quick_lessons(patch)
        command.train_model(SMALL, folder, minutes=2.0)
    command.train_critic(SMALL, folder)
    return folder


def test_the_critic_is_made_by_the_command_for_the_family(trained: Path) -> None:
    manifest = read_manifest(trained / CRITIC)
    assert manifest.task == SMALL.critic_task == "reasoning_gym:n_queens"
    assert manifest.figures["questions"] == 20
    assert manifest.figures["tokens"]["labelling"] == 0  # the family's exact solver labels


class Here:
    """In the place of other processes, which would not have the small family."""

    def __init__(self, processes: int) -> None:
        assert processes >= 1

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    map = staticmethod(map)


def test_everything_is_measured_and_told_again_from_its_file(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = measure.Plan(4, 2, (0.7, 1.0), (10, 40), 200, 1)
    monkeypatch.setattr(command, "QUICK", plan)
    monkeypatch.setattr(command, "FAMILIES", {SMALL.name: SMALL})
    monkeypatch.setattr(command, "workers", Here)
    command.main(["n_queens", "--quick", "--folder", str(trained.parent), "--out", str(tmp_path)])
    found = json.loads((tmp_path / "families-n_queens.json").read_text())
    results = report.results_in(found)
    for method in measure.COMPARED:
        rates = [results.median(report.r.SUCCESS, method, budget_tokens=budget) for budget in plan.budgets]
        assert all(rate is not None and 0.0 <= rate <= 1.0 for rate in rates)
    text = (tmp_path / "families-n_queens.md").read_text()
    assert "bavt-fast train critic" in text
    (tmp_path / "families-n_queens.md").unlink()
    command.main(["--again", "--out", str(tmp_path)])
    assert (tmp_path / "families-n_queens.md").read_text() == text
    page, *plots = report.write_page([(found, SMALL.texts)], tmp_path / "docs")
    assert page.read_text().startswith("# Nothing is made for Countdown\n")
    assert "## reasoning_gym n_queens\n" in page.read_text()
    assert [plot.name for plot in plots] in ([], ["families-n_queens.svg"])


def test_a_searched_state_is_looked_up_exactly(trained: Path) -> None:
    problems = SMALL.fresh_set(3)
    ground = measure.Trained(SMALL, trained, seed=1).ground(problems, 1.0, 1)
    searches = measure.ours.search_all(ground.pool, problems.task, problems.questions, [40], {}, seed=1)
    missing, values, alive = measure.visited(SMALL, [search for (search,) in searches], problems)
    assert len(missing) == len(values) == len(alive) > 5
    assert len(set(missing.tolist())) >= 2
    assert set(missing.tolist()) <= {1, 2, 3, 4}
    assert NQueens().initial_state(problems.questions[0]).columns in {
        search.nodes[0].state.inner.columns for (search,) in searches
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--train", "--minutes", "0"], "minutes: expected more than 0"),
        (["--processes", "0"], "processes: expected at least 1"),
        (["chess"], "FAMILY: expected some of n_queens, jugs, got 'chess'"),
    ],
)
def test_what_cannot_be_run_is_said_at_once(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main([*words, "--folder", str(tmp_path)])
    assert message in capsys.readouterr().err

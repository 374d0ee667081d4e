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
from bavt_fast.tasks.n_queens import NO_QUEEN, NQueens, can_be_completed, prompt_of  # noqa: E402
from benchmarks.families import __main__ as command  # noqa: E402
from benchmarks.families import imitation, measure, queens, report  # noqa: E402
from benchmarks.families.boards import SORTED_SHARE, WRONG_SHARE, Teacher, Texts, all_solutions  # noqa: E402

SIZE = 7
SIZES = imitation.Sizes(hidden_size=32, layers=2, heads=2, mlp_size=64, texts=64)
NOTHING = np.full((1, SIZE), -2)  # a column that no queen has
PUZZLES = np.array([[-1, 3, -1, -1, 5, -1, -1], [2, -1, -1, -1, -1, -1, -1]])


def prefixes(texts: Texts, text: int) -> list[tuple[int, ...]]:
    """The boards that a text comes to, queen by queen."""
    columns, boards = [NO_QUEEN] * texts.rows.shape[1], []
    for row, column in zip(texts.rows[text].tolist(), texts.columns[text].tolist(), strict=True):
        columns[row] = column
        boards.append(tuple(columns))
    return boards


@pytest.fixture(scope="module")
def texts() -> Texts:
    return Teacher(all_solutions(SIZE), NOTHING, seed=1).batch(300, 0)


# ---- texts


@pytest.mark.parametrize(("size", "count"), [(4, 2), (5, 10), (6, 4), (8, 92)])
def test_all_solutions_are_there_once(size: int, count: int) -> None:
    solutions = all_solutions(size)
    assert solutions.shape == (count, size)
    assert len({tuple(row) for row in solutions.tolist()}) == count
    assert all(can_be_completed(tuple(row)) for row in solutions.tolist())


def test_a_text_says_truly_what_can_be_completed(texts: Texts) -> None:
    for text in range(len(texts.rows)):
        assert sorted(texts.rows[text].tolist()) == list(range(SIZE))
        boards = prefixes(texts, text)
        assert texts.alive[text].tolist() == [can_be_completed(board) for board in boards]
    assert 0.2 < texts.alive[:, -1].mean() < 0.8  # both kinds


def test_what_is_imitated_is_a_solution_behind_a_prompt(texts: Texts) -> None:
    steps = np.arange(SIZE)
    assert not (texts.right & ~texts.alive).any()
    assert not (texts.right & (steps < texts.prompts[:, None])).any()
    in_order = [list(row[:n]) == sorted(row[:n]) for row, n in zip(texts.rows.tolist(), texts.prompts, strict=True)]
    assert all(in_order)
    later = texts.rows[texts.prompts == 2][:, 2:]
    assert (np.diff(later, axis=1) < 0).any(axis=1).mean() > 0.8  # the rest is in any order
    assert texts.right.any(axis=1).mean() > 1 - WRONG_SHARE
    assert (texts.prompts > 2).mean() < SORTED_SHARE + 0.1


def contains_all(board: tuple[int, ...], puzzle: list[int]) -> bool:
    """By its own words, apart from `boards.contains`."""
    return {(r, c) for r, c in enumerate(puzzle) if c >= 0} <= {(r, c) for r, c in enumerate(board)}


def test_no_text_comes_to_a_state_of_a_held_out_puzzle() -> None:
    held, free = (Teacher(all_solutions(SIZE), puzzles, seed=2).batch(600, 0) for puzzles in (PUZZLES, NOTHING))

    def leaks(texts: Texts) -> int:
        boards = [board for text in range(len(texts.rows)) for board in prefixes(texts, text)]
        return sum(contains_all(board, puzzle) for board in boards for puzzle in PUZZLES.tolist())

    assert leaks(held) == 0
    assert leaks(free) > 100
    assert len(held.rows) > 150


# ---- the model


def quick_lessons(patch: pytest.MonkeyPatch) -> None:
    """A step takes a second of the clock, and a small model dares more."""
    clock = iter(range(10**6))
    patch.setattr(imitation.time, "process_time", lambda: float(next(clock)))
    patch.setattr(imitation, "WARM_UP_STEPS", 20)
    patch.setattr(imitation, "PEAK_RATE", 0.01)


def test_a_text_is_tokenized_as_a_search_writes_it(texts: Texts, tmp_path: Path) -> None:
    tokenizer = imitation.build_tokenizer(SIZE)
    ids = imitation.as_tokens(texts)
    for text in range(20):
        number = int(texts.prompts[text])
        if list(texts.rows[text][:number]) == sorted(texts.rows[text][:number]):
            prompt = prompt_of(prefixes(texts, text)[number - 1])
            assert tokenizer.encode(prompt) == ids[text][: 2 + 2 * number].tolist()
            assert tokenizer.decode(ids[text][: 2 + 2 * number]) == prompt


def test_a_student_learns_and_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quick_lessons(monkeypatch)
    teacher = Teacher(all_solutions(SIZE), NOTHING, seed=3)
    student = imitation.Student(teacher, tmp_path, 2.0, SIZES)
    probe = Teacher(all_solutions(SIZE), NOTHING, seed=4).batch(200, 0)
    with torch.no_grad():
        before = [float(loss) for loss in student.losses(probe)]
    monkeypatch.setattr(student, "save", lambda: None)  # as if it had ended without a word
    student.seconds = 70.0
    student.train(checkpoint_every_s=30.0)
    assert (tmp_path / imitation.CHECKPOINT).is_file()
    again = imitation.Student(teacher, tmp_path, 2.0, SIZES)
    assert (again.steps, again.spent_s) == (62, 62.0)
    again.train()
    assert again.steps == 120
    assert not (tmp_path / imitation.CHECKPOINT).exists()
    loaded = bavt.load(tmp_path, device="cpu")
    again.model = loaded.model
    with torch.no_grad():
        after = [float(loss) for loss in again.losses(probe)]
    assert after[0] < before[0] - 0.5
    assert after[1] < before[1] - 0.05
    prompts = [prompt_of(prefixes(probe, text)[1]) for text in range(100)]  # what a search asks
    written = loaded.generator().propose(
        [StepRequest(prompt, seed) for seed, prompt in enumerate(prompts)], [1] * 100, [4] * 100
    )
    whole = [re.fullmatch(r"[a-g][1-7]\n", steps[0].text) for steps in written]
    assert sum(step is not None for step in whole) >= 80


# ---- from end to end


def test_no_plan_measures_what_training_did_not_keep_away_from() -> None:
    for plan in (measure.Plan(), command.QUICK):
        assert plan.validation <= command.HELD_OUT[0]
        assert plan.problems <= command.HELD_OUT[1]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of small boards and its critic, by the benchmark's own functions."""
    folder = tmp_path_factory.mktemp("family")
    with pytest.MonkeyPatch.context() as patch:
        as_small(patch)
        quick_lessons(patch)
        command.train_model(folder, minutes=4.0)
        patch.undo()
        as_small(patch)
        command.train_critic(folder, 12)
    return folder


def as_small(patch: pytest.MonkeyPatch) -> None:
    family = {"name": "n_queens", "inner": "n_queens", "n": SIZE, "min_remove": 2, "max_remove": 3}
    patch.setattr(queens, "SIZE", SIZE)
    patch.setattr(queens, "FAMILY", family)
    patch.setattr(command, "HELD_OUT", (2, 4))
    patch.setattr(command, "Sizes", lambda: SIZES)
    patch.setattr(command, "CRITIC_OPTIONS", {**command.CRITIC_OPTIONS, "budget-tokens": 30, "rounds": 1})


def test_the_critic_is_made_by_the_command_for_the_family(trained: Path) -> None:
    manifest = read_manifest(trained / measure.CRITIC)
    assert manifest.task == "reasoning_gym:n_queens"
    assert manifest.figures["questions"] == 12
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
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    as_small(monkeypatch)
    plan = measure.Plan(4, 2, (0.7, 1.0), (10, 40), 200, 1)
    monkeypatch.setattr(command, "QUICK", plan)
    monkeypatch.setattr(command, "workers", Here)
    command.main(["--quick", "--folder", str(trained), "--out", str(tmp_path)])
    found = json.loads((tmp_path / "families.json").read_text())
    results = report.results_in(found)
    for method in measure.COMPARED:
        rates = [results.median(report.r.SUCCESS, method, budget_tokens=budget) for budget in plan.budgets]
        assert all(rate is not None and 0.0 <= rate <= 1.0 for rate in rates)
    text = (tmp_path / "families.md").read_text()
    assert "bavt-fast train critic" in text
    (tmp_path / "again").mkdir()
    command.main(["--again", str(tmp_path / "families.json"), "--out", str(tmp_path / "again")])
    assert (tmp_path / "again" / "families.md").read_text() == text
    capsys.readouterr()
    page, *_ = report.write_page(found, tmp_path / "docs")
    assert page.read_text().startswith("# Nothing is made for Countdown\n")


def test_a_searched_state_is_looked_up_exactly(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_small(monkeypatch)
    problems = queens.fresh_set(3)
    ground = measure.Trained(trained, seed=1).ground(problems, 1.0, 1)
    searches = measure.ours.search_all(ground.pool, problems.task, problems.questions, [40], {}, seed=1)
    missing, values, alive = measure.visited([search for (search,) in searches], problems)
    assert len(missing) == len(values) == len(alive) > 5
    assert set(missing.tolist()) == {1, 2}
    assert NQueens().initial_state(problems.questions[0]).columns in {
        search.nodes[0].state.inner.columns for (search,) in searches
    }


def test_what_cannot_be_run_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--train", "--minutes", "0", "--folder", str(tmp_path)])
    assert "minutes: expected more than 0" in capsys.readouterr().err

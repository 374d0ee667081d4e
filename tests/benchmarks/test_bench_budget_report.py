"""The budget benchmark's intervals, multipliers and report, from curves that are made up."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from bavt_fast.protocols import Step
from bavt_fast.tasks.countdown.training.states import TEST, VALIDATION, held_out, split_residue
from benchmarks.budget import __main__ as main
from benchmarks.budget import problems, report, rows
from benchmarks.budget.bench import Measured, budgets_of
from benchmarks.budget.curves import interval, multiplier, resampled, spliced, tokens_for
from benchmarks.budget.methods import METHODS, OURS, PARALLEL, SOLVER, TUNED, Curve
from benchmarks.budget.plan import DEFAULT, FIXED, FULL, PLANS, QUICK, Plan
from benchmarks.budget.tuning import Choice
from benchmarks.budget.visits import KINDS, Visits
from benchmarks.harness import LeftOut, Results

# ---- curves


def test_tokens_for_a_success_lie_between_budgets() -> None:
    budgets, rates = np.array([100, 400, 1600]), np.array([[0.2, 0.6, 0.6], [0.0, 0.0, 0.5]])
    found = tokens_for(np.array([0.4, 0.25]), budgets, rates)
    assert found == pytest.approx([200, 800])  # half way in logarithms
    assert tokens_for(np.array([0.2, 0.5]), budgets, rates) == pytest.approx([100, 1600])
    assert tokens_for(np.array([0.7, 0.6]), budgets, rates).tolist() == [np.inf, np.inf]


def test_a_multiplier_compares_at_the_same_success() -> None:
    solved = np.zeros((10, 3))
    solved[:5, 2] = 1.0
    baseline = Curve(np.array([100, 200, 400]), solved)
    ours = Curve(np.array([100, 200]), np.repeat((np.arange(10) < 5)[:, None], 2, axis=1).astype(float))
    value, low, high = multiplier(ours, baseline, 100, resampled(10))
    assert (value, low, high) == pytest.approx((4.0, 4.0, 4.0))  # the same problems: no resample tells them apart
    harder = Curve(ours.budgets, np.ones((10, 2)))
    assert multiplier(harder, baseline, 100, resampled(10))[0] == np.inf
    never = Curve(ours.budgets, np.zeros((10, 2)))
    assert multiplier(never, baseline, 100, resampled(10))[0] == 0.0


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        solved = (rng.random(100) < 0.3).astype(float)
        low, high = interval(resampled(100, trial) @ solved)
        hits += low <= 0.3 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_resamples_are_the_same_for_all_methods() -> None:
    assert (resampled(20, 1) == resampled(20, 1)).all()
    assert resampled(20, 1).sum(axis=1) == pytest.approx(1.0)


def test_a_spliced_curve_takes_each_budget_from_its_own() -> None:
    one, other = (Curve(np.array([1, 2]), np.full((3, 2), share)) for share in (0.0, 1.0))
    assert spliced([one, other], [1, 0]).rates.tolist() == [1.0, 0.0]


# ---- problems


@pytest.mark.parametrize("name", ["game24", "countdown4", "countdown5", "countdown6", "wide5"])
def test_our_own_sets_are_held_out(name: str) -> None:
    found = problems.SETS[name](30, 12)
    assert found.held_out == found.size >= 30
    assert found.questions == problems.SETS[name](30, 12).questions


def test_a_part_of_a_set_is_spread_over_it() -> None:
    found = problems.Problems("by hand", [str(i) for i in range(90)], 10, None)
    part = found.part(10)
    assert (list(part.questions), part.refused) == (["0", "11", "22", "33", "44", "56", "67", "78", "89"], 1)
    assert found.part(1000).questions == found.questions
    assert found.part(1000).refused == 10


def test_validation_problems_are_not_test_problems() -> None:
    found = problems.validation_set(10, 11)
    states = [found.task.initial_state(question).numbers for question in found.questions]
    assert [len(numbers) for numbers in states] == [4, 4, 4, 5, 5, 5, 6, 6, 5, 5]
    residues = {int(split_residue(np.array([numbers], np.int32))[0]) for numbers in states}
    assert residues == {VALIDATION} != {TEST}
    assert all(held_out(np.array([numbers], np.int32))[0] for numbers in states)


@pytest.mark.parametrize("family", ["countdown", "puzzle24"])
def test_reasoning_gym_judges_its_own_problems(family: str) -> None:
    gym = pytest.importorskip("reasoning_gym")
    found = problems.reasoning_gym_set(family)
    assert found.size == 100
    dataset = gym.create_dataset(family, size=100, seed=42)
    assert dataset.score_answer("1 + 1", dataset[0]) < 1.0
    state = found.task.initial_state("2 3 4 5 -> 24") if family == "puzzle24" else None
    if state is not None:  # what is no problem of the set cannot be judged
        with pytest.raises(KeyError):
            _end_of(found.task, state)
    assert found.part(10).size == 10


def _end_of(task: problems.JudgedCountdown, state: object) -> object:
    for text in ("5 - 3 = 2 (left: 2 2 4)", "2 + 2 = 4 (left: 4 4)", "4 + 4 = 8 (left: 8)"):
        state = task.apply(state, Step(text, 10))
    return task.describe(state._replace(target=8))


def test_a_judge_only_refutes_what_the_task_accepts() -> None:
    asked = []

    def judge(start: tuple[tuple[int, ...], int], answer: str) -> bool:
        asked.append((start, answer))
        return False

    task = problems.JudgedCountdown(judge)
    state = task.apply(task.initial_state("2 3 -> 6"), Step("3 * 2 = 6 (left: 6)", 8))
    assert task.describe(state).verdict is False
    assert asked == [(((2, 3), 6), "3 * 2")]
    wrong = task.apply(task.initial_state("2 3 -> 5"), Step("3 * 2 = 6 (left: 6)", 8))
    assert task.describe(wrong).verdict is False
    assert len(asked) == 1


def test_a_set_without_its_package_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(main.sys.modules, "reasoning_gym", None)
    with pytest.raises(LeftOut, match="reasoning_gym's countdown"):
        problems.reasoning_gym_set("countdown")


# ---- plans and report


def test_the_default_says_what_it_leaves_out() -> None:
    assert "UCT" in DEFAULT.says
    assert f"at most {DEFAULT.problems} problems a set" in DEFAULT.says
    assert "Not run" not in FULL.says
    assert "AB-MCTS-M" in FULL.says
    assert "wide5" in QUICK.says
    for plan in PLANS.values():
        assert set(plan.budgets) <= set(plan.fine)
        assert {PARALLEL, TUNED, SOLVER} <= {method.name for method in plan.methods}


@pytest.mark.parametrize("plan", [DEFAULT, FULL])
def test_parallel_sampling_is_run_at_the_fixed_budgets(plan: Plan) -> None:
    budgets = budgets_of(METHODS[0], plan)
    assert {*FIXED, *plan.budgets, plan.baseline_tokens} <= set(budgets)
    assert max(budgets) == plan.baseline_tokens


def made_up_set(name: str) -> Measured:
    budgets = np.array(sorted({*QUICK.fine, QUICK.baseline_tokens}))
    rng = np.random.default_rng(1)
    order = rng.permutation(40)

    def curve(speed: float) -> Curve:
        return Curve(budgets, (order[:, None] < 12 * np.log2(budgets * speed / 50)).astype(float))

    curves = {m.name: curve(1.0) for m in METHODS} | {PARALLEL: curve(0.5), SOLVER: curve(4.0), OURS: curve(1.5)}
    visits = Visits(
        left=np.array([2, 2, 3, 3]),
        values=np.array([0.9, 0.1, 0.2, 0.8]),
        alive=np.array([True, False, True, False]),
        searches=np.zeros(4, dtype=int),
        tokens=np.array([50, 20, 20, 5, 5]),
    )
    return Measured(name, 40, 0, 40, curves, visits, {250: 200.0, 500: 310.0}, (10, 100), 1.0)


def made_up_report() -> dict[str, object]:
    measured = [made_up_set("Countdown-5"), made_up_set("Game of 24, ranks 901-1000")]
    waves = dict.fromkeys(QUICK.waves, measured[0].curves[OURS])
    line = {
        "failure": 0.1,
        "median_bound": 98.0,
        "trials_within": 1.0,
        "least_within": 0.95,
        "searches_within": 1.0,
        "median_needed": 5.0,
    }
    return report.made_of(
        QUICK,
        command="python -m benchmarks.budget",
        choices={TUNED: Choice(0.7, {"decay": 0.7}, None, 0.5)},
        measured=measured,
        in_flight=waves,
        bounds={"countdown4": [line]},
        left_out=["treequest: not here"],
        wall_s=60.0,
    )


def test_rows_of_a_set() -> None:
    results = Results(rows.rows_of_set(made_up_set("Countdown-5"), QUICK))
    (ours,) = results.of(rows.SUCCESS, OURS, budget_tokens=125)
    share = np.floor(12 * np.log2(125 * 1.5 / 50)) + 1
    assert ours.median == pytest.approx(share / 40)
    assert ours.p20 < ours.median < ours.p80
    assert results.median(rows.MULTIPLIER, OURS, budget_tokens=125) == pytest.approx(3.0, rel=0.15)
    assert results.median(rows.OVER_SOLVER, OURS, budget_tokens=250) == pytest.approx(4 / 1.5, rel=0.15)
    assert results.median(rows.AHEAD, OURS, budget_tokens=125) < 0  # the tuned search is the slower one here
    assert results.median(rows.VISITED, "auc_2_left") == 1.0
    assert results.median(rows.VISITED, "auc_3_left") == 0.0
    assert [results.median(rows.TOKEN_SHARE, kind) for kind in KINDS] == [0.5, 0.2, 0.2, 0.05, 0.05]


def test_figures_that_would_mislead_are_left_out() -> None:
    made = made_up_set("Countdown-5")
    everything, nothing = (np.full_like(made.curves[OURS].solved, share) for share in (1.0, 0.0))
    made.curves[OURS] = Curve(made.curves[OURS].budgets, nothing)
    made.curves[TUNED] = made.curves[PARALLEL] = Curve(made.curves[OURS].budgets, everything)
    results = Results(rows.rows_of_set(made, QUICK))
    assert not results.of(rows.OVER_SOLVER, OURS)
    assert results.median(rows.MULTIPLIER, OURS, budget_tokens=125) == 0.0
    assert not results.of(rows.MULTIPLIER, TUNED, budget_tokens=125)


def test_the_report_is_whole_and_can_be_written_again(tmp_path: Path) -> None:
    made = made_up_report()
    written = report.write_all(made, tmp_path)
    assert all(path.stat().st_size > 0 for path in written)
    text = (tmp_path / "budget.md").read_text()
    for line in (
        "Left out: treequest: not here.",
        "## Countdown-5",
        "| at a dead state | 20.0% | 20.0% |",
        "| AUC, 3 left | 0.000 | 0.000 |",
        "| countdown4 | 0.1 | 98 | 5 | 100.00% | 95.00% | 100.0% |",
        "\n| 16 |",
        "| decay 0.7 | 50.0% |",
    ):
        assert line in text
    with (tmp_path / "budget.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(made["rows"])
    assert {"what", "who", "set", "budget_tokens", "value", "low", "high"} <= lines[0].keys()
    main.write(json.loads((tmp_path / "budget.json").read_text()), tmp_path / "again")
    assert (tmp_path / "again" / "budget.md").read_text() == text
    page = report.write_page(made, tmp_path / "docs")[0].read_text()
    assert "../images/budget-countdown-5.svg" in page
    assert page.startswith("# A budget buys more\n")
    assert page.count("\n## ") == text.count("\n## ")


def test_targets_are_of_the_tuned_search() -> None:
    results = Results(rows.rows_of_set(made_up_set("Countdown-5"), QUICK))
    found = {target.what: target for target in rows.targets(results)}
    assert found["Countdown-5: multiplier at 125"].value == pytest.approx(2.0, rel=0.15)
    assert found["Countdown-4: multiplier at 125"].verdict == "not measured"
    assert results.of(rows.AHEAD, OURS)[1].p80 < 0  # the same search with other settings, which is not counted
    assert found["methods ahead of the tuned search, over all sets and budgets"].value == 0


def test_bad_arguments_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, named in (
        (["--sets", "chess,countdown4"], "got chess"),
        (["--problems", "0"], "--problems"),
        (["--seed", "-1"], "--seed"),
        (["--processes", "0"], "--processes"),
        (["--model", "nowhere"], "nowhere has no config.json"),
    ):
        with pytest.raises(SystemExit):
            main.main(arguments)
        assert named in capsys.readouterr().err

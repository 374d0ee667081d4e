"""The benchmark of the engine: it runs, its free searches are what they say, its report says what was measured."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bavt_fast import Searcher
from bavt_fast.protocols import Step
from bavt_fast.tasks.countdown import Countdown
from benchmarks.engine import __main__ as engine
from benchmarks.engine import contract, plain_loop, rows, searches
from benchmarks.engine.targets import targets_of
from benchmarks.harness import ROOT, Limits, Results, Row


@pytest.mark.parametrize("task", contract.TASKS)
def test_the_free_searches_spend_their_budgets(task: str) -> None:
    questions = contract.questions_of(task, 20)
    assert len(set(questions)) == 20
    searcher, watched = contract.searcher_of(task, wave=20)
    found = []
    total_s, outside_s, steps = watched.run(
        lambda: found.extend(searcher.search_many(questions, budget=contract.budget_of(30)))
    )
    assert [result.stop_reason for result in found] == ["budget"] * 20
    assert sum(result.invalid_steps for result in found) <= 20, "a last step that what was left cut short, and no other"
    assert steps >= 20 * 30
    assert 0.0 < outside_s < total_s


def test_free_text_is_new_at_every_step() -> None:
    searcher, watched = contract.searcher_of("TextTask", wave=16)
    found = []
    _, _, steps = watched.run(lambda: found.append(searcher.search("question", budget=contract.budget_of(300))))
    assert (steps, found[0].tree.num_nodes, found[0].duplicate_steps) == (300, 301, 0)


def test_prepared_steps_come_round() -> None:
    generator, asked = contract.FreeText(), [None] * (contract.PREPARED - 3)
    first, later = (generator.propose(asked, [], []) for _ in range(2))
    assert len(first) == len(later) == len(asked)
    assert later[3] is first[0]


@pytest.mark.parametrize("question", ["4 5 6 10", "1 1 2 50 -> 999", "6 12 24 48 96 -> 5"])
def test_canned_steps_are_all_the_legal_ones(question: str) -> None:
    task = Countdown()
    state = task.initial_state(question)
    steps = contract.legal_steps(str(task.describe(state).prompt))
    reached = [task.apply(state, step) for step in steps]
    assert None not in reached
    expected = set()
    for i, j in itertools.permutations(range(len(state.numbers)), 2):
        a, b = state.numbers[i], state.numbers[j]
        rest = [number for place, number in enumerate(state.numbers) if place not in (i, j)]
        made = {a + b, a * b, *([a - b] if a >= b else []), *([a // b] if b and a % b == 0 else [])}
        expected |= {tuple(sorted([*rest, result])) for result in made if result <= 999}
    assert {child.numbers for child in reached if child is not None} == expected
    assert all(step.tokens == 7 + len(child.numbers) for step, child in zip(steps, reached, strict=True))


def test_verdicts_and_terminal_states_are_counted() -> None:
    counted = contract.CountedVerdicts("Countdown")
    state = counted.initial_state("2 3 4")
    state = counted.apply(state, Step("3 + 4 = 7 (left: 2 7)", 9))
    assert (counted.terminal_states, counted.apply(state, Step("nonsense", 1))) == (0, None)
    for text in ("7 * 2 = 14 (left: 14)", "7 - 2 = 5 (left: 5)", "7 - 2 = 5 (left: 5)"):
        assert counted.describe(counted.apply(state, Step(text, 8))).verdict is False
    assert not counted.describe(state).terminal
    assert (counted.terminal_states, counted.verify_calls) == (2, 3)


def test_memory_is_probed_while_the_search_runs() -> None:
    moments = iter([17])
    assert contract.weightless_search(40, lambda: next(moments))() == (17, 41)
    assert next(moments, None) is None, "once"


class Streamed:
    """A streaming generator of legal steps of Countdown, which tells two requests at a time."""

    def __init__(self) -> None:
        self._free = contract.FreeCountdown()
        self._waiting: list[Any] = []

    def submit(self, *columns: Any) -> None:
        self._waiting += zip(*columns, strict=True)

    def collect(self) -> Any:
        now, self._waiting = self._waiting[:2], self._waiting[2:]
        return [(ticket, self._free.propose([state], [count], [limit])[0]) for ticket, state, count, limit in now]

    def discard(self, tickets: Any) -> None:
        self._waiting = [item for item in self._waiting if item[0] not in tickets]


def test_a_recorded_search_is_played_back_the_same() -> None:
    questions, budget, task = contract.questions_of("Countdown", 5), contract.budget_of(40), Countdown()
    generator, critic = Streamed(), contract.FreeCritic()
    recorded = contract.Recorded(generator, critic)
    searched = Searcher(generator, critic, task, wave=5).search_many(questions, budget=budget, seed=3)
    for _ in range(2):
        playback = contract.Playback(recorded)
        watched, found = contract.Watched(playback, playback), []
        searcher = Searcher(playback, playback, task, wave=5)
        *_, steps = watched.run(lambda: found.extend(searcher.search_many(questions, budget=budget, seed=3)))  # noqa: B023
        assert steps == sum(len(answer) for told in recorded.told for _, answer in told) >= 5 * 40
        for ours, theirs in zip(found, searched, strict=True):
            assert (ours.steps, ours.refused, ours.spent.tokens) == (theirs.steps, theirs.refused, theirs.spent.tokens)
            assert ours.tree.values.tolist() == theirs.tree.values.tolist()
    recorded.clear()
    assert (recorded.told, recorded.scores) == ([], [])


# ---- The plain loop ------------------------------------------------------------------------------------------------


def test_the_plain_loop_spends_its_budget_and_never_more() -> None:
    texts, limits = itertools.count(), []

    def generate(context: str, limit: int) -> tuple[str, int]:
        limits.append(limit)
        return f"step {next(texts)}", min(limit, 10)

    path, root = plain_loop.search("question", generate, lambda context: 0.5, 95, max_depth=3)
    assert len(limits) == 10
    assert limits[-1] == 5
    assert root["visits"] == 10, "every step is a node, and all are backed up to the root"
    assert 0 < len(path) <= 3


def test_the_plain_loop_goes_where_the_value_is() -> None:
    def score(context: str) -> float:
        return 0.9 if "good" in context.rpartition("\n")[2] else 0.01

    names = itertools.cycle(["good", "bad"])
    numbers = itertools.count()
    path, root = plain_loop.search(
        "question", lambda context, limit: (f"{next(names)} {next(numbers)}", 1), score, 300, max_depth=4
    )
    assert len(path) == 4
    assert all(step.startswith("good") for step in path)
    assert root["visits"] == 300


def test_the_plain_loop_drops_duplicates_and_ends_at_an_answer() -> None:
    path, root = plain_loop.search("question", lambda context, limit: ("Answer: 4", 1), lambda context: 0.5, 20)
    assert (path, root["visits"]) == (["Answer: 4"], 1)


# ---- The report ----------------------------------------------------------------------------------------------------


def us(what: str, who: str, median: float, **at: int | str) -> Row:
    return Row(what, who, "us", median, median, median, rounds=1, at=at)


def test_targets_take_the_rows_that_they_name() -> None:
    where = {"task": "TextTask", "questions": 1, "wave": 1}
    found = targets_of(
        Results(
            [
                us(rows.STEP, rows.OURS, 20.0, **where, steps=50),
                us(rows.STEP, rows.OURS, 8.0, **where, steps=1_000),
                us(rows.STEP, rows.PLAIN_LOOP, 7.0, **where, steps=1_000),
                us(rows.STEP, rows.OURS, 50.0, task="Countdown", questions=256, wave=256, steps=50),
                us(rows.TIMES_OURS, rows.PLAIN_LOOP, 1.0, **where, steps=1_000),
                us(rows.TIMES_OURS, rows.TREEQUEST, 20.0, **where, steps=1_000),
                us(rows.VERIFY_CALLS, rows.OURS, 1.0, task="Countdown"),
                us(rows.VERIFY_CALLS, rows.OURS, 3.0, task="TextTask"),
            ]
        )
    )
    verdicts = {target.what: (target.value, target.verdict) for target in found}
    assert verdicts["one question, one ask at a time, TextTask"] == (8.0, "met")
    assert verdicts["256 questions side by side, TextTask"] == (None, "not measured")
    assert verdicts["treequest / one ask at a time"] == (20.0, "missed")
    assert verdicts["verify calls per terminal state"] == (3.0, "missed")


def test_time_inside_generator_and_critic_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    free = contract.FreeText.propose

    def propose(self: contract.FreeText, *arguments: Any) -> Any:
        time.sleep(0.002)
        return free(self, *arguments)

    def score(self: contract.FreeCritic, candidates: list[object]) -> list[float]:
        time.sleep(0.003)
        return [0.5] * len(candidates)

    monkeypatch.setattr(contract.FreeText, "propose", propose)
    monkeypatch.setattr(contract.FreeCritic, "score", score)
    searcher, watched = contract.searcher_of("TextTask", wave=1)
    total_s, outside_s, steps = watched.run(lambda: searcher.search("question", budget=contract.budget_of(20)))
    assert steps == 20
    assert total_s - outside_s >= 20 * 0.005


def test_asynchronous_searches_have_a_row() -> None:
    (row,) = searches.asynchronous(Limits(0.0, 2, 2), largest=3)
    assert (row.what, row.at["questions"]) == (rows.ASYNC_STEP, 3)
    assert row.median > 0.0


@pytest.mark.slow
def test_the_benchmark_runs_and_reports(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.engine", "--effort", "tiny", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(next(tmp_path.glob("engine-*.json")).read_text())
    measured = Results(Row(**row) for row in report["rows"])
    assert all(0.0 < row.p20 <= row.median <= row.p80 for row in measured.rows)
    for task in contract.TASKS:
        shapes = [(row.at["questions"], row.at["wave"]) for row in measured.of(rows.STEP, rows.OURS, task=task)]
        assert shapes == [(1, 1), (1, 1), (1, 16), (16, 16)]
    assert {row.who for row in measured.of(rows.STEP)} >= {rows.OURS, rows.PLAIN_LOOP}
    assert {row.what for row in measured.rows} >= {rows.NODE_BYTES, rows.VERIFY_CALLS, rows.STOPWATCH, rows.HOOKS}
    (listened,) = measured.of(rows.LISTENED)
    assert listened.median > 1.0, "every event is a record"
    text = next(tmp_path.glob("engine-*.md")).read_text()
    assert text == engine.markdown(report)
    assert "at most 9 us" in text

"""The total of a run: hard over all its questions, lives and loops."""

from __future__ import annotations

import random
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from run_worlds import BUDGET, WORLD, Killed, completed, one_life, questions, results, searcher
from scripted import StreamingGenerator

import bavt_fast as bavt
from bavt_fast.protocols import Step
from bavt_fast.runs import Run


@pytest.mark.parametrize("kind", ["tokens", "cost", "tool_calls"])
def test_the_total_is_hard_over_all_questions_and_lives(kind: str, tmp_path: Path) -> None:
    rows, amount = questions(20), {"tokens": 500, "cost": 0.5, "tool_calls": 60}[kind]
    settings = {"token_cost": 0.001, "max_step_tokens": 6, "wave": 8}
    rng = random.Random(1)
    for _ in range(30):
        one_life(tmp_path, rows, rng.randint(0, 6), total=bavt.Budget(**{kind: amount}), settings=settings)
        with Run(tmp_path, searcher(**settings), rows, budget=BUDGET) as run:
            now = run.summary()
        assert getattr(now.spent, kind) + getattr(now.lost, kind) <= amount
    summary = completed(tmp_path, rows, searcher(**settings), total=bavt.Budget(**{kind: amount}))
    left = amount - getattr(summary.spent, kind) - getattr(summary.lost, kind)
    assert (summary.end, summary.finished < 20) == ("total", True)
    assert 0 <= left < {"tokens": 6, "cost": 0.0061, "tool_calls": 1}[kind]
    more = completed(tmp_path, rows, searcher(**settings), total=bavt.Budget(**{kind: 100 * amount}))
    assert more.end == "done"
    completed(tmp_path / "whole", rows, searcher(**settings))
    assert results(tmp_path) == results(tmp_path / "whole")


def test_asks_of_lives_that_were_killed_in_their_first_wave_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also behind a life that ended in order, and where they went on with questions that had begun alone."""

    class Talks:
        asked = 0
        is_mortal = False

        def propose(self, states: Any, counts: Any, limits: Any) -> Any:
            self.asked += len(states)
            if self.is_mortal:
                raise Killed
            return [[Step("and so on", 3)] for _ in states]

    talks = Talks()

    def life(total: int) -> Any:
        made = bavt.Searcher(talks, max_step_tokens=8, wave=4)
        with Run(tmp_path, made, questions(4), budget=bavt.Budget(tokens=60), total=bavt.Budget(tokens=total)) as run:
            with suppress(Killed):
                list(run)
            return run.summary()

    first = life(100)
    assert (first.end, first.finished, first.lost_asks) == ("total", 0, 0)
    talks.asked, talks.is_mortal = 0, True
    with monkeypatch.context() as killed:
        killed.setattr(Run, "_end", lambda self: None)  # nothing is written any more
        for _ in range(4):
            life(140)
    asked, talks.is_mortal = talks.asked, False
    assert asked > 4
    last = life(140)
    assert (last.end, last.lost_asks, last.lost.tokens) == ("total", asked, 8 * asked)
    assert last.spent.tokens + last.lost.tokens <= 140


@pytest.mark.parametrize(("own", "spent"), [(None, 30), (30, 10)])
def test_a_total_reserves_no_more_than_a_question_has(own: int | None, spent: int, tmp_path: Path) -> None:
    """Though a step may take 64 tokens: 33 hold three asks of questions with ten tokens, and one where one has 30."""
    rows = [{"id": i, "question": "q", "budget_tokens": own if i == 0 else None} for i in range(10)]
    made = bavt.Searcher(lambda text, count, limit: [bavt.Step("x", min(limit, 10))], wave=1)
    total = bavt.Budget(tokens=33)
    with Run(tmp_path, made, rows, budget=bavt.Budget(tokens=10), total=total) as run:
        summary = run.complete()
    assert (summary.end, summary.spent.tokens) == ("total", spent)


def test_a_total_that_nothing_is_charged_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing has a price"):
        completed(tmp_path / "a", questions(1), total=bavt.Budget(cost=1.0))
    with pytest.raises(ValueError, match="total: expected tokens"):
        completed(tmp_path / "a", questions(1), total=bavt.Budget(seconds=1.0))
    assert not (tmp_path / "a").exists()


def test_a_total_is_not_spent_while_all_that_fits_is_out(tmp_path: Path) -> None:
    made = searcher(StreamingGenerator(WORLD), max_step_tokens=6)
    with Run(tmp_path, made, questions(20), budget=BUDGET, total=bavt.Budget(tokens=10**6)) as run:
        next(iter(run))
        assert run.summary().end == "interrupted"


def test_a_total_is_hard_over_loops_of_one_run(tmp_path: Path) -> None:
    total = bavt.Budget(tokens=300)
    made = searcher(StreamingGenerator(WORLD), max_step_tokens=6)
    with Run(tmp_path, made, questions(20), budget=BUDGET, total=total) as run:
        while run.summary().end != "total":
            list(islice(run, 1))
        now = run.summary()
        assert 300 - 6 < now.spent.tokens + now.lost.tokens <= 300
        assert list(run) == []
    with Run(tmp_path, made, questions(20), budget=BUDGET, total=total) as again:
        assert (again.summary().spent.tokens, again.summary().lost) == (now.spent.tokens, now.lost)

"""Runs: each question as if it were searched alone, also over many lives."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from run_worlds import BUDGET, WORLD, Killed, Mortal, completed, one_life, questions, results, searcher, written
from scripted import AsyncGenerator, StreamingGenerator, TableCritic, World

import bavt_fast as bavt
from bavt_fast.budget import Spent
from bavt_fast.protocols import GenerationError, Step
from bavt_fast.runs import Run, read_run
from bavt_fast.tasks.text import TextTask


def test_a_run_gives_what_search_many_gives(tmp_path: Path) -> None:
    rows = questions(12)
    summary = completed(tmp_path / "out", written(tmp_path, rows), seed=4)
    found = list(read_run(tmp_path / "out"))
    expected = searcher().search_many([row["question"] for row in rows], budget=BUDGET, seed=4)
    assert {line["id"] for line in found} == {row["id"] for row in rows}
    for line in found:
        result = expected[int(line["id"].removeprefix("id-"))]
        spent = asdict(result.spent)
        assert {**line["spent"], "seconds": 0} == {**spent, "seconds": 0}
        assert (line["answer"], line["solved"], line["path"]) == (result.answer, result.solved, list(result.path))
        assert (line["stop_reason"], line["value"]) == (result.stop_reason, result.value)
    assert (summary.questions, summary.finished, summary.end, summary.broken) == (12, 12, "done", ())
    assert summary.solved == sum(result.solved for result in expected)
    assert summary.spent.tokens == sum(result.spent.tokens for result in expected)
    assert summary.lost == Spent()


def test_a_run_that_is_done_asks_nothing_more(tmp_path: Path) -> None:
    rows = questions(3)
    first = completed(tmp_path / "out", rows)
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    again = one_life(tmp_path / "out", rows, None)
    assert again.asked == []
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before
    assert completed(tmp_path / "out", rows) == first


@pytest.mark.parametrize("seed", range(6))
def test_lives_that_end_anywhere_give_what_one_life_gives(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    world = World(seed=seed, goal_share=0.05)
    rows = questions(14)
    settings: dict[str, Any] = {"policy": rng.choice(["power", "best_first", "uct"]), "wave": rng.choice([1, 3, 8])}
    settings["tried_exponent"] = rng.choice([0.0, 1.0])
    completed(tmp_path / "whole", rows, searcher(world=world, **settings))
    asked: Counter[Any] = Counter()
    lives = 0
    while len(list(read_run(tmp_path / "out")) if (tmp_path / "out").exists() else []) < len(rows):
        life = one_life(tmp_path / "out", rows, rng.randint(0, 12), world, settings=settings)
        asked.update(life.asked)
        lives += 1
    summary = completed(tmp_path / "out", rows, searcher(world=world, **settings))
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert lives > 2
    repeated = sum(count - 1 for count in asked.values())
    assert repeated == summary.lost_asks <= lives * settings["wave"]
    assert summary.lost.tokens == 64 * summary.lost_asks
    assert summary.lost.tool_calls == summary.lost_asks


def test_time_is_counted_over_all_lives(tmp_path: Path) -> None:
    """A search that is made again has its tree, its spendings and its time as it had them."""

    class Clock:
        now_s = 0.0

        def __call__(self) -> float:
            Clock.now_s += 0.125
            return Clock.now_s

    def state(run: Run) -> tuple[dict[int, Any], dict[int, float]]:
        trees: dict[int, Any] = {}
        times_s: dict[int, float] = {}
        for row, search in run.searches():
            tree, account = search.tree, search._native.account
            trees[row.line] = account.spent, tree.parents.tolist(), tree.values.tolist(), tree.tries.tolist()
            times_s[row.line] = account.elapsed_s
        return trees, times_s

    rows, budget = questions(5), bavt.Budget(tokens=400, seconds=30.0)
    before: dict[int, Any] = {}
    before_s: dict[int, float] = {}
    for calls in (3, 4, 5):
        made = searcher(Mortal(calls=calls), clock=Clock(), wave=3)
        with Run(tmp_path / "out", made, rows, budget=budget) as run:
            now, now_s = state(run)
            assert now == before
            # What passed while a lost answer was waited for is lost with it: a round of at most three questions.
            assert all(before_s[line] - 3.0 <= at_s <= before_s[line] for line, at_s in now_s.items())
            with pytest.raises(Killed):
                list(run)
            before, before_s = state(run)
            assert all(at_s > 0 for at_s in before_s.values())
    completed(tmp_path / "out", rows, searcher(clock=Clock(), wave=3), budget=budget)
    for line in read_run(tmp_path / "out"):
        assert line["stop_reason"] in ("solved", "deadline", "exhausted", "budget")
        if line["stop_reason"] == "deadline":
            assert 30.0 <= line["spent"]["seconds"] < 34.0


def test_time_that_steps_say_they_took_elsewhere_is_counted_once(tmp_path: Path) -> None:
    class Elsewhere:
        calls, now_s = 0, 0.0

        def propose(self, states: Any, counts: Any, limits: Any) -> list[Any]:
            self.calls += 1
            self.now_s += 1.0
            if self.calls % 5 == 0:
                raise Killed
            if self.calls % 5 == 3:
                return [GenerationError("busy", Spent(tokens=1, seconds=0.25)) for _ in states]
            return [[Step(f"s{state.seed}", 2, seconds=0.5)] for state in states]

    work = Elsewhere()
    made = bavt.Searcher(work, wave=1, max_step_tokens=4, retries=9, clock=lambda: work.now_s)
    before_s: list[float] = []
    for _ in range(4):
        with Run(tmp_path, made, questions(1), budget=bavt.Budget(tokens=90, seconds=1000.0)) as run:
            ((_, search),) = run.searches() or [(None, None)]
            assert before_s == ([] if search is None else [search.spent.seconds])
            with pytest.raises(Killed):
                list(run)
            ((_, search),) = run.searches()
            before_s = [search.spent.seconds]
    assert before_s[0] > 12 * 0.25


@pytest.mark.parametrize("wave", [1, 8])
def test_no_time_passes_for_questions_that_wait_to_go_on(wave: int, tmp_path: Path) -> None:
    """A call takes a second; each question has ten calls, and five seconds more."""
    now_s = 0.0

    class Slow(Mortal):
        def propose(self, states: Any, counts: Any, limits: Any) -> Any:
            nonlocal now_s
            now_s += len(states) / wave_now
            return super().propose(states, counts, limits)

    Slow.__qualname__ = "Mortal"

    def life(folder: str, calls: int | None, wave: int, wait_s: float = 0.0) -> None:
        nonlocal now_s, wave_now
        wave_now = wave
        made = searcher(Slow(calls=calls), wave=wave, clock=lambda: now_s, max_step_tokens=4)
        with Run(tmp_path / folder, made, questions(8), budget=bavt.Budget(tokens=40, seconds=15.0)) as run:
            now_s += wait_s
            with suppress(Killed):
                list(run)

    wave_now = 8
    life("whole", None, 8)
    life("out", 3, 8)
    life("out", None, wave, wait_s=100.0)
    assert results(tmp_path / "out") == results(tmp_path / "whole")
    assert {line["stop_reason"] for line in results(tmp_path / "out").values()} <= {"solved", "budget", "exhausted"}


@pytest.mark.parametrize("kind", ["coroutine", "stream"])
def test_other_generators_give_the_same(kind: str, tmp_path: Path) -> None:
    rows = questions(10)
    completed(tmp_path / "whole", rows, searcher(AsyncGenerator(WORLD).inner))

    def made(calls: int) -> Any:
        generator: Any = AsyncGenerator(WORLD) if kind == "coroutine" else StreamingGenerator(WORLD)
        method = "propose" if kind == "coroutine" else "collect"
        inner, left = getattr(generator, method), [calls]

        def count() -> None:
            left[0] -= 1
            if left[0] == -1:
                signal.raise_signal(signal.SIGINT)  # Ctrl-C

        def collect() -> Any:
            count()
            return inner()

        async def propose(*arguments: Any) -> Any:
            count()
            return await inner(*arguments)

        setattr(generator, method, propose if kind == "coroutine" else collect)
        if kind == "stream":  # it says what broken off asks took, which are asked again all the same
            discard = generator.discard
            generator.discard = lambda tickets: discard(tickets) or {ticket: Spent(tokens=1) for ticket in tickets}
        return searcher(generator)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for calls in (0, 9, 25):
            assert completed(tmp_path / "out", rows, made(calls)).end == "interrupted"
    finally:
        signal.signal(signal.SIGINT, before)
    assert completed(tmp_path / "out", rows, made(10**6)).end == "done"
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_what_a_stream_gives_up_at_ctrl_c_is_asked_again(tmp_path: Path) -> None:
    """Though it says what it had taken by then: the results are those of a run that nobody broke off."""

    class Says(StreamingGenerator):
        is_pressed = False
        calls = 0

        def collect(self) -> Any:
            self.calls += 1
            if self.is_pressed and self.calls % 10 == 0:
                raise KeyboardInterrupt
            return super().collect()

        def discard(self, tickets: Sequence[int]) -> Any:
            super().discard(tickets)
            return {ticket: Spent(tokens=1) for ticket in tickets}

    rows, lost = questions(10), 0
    completed(tmp_path / "whole", rows, searcher(Says(WORLD), max_step_tokens=6))
    for is_pressed in (True, True, True, False):
        generator = Says(WORLD)
        generator.is_pressed = is_pressed
        summary = completed(tmp_path / "out", rows, searcher(generator, max_step_tokens=6))
        assert (summary.end, summary.lost_asks) == ("interrupted" if is_pressed else "done", lost)
        lost += len(generator.discarded)
    assert lost > 10
    assert results(tmp_path / "out") == results(tmp_path / "whole")


@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
def test_an_answer_whose_scoring_is_broken_off_is_asked_again_and_counts_as_lost(
    error: type[BaseException], tmp_path: Path
) -> None:
    """It was paid for, and is in no journal."""

    class Interrupted(TableCritic):
        calls = 10**6

        def score(self, candidates: Any) -> Any:
            self.calls -= 1
            if self.calls < 0:
                raise error
            return super().score(candidates)

    rows, asked = questions(10), Counter[Any]()
    completed(tmp_path / "whole", rows)
    for calls in (0, 2, 3, 10**6):
        generator, made = Mortal(), searcher()
        made.generator, made.critic = generator, Interrupted(WORLD)
        made.critic.calls = calls
        summary = None
        with suppress(Killed):
            summary = completed(tmp_path / "out", rows, made)
        asked.update(generator.asked)
    assert summary is not None
    assert 0 < sum(count - 1 for count in asked.values()) == summary.lost_asks
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_budgets_seeds_and_answers_of_their_own(tmp_path: Path) -> None:
    rows = [
        {"id": "plain", "question": "q"},
        {"id": "small", "question": "q", "budget_tokens": 11},
        {"id": "other", "question": "q", "seed": 9, "note": "passed over"},
    ]
    completed(tmp_path, rows)
    found = results(tmp_path)
    for name, budget, seed in (("plain", 120, 0), ("small", 11, 0), ("other", 120, 9)):
        alone = searcher().search_many(["q"], budget=bavt.Budget(tokens=budget), seed=seed)[0]
        assert (found[name]["path"], found[name]["spent"]["tokens"]) == (list(alone.path), alone.spent.tokens)


@pytest.mark.parametrize("verify", [True, False])
def test_known_answers_are_searched_for_or_compared_afterwards(verify: bool, tmp_path: Path) -> None:
    rows = [
        {"id": 1, "question": "half?", "answer": "0.5"},
        {"id": 2, "question": "half?", "answer": 7},
        {"id": 3, "question": "half?"},
    ]
    made = bavt.Searcher(lambda text, count: ["Answer: 1/2"], task=TextTask())
    completed(tmp_path, rows, made, verify=verify, budget=bavt.Budget(tokens=10))
    found = {line["id"]: line for line in read_run(tmp_path)}
    assert [found[i]["solved"] for i in (1, 2, 3)] == [verify, False, False]
    if verify:
        assert found[2]["answer"] is None, "a wrong answer is dropped"
    else:
        assert [found[i].get("correct") for i in (1, 2, 3)] == [True, False, None]
        assert found[2]["answer"] == "1/2"


def test_answers_that_the_task_does_not_take_are_said_once(tmp_path: Path) -> None:
    rows = [{"id": i, "question": f"q{i}", "answer": "x" if i else None} for i in range(4)]
    with pytest.warns(UserWarning, match=r"questions: 3 have an answer, .* no with_answer.*--no-verify") as said:
        completed(tmp_path / "verified", rows)
    assert len(said) == 1
    for name, options in (("compared", {"verify": False}), ("ours", {"outcome": lambda row, result: {}})):
        completed(tmp_path / name, rows, **options)  # without a warning, which would be an error
    completed(tmp_path / "none", questions(2))


def test_an_outcome_says_more_of_a_result(tmp_path: Path) -> None:
    def outcome(row: Any, result: Any) -> dict[str, Any]:
        if row.id == "id-1":
            raise ArithmeticError("not this one")
        return {"answer": row.question.upper(), "nodes": result.tree.num_nodes}

    completed(tmp_path, questions(3), outcome=outcome)
    found = results(tmp_path)
    assert found["id-0"]["answer"] == "Q0"
    assert found["id-2"]["nodes"] >= 1
    assert found["id-1"]["error"] == "ArithmeticError: not this one"


def test_a_listener_hears_what_happens_once_over_all_lives(tmp_path: Path) -> None:
    """Also of refused steps; the record that a search keeps is whole, so that its page shows all."""
    rows = questions(6)

    def life(folder: Path, calls: int | None) -> list[Any]:
        heard: list[bavt.Event] = []
        made = searcher(Mortal(calls=calls), on_event=heard.append, record=True)
        with suppress(Killed), Run(folder, made, rows, budget=BUDGET) as run:
            list(run)
        told = [event for event in heard if event.kind not in ("ask", "cancel") and event.reason != "interrupted"]
        return [(event.question, event.kind, event.node, event.tokens, event.reason) for event in told]

    whole = life(tmp_path / "whole", None)
    lives = [told for calls in (3, 4, 5, 60) for told in life(tmp_path / "out", calls)]
    assert {kind for _, kind, *_ in whole} == {"refusal", "tell", "node", "stop"}
    assert Counter(lives) == Counter(whole)
    life(tmp_path / "kept", 4)
    with Run(tmp_path / "kept", searcher(record=True), rows, budget=BUDGET) as run:
        records = [search.events or () for _, search in run.searches()]
    assert {sum(event[0] == "admit" for event in record) for record in records} == {4}


def test_progress_and_searches_may_be_read_at_any_time(tmp_path: Path) -> None:
    rows = questions(6)
    with Run(tmp_path, searcher(wave=2), rows, budget=BUDGET) as run:
        for done, _ in enumerate(run, start=1):
            now = run.progress()
            assert (now.questions, now.finished) == (6, done)
            assert now.under_way == len(run.searches()) <= 2
            assert all(row.question == search.question for row, search in run.searches())
        assert run.progress().answers > 6


def test_a_caller_may_stop_early(tmp_path: Path) -> None:
    rows = questions(6)
    completed(tmp_path / "whole", rows)
    seen: Sequence[Any] = []
    with Run(tmp_path / "out", searcher(), rows, budget=BUDGET) as run:
        for line in run:
            seen = [line["id"]]
            break
    assert len(seen) == 1
    completed(tmp_path / "out", rows)
    assert results(tmp_path / "out") == results(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["plain", "coroutine", "stream"])
def test_a_loop_that_was_left_goes_on_with_what_was_under_way(kind: str, tmp_path: Path) -> None:
    rows = questions(9)
    make: Any = {"plain": Mortal, "coroutine": AsyncGenerator, "stream": StreamingGenerator}[kind]
    completed(tmp_path / "whole", rows, searcher(make(WORLD), wave=4))
    got = []
    with Run(tmp_path / "out", searcher(make(WORLD), wave=4), rows, budget=BUDGET) as run:
        for count in (1, 0, 2):
            got += [line["id"] for line in islice(run, count)]
            assert run.summary().end == "interrupted"
        assert run.progress().under_way > 0
        got += [line["id"] for line in run]
        assert list(run) == []
        assert (run.summary().end, run.progress().under_way) == ("done", 0)
    assert sorted(got) == [row["id"] for row in rows]
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_two_loops_over_a_run_at_a_time_are_refused(tmp_path: Path) -> None:
    with Run(tmp_path, searcher(wave=2), questions(6), budget=BUDGET) as run:
        first = iter(run)
        got = [next(first)["id"]]
        with pytest.raises(ValueError, match="expected one loop over a run at a time"):
            next(iter(run))
        got += [line["id"] for line in first]
    assert len(got) == 6


@pytest.mark.parametrize("how", ["outside", "within", "generator", "coroutine"])
def test_a_run_that_is_closed_asks_nothing_more(how: str, tmp_path: Path) -> None:
    """Nobody would write down what that takes. What was answered before is kept."""
    asked = [0]

    def steps(text: str, count: int) -> list[str]:
        asked[0] += 1
        if asked[0] == 7 and how in ("generator", "coroutine"):
            run.close()
        return ["and so on"] * count

    async def coroutine(text: str, count: int) -> list[str]:
        return steps(text, count)

    def made() -> bavt.Searcher:
        return bavt.Searcher(coroutine if how == "coroutine" else steps, max_step_tokens=8, wave=2)

    rows, budget = questions(6), bavt.Budget(tokens=30)
    run = Run(tmp_path, made(), rows, budget=budget)
    if how == "outside":
        lines = iter(run)
        next(lines)
        run.close()
        assert list(lines) == []
    elif how == "within":
        for _ in run:
            run.close()
    else:
        with pytest.raises(ValueError, match="expected a run that is open"):
            list(run)
    run.close()
    before, asked[0] = asked[0], 10
    again = Run(tmp_path, made(), rows, budget=budget)
    assert before <= (20 if how in ("outside", "within") else 8)
    with again:
        answered = again.progress().spent.tokens // 3
        assert answered + again.lost_asks >= before
        list(again)
        assert again.summary().end == "done"
    assert asked[0] - 10 == 6 * 10 - answered


def test_ctrl_c_while_a_result_is_written_loses_and_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = questions(6)
    completed(tmp_path / "whole", rows)
    generator = Mortal()
    with Run(tmp_path / "out", searcher(generator, wave=1), rows, budget=BUDGET) as run:
        with monkeypatch.context() as pressed:
            pressed.setattr(type(run.folder), "write_result", _interrupted)
            assert list(run) == []
        assert (run.summary().end, run.progress().finished) == ("interrupted", 0)
        list(run)
    assert (len({*generator.asked}), run.lost_asks) == (len(generator.asked), 0)
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def _interrupted(*_: Any) -> None:
    raise KeyboardInterrupt

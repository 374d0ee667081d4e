"""Questions of a run that fail: what becomes of them, what they are charged, and how they go on."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from run_worlds import BUDGET, Killed, Mortal, completed, questions, results, searcher

import bavt_fast as bavt
from bavt_fast.budget import Spent
from bavt_fast.protocols import GenerationError
from bavt_fast.runs import Run, read_run
from bavt_fast.tasks.text import TextTask


def test_a_question_that_fails_carries_its_error_and_the_others_finish(tmp_path: Path) -> None:
    def breaks(text: str, count: int) -> list[str]:
        if text.startswith("bad"):
            raise OSError("no such model")
        return ["Answer: 1"]

    rows = [{"id": 1, "question": "bad"}, {"id": 2, "question": "good"}, {"id": 3, "question": "bad too"}]
    summary = completed(tmp_path, rows, bavt.Searcher(breaks))
    found = {line["id"]: line for line in read_run(tmp_path)}
    assert (found[2]["answer"], "error" in found[2]) == ("1", False)
    for bad in (1, 3):
        assert (found[bad]["stop_reason"], found[bad]["error"]) == ("error", "OSError: no such model")
    assert (summary.finished, summary.errors, summary.end) == (3, 2, "done")


def test_questions_that_failed_go_on_where_they_were(tmp_path: Path) -> None:
    class Down(Mortal):
        """A model that answers no more from its n-th call on."""

        def propose(self, states: Any, counts: Any, limits: Any) -> list[Any]:
            answers: list[Any] = super().propose(states, counts, limits)
            if self.calls is not None and self.calls < 995:
                return [OSError("down") for _ in answers]
            return answers

    Down.__qualname__ = "Mortal"
    rows, broken = questions(6), Down(calls=1000)
    down = completed(tmp_path / "out", rows, searcher(broken))
    assert (down.end, down.errors >= 3) == ("done", True)
    assert completed(tmp_path / "out", rows).errors == down.errors, "not asked again unless it is wanted"
    again = Mortal()
    up = completed(tmp_path / "out", rows, searcher(again), retry_errors=True)
    assert (up.errors, up.lost_asks) == (0, 0)
    found = results(tmp_path / "out").values()
    assert len(found) == 6
    assert all(line["spent"]["tokens"] <= 120 for line in found)
    answered = broken.asked[: -down.errors]
    assert len(answered) > 10
    assert not {*answered} & {*again.asked}, "what was answered before is not asked again"


@pytest.mark.parametrize("stage", ["critic", "coroutine critic", "describe"])
def test_what_was_paid_before_a_score_or_a_verdict_failed_is_not_forgotten(stage: str, tmp_path: Path) -> None:
    broken = [True]

    class Task(TextTask):
        def describe(self, state: Any) -> Any:
            if broken[0] and stage == "describe" and state.depth == 3:
                raise OSError("no verifier")
            return super().describe(state)

    def critic(text: str) -> float:
        if broken[0] and stage != "describe" and text.count("\n") == 4:
            raise OSError("no critic")
        return 0.5

    async def coroutine(text: str) -> float:
        return critic(text)

    def made() -> bavt.Searcher:
        numbers = itertools.count()
        scores: Any = coroutine if stage == "coroutine critic" else critic
        return bavt.Searcher(lambda text, count: [f"{next(numbers)} and so on"], scores, Task(), policy="best_first")

    rows = [{"id": 1, "question": "why"}]
    down = completed(tmp_path / "out", rows, made())
    [line] = read_run(tmp_path / "out")
    assert line["error"] == f"OSError: no {'verifier' if stage == 'describe' else 'critic'}"
    assert down.errors == 1
    spent = down.spent.tokens
    assert spent >= 4 * 3
    broken[0] = False
    with Run(tmp_path / "out", made(), rows, budget=BUDGET, retry_errors=True) as run:
        assert run.progress().spent.tokens == spent
        list(run)
        assert run.summary().errors == 0


def test_asks_that_failed_are_charged_again_when_the_run_goes_on(tmp_path: Path) -> None:
    class Failing(Mortal):
        def propose(self, states: Any, counts: Any, limits: Any) -> list[Any]:
            answers: list[Any] = super().propose(states, counts, limits)
            for i, state in enumerate(states):
                if state.seed % 3 == 0 and (key := (state.text, state.seed)) not in seen:
                    seen.add(key)
                    answers[i] = GenerationError("busy", Spent(tokens=2, seconds=0.5))
            return answers

    rows = questions(8)
    whole: dict[Any, Any] = {}
    for name, lives in (("whole", [None]), ("out", [2, 3, 5, None])):
        seen: set[Any] = set()
        for calls in lives:
            try:
                with Run(tmp_path / name, searcher(Failing(calls=calls), retries=10**6), rows, budget=BUDGET) as run:
                    list(run)
            except Killed:
                assert calls is not None
        whole[name] = results(tmp_path / name)
        assert len(seen) > 5
    assert whole["out"] == whole["whole"]


def test_what_a_failed_question_spent_is_kept_where_its_life_is_killed_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy:
        def propose(self, states: Any, counts: Any, limits: Any) -> list[Any]:
            return [GenerationError("busy", Spent(tokens=2)) for _ in states]

    def made() -> bavt.Searcher:
        return bavt.Searcher(Busy(), retries=2)

    rows = questions(1)
    with monkeypatch.context() as killed:
        killed.setattr(Run, "_end", lambda self: None)  # nothing is written any more
        with Run(tmp_path, made(), rows, budget=BUDGET) as run:
            assert next(iter(run))["spent"]["tokens"] == 6
    with Run(tmp_path, made(), rows, budget=BUDGET, retry_errors=True) as again:
        assert again.progress().spent.tokens == 6


def test_an_answer_that_cost_nothing_is_not_priced_when_the_run_goes_on(tmp_path: Path) -> None:
    def made(is_broken: bool) -> bavt.Searcher:
        class Model:
            def propose(self, states: Any, counts: Any, limits: Any) -> list[list[Any]]:
                bad = is_broken and len(calls) == 2
                calls.append(bad)
                step = bavt.Step(f"{len(calls)} and so on\n", 4, cost=0.0 if bad else None)
                return [[step, "no step"] if bad else [step]]

        calls: list[bool] = []
        return bavt.Searcher(Model(), token_cost=0.5, candidates=2)

    rows = [{"id": 1, "question": "why"}]
    completed(tmp_path / "out", rows, made(True))
    [line] = read_run(tmp_path / "out")
    assert (line["spent"]["tokens"], line["spent"]["cost"]) == (12, 4.0)
    with Run(tmp_path / "out", made(False), rows, budget=BUDGET, retry_errors=True) as run:
        assert (run.progress().spent.tokens, run.progress().spent.cost) == (12, 4.0)
        list(run)
    [line] = read_run(tmp_path / "out")
    assert line["spent"]["cost"] == (line["spent"]["tokens"] - 4) * 0.5


def test_a_question_that_cannot_begin_is_a_result_too(tmp_path: Path) -> None:
    class Choosy(TextTask):
        def describe(self, state: Any) -> Any:
            if not state.depth and "odd" in state.text:
                raise RuntimeError("too odd")
            return super().describe(state)

    rows = [{"id": i, "question": text} for i, text in enumerate(["odd", "even", "odd too"])]
    made = bavt.Searcher(lambda text, count: ["Answer: 1"], task=Choosy())
    with Run(tmp_path, made, rows, budget=bavt.Budget(tokens=5)) as run:
        found = {line["id"]: line for line in run}
    assert {i: line.get("error") for i, line in found.items()} == {
        0: "RuntimeError: too odd",
        1: None,
        2: "RuntimeError: too odd",
    }
    assert found == {line["id"]: line for line in read_run(tmp_path)}


@pytest.mark.parametrize("keep", [False, True])
def test_steps_that_cannot_be_written_down_fail_their_question_alone(keep: bool, tmp_path: Path) -> None:
    """As ids and probabilities that no search reads. Arrays are taken for what they hold."""
    numbers = itertools.count()
    said: dict[str, dict[str, Any]] = {
        "ids": {"token_ids": ("one", "two")},
        "none": {"token_ids": None, "tool_calls": 0},
        "likely": {"log_probability": "likely"},
        "half": {"token_probabilities": ("half",)},
        "arrays": {"token_ids": np.arange(2), "token_probabilities": np.full(2, 0.5)},
        "plain": {},
    }

    def steps(text: str, count: int) -> list[bavt.Step]:
        return [bavt.Step(f"step {next(numbers)}\n", 2, **said[text.split()[0]]) for _ in range(count)]

    rows = [{"id": name, "question": f"{name} "} for name in said]
    made = bavt.Searcher(steps, wave=8, max_step_tokens=2, record=keep)
    for retry in (False, True):
        options: dict[str, Any] = {"budget": bavt.Budget(tokens=10), "keep": keep, "retry_errors": retry}
        with Run(tmp_path, made, rows, **options) as run:
            list(run)
        found = results(tmp_path)
        assert {name: str(line.get("error"))[:30] for name, line in found.items()} == {
            "ids": "TypeError: Step.token_ids: exp",
            "none": "None",
            "likely": "TypeError: Step.log_probabilit",
            "half": "TypeError: Step.token_probabil",
            "arrays": "None",
            "plain": "None",
        }
        bad = ("ids", "likely", "half")
        assert [found[name]["spent"]["tokens"] for name in bad] == [4 if retry else 2] * 3, "paid for all the same"
        assert [found[name]["spent"]["tokens"] for name in said if name not in bad] == [10] * 3
        if keep:
            assert {path.stem for path in (tmp_path / "searches").iterdir()} == {*said} - {*bad}


def test_a_search_that_cannot_be_saved_is_an_error_of_its_question(tmp_path: Path) -> None:
    class Changing(TextTask):
        def key(self, state: Any) -> Any:
            if "bad" in state.text and state.depth > 1 and self.keys_are_wanted_again:
                raise KeyError("state")
            return super().key(state)

    task = Changing()
    task.keys_are_wanted_again = False
    saved = bavt.Search.save

    def save(search: bavt.Search, path: Any) -> None:
        task.keys_are_wanted_again = True
        try:
            saved(search, path)
        finally:
            task.keys_are_wanted_again = False

    numbers = itertools.count()
    made = bavt.Searcher(lambda text, count: [f"step {next(numbers)}"], task=task, policy="best_first", wave=4)
    rows = [{"id": 1, "question": "bad"}, {"id": 2, "question": "good"}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bavt.Search, "save", save)
        with Run(tmp_path, made, rows, budget=bavt.Budget(tokens=12), keep=True) as run:
            list(run)
    found = results(tmp_path)
    assert (found[1]["error"], "error" in found[2]) == ("KeyError: 'state'", False)
    assert [path.name for path in (tmp_path / "searches").iterdir()] == ["2.bavt"]


def test_tasks_that_are_left_end_with_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A coroutine that was given up at a deadline, and one that the generator began for itself."""
    ended: list[str] = []
    tasks: list[Any] = []

    async def wait(name: str) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            try:
                await asyncio.sleep(0.1)
            finally:
                ended.append(name)

    async def generator(text: str, count: int) -> list[str]:
        tasks.append(asyncio.ensure_future(wait("its own")))
        await wait("given up")
        return []

    rows = [{"id": 1, "question": "q"}]
    with Run(tmp_path, bavt.Searcher(generator), rows, budget=bavt.Budget(tokens=9, seconds=0.1)) as run:
        assert [line["stop_reason"] for line in run] == ["deadline"]
    assert sorted(ended) == ["given up", "its own"]
    assert [task.done() for task in tasks] == [True]
    assert not caplog.records


def test_a_run_goes_on_with_its_journal_after_ctrl_c_in_the_middle_of_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, write = questions(6), os.write
    completed(tmp_path / "whole", rows)
    with Run(tmp_path / "out", searcher(), rows, budget=BUDGET) as run:
        left = [3]

        def pressed(descriptor: int, data: Any) -> int:
            left[0] -= bytes(data[:1]) != b"{"  # the journal's
            if not left[0]:
                write(descriptor, data[:5])
                raise KeyboardInterrupt
            return write(descriptor, data)

        with monkeypatch.context() as patch:
            patch.setattr(os, "write", pressed)
            list(run)
        assert run.summary().end == "interrupted"
        with monkeypatch.context() as killed:
            killed.setattr(Run, "_end", lambda self: None)
            before = run.summary()
            next(iter(run))
            answered = run.summary().spent.tokens - before.spent.tokens
            run.close()
    with Run(tmp_path / "out", searcher(), rows, budget=BUDGET) as again:
        kept = again.summary().spent.tokens - before.spent.tokens
        assert kept > answered / 2 > 0, "all but the answers of the last wave, which count as lost"
        list(again)
    assert results(tmp_path / "out") == results(tmp_path / "whole")


def test_what_the_handler_of_a_signal_raises_ends_a_run_of_coroutines_in_order(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As SystemExit, where a program ends so at SIGTERM."""
    rows, ended = questions(2), list[str]()

    def handler(*_: Any) -> None:
        raise SystemExit(3)

    async def generator(text: str, count: int) -> list[str]:
        if rows[0]["question"] in text:
            asyncio.get_running_loop().call_later(0.1, signal.raise_signal, signal.SIGTERM)
        try:
            await asyncio.sleep(5)
        finally:
            ended.append(text)
        return []

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with Run(tmp_path, bavt.Searcher(generator), rows, budget=BUDGET) as run, pytest.raises(SystemExit):
            list(run)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(ended) == 2
    with Run(tmp_path, bavt.Searcher(generator), rows, budget=BUDGET) as again:
        assert again.lost_asks == 2
    assert not caplog.records


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it is left as it is
def test_a_loop_that_forgot_whom_to_wake_as_it_was_broken_off_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the handler of a signal raises just before a coroutine would go on."""
    monkeypatch.setattr("bavt_fast.runs.searching.BROKEN_OFF_S", 0.2)

    async def generator(text: str, count: int) -> list[str]:
        loop = asyncio.get_running_loop()
        forgotten = loop.create_future()
        forgotten.cancel = lambda *_: True  # type: ignore[method-assign]
        loop.call_soon(broken_off)
        await forgotten
        return []

    def broken_off() -> None:
        raise SystemExit(3)

    with Run(tmp_path, bavt.Searcher(generator), questions(1), budget=BUDGET) as run, pytest.raises(SystemExit):
        list(run)
    with Run(tmp_path, bavt.Searcher(generator), questions(1), budget=BUDGET) as again:
        assert again.lost_asks == 1
    gc.collect()


class Pressed:
    """Stands for a method of a run: Ctrl-C breaks in at the n-th call that is made within, or as that call ends."""

    def __init__(self, name: str, at: int) -> None:
        self.method, self.left = getattr(Run, name), at

    def press(self, frame: Any, event: str, argument: Any) -> None:
        is_ours = "bavt_fast" in frame.f_code.co_filename and argument is not open
        self.left -= is_ours and event in ("call", "c_return")
        if not self.left:
            sys.setprofile(None)
            raise KeyboardInterrupt

    def __get__(self, run: Any, kind: Any) -> Any:
        return lambda *arguments: self.call(run, *arguments)

    def call(self, *arguments: Any) -> None:
        sys.setprofile(self.press)
        try:
            self.method(*arguments)
        finally:
            sys.setprofile(None)


@pytest.mark.parametrize(("where", "step"), [("_write", 3), ("_go_on", 11)])
def test_ctrl_c_at_any_call_forgets_nothing_and_doubles_nothing(where: str, step: int, tmp_path: Path) -> None:
    """As a result is written and counted, and as a loop that was left is begun again."""
    rows, asked = questions(3), list[str]()
    options: dict[str, Any] = {"budget": bavt.Budget(tokens=6)}

    def model(text: str, count: int) -> list[bavt.Step]:
        asked.append(text)
        return [bavt.Step(f"{len(text)}\n", 2)]

    def made() -> bavt.Searcher:
        return bavt.Searcher(model, wave=2)

    whole = completed(tmp_path / "whole", rows, made(), **options)
    for at in itertools.count(1, step):
        folder, pressed = tmp_path / str(at), Pressed(where, at)
        asked.clear()
        with Run(folder, made(), rows, **options) as run:
            if where == "_go_on":
                next(iter(run))
                run._end_loops()
            with pytest.MonkeyPatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
                patch.setattr(Run, where, pressed)
                list(run)
            list(run)
            assert (run.summary().finished, run.summary().spent) == (3, whole.spent)
            assert len(asked) <= 9 + run.summary().lost_asks
        assert completed(folder, rows, made(), **options).spent == whole.spent
        assert results(folder) == results(tmp_path / "whole")
        if pressed.left > 0:
            break
    assert at > 20

"""Critics that fail for single nodes: an exception in the place of a score."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from scripted import AsyncGenerator, ScriptedGenerator, StreamingGenerator, TableCritic, World, WorldTask
from search_checks import BUDGET, ENDLESS, alone, check_counts, check_idle, fingerprint, run_all

import bavt_fast as bavt
from bavt_fast.protocols import Node
from bavt_fast.result import SearchError
from bavt_fast.searcher import Searcher
from bavt_fast.tasks.text import TextTask

HUGE = 10**400
"""A number that no float holds."""
FAILED = LookupError("no such state")


class Partial(TableCritic):
    """Fails for the states of some questions; ``took`` is what a score takes, also one that failed."""

    def __init__(self, questions: Sequence[str], took: bavt.Spent | None = None) -> None:
        super().__init__(ENDLESS)
        self.questions, self.took = questions, took
        self.max_score = bavt.Spent() if took is None else took

    def score(self, candidates: Sequence[Node]) -> Any:
        values = [
            FAILED if node.state[0] in self.questions else value
            for node, value in zip(candidates, super().score(candidates), strict=True)
        ]
        return values if self.took is None else bavt.Scores(values, [self.took] * len(values))


def partial(
    questions: Sequence[str], took: bavt.Spent | None = None, generator: Any = None, **options: Any
) -> Searcher:
    generator = ScriptedGenerator(ENDLESS) if generator is None else generator
    return Searcher(generator, Partial(questions, took), WorldTask(ENDLESS), **options)


@pytest.mark.parametrize("wave", [1, 4])
@pytest.mark.parametrize("candidates", [1, 3])
def test_the_question_ends_with_the_error_and_the_others_are_untouched(wave: int, candidates: int) -> None:
    one = partial(["q1", "q3"], wave=wave, candidates=candidates)
    searches = [one.start(f"q{i}", budget=BUDGET) for i in range(5)]
    for i, result in enumerate(run_all(one, searches)):
        check_idle(searches[i])
        if i in (1, 3):
            assert (result.stop_reason, result.error, result.tree.num_nodes) == ("error", FAILED, 1)
        else:
            assert fingerprint(result) == alone(ENDLESS, f"q{i}", candidates=candidates)


def test_a_search_raises_it() -> None:
    with pytest.raises(
        SearchError, match=r"LookupError during the search(, raised by the critic)?: no such state"
    ) as caught:
        partial(["q"]).search("q", budget=BUDGET)
    assert caught.value.__cause__ is FAILED
    assert caught.value.result.stop_reason == "error"


@pytest.mark.parametrize("fails", ["score", "call"])
def test_a_solution_stays_one_where_another_ask_of_its_wave_fails(fails: str, caplog: Any) -> None:
    class Solved(TextTask):
        def describe(self, state: Any) -> bavt.Description:
            about = super().describe(state)
            return bavt.Description(True, True, about.answer) if about.terminal else about

    class Half:
        predicts = "value"

        def score(self, candidates: Sequence[Node]) -> list[Any]:
            bad = [node.answer is None for node in candidates]
            if any(bad) and fails == "call":
                raise FAILED
            return [FAILED if failed else 0.5 for failed in bad]

    steps, heard = iter(["Answer: 7", "so"]), []
    searcher = Searcher(
        lambda text, count: [next(steps)], Half(), Solved(), wave=2, max_step_tokens=8, on_event=heard.append
    )
    result = searcher.search("q", budget=BUDGET)
    assert (result.stop_reason, result.answer, result.solved, result.error) == ("solved", "7", True, None)
    assert [event.error for event in heard if event.kind in ("cancel", "stop")] == [FAILED, None]
    assert "it had stopped (solved) when something failed (LookupError: no such state)" in caplog.text


def test_coroutines() -> None:
    one = partial(["q1"], generator=AsyncGenerator(ENDLESS), wave=3)
    results = asyncio.run(one.asearch_many([f"q{i}" for i in range(3)], budget=BUDGET))
    assert [result.error for result in results] == [None, FAILED, None]
    assert [result.stop_reason for result in results] == ["budget", "error", "budget"]


@pytest.mark.parametrize("wave", [1, 4])
def test_what_a_failed_score_took_is_charged(wave: int) -> None:
    """Its own price counts: the price of the generator's tokens has nothing to do with it."""
    took = bavt.Spent(tokens=2, tool_calls=1, cost=0.25, prompt_tokens=7)
    one = partial(["q1"], took, wave=wave, token_cost=0.001)
    failed = one.search_many(["q0", "q1"], budget=bavt.Budget(cost=3.0))[1]
    assert failed.refused == ()  # the step was good; only its score was not
    assert (failed.spent.tool_calls, failed.spent.prompt_tokens) == (1, 7)
    made = failed.spent.tokens - 2
    assert made >= 1
    assert failed.spent.cost == pytest.approx(0.25 + 0.001 * made)
    assert failed.overrun == bavt.Spent()


@pytest.mark.parametrize("score", [True, np.True_, "0.5", None, 1j])
def test_a_score_that_is_no_number_is_the_critic_s(score: Any) -> None:
    searcher = Searcher(ScriptedGenerator(ENDLESS), lambda text: score, WorldTask(ENDLESS))
    with pytest.raises(bavt.SearchError, match="critic: expected a number for each state, got") as caught:
        searcher.search("a", budget=BUDGET)
    assert "raised by the critic" in str(caught.value)


def test_a_score_that_no_float_holds_fails_alone() -> None:
    class Critic(TableCritic):
        def score(self, candidates: Sequence[Node]) -> Any:
            values = super().score(candidates)
            return [HUGE if node.state[0] == "b" else v for node, v in zip(candidates, values, strict=True)]

    many = Searcher(ScriptedGenerator(ENDLESS), Critic(ENDLESS), WorldTask(ENDLESS), wave=4)
    results = many.search_many(["a", "b", "c"], budget=BUDGET)
    assert [result.stop_reason for result in results] == ["budget", "error", "budget"]
    assert str(results[1].error).startswith("critic: expected a number for each state")


class Unreadable:
    """A score whose number cannot be had, as of a device that has failed."""

    def __float__(self) -> float:
        raise RuntimeError("the device has failed")


class Beyond:
    """A score that is a number, and has no order of its own."""

    def __float__(self) -> float:
        return 7.0


@pytest.mark.parametrize("looks_on", [False, True])
def test_a_score_that_cannot_be_read_fails_its_question_alone(looks_on: bool) -> None:
    class Failing(TableCritic):
        def score(self, candidates: Sequence[Node]) -> Any:
            values = super().score(candidates)
            return [
                Unreadable() if node.state[0] == "q1" else value for node, value in zip(candidates, values, strict=True)
            ]

    options: dict[str, Any] = {"on_progress": lambda now: None} if looks_on else {}
    one = Searcher(ScriptedGenerator(ENDLESS), Failing(ENDLESS), WorldTask(ENDLESS), wave=4, **options)
    results = one.search_many([f"q{i}" for i in range(3)], budget=BUDGET)
    assert [result.stop_reason == "error" for result in results] == [False, True, False]
    assert "expected a number for each state" in str(results[1].error)
    for i in (0, 2):
        assert fingerprint(results[i]) == alone(ENDLESS, f"q{i}")


def test_scores_that_cannot_be_compared_are_warned_of_too() -> None:
    class Large(TableCritic):
        def score(self, candidates: Sequence[Node]) -> Any:
            return [Beyond() for _ in candidates]

    one = Searcher(ScriptedGenerator(ENDLESS), Large(ENDLESS), WorldTask(ENDLESS))
    with pytest.warns(UserWarning, match="got 7 to 7; they are clipped"):
        assert one.search("q", budget=BUDGET).stop_reason == "budget"


@pytest.mark.parametrize("predicts", ["value", "residual"])
@pytest.mark.parametrize("fails", ["raises", "nan", "exception"])
@pytest.mark.parametrize("kind", ["plain", "streaming", "async", "async critic"])
def test_an_answer_that_the_task_has_verified_is_kept_without_a_score(predicts: Any, fails: str, kind: str) -> None:
    """Its V is 1 whatever a critic says. An answer that nobody verified ends with the error, as before."""
    one = World(depth=1, goal_share=1.0, invalid_share=0.0, merge_share=0.0, dead_share=0.0)

    class Broken(TableCritic):
        max_score = bavt.Spent(tool_calls=1)

        def score(self, candidates: Sequence[Node]) -> Any:
            if fails == "raises":
                raise FAILED
            scores = [math.nan if fails == "nan" else FAILED] * len(candidates)
            return bavt.Scores(scores, [bavt.Spent(tool_calls=1)] * len(candidates))

    class Waiting(Broken):
        async def score(self, candidates: Sequence[Node]) -> Any:
            return super().score(candidates)

    def result(verifies: bool) -> bavt.SearchResult:
        critic = (Waiting if kind == "async critic" else Broken)(one)
        critic.predicts = predicts
        generator = {"plain": ScriptedGenerator, "streaming": StreamingGenerator}.get(kind, AsyncGenerator)(one)
        searcher = Searcher(generator, critic, WorldTask(one, verifies), candidates=2)
        if kind.startswith("async"):
            return asyncio.run(searcher.asearch_many(["q"], budget=BUDGET))[0]
        return searcher.search_many(["q"], budget=BUDGET)[0]

    found = result(verifies=True)
    assert (found.solved, found.stop_reason, found.error, found.value) == (True, "solved", None, 1.0)
    assert found.spent.tool_calls == (0 if fails == "raises" else found.tree.num_nodes - 1)
    unverified = result(verifies=False)
    assert (unverified.solved, unverified.stop_reason, unverified.tree.num_nodes) == (False, "error", 1)


class Refutes(TextTask):
    """Refutes what ends in "bad", and fails for what ends in "fails"."""

    def describe(self, state: Any) -> Any:
        if state.text.endswith("fails\n"):
            raise FAILED
        bad = state.text.endswith("bad\n")
        return bavt.Description(terminal=True, verdict=False) if bad else super().describe(state)


def test_what_was_refuted_counts_whatever_becomes_of_its_ask() -> None:
    def critic(text: str) -> float:
        raise FAILED

    one = Searcher(lambda text, count: ["bad", "good"], critic, Refutes(), candidates=2, max_step_tokens=4)
    [failed] = one.search_many(["q"], budget=BUDGET)
    search = one.start("q", budget=BUDGET)
    [ask] = search.ask()
    search.admit(ask, ["bad", "good"])
    waiting = search.result()
    search.cancel(ask)
    for result in (failed, waiting, search.result()):
        assert (len(result.refused), result.refuted_steps, result.tree.num_nodes) == (1, 1, 1)
    [ask] = search.ask()
    with pytest.raises(LookupError):
        search.admit(ask, ["fails", " "])  # the second is invalid, and nobody came so far
    check_counts(search.result())

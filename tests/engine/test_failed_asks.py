"""Generators that fail for single asks, and those that stream."""

from __future__ import annotations

import random
import time
from collections import UserList
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedGenerator, StreamingGenerator, TableCritic, World, WorldTask
from search_checks import (
    BUDGET,
    ENDLESS,
    WORLDS,
    alone,
    check_consistent,
    check_idle,
    fingerprint,
    run_all,
    worlds,
)

import bavt_fast as bavt
from bavt_fast.protocols import DeadlinePassed, GenerationError, StepRequest
from bavt_fast.result import SearchError
from bavt_fast.searcher import Searcher

# --- failures of single asks


class Flaky:
    """Fails for the asks whose seed says so, `times` times each; the others of the batch are answered."""

    def __init__(self, world: World, share: float, how: str, times: int = 10**9, spent: Any = None) -> None:
        self.inner, self.share, self.how, self.left = ScriptedGenerator(world), share, how, times
        self.spent, self.failed, self.generated = spent, 0, 0

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[Any]:
        answers: list[Any] = []
        for request, count, limit in zip(states, counts, limits, strict=True):
            if random.Random(request.seed).random() < self.share and self.left > 0:
                self.left -= 1
                self.failed += 1
                error = GenerationError("429", self.spent)
                if self.how == "raises":
                    raise error
                answers.append(error)
            else:
                answers.append(self.inner.steps(request, count, limit))
                self.generated += sum(step.tokens for step in answers[-1])
        return answers


def test_one_ask_that_fails_ends_its_question_alone() -> None:
    flaky = Flaky(ENDLESS, 0.2, "returns", times=1, spent=bavt.Spent(tokens=9))
    questions = [f"q{i}" for i in range(8)]
    results = Searcher(flaky, TableCritic(ENDLESS), WorldTask(ENDLESS)).search_many(questions, budget=BUDGET)
    errors = [result for result in results if result.stop_reason == "error"]
    assert len(errors) == flaky.failed == 1
    assert isinstance(errors[0].error, GenerationError)
    for question, result in zip(questions, results, strict=True):
        check_consistent(result, WorldTask(ENDLESS), question)
        if result.stop_reason != "error":
            assert fingerprint(result) == alone(ENDLESS, question)
    assert sum(result.spent.tokens for result in results) == flaky.generated + 9


@pytest.mark.parametrize("how", ["returns", "raises"])
def test_a_batch_that_fails_charges_what_was_returned(how: str) -> None:
    """Nothing that was generated and used is free, and nothing is charged that was not generated for good."""
    flaky = Flaky(ENDLESS, 0.05, how)
    results = Searcher(flaky, TableCritic(ENDLESS), WorldTask(ENDLESS), wave=6).search_many(
        [f"q{i}" for i in range(12)], budget=BUDGET
    )
    reasons = [result.stop_reason for result in results]
    assert 0 < reasons.count("error") < 12
    for i, result in enumerate(results):
        steps = [step for step in result.steps if step is not None] + [refusal.step for refusal in result.refused]
        assert result.spent.tokens == sum(step.tokens for step in steps)
        if result.stop_reason != "error":
            assert fingerprint(result) == alone(ENDLESS, f"q{i}")


@pytest.mark.parametrize("wave", [1, 4])
def test_a_batch_that_is_asked_again_is_told_once(wave: int, caplog: pytest.LogCaptureFixture) -> None:
    flaky = Flaky(ENDLESS, 0.3, "raises", times=3)
    searcher = Searcher(flaky, TableCritic(ENDLESS), WorldTask(ENDLESS), wave=wave)
    searcher.search_many([f"q{i}" for i in range(6)], budget=BUDGET)
    assert flaky.failed == 3
    said = [record.getMessage() for record in caplog.records if record.name == "bavt_fast"]
    assert len(said) == (wave > 1)
    assert all("asks at once failed (GenerationError: 429); they are asked again one by one" in text for text in said)


class Clearing(Flaky):
    """Empties the lists that it is given, whatever becomes of the ask."""

    def propose(self, states: Any, counts: Any, limits: Any) -> list[Any]:
        try:
            return super().propose(states, counts, limits)
        finally:
            for given in (states, counts, limits):
                given.clear()


@pytest.mark.parametrize("how", ["raises", "returns"])
@pytest.mark.parametrize("wave", [1, 4])
@pytest.mark.parametrize("observed", [False, True])
def test_what_a_generator_is_given_is_its_own(how: str, wave: int, observed: bool) -> None:
    def found(kind: type[Flaky]) -> list[Any]:
        generator = kind(ENDLESS, 0.3, how, times=2)
        on_event = (lambda event: None) if observed else None
        searcher = Searcher(generator, TableCritic(ENDLESS), WorldTask(ENDLESS), wave=wave, on_event=on_event)
        results = searcher.search_many([f"q{i}" for i in range(6)], budget=BUDGET)
        assert generator.failed == 2
        return [(result.stop_reason, str(result.error), fingerprint(result)) for result in results]

    assert found(Clearing) == found(Flaky)


@pytest.mark.parametrize(
    "change",
    [{"finish_reason": "tired"}, {"finish_reason": ["tired"]}, {"text": None}, {"log_probability": "likely"}, None],
)
def test_an_answer_that_cannot_be_used_is_charged_what_its_steps_say(change: dict[str, Any] | None) -> None:
    """None: there is one more than was asked for."""

    class Generator:
        def propose(self, states: Any, counts: Any, limits: Any) -> Any:
            step = bavt.Step("so\n", 5, prompt_tokens=30, tool_calls=2, cost=0.5, seconds=3.0)
            for name, value in (change or {}).items():
                setattr(step, name, value)
            clock[0] += 1.0
            return [[step] if change else [step, step]]

    clock = [100.0]
    searcher = Searcher(Generator(), clock=lambda: clock[0], tried_exponent=1.0)
    with pytest.raises(SearchError) as caught:
        searcher.search("q", budget=bavt.Budget(tokens=1000))
    times = 1 if change else 2
    expected = bavt.Spent(tokens=5, prompt_tokens=30, tool_calls=2, cost=0.5, seconds=3.0)
    spent = caught.value.result.spent
    assert spent == sum([expected] * (times - 1), expected) + bavt.Spent(seconds=1.0)


class Five:
    def __index__(self) -> int:
        return 5


@pytest.mark.parametrize("cost", [Fraction(1, 2), np.float32(0.5), Decimal("0.5")])
@pytest.mark.parametrize("tokens", [np.int16(5), Five()])
def test_numbers_of_every_kind_are_charged_where_another_step_is_wrong(cost: Any, tokens: Any) -> None:
    class Generator:
        def propose(self, states: Any, counts: Any, limits: Any) -> list[Any]:
            return [[bavt.Step("so\n", 0), bavt.Step("so\n", tokens, prompt_tokens=tokens, cost=cost)]]

    [result] = Searcher(Generator(), candidates=2).search_many(["q"], budget=bavt.Budget(tokens=1000))
    assert (result.spent.tokens, result.spent.prompt_tokens, result.spent.cost) == (5, 5, 0.5)


@pytest.mark.parametrize("form", [list, tuple, UserList])
@pytest.mark.parametrize("costs", [(None,), (0.0,), (0.5,), (None, 0.5), (0.0, None), (0.0, 0.0)])
@pytest.mark.parametrize("cached", [None, 0.125])
def test_an_answer_that_cannot_be_used_is_priced_step_by_step(form: Any, costs: Any, cached: float | None) -> None:
    class Generator:
        def propose(self, states: Any, counts: Any, limits: Any) -> list[Any]:
            return [form([*steps, None])]

    steps = [bavt.Step("so\n", 2, prompt_tokens=4, cached_tokens=1, cost=cost) for cost in costs]
    searcher = Searcher(
        Generator(), token_cost=1.0, prompt_token_cost=0.25, cached_token_cost=cached, max_prompt_tokens=9, candidates=3
    )
    with pytest.raises(SearchError) as caught:
        searcher.search("q", budget=bavt.Budget(tokens=1000))
    price = 2 * 1.0 + 3 * 0.25 + (0.25 if cached is None else cached)
    assert caught.value.result.spent.cost == sum(price if cost is None else cost for cost in costs)


@pytest.mark.parametrize(("fails", "seconds"), [("generator", 2.0 + 0.25 + 2.0), ("critic", 2 * (2.0 + 0.25))])
def test_the_time_of_what_failed_counts(fails: str, seconds: float) -> None:
    clock, calls = [0.0], {"generator": 0, "critic": 0}

    def called(who: str, takes_s: float) -> None:
        clock[0] += takes_s
        calls[who] += 1
        if who == fails and calls[who] == 2:
            raise OSError("down")

    def generator(text: str, count: int) -> list[str]:
        called("generator", 2.0)
        return [f"so {calls}"]

    def critic(text: str) -> float:
        called("critic", 0.25)
        return 0.5

    searcher = Searcher(generator, critic, clock=lambda: clock[0])
    [search] = searcher.run([searcher.start("q", budget=bavt.Budget(tokens=100, seconds=100.0))])
    assert search.stop_reason == "error"
    assert search.spent.seconds == seconds


def test_a_function_is_not_called_after_the_deadline() -> None:
    calls = []

    def generator(text: str, count: int) -> list[str]:
        calls.append(text)
        time.sleep(0.15)
        return ["on"]

    results = Searcher(generator, wave=8).search_many([f"q{i}" for i in range(8)], budget=bavt.Budget(seconds=0.1))
    assert len(calls) == 1
    assert [result.stop_reason for result in results] == ["deadline"] * 8
    assert [result.spent.tokens for result in results[1:]] == [0] * 7


@pytest.mark.parametrize(
    ("spent", "is_known", "tokens"), [(None, True, 0), (bavt.Spent(tokens=3), True, 3), (None, False, 16)]
)
@pytest.mark.parametrize("how", ["raises", "returns", "coroutine"])
def test_an_ask_that_its_deadline_comes_before_is_no_failure(
    how: str, spent: bavt.Spent | None, is_known: bool, tokens: int
) -> None:
    class Late(ScriptedGenerator):
        def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[Any]:
            error = DeadlinePassed("no time is left to ask", spent, is_known=is_known)
            late = [state.text.startswith("late\n") for state in states]
            if how == "raises" and all(late):
                raise error
            answers = super().propose(states, counts, limits)
            return [error if is_late else answer for is_late, answer in zip(late, answers, strict=True)]

    class Coroutine(Late):
        async def propose(self, *columns: Any) -> Any:  # type: ignore[override]
            return super().propose(*columns)

    made = (Coroutine if how == "coroutine" else Late)(ENDLESS)
    searcher = Searcher(made, None, WorldTask(ENDLESS), wave=1 if how == "raises" else 2, max_step_tokens=16)
    late, other = searcher.search_many(["late", "q"], budget=bavt.Budget(tokens=40, seconds=1e6))
    assert (late.stop_reason, late.error, late.spent.tokens) == ("deadline", None, tokens)
    assert (other.stop_reason, other.spent.tokens) == ("budget", 40)
    untimed = searcher.search_many(["late"], budget=bavt.Budget(tokens=40))[0]
    assert (untimed.stop_reason, type(untimed.error)) == ("error", DeadlinePassed)


def test_retries() -> None:
    """So many asks of one question may fail; the question goes on, and what failing took is charged."""
    for retries, reason in ((0, "error"), (2, "error"), (3, "budget")):
        flaky = Flaky(ENDLESS, 1.0, "returns", times=3, spent=bavt.Spent(tokens=4))
        many = Searcher(flaky, TableCritic(ENDLESS), WorldTask(ENDLESS), retries=retries)
        [result] = many.search_many(["q"], budget=bavt.Budget(tokens=100))
        assert result.stop_reason == reason
        assert result.spent.tokens == (100 if reason == "budget" else 4 * (retries + 1))
        assert (result.error is None) == (reason == "budget")
        check_tree_is_unharmed(result)


def check_tree_is_unharmed(result: Any) -> None:
    """A failed ask is no try and no visit."""
    fruitless = len(result.refused)
    assert result.tree.tries.sum() == result.tree.num_nodes - 1 + fruitless
    assert result.tree.visit_counts[0] == result.tree.num_nodes - 1 + fruitless


def test_a_search_goes_on_from_its_failure() -> None:
    flaky = Flaky(ENDLESS, 1.0, "raises", times=1)
    one = Searcher(flaky, TableCritic(ENDLESS), WorldTask(ENDLESS))
    with pytest.raises(SearchError, match=r"GenerationError during the search(, raised by the generator)?: 429"):
        one.search("q", budget=BUDGET)
    flaky.left = 1
    search = one.start("q", budget=bavt.Budget(tokens=40))
    [result] = run_all(one, [search])
    assert result.stop_reason == "error"
    search.extend(bavt.Budget(tokens=40))
    [result] = run_all(one, [search])
    assert (result.stop_reason, result.error, result.spent.tokens) == ("budget", None, 80)


# --- streaming


def streaming(world: World, seed: int, **options: Any) -> tuple[Searcher, StreamingGenerator]:
    generator = StreamingGenerator(world, seed)
    return Searcher(generator, TableCritic(world), WorldTask(world), **options), generator


@settings(max_examples=WORLDS, deadline=None)
@given(
    world=worlds,
    wave=st.integers(1, 9),
    leaves=st.integers(1, 3),
    count=st.integers(1, 6),
    order=st.integers(0, 99),
    seed=st.integers(0, 99),
)
def test_a_streaming_generator(world: World, wave: int, leaves: int, count: int, order: int, seed: int) -> None:
    many, generator = streaming(world, order, wave=wave, leaves=leaves)
    questions = [f"q{i}" for i in range(count)]
    results = many.search_many(questions, budget=BUDGET, seed=seed)
    assert generator.most <= wave
    assert not generator.out
    for question, result in zip(questions, results, strict=True):
        check_consistent(result, WorldTask(world), question)
        if leaves == 1:  # whatever the order in which answers came
            assert fingerprint(result) == alone(world, question, seed=seed)


def test_a_streaming_generator_with_one_question() -> None:
    one, generator = streaming(ENDLESS, 1, wave=4)
    result = one.search("q", budget=bavt.Budget(tokens=300))
    assert generator.most == 4
    assert result.spent.tokens == 300
    check_consistent(result, WorldTask(ENDLESS))
    again, _ = streaming(ENDLESS, 1, wave=4)
    assert fingerprint(again.search("q", budget=bavt.Budget(tokens=300))) == fingerprint(result)


def test_what_is_out_when_a_question_ends_is_discarded() -> None:
    world = World(goal_share=1.0, dead_share=0.0, invalid_share=0.0, merge_share=0.0, depth=2, min_tokens=0)
    one, generator = streaming(world, 5, wave=6, leaves=6)
    result = one.search("q", budget=bavt.Budget(tokens=1000))
    assert result.solved
    assert generator.discarded
    assert not generator.out
    search = one.start("r", budget=bavt.Budget(tokens=1000))
    run_all(one, [search])
    check_idle(search)


@pytest.mark.parametrize("stage", ["submit", "collect", "unknown", "one"])
def test_a_streaming_generator_that_fails(stage: str) -> None:
    class Broken(StreamingGenerator):
        submitted = collected = 0

        def submit(self, tickets: Any, *columns: Any) -> None:
            self.submitted += 1
            if stage == "submit" and self.submitted == 5:
                raise OSError("gone")
            super().submit(tickets, *columns)

        def collect(self) -> Any:
            self.collected += 1
            if stage == "collect" and self.collected == 5:
                raise OSError("gone")
            if stage == "unknown" and self.collected == 5:
                return [(12345, [])]
            done: Any = super().collect()
            if stage == "one" and self.collected == 5:
                return [(ticket, OSError("gone")) for ticket, _ in done]
            return done

    generator = Broken(ENDLESS, 3, most=1)
    one = Searcher(generator, TableCritic(ENDLESS), WorldTask(ENDLESS), wave=3)
    searches = [one.start(f"q{i}", budget=BUDGET) for i in range(5)]
    results = run_all(one, searches)
    for search, result in zip(searches, results, strict=True):
        check_idle(search)
        check_consistent(result, WorldTask(ENDLESS), search.question)
    reasons = [result.stop_reason for result in results]
    assert reasons.count("error") == (1 if stage in ("submit", "one") else 3)  # what was out
    assert reasons.count("budget") == 5 - reasons.count("error")
    assert not generator.out  # what was given up was discarded
    errors = [str(result.error) for result in results if result.error is not None]
    assert all(("tickets that are out, got 12345" if stage == "unknown" else "gone") in error for error in errors)


def test_what_is_out_when_a_run_is_broken_off_is_discarded() -> None:
    """Another run numbers its tickets anew: an answer of the first would go to a question of the second."""
    one, generator = streaming(ENDLESS, 2, wave=3)
    for _ in one.search_iter(["a", "b", "c", "d"], budget=BUDGET):
        break
    assert not generator.out
    assert generator.discarded

    class Interrupted(StreamingGenerator):
        def collect(self) -> Any:
            if len(self.inner.requests) == 0 and len(self.out) == 3:
                raise KeyboardInterrupt
            return super().collect()

    interrupted = Interrupted(ENDLESS)
    results = Searcher(interrupted, None, WorldTask(ENDLESS), wave=3).search_many(["abcd"] * 3, budget=BUDGET)
    assert {result.stop_reason for result in results} == {"interrupted"}
    assert not interrupted.out


def test_a_search_loaded_with_asks_out_goes_on_under_a_streaming_generator() -> None:
    one, generator = streaming(ENDLESS, 2, wave=3, leaves=3)
    search = one.start("q", budget=bavt.Budget(tokens=90))
    asks = search.ask(2)
    assert len(asks) == 1  # a second one would cut its step short
    run_all(one, [search])
    assert not generator.out
    assert search.spent.tokens == 90


class NoTokens(GenerationError):
    def __init__(self, status: int) -> None:
        self.status = status


class TooLate(DeadlinePassed):
    def __init__(self) -> None:
        pass


@pytest.mark.parametrize("kind", ["plain", "streams", "coroutine"])
@pytest.mark.parametrize(
    ("failure", "reason", "error"),
    [
        (lambda: GenerationError("429", 5), "error", TypeError),
        (lambda: GenerationError("429", (1, 2, 3, 4)), "error", TypeError),
        (lambda: DeadlinePassed("late", {"tokens": 5}), "error", TypeError),
        (lambda: NoTokens(429), "error", NoTokens),
        (lambda: NoTokens.__new__(NoTokens), "error", NoTokens),
        (TooLate, "deadline", type(None)),
    ],
)
def test_a_failed_ask_that_says_wrongly_what_it_took_fails_alone(
    kind: str, failure: Any, reason: str, error: type[Any]
) -> None:
    def answers(states: Sequence[StepRequest]) -> list[Any]:
        return [failure() if state.text.startswith("bad") else [bavt.Step(f"{state.seed}\n", 1)] for state in states]

    class Plain:
        def propose(self, states: Any, counts: Any, limits: Any) -> Any:
            return answers(states)

    class Coroutine:
        async def propose(self, states: Any, counts: Any, limits: Any) -> Any:
            return answers(states)

    class Streams:
        def __init__(self) -> None:
            self.done: list[Any] = []

        def submit(self, tickets: Any, states: Any, counts: Any, limits: Any) -> None:
            self.done += zip(tickets, answers(states), strict=True)

        def collect(self) -> Any:
            done, self.done = self.done, []
            return done

        def discard(self, tickets: Any) -> None:
            pass

    generator = {"plain": Plain, "streams": Streams, "coroutine": Coroutine}[kind]()
    budget = bavt.Budget(tokens=20, seconds=1e6)
    results = Searcher(generator).search_many(["good", "bad", "fine"], budget=budget)
    assert [result.stop_reason for result in results] == ["budget", reason, "budget"]
    assert [result.spent.tokens for result in results] == [20, 0, 20]
    assert type(results[1].error) is error
    if error is TypeError:
        assert str(results[1].error).startswith("GenerationError.spent: expected a Spent such as Spent(tokens=12), got")
        assert isinstance(results[1].error.__cause__, GenerationError)

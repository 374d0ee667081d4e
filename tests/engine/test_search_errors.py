"""Searches that are broken off: failing or interrupted stages, wrong answers from them, bad arguments."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Failing, ScriptedGenerator, TableCritic, World, WorldTask
from search_checks import POLICIES, check_consistent, check_idle, worlds

import bavt_fast as bavt
from bavt_fast.protocols import Node, Step, StepRequest
from bavt_fast.result import SearchError, SearchResult
from bavt_fast.searcher import Searcher

CASES = int(os.environ.get("BAVT_SEARCH_WORLDS", "60"))
TOKENS = bavt.Budget(tokens=100)


class Boom(RuntimeError):
    pass


def broken(stage: str, at: int, error: Callable[[], BaseException], world: World, persistent: bool) -> Searcher:
    parts: dict[str, Any] = {
        "generator": ScriptedGenerator(world),
        "critic": TableCritic(world),
        "task": WorldTask(world),
        "on_progress": SimpleNamespace(show=lambda progress: None),
    }
    parts[stage] = Failing(parts[stage], at, error, persistent)
    parts["on_progress"] = parts["on_progress"].show
    if stage != "on_progress" and world.seed % 2:  # nobody looks on: rounds turn by themselves
        del parts["on_progress"]
    return Searcher(wave=3, candidates=2, **parts)


# --- stages that raise


@settings(max_examples=3 * CASES, deadline=None)
@given(
    world=worlds,
    stage=st.sampled_from(["generator", "critic", "task", "on_progress"]),
    at=st.integers(0, 60),
    persistent=st.booleans(),
    interrupt=st.booleans(),
    seed=st.integers(0, 99),
)
def test_whatever_fails_whenever_the_result_is_kept(
    world: World, stage: str, at: int, persistent: bool, interrupt: bool, seed: int
) -> None:
    searcher = broken(stage, at, KeyboardInterrupt if interrupt else Boom, world, persistent)
    try:
        search = searcher.start("q", budget=TOKENS, seed=seed)
    except (Boom, KeyboardInterrupt):
        assert stage == "task"
        assert at < 3  # one of the calls that read the question, before anything could be spent
        return
    for _ in searcher.run([search]):
        pass
    result = search.result()
    check_idle(search)
    assert result.spent.tokens <= 100
    assert result.overrun == bavt.Spent()
    assert result.stop_reason != "error" or isinstance(result.error, Boom)
    assert result.stop_reason != "interrupted" or interrupt
    check_consistent(result, WorldTask(world), shown=stage == "on_progress")


@pytest.mark.parametrize("stage", ["generator", "critic", "task", "on_progress"])
def test_an_interrupt_returns_what_was_found(stage: str) -> None:
    world = World(goal_share=0.0, dead_share=0.0, depth=8, branching=4)
    result = broken(stage, 12 if stage != "task" else 100, KeyboardInterrupt, world, persistent=True).search(
        "q", budget=bavt.Budget(tokens=10_000)
    )
    assert result.stop_reason == "interrupted"
    assert result.path
    check_consistent(result, WorldTask(world))


def test_a_real_interrupt() -> None:
    """The signal of Ctrl-C, sent to this very process in the middle of the search."""
    calls = 0

    def generator(text: str, count: int) -> list[str]:
        nonlocal calls
        calls += 1
        if calls == 20:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        return [f"step {calls}"]

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is started deaf to Ctrl-C
    try:
        result = bavt.search("q", generator=generator, budget=bavt.Budget(tokens=10**4))
    finally:
        signal.signal(signal.SIGINT, before)
    assert result.stop_reason == "interrupted"
    assert result.tree.num_nodes == 20


RAISED = r"(, raised by the (generator|critic|task|callback on_progress))?"
"""Python 3.10 keeps no notes."""


@pytest.mark.parametrize(("stage", "calls"), [("generator", 4), ("critic", 3), ("task", 60), ("on_progress", 2)])
def test_a_failure_names_its_cause_and_keeps_the_result(stage: str, calls: int) -> None:
    world = World(goal_share=0.0, dead_share=0.0, depth=8, branching=4)
    searcher = broken(stage, calls, lambda: Boom("out of memory"), world, persistent=True)
    with pytest.raises(SearchError, match=rf"Boom during the search{RAISED}: out of memory") as caught:
        searcher.search("q", budget=TOKENS)
    assert isinstance(caught.value.__cause__, Boom)
    if hasattr(caught.value, "add_note"):
        assert f"raised by the {'callback ' * (stage == 'on_progress')}{stage}: " in str(caught.value)
    result = caught.value.result
    assert result.stop_reason == "error"
    assert result.tree.num_nodes > 1
    assert result.path
    assert result.error is caught.value.__cause__
    check_consistent(result, WorldTask(world))


def test_a_searcher_works_again_after_a_failure() -> None:
    world = World(goal_share=0.0, dead_share=0.0)
    searcher = broken("generator", 3, Boom, world, persistent=False)
    with pytest.raises(SearchError):
        searcher.search("q", budget=TOKENS)
    again = searcher.search("q", budget=TOKENS)
    fresh = Searcher(ScriptedGenerator(world), TableCritic(world), WorldTask(world), wave=3, candidates=2)
    assert again.tree.parents.tolist() == fresh.search("q", budget=TOKENS).tree.parents.tolist()


def test_an_answer_found_before_the_failure_is_still_there() -> None:
    """One terminal of a task that cannot verify, then a generator that fails."""
    replies: list[Any] = [["Answer: 7"], Boom("gone")]

    def generator(text: str, count: int) -> list[str]:
        reply = replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply

    with pytest.raises(SearchError) as caught:
        bavt.search("q", generator=generator, budget=TOKENS)
    assert caught.value.result.answer == "7"


@pytest.mark.parametrize("stage", ["generator", "critic", "task"])
def test_a_failure_that_cannot_say_what_it_is_keeps_the_result(stage: str) -> None:
    class Mute(TypeError):
        def __str__(self) -> str:
            raise RuntimeError("mute")

    searcher = broken(stage, 5, Mute, World(goal_share=0.0, dead_share=0.0), True)
    with pytest.raises(SearchError, match=r"Mute during the search.*: \(RuntimeError in its __str__\)") as caught:
        searcher.search("q", budget=TOKENS)
    result = caught.value.result
    assert type(result.error) is Mute
    assert "RuntimeError in its __str__" in result.to_json()
    assert "Mute" in str(result)


@dataclasses.dataclass(frozen=True)
class Frozen(Exception):
    """Takes no note of who raised it."""

    code: int


@pytest.mark.parametrize("stage", ["generator", "critic", "task", "on_progress"])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_failure_that_takes_no_notes_keeps_the_results(stage: str, seed: int) -> None:
    def searcher() -> Searcher:
        return broken(stage, 9, lambda: Frozen(4), World(goal_share=0.0, dead_share=0.0, seed=seed), True)

    with pytest.raises(SearchError, match="Frozen during the search") as caught:
        searcher().search("q", budget=TOKENS)
    assert caught.value.result.error == Frozen(4)
    results = searcher().search_many(["a", "b"], budget=TOKENS)
    assert [result.error for result in results] == [Frozen(4)] * 2


# --- generators that answer wrongly


class Fixed:
    """A generator or critic whose first call is answered rightly, the others by a fixed object."""

    predicts = "value"

    def __init__(self, reply: Callable[[Any], Any]) -> None:
        self.reply, self.calls = reply, 0

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> Any:
        self.calls += 1
        return [[Step("first\n", 1)] for _ in states] if self.calls == 1 else self.reply(states)

    def score(self, candidates: Sequence[Node]) -> Any:
        self.calls += 1
        return [0.5 for _ in candidates] if self.calls == 1 else self.reply(candidates)


def fails(generator: Any, critic: Any = None) -> tuple[str, SearchResult]:
    with pytest.raises(SearchError) as caught:
        bavt.search("q", generator=generator, critic=critic, budget=TOKENS)
    result = caught.value.result
    assert result.tree.num_nodes == 2
    assert result.path == ("first",)
    assert not (result.tree.flags & bavt.Tree.IN_FLIGHT).any()
    return str(caught.value), result


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (None, "expected 1 lists of steps, one per state, got None"),
        (7, "expected 1 lists of steps, one per state, got 7"),
        ("steps", "expected 1 lists of steps, one per state, got 'steps'"),
        ({"a": 1}, "expected 1 lists of steps, one per state, got {'a': 1}"),
        ([None], "a list of Step for each state, got None"),
        ([Step("a", 1)], "a list of Step for each state, got Step("),
        ([], "expected 1 lists of steps, one per state, got 0"),
        ([[], []], "expected 1 lists of steps, one per state, got 2"),
        ([["text"]], "expected Step objects, got str"),
        (["x"], "a list of Step for each state, got 'x'"),
        ([[None]], "expected Step objects, got NoneType"),
        ([[Step("a", 1)] * 10_000], "at most 1 steps, got 10000"),
        ([[Step("a", 0)]], "Step.tokens: expected an integer from 1 to 1152921504606846976, got 0"),
        ([[Step("a", -3)]], "Step.tokens: expected an integer from 1 to 1152921504606846976, got -3"),
        ([[Step("a", 1.5)]], "Step.tokens: expected an integer from 1 to 1152921504606846976, got 1.5"),  # type: ignore[arg-type]
        ([[Step("a", True)]], "Step.tokens: expected an integer from 1 to 1152921504606846976, got True"),
        ([[Step("a", math.nan)]], "Step.tokens: expected an integer from 1 to 1152921504606846976, got nan"),  # type: ignore[arg-type]
        ([[Step(None, 1)]], "a str as Step.text, got NoneType"),  # type: ignore[arg-type]
        ([[Step("a", 1, "stop")]], "'end', 'limit' or 'deadline' as Step.finish_reason, got 'stop'"),  # type: ignore[arg-type]
        (
            [[Step("a", 1, prompt_tokens=-1)]],
            "Step.prompt_tokens: expected an integer from 0 to 1152921504606846976, got -1",
        ),
        ([[Step("a", 1, prompt_tokens="1")]], "Step.prompt_tokens: expected"),  # type: ignore[arg-type]
        ([[Step("a", 1, tool_calls=-1)]], "Step.tool_calls: expected"),
        ([[Step("a", 1, tool_calls=0.5)]], "Step.tool_calls: expected"),  # type: ignore[arg-type]
        ([[Step("a", 1, cost=-1.0)]], "Step.cost: expected"),
        ([[Step("a", 1, cost=math.nan)]], "Step.cost: expected"),
        ([[Step("a", 1, cost="1")]], "Step.cost: expected"),  # type: ignore[arg-type]
        ([[Step("a", 1, seconds=-1.0)]], "Step.seconds: expected"),
        ([[Step("a", 1, seconds=math.inf)]], "Step.seconds: expected"),
        ([[Step("a", 1, prompt_tokens=2**70)]], "Step.prompt_tokens: expected"),
    ],
)
def test_a_generator_that_answers_wrongly_is_named(reply: Any, message: str) -> None:
    """What it reports is charged all the same, as far as it is a number."""
    text, result = fails(Fixed(lambda states: reply))
    assert "generator: expected" in text or "Step." in text
    assert message in text
    row = reply[0] if isinstance(reply, list) and len(reply) == 1 else []
    tokens = [step.tokens for step in row if isinstance(step, Step)] if isinstance(row, list) else []
    assert result.spent.tokens == min(2**63 - 1, 1 + sum(n for n in tokens if isinstance(n, int) and n > 0))


@pytest.mark.parametrize("reply", [None, 7, "a step", [1], [None], {"a": "b"}])
def test_a_function_that_answers_wrongly_is_named(reply: Any) -> None:
    replies = iter([["first"], reply])
    text, _ = fails(lambda text, count: next(replies))
    assert "generator: expected a list of str" in text or "generator: expected steps as str or Step" in text


def test_a_function_that_gives_too_many_steps_is_named() -> None:
    replies = iter([["first"], ["a"] * 10_000])
    assert "at most 1 steps, got 10000" in fails(lambda text, count: next(replies))[0]


def test_nothing_at_all_from_the_generator_exhausts_the_search() -> None:
    result = bavt.search("q", generator=lambda text, count: [], budget=TOKENS)
    assert (result.stop_reason, result.path, result.answer, result.spent.tokens) == ("exhausted", (), None, 0)


# --- critics that answer wrongly


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        ([math.nan], "finite scores, got nan"),
        ([math.inf], "finite scores, got inf"),
        ([-math.inf], "finite scores, got -inf"),
        ([], "expected 1 scores, one per node, got 0"),
        ([0.5, 0.5], "expected 1 scores, one per node, got 2"),
        (None, "expected a list of numbers, one per node"),
        (0.5, "expected a list of numbers, one per node"),
        ("5", "expected a list of numbers, one per node"),
        ([None], "expected a number for each state, got None"),
        (["0.5"], "expected a number for each state, got '0.5'"),
        ([[0.5]], "expected a number for each state, got [0.5]"),
        ([1j], "expected a number for each state, got 1j"),
    ],
)
def test_a_critic_that_answers_wrongly_is_named(reply: Any, message: str) -> None:
    steps = iter([["first"], ["second"]])
    text, result = fails(lambda text, count: next(steps), Fixed(lambda candidates: reply))
    assert "critic: expected" in text
    assert message in text
    assert result.spent.tokens == 2  # both steps were generated and paid for


@pytest.mark.parametrize("value", [None, "0.5", math.nan])
def test_a_critic_function_that_answers_wrongly_is_named(value: Any) -> None:
    steps, values = iter([["first"], ["second"]]), iter([0.5, value])
    assert "critic: expected" in fails(lambda text, count: next(steps), lambda text: next(values))[0]


# --- bad arguments, refused before anything is spent


class Untouchable:
    predicts: Literal["value", "residual"] = "value"

    def propose(self, *args: Any) -> Any:
        raise AssertionError("called")

    score = propose


@pytest.mark.parametrize("name", ["tokens", "tool_calls", "seconds", "cost"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf, True, False, "5", [5]])
def test_bad_budgets(name: str, value: Any) -> None:
    with pytest.raises((ValueError, TypeError), match=name):
        bavt.Budget(**{name: value})


@pytest.mark.parametrize("budget", [500, None, "500", {"tokens": 5}, bavt.Budget])
def test_a_budget_that_is_none(budget: Any) -> None:
    with pytest.raises(TypeError, match=r"budget: expected a Budget such as Budget\(tokens=500\)"):
        bavt.search("q", generator=Untouchable(), budget=budget)


def test_a_limit_that_nothing_is_charged_to_is_refused() -> None:
    with pytest.raises(ValueError, match="give a token_cost or max_step_cost > 0"):
        bavt.search("q", generator=Untouchable(), budget=bavt.Budget(tokens=5, cost=1.0))
    with pytest.raises(ValueError, match="step_tool_calls"):
        bavt.search("q", generator=Untouchable(), budget=bavt.Budget(tool_calls=5))


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, True, None, "0", math.nan])
def test_bad_seeds(seed: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="seed: expected an integer from 0 to 9223372036854775807"):
        bavt.search("q", generator=Untouchable(), budget=TOKENS, seed=seed)


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("wave", [0, -1, 1.5, True, "2"]),
        ("leaves", [0, -1, 1.5, True, "2"]),
        ("retries", [-1, 0.5, True, "1", None]),
        ("candidates", [0, -1, 2.0, True, None]),
        ("max_step_tokens", [0, -5, 1.5, False]),
        ("max_nodes", [0, -1, math.nan, "9", True]),
        ("decay", [0.0, -0.5, 1.01, math.nan, True, None]),
        ("discount", [0.0, -0.5, 1.01, math.nan, True, None, "1"]),
        ("exploration", [math.nan, math.inf, "1", True]),
        ("policy", ["greedy", "", "POWER"]),
        ("token_cost", [-1.0, math.nan, math.inf, "1", True]),
        ("prompt_token_cost", [-1.0, math.nan, math.inf, "1", True]),
        ("max_step_cost", [-1.0, math.nan, math.inf, "1", True]),
        ("step_tool_calls", [-1, 0.5, True, "1"]),
        ("max_prompt_tokens", [-1, 0.5, True, "1"]),
        ("max_score", [None, 5, (0, 0)]),
        ("patience", [0, -1, 1.5, True, None]),
        ("root_value", [0.0, -0.5, 1.01, math.nan, True, None, "1"]),
        ("temperature", [-0.5, math.nan, math.inf, True, "1"]),
        ("top_p", [0.0, 1.01, math.nan, True, "1"]),
        ("top_k", [0, -1, 1.5, True, "1"]),
        ("widening_scale", [0.0, -1.0, math.nan, math.inf, True, "1"]),
        ("widening_exponent", [-0.1, 1.1, math.nan, True, "1"]),
    ],
)
def test_bad_options_are_refused_by_name(option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises((ValueError, TypeError), match=f"{option}: expected"):
            Searcher(Untouchable(), Untouchable(), **{option: value})


def test_an_unknown_option() -> None:
    with pytest.raises(TypeError, match="breadth"):
        bavt.search("q", generator=Untouchable(), budget=TOKENS, breadth=3)


@pytest.mark.parametrize("question", ["", "  \n", None, 5, b"q"])
def test_bad_questions(question: Any) -> None:
    with pytest.raises(ValueError, match="question: expected a non-empty str"):
        bavt.search(question, generator=Untouchable(), budget=TOKENS)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_survives_a_dead_root(policy: str) -> None:
    result = bavt.search("q", generator=lambda text, count: [], budget=TOKENS, policy=policy)
    assert result.stop_reason == "exhausted"


class InterruptedLater:
    """Steps from a coroutine; Ctrl-C while the given call is out."""

    def __init__(self, call: int) -> None:
        self.call, self.calls = call, 0

    async def propose(self, states: Sequence[Any], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        self.calls += 1
        number = self.calls
        await asyncio.sleep(0)
        if number == self.call:
            signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(0)
        return [[Step(f"step {number}\n", 2)]]


@pytest.mark.parametrize("many", [False, True])
def test_an_interrupt_of_coroutines_keeps_the_results(many: bool) -> None:
    searcher = Searcher(InterruptedLater(20))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if many:
            results = searcher.search_many(["a", "b", "c"], budget=bavt.Budget(tokens=10**4))
        else:
            results = [searcher.search("a", budget=bavt.Budget(tokens=10**4))]
    finally:
        signal.signal(signal.SIGINT, before)
    assert [result.stop_reason for result in results] == ["interrupted"] * len(results)
    out_beside = len(results) - 1  # where Python is 3.10, these may still come
    assert 15 <= sum(result.tree.num_nodes - 1 for result in results) < 20 + out_beside


def test_coroutines_within_a_running_loop_are_sent_to_asearch() -> None:
    async def generator(text: str, count: int) -> list[str]:
        return ["step"]

    async def within() -> None:
        bavt.search("q", generator=generator, budget=bavt.Budget(tokens=10))

    with pytest.raises(TypeError, match=r"running event loop.*asearch"):
        asyncio.run(within())


def test_an_object_whose_call_is_a_coroutine_is_a_critic() -> None:
    class Scorer:
        async def __call__(self, text: str) -> float:
            return 0.25

    result = bavt.search(
        "q", generator=lambda text, count: [f"{len(text)}"], critic=Scorer(), budget=bavt.Budget(tokens=5)
    )
    assert set(result.tree.values[1:].tolist()) == {0.25}


def test_an_argument_that_does_not_exist_is_named() -> None:
    with pytest.raises(TypeError, match="budgets: expected no argument of this name, got 3"):
        Searcher(lambda text, count: ["step"], budgets=3)

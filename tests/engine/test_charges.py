"""Numbers of NumPy, kinds of scores, and what steps and scoring cost."""

from __future__ import annotations

import decimal
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import ScriptedGenerator, TableCritic, World, WorldTask
from search_checks import BUDGET, ENDLESS, WORLDS, alone, arrays, fingerprint, run_all, searcher, worlds

import bavt_fast as bavt
from bavt_fast.engine import Search
from bavt_fast.protocols import Step, StepRequest
from bavt_fast.result import SearchError
from bavt_fast.searcher import Searcher
from bavt_fast.tasks.text import TextTask

# --- numbers of NumPy


def test_numpy_scalars_are_taken_everywhere() -> None:
    plain = searcher(ENDLESS, candidates=2, discount=0.5, decay=0.75, exploration=2.0, wave=2, leaves=2, patience=5)
    strange = searcher(
        ENDLESS,
        candidates=np.int32(2),
        discount=np.float32(0.5),
        decay=np.float64(0.75),
        exploration=np.float32(2.0),
        wave=np.int64(2),
        leaves=np.uint8(2),
        patience=np.int16(5),
        temperature=np.float16(1.0),
        max_nodes=np.int64(10**5),
        retries=np.int8(1),
        token_cost=np.float32(0.5),
    )
    budget = bavt.Budget(tokens=np.int64(300))  # type: ignore[arg-type]
    first = plain.search("q", budget=bavt.Budget(tokens=300), seed=3)
    second = strange.search("q", budget=budget, seed=np.int64(3))  # type: ignore[arg-type]
    assert arrays(first.tree) == arrays(second.tree)
    assert (first.path, first.spent.tokens) == (second.path, second.spent.tokens)
    assert strange.search_many(["q"], budget=budget, seed=[np.uint16(3)])[0].stop_reason == "budget"  # type: ignore[list-item]


def test_steps_of_numpy_numbers() -> None:
    class Generator:
        def propose(self, states: Any, counts: Any, limits: Any) -> Any:
            name = f"{states[0].seed}\n"
            return [
                [
                    Step(
                        name,
                        np.int64(3),
                        "delimiter",
                        np.int32(2),
                        np.uint8(1),
                        np.float64(0.25),
                        np.float32(0.0),
                        token_ids=(np.int64(5),),
                    )
                ]
            ]

    one = Searcher(Generator(), lambda text: np.float32(0.5), step_tool_calls=1, max_step_cost=1, max_prompt_tokens=9)
    budget = bavt.Budget(tokens=90, tool_calls=50, cost=9.0, prompt_tokens=90)
    result = one.search("q", budget=budget)
    spent = result.spent
    steps = len(result.steps) - 1
    assert (spent.tokens, spent.tool_calls, spent.cost, spent.prompt_tokens) == (3 * steps, steps, steps / 4, 2 * steps)
    assert (type(spent.tokens), type(spent.cost)) == (int, float)
    assert result.overrun == bavt.Spent()
    assert steps > 20
    step = result.steps[1]
    assert step is not None
    assert (type(step.tokens), type(step.prompt_tokens), type(step.cost)) == (int, int, float)


class Always:
    """A critic that gives a fixed kind of answer."""

    predicts = "value"

    def __init__(self, make: Any) -> None:
        self.make = make

    def score(self, candidates: Sequence[Any]) -> Any:
        return self.make(len(candidates))


KINDS: dict[str, Any] = {
    "list": lambda n: [0.5] * n,
    "tuple": lambda n: (0.5,) * n,
    "ints": lambda n: [1] * n,
    "numpy": lambda n: np.full(n, 0.5),
    "numpy float32": lambda n: np.full(n, 0.5, np.float32),
    "column": lambda n: np.full((n, 1), 0.5),
    "scalars": lambda n: [np.float16(0.5)] * n,
    "zero-dimensional": lambda n: [np.array(0.5)] * n,
    "scores": lambda n: bavt.Scores([0.5] * n, [bavt.Spent()] * n),
    "scores of a column": lambda n: bavt.Scores(np.full((n, 1), 0.5), [bavt.Spent()] * n),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("wave", [1, 4])
def test_kinds_of_scores(kind: str, wave: int) -> None:
    one = Searcher(ScriptedGenerator(ENDLESS), Always(KINDS[kind]), WorldTask(ENDLESS), wave=wave, candidates=2)
    result = one.search("q", budget=BUDGET)
    assert set(result.tree.values.tolist()) == {1.0, 1.0 if kind == "ints" else 0.5}
    assert result.stop_reason == "budget"


def test_tensors_as_scores() -> None:
    torch = pytest.importorskip("torch")
    for shape in ((-1,), (-1, 1)):
        for kind in (torch.float32, torch.bfloat16):
            critic = Always(lambda n, shape=shape, kind=kind: torch.full((n,), 0.5, dtype=kind).reshape(shape))
            result = Searcher(ScriptedGenerator(ENDLESS), critic, WorldTask(ENDLESS)).search("q", budget=BUDGET)
            assert set(result.tree.values.tolist()) == {1.0, 0.5}


# --- critics that cost something


class Costly(TableCritic):
    max_score = bavt.Spent(tokens=3)

    def __init__(self, world: World, took: int) -> None:
        super().__init__(world)
        self.took = took

    def score(self, candidates: Sequence[Any]) -> Any:
        return bavt.Scores(super().score(candidates), [bavt.Spent(tokens=self.took)] * len(candidates))


@settings(max_examples=WORLDS // 2, deadline=None)
@given(
    world=worlds,
    took=st.integers(0, 3),
    wave=st.integers(1, 4),
    candidates=st.integers(1, 3),
    tokens=st.integers(1, 90),
)
def test_what_scoring_takes_is_reserved_and_charged(
    world: World, took: int, wave: int, candidates: int, tokens: int
) -> None:
    critic = Costly(world, took)
    one = Searcher(ScriptedGenerator(world), critic, WorldTask(world), wave=wave, candidates=candidates)
    result = one.search("q", budget=bavt.Budget(tokens=tokens))
    steps = [step for step in result.steps if step is not None] + [refusal.step for refusal in result.refused]
    assert sum(critic.sizes) == result.tree.num_nodes - 1  # what is refuted is not scored
    assert result.spent.tokens == sum(step.tokens for step in steps) + took * sum(critic.sizes) <= tokens
    assert result.overrun == bavt.Spent()


def test_a_critic_that_takes_more_than_it_said_is_charged_in_full() -> None:
    critic = Costly(ENDLESS, 20)
    result = Searcher(ScriptedGenerator(ENDLESS), critic, WorldTask(ENDLESS)).search("q", budget=BUDGET)
    assert (result.stop_reason, result.overrun.tokens, critic.sizes) == ("budget", 17, [1])
    assert result.tree.num_nodes == 2


@pytest.mark.parametrize("spent", [[], [5], [None], [bavt.Spent()] * 2, None])
def test_wrong_costs_of_scores(spent: Any) -> None:
    critic = Always(lambda n: bavt.Scores([0.5] * n, spent))
    with pytest.raises(SearchError, match="critic: expected 1 Spent, one per node"):
        Searcher(ScriptedGenerator(ENDLESS), critic, WorldTask(ENDLESS)).search("q", budget=BUDGET)


def test_sampling_is_handed_to_the_generator() -> None:
    for most_read, told in ((0, None), (9, 9)):
        one = searcher(ENDLESS, temperature=0.25, top_p=0.5, top_k=7, max_prompt_tokens=most_read)
        one.search("q", budget=BUDGET)
        assert {request.sampling for request in one.generator.requests} == {(0.25, 0.5, 7, None, told)}


def test_prompt_tokens_are_limited_and_priced() -> None:
    """130,364 words of prompts for a budget of a cent."""

    class Generator:
        def propose(self, states: Sequence[StepRequest], counts: Any, limits: Any) -> list[list[Step]]:
            return [[Step(f"{s.seed}\n", 5, prompt_tokens=len(s.text.split()) + 1000)] for s in states]

    one = Searcher(Generator(), token_cost=1e-6, prompt_token_cost=1e-7, max_prompt_tokens=1100)
    by_cost = one.search("q", budget=bavt.Budget(cost=0.01))
    assert by_cost.stop_reason == "budget"
    assert 0.0098 < by_cost.spent.cost <= 0.01
    assert by_cost.spent.cost == pytest.approx(by_cost.spent.tokens * 1e-6 + by_cost.spent.prompt_tokens * 1e-7)
    by_prompt = one.search("q", budget=bavt.Budget(prompt_tokens=10_000))
    assert by_prompt.stop_reason == "budget"
    assert 8900 < by_prompt.spent.prompt_tokens <= 10_000


def test_seconds_that_pass_elsewhere_count() -> None:
    now = [0.0]
    generator = lambda text, count: [Step(f"{len(text)}\n", 1, seconds=0.5)]  # noqa: E731
    result = bavt.search("q", generator=generator, budget=bavt.Budget(seconds=3.0), clock=lambda: now[0])
    assert result.stop_reason == "deadline"
    assert (result.spent.seconds, result.spent.tokens) == (3.0, 6)


def test_a_loaded_search_is_a_search() -> None:
    """`run` takes what `Search` makes by itself, with its settings."""
    search = Search("q", task=WorldTask(ENDLESS), budget=BUDGET, seed=3, policy="uct")
    [result] = run_all(searcher(ENDLESS), [search])
    assert fingerprint(result) == alone(ENDLESS, "q", seed=3, policy="uct")


# --- money


@pytest.mark.parametrize("rounding", [decimal.ROUND_DOWN, decimal.ROUND_UP])
def test_the_callers_decimal_context_rounds_no_money(rounding: str) -> None:
    options = bavt.Settings(
        token_cost=0.00123456, prompt_token_cost=0.001, cached_token_cost=0.000123, max_prompt_tokens=999
    )
    critic = bavt.PromptedCritic(ScriptedGenerator(ENDLESS), token_cost=0.00123456)
    with decimal.localcontext(decimal.Context(prec=2, rounding=rounding)):
        search = Search("q", task=TextTask(), budget=bavt.Budget(cost=10.0), settings=options)
        search.tell(search.ask()[0], [Step("a\n", 37, prompt_tokens=777, cached_tokens=123)])
        assert search.spent.cost == 0.71480772
        assert (bavt.Spent(cost=0.123) + bavt.Spent(cost=0.004)).cost == 0.127
        search.extend(bavt.Budget(cost=0.123))
        assert search.budget.cost == 10.123
        assert critic._price(1234, 0) == 1.52344704


@pytest.mark.parametrize("name", ["token_cost", "prompt_token_cost"])
def test_a_price_that_64_bits_cannot_hold_is_refused(name: str) -> None:
    """It was charged as 9.22 before."""
    for price in (9.3, 100, 1e6):
        with pytest.raises(ValueError, match=f"^{name}: expected a number from 0 to 9.2, got {float(price)}; count in"):
            bavt.Settings(**{name: price})  # type: ignore[arg-type]
    settings = bavt.Settings(**{name: 9.2}, max_prompt_tokens=10)  # type: ignore[arg-type]
    search = Search("q", task=TextTask(), budget=bavt.Budget(cost=1000.0), settings=settings)
    search.tell(search.ask()[0], [Step("a\n", 10, prompt_tokens=10)])
    assert search.spent.cost == 92.0

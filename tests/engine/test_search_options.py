"""The options of the search loop, and the parts it takes: policies, candidates, decay, critics, plain functions."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Rounds, ScriptedGenerator, TableCritic, World, WorldTask
from search_checks import POLICIES, WORLDS, check_consistent, run, worlds

import bavt_fast as bavt
from bavt_fast.protocols import Node, Step, StepRequest
from bavt_fast.reference.engine import MIN_VALUE
from bavt_fast.searcher import Searcher
from bavt_fast.tasks.text import TextTask


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_with_three_candidates_solves(policy: str) -> None:
    world = World(goal_share=0.5, dead_share=0.0, invalid_share=0.0, merge_share=0.0)
    result = run(world, tokens=2000, policy=policy, candidates=3)
    assert result.solved
    check_consistent(result, WorldTask(world))


def test_candidates_are_asked_for_together() -> None:
    counts: list[int] = []

    def generator(text: str, count: int) -> list[str]:
        counts.append(count)
        return [f"{text.count(chr(10))}{i}" for i in range(count)]

    result = bavt.search("q", generator=generator, budget=bavt.Budget(tokens=11), candidates=4, max_step_tokens=1)
    assert counts == [4, 4, 3]
    assert result.spent.tokens == 11


@pytest.mark.parametrize("questions", [1, 3])
@pytest.mark.parametrize("candidates", [1, 2])
def test_weights_fall_with_the_probability_of_what_was_tried(questions: int, candidates: int) -> None:
    """One question alone goes a shorter way than several. The texts differ, so that every step becomes a child."""
    rng = random.Random(questions)

    def generator(text: str, count: int) -> list[Step]:
        return [Step(f"{rng.random()}\n", 1, log_probability=-rng.expovariate(0.5)) for _ in range(count)]

    options = {"policy": "best_first", "decay": 1.0, "tried_exponent": 0.5, "candidates": candidates, "patience": 99}
    searcher = Searcher(generator, lambda text: rng.random(), TextTask(), **options)
    for result in searcher.search_many(["a", "b", "c"][:questions], budget=bavt.Budget(tokens=60), seed=1):
        tree, tried = result.tree, np.zeros(result.tree.num_nodes)
        assert tree.num_nodes == 61
        for child in range(1, tree.num_nodes):
            logarithm = result.log_probabilities[child]
            assert logarithm is not None
            tried[tree.parents[child]] += math.exp(logarithm)
        np.testing.assert_allclose(tree.weights, tree.values * np.maximum(1 - tried, 1e-3) ** 0.5, rtol=1e-9)
        assert tried.max() > 0.5


@pytest.mark.parametrize("questions", [1, 2])
@pytest.mark.parametrize("logarithm", [float("nan"), 0.5, float("inf")])
def test_a_probability_above_one_is_named(questions: int, logarithm: float) -> None:
    searcher = Searcher(
        lambda text, count: [Step("a\n", 1, log_probability=logarithm)], None, TextTask(), tried_exponent=1.0
    )
    for result in searcher.search_many(["a", "b"][:questions], budget=bavt.Budget(tokens=5)):
        assert result.stop_reason == "error"
        assert "Step.log_probability: expected a number up to 0" in str(result.error)


def test_a_generator_that_tells_no_probabilities_changes_nothing() -> None:
    with_exponent, without = (
        bavt.search("q", generator=lambda text, count: [f"{len(text)}"], budget=bavt.Budget(tokens=20), **options)
        for options in ({"tried_exponent": 2.0}, {})
    )
    np.testing.assert_array_equal(with_exponent.tree.weights, without.tree.weights)
    np.testing.assert_array_equal(with_exponent.tree.parents, without.tree.parents)


def test_decay_moves_tries_to_other_nodes() -> None:
    world = World(goal_share=0.0, branching=4, depth=6, invalid_share=0.6, dead_share=0.0)
    tries = {
        decay: int(run(world, tokens=300, decay=decay, policy="best_first").tree.tries.max()) for decay in (0.5, 1.0)
    }
    assert tries[0.5] < tries[1.0]


@settings(max_examples=WORLDS // 3, deadline=None)
@given(world=worlds, seed=st.integers(0, 99))
def test_a_discount_weighs_nodes_by_the_tokens_to_an_answer(world: World, seed: int) -> None:
    """The tree chooses by V times discount^min_tokens; critic and result know V alone."""
    parent_values: dict[tuple[str, ...], float] = {}

    class Critic(TableCritic):
        def score(self, candidates: Sequence[Node]) -> list[float]:
            parent_values.update({node.state: node.parent_value for node in candidates})
            return super().score(candidates)

    task = WorldTask(world)
    searcher = Searcher(ScriptedGenerator(world), Critic(world), task, discount=0.9)
    result = searcher.search("q", budget=bavt.Budget(tokens=150), seed=seed)
    tree = result.tree
    states: list[tuple[str, ...]] = [("q",)]
    for parent, text in zip(tree.parents[1:], result.texts[1:], strict=True):
        states.append((*states[parent], text[:-1]))
        assert parent_values[states[-1]] == tree.values[parent]
    for node, state in enumerate(states):
        is_end = node == 0 or task.is_terminal(state)
        value = 1.0 if is_end else max(MIN_VALUE, world.value(state))
        assert tree.values[node] == value
        assert tree.weights[node] == pytest.approx(max(MIN_VALUE, value * 0.9 ** task.min_tokens(state)))


def test_duplicates_and_invalid_steps_are_dropped_and_counted() -> None:
    replies = iter(["", "one", "one", "  ", "one", "two", "two"])
    searcher = Searcher(lambda text, count: [next(replies)], None, TextTask(), policy="best_first", decay=1.0)
    result = searcher.search("q", budget=bavt.Budget(tokens=7))
    assert result.duplicate_steps == 3
    assert result.invalid_steps == 2
    assert result.spent.tokens == 7
    assert result.tree.num_nodes == 3


def test_steps_of_one_batch_are_duplicates_of_each_other() -> None:
    result = bavt.search(
        "q",
        generator=lambda text, n: ["same"] * n,
        budget=bavt.Budget(tokens=3),
        candidates=3,
        max_step_tokens=1,
    )
    assert (result.duplicate_steps, result.tree.num_nodes) == (2, 2)


def test_refuted_answers_are_dropped_and_counted() -> None:
    """A refuted state is known from then on: it is verified once, and a duplicate afterwards."""
    world = World(depth=1, goal_share=0.0, invalid_share=0.0, dead_share=0.0, merge_share=0.0, max_tokens=1)
    result = run(world, tokens=9)
    assert (result.refuted_steps, result.duplicate_steps, result.tree.num_nodes, result.answer) == (3, 6, 1, None)
    assert result.tree.visit_counts.tolist() == [9]


def test_tried_steps_are_handed_back_without_their_hidden_state() -> None:
    seen: list[tuple[Step, ...]] = []

    class Generator:
        def propose(
            self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
        ) -> list[list[Step]]:
            seen.append(states[0].tried)
            return [[Step("", 1, hidden=object(), token_ids=(7,), token_probabilities=(0.5,), prompt_tokens=3)]]

    bavt.search("q", generator=Generator(), budget=bavt.Budget(tokens=3))
    tried = Step("", 1, token_ids=(7,), token_probabilities=(0.5,), prompt_tokens=3)
    assert seen == [(), (tried,), (tried, tried)]
    assert all(step.hidden is None for step in seen[-1])


@settings(max_examples=WORLDS // 3, deadline=None)
@given(world=worlds, seed=st.integers(0, 99))
def test_residual_and_absolute_critics_agree(world: World, seed: int) -> None:
    """The residual is computed in floating point, so the values agree to rounding and the trees in shape."""
    results = []
    for predicts in ("value", "residual"):
        critic = TableCritic(world, predicts)  # type: ignore[arg-type]
        searcher = Searcher(ScriptedGenerator(world), critic, WorldTask(world), root_value=0.5)
        results.append(searcher.search("q", budget=bavt.Budget(tokens=150), seed=seed))
    a, b = results
    assert a.tree.parents.tolist() == b.tree.parents.tolist()
    assert a.tree.values.tolist() == pytest.approx(b.tree.values.tolist(), abs=1e-12)
    assert (a.path, a.stop_reason, a.spent.tokens) == (b.path, b.stop_reason, b.spent.tokens)


def test_a_residual_critic_starts_at_a_half() -> None:
    """For above V = 1 nothing can grow; `root_value` says otherwise."""
    world = World(goal_share=0.0, dead_share=0.0)
    for predicts, options, expected in (
        ("residual", {}, 0.5),
        ("value", {}, 1.0),
        ("residual", {"root_value": 0.25}, 0.25),
        ("value", {"root_value": np.float32(0.25)}, 0.25),
    ):
        searcher = Searcher(ScriptedGenerator(world), TableCritic(world, predicts), WorldTask(world), **options)  # type: ignore[arg-type]
        assert searcher.search("q", budget=bavt.Budget(tokens=30)).tree.values[0] == expected
    assert run(World(depth=0, goal_share=1.0), root_value=0.25).value == 1.0  # a question that is its own answer


def test_residuals_add_up_along_a_path() -> None:
    class Critic:
        predicts = "residual"

        def score(self, candidates: Sequence[Node]) -> list[float]:
            return [0.125 for _ in candidates]

    result = bavt.search("q", generator=lambda text, n: ["x"], critic=Critic(), budget=bavt.Budget(tokens=8))
    for node, depth in enumerate(result.tree.depths):
        assert result.tree.values[node] == min(1.0, 0.5 + 0.125 * depth)


def test_values_are_clipped() -> None:
    scores = iter([5.0, -3.0, 0.25])
    searcher = Searcher(Rounds(), lambda text: next(scores), policy="power")
    with pytest.warns(
        UserWarning, match=r"critic: expected values from 0 to 1, got 5 to 5.*such as score / 10"
    ) as told:
        tree = searcher.search("q", budget=bavt.Budget(tokens=6)).tree
    assert tree.values.tolist() == [1.0, 1.0, MIN_VALUE, 0.25]
    assert len(told) == 1  # once, not for every score


def test_functions_as_generator_and_critic() -> None:
    def generator(text: str, count: int) -> list[str]:
        return ["Answer: 42" if text.count("\n") == 3 else f"think {text.count('think')}"]

    result = bavt.search("q", generator=generator, critic=lambda text: 0.5, budget=bavt.Budget(tokens=40))
    assert result.answer == "42"
    assert result.path[-1] == "Answer: 42"
    assert result.value == 0.5
    assert asdict(result.spent)["tokens"] <= 40


@pytest.mark.parametrize("options", [{"wave": 2**70}, {"leaves": 2**40, "wave": 3}, {"leaves": 2**70}])
def test_a_width_may_be_above_all_that_fits(options: dict[str, int]) -> None:
    results = [
        bavt.search("q", generator=Rounds(), budget=bavt.Budget(tokens=20), max_step_tokens=2, **options),
        *Searcher(Rounds(), max_step_tokens=2, **options).search_many(["q"], budget=bavt.Budget(tokens=20)),
    ]
    assert [(result.stop_reason, result.spent.tokens) for result in results] == [("budget", 20)] * 2


@pytest.mark.parametrize("name", ["candidates", "patience", "max_step_tokens"])
def test_a_setting_that_is_too_large_is_said_to_be(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected an integer from 1 to {2**63 - 2}, got {2**70}"):
        Searcher(Rounds(), **{name: 2**70})


@pytest.mark.parametrize("name", ["clock", "on_progress", "on_event"])
def test_what_is_called_is_a_function(name: str) -> None:
    with pytest.raises(TypeError, match=f"^{name}: expected a function that .*, got 5"):
        Searcher(Rounds(), **{name: 5})


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"settings": 5}, "settings: expected a Settings, got 5"),
        ({"settings": {"decay": 0.5}}, "settings: expected a Settings, got {'decay': 0.5}"),
        ({"decai": 0.5}, "decai: expected no argument of this name, got 0.5; see Settings"),
        ({"clock": 5}, "clock: expected a function that gives seconds, got 5"),
    ],
)
def test_wrong_arguments_of_a_search_by_hand_are_named(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(TypeError, match=match):
        bavt.Search("q", task=TextTask(), budget=bavt.Budget(tokens=9), **arguments)


@pytest.mark.parametrize("wrong", [None, "9", True, float("nan"), float("inf")])
@pytest.mark.parametrize("readings", [0, 1, 2, 5])
@pytest.mark.parametrize("way", ["search", "asearch", "by hand"])
def test_a_clock_that_gives_no_number_is_named(way: str, readings: int, wrong: Any) -> None:
    times_s = itertools.chain(range(readings), itertools.repeat(wrong))
    budget, clock = bavt.Budget(tokens=20), lambda: next(times_s)

    def by_hand() -> None:
        search = bavt.Search("q", task=TextTask(), budget=budget, clock=clock)
        while asks := search.ask():
            search.tell(asks[0], [f"step {len(search.nodes)}"])

    ways = {
        "search": lambda: Searcher(lambda text, count: [f"{len(text)}"], clock=clock).search("q", budget=budget),
        "asearch": lambda: asyncio.run(Searcher(one_step, clock=clock).asearch("q", budget=budget)),
        "by hand": by_hand,
    }

    async def one_step(text: str, count: int) -> list[str]:
        return [f"{len(text)}"]

    with pytest.raises((TypeError, ValueError), match=r"^clock: expected a finite number, got"):
        ways[way]()

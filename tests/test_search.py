"""The search loop for one question, on random scripted worlds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scripted import ExactCritic, Rounds, ScriptedGenerator, TableCritic, World, WorldTask

import bavt_fast as bavt
from bavt_fast._core import Tree
from bavt_fast.protocols import Candidate, Step, StepRequest
from bavt_fast.run import MIN_VALUE
from bavt_fast.search import Progress, Searcher, SearchResult
from bavt_fast.tasks.text import TextTask

WORLDS = int(os.environ.get("BAVT_SEARCH_WORLDS", "60"))
POLICIES = ["power", "best_first", "uct", "puct", "ucb"]
MASK = 2**64 - 1

worlds = st.builds(
    World,
    seed=st.integers(0, 10**6),
    branching=st.integers(1, 4),
    depth=st.integers(1, 5),
    goal_share=st.sampled_from([0.0, 0.05, 0.5]),
    invalid_share=st.sampled_from([0.0, 0.2, 0.9]),
    merge_share=st.sampled_from([0.0, 0.3]),
    dead_share=st.sampled_from([0.0, 0.2]),
    max_tokens=st.sampled_from([1, 6, 20]),
    min_tokens=st.integers(0, 3),
)


def run(world: World, *, tokens: int = 150, seed: int = 0, **options: Any) -> SearchResult:
    searcher = Searcher(ScriptedGenerator(world), TableCritic(world), WorldTask(world), **options)
    return searcher.search("q", budget=bavt.Budget(tokens=tokens), seed=seed)


def arrays(tree: Tree) -> dict[str, bytes]:
    names = ("parents", "visit_counts", "value_sums", "values", "depths", "flags", "tries")
    return {name: getattr(tree, name).tobytes() for name in names}


def fingerprint(result: SearchResult) -> tuple[Any, ...]:
    """Everything about a result but the clock."""
    spent = (result.spent.tokens, result.spent.tool_calls, result.spent.cost)
    counts = (result.invalid_steps, result.duplicate_steps, result.refuted_steps)
    found = (result.answer, result.solved, result.path, result.nodes, result.value, result.stop_reason)
    return (*found, spent, counts, arrays(result.tree))


def check_consistent(result: SearchResult, task: WorldTask, question: str = "q") -> None:
    """A result agrees with its tree, and the tree with itself."""
    tree = result.tree
    parents, visits, sums = tree.parents, tree.visit_counts, tree.value_sums
    assert parents[0] == -1
    assert (parents[1:] < range(1, tree.num_nodes)).all()
    assert not (tree.flags & Tree.IN_FLIGHT).any()
    assert visits[0] == tree.num_nodes - 1
    for node in range(tree.num_nodes):
        children = tree.children(node)
        own = 0 if node == 0 else 1
        assert visits[node] == own + sum(int(visits[child]) for child in children)
        assert sums[node] == pytest.approx(own * tree.values[node] + sum(sums[child] for child in children))
        assert tree.depths[node] == (0 if node == 0 else tree.depths[parents[node]] + 1)
        assert MIN_VALUE <= tree.values[node] <= 1.0
    assert len(result.path) == len(result.nodes)
    assert [int(parents[node]) for node in result.nodes] == [0, *result.nodes][: len(result.nodes)]
    state = task.initial_state(question)
    for step in result.path:
        after = task.apply(state, step)
        assert after is not None
        state = after
    assert result.value == tree.values[result.nodes[-1] if result.nodes else 0]
    assert (result.answer is not None) == (task.is_terminal(state) and task.verify(state) is not False)
    if result.answer is not None:
        assert result.answer == task.answer(state)
    assert result.solved == (result.stop_reason == "solved")
    if result.solved:
        assert task.verify(state) is True
        assert result.value == 1.0


# --- invariants on random worlds


@settings(max_examples=WORLDS, deadline=None)
@given(
    world=worlds,
    tokens=st.integers(1, 200),
    wave=st.integers(1, 5),
    candidates=st.integers(1, 4),
    policy=st.sampled_from(POLICIES),
    max_step_tokens=st.integers(1, 25),
    verifies=st.booleans(),
    seed=st.integers(0, 2**63 - 1),
)
def test_never_overspent_and_consistent(
    world: World,
    tokens: int,
    wave: int,
    candidates: int,
    policy: str,
    max_step_tokens: int,
    verifies: bool,
    seed: int,
) -> None:
    options = {"wave": wave, "candidates": candidates, "policy": policy, "max_step_tokens": max_step_tokens}
    task = WorldTask(world, verifies)
    progress: list[Progress] = []
    generator = ScriptedGenerator(world)
    searcher = Searcher(generator, TableCritic(world), task, on_progress=progress.append, **options)  # type: ignore[arg-type]
    result = searcher.search("q", budget=bavt.Budget(tokens=tokens), seed=seed)
    assert result.spent.tokens <= tokens
    assert result.stop_reason in ("solved", "budget", "exhausted")
    check_consistent(result, task)
    spent = [p.spent.tokens for p in progress]
    assert spent == sorted(spent)
    assert all(p.spent.tokens <= tokens and 0.0 <= p.remaining_ratio <= 1.0 for p in progress)
    assert progress[-1].nodes == result.tree.num_nodes
    assert progress[-1].path == result.path
    assert max(map(len, generator.batches), default=0) <= wave
    assert all(len(set(batch)) == len(batch) for batch in generator.batches)  # distinct leaves
    assert len({request.seed for request in generator.requests}) == len(generator.requests)


@settings(max_examples=WORLDS // 2, deadline=None)
@given(
    world=worlds,
    limits=st.fixed_dictionaries(
        {},
        optional={
            "tokens": st.integers(1, 200),
            "tool_calls": st.integers(1, 40),
            "cost": st.floats(0.01, 5.0),
        },
    ).filter(bool),
    price=st.floats(1e-3, 0.3),
    tool_calls=st.integers(1, 3),
    wave=st.integers(1, 4),
    candidates=st.integers(1, 3),
)
def test_never_overspent_in_any_resource(
    world: World, limits: dict[str, Any], price: float, tool_calls: int, wave: int, candidates: int
) -> None:
    generator = ScriptedGenerator(world)
    searcher = Searcher(
        generator,
        TableCritic(world),
        WorldTask(world),
        wave=wave,
        candidates=candidates,
        token_cost=price,
        step_tool_calls=tool_calls,
    )
    result = searcher.search("q", budget=bavt.Budget(**limits, seconds=30))
    for name, limit in limits.items():
        assert getattr(result.spent, name) <= limit
    assert result.spent.cost == pytest.approx(result.spent.tokens * price)
    assert result.spent.tool_calls % tool_calls == 0


def test_each_resource_stops_the_search_and_is_used_up() -> None:
    world = World(goal_share=0.0, dead_share=0.0, branching=4, depth=6, min_tokens=0)
    searcher = Searcher(
        ScriptedGenerator(world), None, WorldTask(world), max_step_tokens=6, token_cost=0.1, step_tool_calls=1
    )
    by_calls = searcher.search("q", budget=bavt.Budget(tool_calls=7))
    assert (by_calls.stop_reason, by_calls.spent.tool_calls) == ("budget", 7)
    by_cost = searcher.search("q", budget=bavt.Budget(cost=3.0))
    assert by_cost.stop_reason == "budget"
    assert by_cost.spent.tokens == 30
    assert by_cost.spent.cost == 3.0


@settings(max_examples=WORLDS // 3, deadline=None)
@given(world=worlds, policy=st.sampled_from(POLICIES), wave=st.integers(1, 3), seed=st.integers(0, 999))
def test_the_same_seed_gives_the_same_tree(world: World, policy: str, wave: int, seed: int) -> None:
    first = run(world, seed=seed, policy=policy, wave=wave, candidates=2)
    assert fingerprint(first) == fingerprint(run(world, seed=seed, policy=policy, wave=wave, candidates=2))


def test_other_seeds_give_other_trees() -> None:
    world = World(seed=5, depth=6, goal_share=0.0, dead_share=0.0)
    assert len({repr(fingerprint(run(world, seed=seed))) for seed in range(8)}) == 8


def test_the_same_seed_gives_the_same_tree_in_two_processes() -> None:
    script = (
        "import hashlib, json, sys; sys.path[:0] = json.loads(sys.argv[1])\n"
        "from test_search import fingerprint, run, World\n"
        "world = World(seed=5, depth=6, goal_share=0.0, dead_share=0.0)\n"
        "result = run(world, tokens=400, seed=11, wave=3, candidates=2)\n"
        "print(result.tree.num_nodes, hashlib.sha256(repr(fingerprint(result)).encode()).hexdigest())"
    )
    here = Path(__file__).parent
    paths = json.dumps([str(here), str(here.parent)])
    runs = [
        subprocess.run(
            [sys.executable, "-c", script, paths],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert runs[0] == runs[1]
    assert int(runs[0].split()[0]) > 20


# --- the sequential algorithm


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


class Sequential:
    """BAVT one step at a time, as plainly as can be: the oracle for ``wave=1``.

    best_first is written out here; the other policies ask a tree of their own.
    """

    def __init__(self, world: World, tokens: int, seed: int, policy: str, decay: float, max_step: int) -> None:
        self.world, self.task, self.generator = world, WorldTask(world), ScriptedGenerator(world)
        self.total, self.left, self.seed, self.policy = tokens, tokens, seed, policy
        self.decay, self.max_step = decay, max_step
        self.tree = Tree(seed=seed, decay=decay)
        self.states = [self.task.initial_state("q")]
        self.parents, self.values, self.tries, self.open = [-1], [1.0], [0], [True]
        self.seen = {self.task.key(self.states[0])}
        self.requests = 0
        self.solved = False

    def select(self) -> int | None:
        if self.policy == "best_first":
            nodes = [node for node, is_open in enumerate(self.open) if is_open]
            return max(nodes, key=lambda n: self.values[n] * self.decay ** self.tries[n], default=None)
        node = self.tree.select(self.policy, remaining=self.left / self.total)
        return None if node < 0 else node

    def request(self, node: int) -> StepRequest:
        self.requests += 1
        x = (self.seed * 0x9E3779B97F4A7C15 + self.requests * 0xD1B54A32D192ED03) & MASK
        return StepRequest(self.task.prompt(self.states[node]), mix(x) >> 1)

    def close(self, node: int) -> None:
        self.open[node] = False
        self.tree.close(node)

    def search(self) -> Sequential:
        while self.left > 0 and not self.solved:
            node = self.select()
            if node is None:
                break
            if self.left < max(1, self.task.min_tokens(self.states[node])):
                self.close(node)
                continue
            steps = self.generator.propose([self.request(node)], [1], [min(self.max_step, self.left)])[0]
            if not steps:
                self.close(node)
                continue
            self.left -= steps[0].tokens
            self.tries[node] += 1
            self.tree.penalize(node)
            self.add(node, steps[0])
        return self

    def add(self, node: int, step: Step) -> None:
        state = self.task.apply(self.states[node], step.text) if step.complete else None
        if state is None:
            return
        ends = self.task.is_terminal(state)
        if (ends and not self.task.verify(state)) or self.task.key(state) in self.seen:
            return
        value = 1.0 if ends else max(MIN_VALUE, self.world.value(state))
        self.seen.add(self.task.key(state))
        self.states.append(state)
        self.parents.append(node)
        self.values.append(value)
        self.tries.append(0)
        self.open.append(not ends)
        self.solved = ends
        self.tree.backup(self.tree.expand(node, [value], [ends]), value)


@settings(max_examples=2 * WORLDS, deadline=None)
@given(
    world=worlds,
    tokens=st.integers(1, 300),
    seed=st.integers(0, 2**63 - 1),
    policy=st.sampled_from(POLICIES),
    decay=st.sampled_from([0.5, 0.85, 1.0]),
    max_step=st.sampled_from([3, 64]),
)
def test_wave_1_is_the_sequential_algorithm(
    world: World, tokens: int, seed: int, policy: str, decay: float, max_step: int
) -> None:
    expected = Sequential(world, tokens, seed, policy, decay, max_step).search()
    result = run(world, tokens=tokens, seed=seed, policy=policy, decay=decay, max_step_tokens=max_step)
    tree = result.tree
    assert tree.parents.tolist() == expected.parents
    assert tree.values.tolist() == pytest.approx(expected.values, abs=1e-12)
    assert tree.tries.tolist() == [min(tries, 255) for tries in expected.tries]
    assert result.spent.tokens == tokens - expected.left
    assert result.solved == expected.solved


@settings(max_examples=WORLDS // 2, deadline=None)
@given(world=worlds, seed=st.integers(0, 99), policy=st.sampled_from(["power", "best_first"]))
def test_with_an_exact_critic_and_tokens_to_spare_a_solvable_question_is_solved(
    world: World, seed: int, policy: str
) -> None:
    world = World(world.seed, world.branching, min(world.depth, 4), 0.2, 0.1, 0.0, 0.1, 3, world.min_tokens)
    assume(ExactCritic(world).solvable(("q",)))
    searcher = Searcher(ScriptedGenerator(world), ExactCritic(world), WorldTask(world), policy=policy)
    result = searcher.search("q", budget=bavt.Budget(tokens=50_000), seed=seed)
    assert result.solved
    check_consistent(result, WorldTask(world))
    assert all(result.tree.values[node] == 1.0 for node in result.nodes)


# --- waves


@settings(max_examples=WORLDS // 3, deadline=None)
@given(world=worlds, wave=st.integers(2, 8), seed=st.integers(0, 99))
def test_a_wave_never_gives_up_a_node_for_what_is_only_reserved(world: World, wave: int, seed: int) -> None:
    """Tokens left at the end of a search that stopped on its budget fit no answer from any open node."""
    world = World(world.seed, 4, 4, 0.0, 0.0, 0.0, 0.0, 3, min_tokens=2)
    result = run(world, tokens=60, seed=seed, wave=wave, max_step_tokens=20)
    if result.stop_reason == "budget":
        assert 60 - result.spent.tokens < 2 * 4
        deepest = [node for node in range(result.tree.num_nodes) if result.tree.depths[node] == 3]
        assert not deepest or 60 - result.spent.tokens < 2


def test_a_wave_cuts_no_step_that_would_have_been_whole_alone() -> None:
    """Steps of three tokens, never more: with 20 reserved for each, only the very last can be cut."""
    for wave in range(1, 9):
        replies = (f"step number {i}" for i in range(10**6))
        result = bavt.search(
            "q",
            generator=lambda text, count, replies=replies: [next(replies)],  # type: ignore[misc]
            budget=bavt.Budget(tokens=91),
            wave=wave,
            max_step_tokens=20,
        )
        assert (result.spent.tokens, result.invalid_steps, result.tree.num_nodes) == (91, 1, 31)


def test_a_wave_is_one_batch_for_the_generator_and_one_for_the_critic() -> None:
    world = World(goal_share=0.0, dead_share=0.0, invalid_share=0.0, merge_share=0.0, depth=8, min_tokens=0)
    generator, critic = ScriptedGenerator(world), TableCritic(world)
    searcher = Searcher(generator, critic, WorldTask(world), wave=4, candidates=2, max_step_tokens=6)
    searcher.search("q", budget=bavt.Budget(tokens=600))
    assert max(map(len, generator.batches)) == 4
    assert max(critic.sizes) > 4
    assert len(critic.sizes) <= len(generator.batches)


# --- options


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
    parent_values: dict[str, float] = {}

    class Critic(TableCritic):
        def score(self, candidates: Sequence[Candidate]) -> list[float]:
            parent_values.update({c.text: c.parent_value for c in candidates})
            return super().score(candidates)

    task = WorldTask(world)
    searcher = Searcher(ScriptedGenerator(world), Critic(world), task, discount=0.9)
    result = searcher.search("q", budget=bavt.Budget(tokens=150), seed=seed)
    state: tuple[str, ...] = ("q",)
    value: Any = 1.0
    for node, step in zip(result.nodes, result.path, strict=True):
        assert parent_values["/".join(state) + "/" + step] == value
        state = (*state, step)
        value = 1.0 if result.solved and node == result.nodes[-1] else max(MIN_VALUE, world.value(state))
        weight = max(MIN_VALUE, value * 0.9 ** task.min_tokens(state))
        assert result.tree.values[node] == pytest.approx(weight)
        value = pytest.approx(value)
    assert result.value == value


def test_duplicates_and_invalid_steps_are_dropped_and_counted() -> None:
    replies = iter(["", "one", "one", "  ", "one ", "two", "two"])
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
    world = World(depth=1, goal_share=0.0, invalid_share=0.0, dead_share=0.0, merge_share=0.0, max_tokens=1)
    result = run(world, tokens=9)
    assert (result.refuted_steps, result.tree.num_nodes, result.answer) == (9, 1, None)


def test_tried_steps_are_handed_back_without_their_hidden_state() -> None:
    seen: list[tuple[Step, ...]] = []

    class Generator:
        def propose(
            self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
        ) -> list[list[Step]]:
            seen.append(states[0].tried)
            return [[Step("", 1, hidden=object(), token_ids=(7,), token_probabilities=(0.5,))]]

    bavt.search("q", generator=Generator(), budget=bavt.Budget(tokens=3))
    tried = Step("", 1, hidden=None, token_ids=(7,), token_probabilities=(0.5,))
    assert seen == [(), (tried,), (tried, tried)]


@settings(max_examples=WORLDS // 3, deadline=None)
@given(world=worlds, seed=st.integers(0, 99))
def test_residual_and_absolute_critics_agree(world: World, seed: int) -> None:
    """The residual is computed in floating point, so the values agree to rounding and the trees in shape."""
    results = []
    for predicts in ("value", "residual"):
        critic = TableCritic(world, predicts)
        searcher = Searcher(ScriptedGenerator(world), critic, WorldTask(world), policy="power")
        results.append(searcher.search("q", budget=bavt.Budget(tokens=150), seed=seed))
    a, b = results
    assert a.tree.parents.tolist() == b.tree.parents.tolist()
    assert a.tree.values.tolist() == pytest.approx(b.tree.values.tolist(), abs=1e-12)
    assert (a.path, a.stop_reason, a.spent.tokens) == (b.path, b.stop_reason, b.spent.tokens)


def test_values_are_clipped() -> None:
    scores = iter([5.0, -3.0, 0.25])
    searcher = Searcher(Rounds(), lambda text: next(scores), policy="power")
    tree = searcher.search("q", budget=bavt.Budget(tokens=6)).tree
    assert tree.values.tolist() == [1.0, 1.0, MIN_VALUE, 0.25]


def test_functions_as_generator_and_critic() -> None:
    def generator(text: str, count: int) -> list[str]:
        return ["Answer: 42" if text.count("\n") == 3 else f"think {text.count('think')}"]

    result = bavt.search("q", generator=generator, critic=lambda text: 0.5, budget=bavt.Budget(tokens=40))
    assert result.answer == "42"
    assert result.path[-1] == "Answer: 42"
    assert result.value == 0.5
    assert asdict(result.spent)["tokens"] <= 40

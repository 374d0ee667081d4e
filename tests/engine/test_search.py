"""The search loop for one question, on random scripted worlds."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scripted import ExactCritic, ScriptedGenerator, TableCritic, World, WorldTask
from search_checks import MASK, POLICIES, WORLDS, check_consistent, fingerprint, run, worlds

import bavt_fast as bavt
from bavt_fast.protocols import Step, StepRequest
from bavt_fast.reference import tree as reference
from bavt_fast.reference.engine import MIN_VALUE
from bavt_fast.result import Progress
from bavt_fast.searcher import Searcher

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
    if progress:
        assert progress[-1].num_nodes == result.tree.num_nodes
        assert progress[-1].path == result.path
    assert max(map(len, generator.batches), default=0) <= wave
    assert len(task.described) == len(set(task.described))  # each state once, and no duplicate at all
    assert len({task.key(state) for state in task.described}) == len(task.described)
    assert len(task.described) == result.tree.num_nodes + result.refuted_steps
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
        "from scripted import World\nfrom search_checks import fingerprint, run\n"
        "world = World(seed=5, depth=6, goal_share=0.0, dead_share=0.0)\n"
        "result = run(world, tokens=400, seed=11, wave=3, candidates=2)\n"
        "print(result.tree.num_nodes, hashlib.sha256(repr(fingerprint(result)).encode()).hexdigest())"
    )
    root = Path(__file__).parents[2]
    paths = json.dumps([str(root / "tests/support"), str(root)])
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
    x &= MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


@dataclass
class Record:
    """What the sequential algorithm knows of a node."""

    state: tuple[str, ...]
    value: float
    parent: int = -1
    least: int = 0
    tries: int = 0
    asked: int = 0
    visits: int = 0
    value_sum: float = 0.0
    fruitless: int = 0
    is_open: bool = True
    children: list[int] = field(default_factory=list)


@dataclass
class Rules:
    """The settings that the sequential algorithm knows."""

    policy: str = "power"
    decay: float = 0.85
    discount: float = 1.0
    exploration: float = 1.0
    candidates: int = 1
    patience: int = 10
    max_nodes: int = 10**6
    max_step_tokens: int = 64
    widening_scale: float = 1.0
    widening_exponent: float = 0.5


class Sequential:
    """BAVT one ask at a time, as plainly as can be: the oracle for ``wave=1``.

    Of the package it takes the world, and the random draw of the power policy (`reference.power_draw`).
    """

    def __init__(self, world: World, tokens: int, seed: int, rules: Rules) -> None:
        self.world, self.task, self.generator, self.rules = world, WorldTask(world), ScriptedGenerator(world), rules
        self.total, self.left, self.seed = tokens, tokens, seed
        self.random = reference.CounterRng(seed)
        root = self.task.initial_state("q")
        self.nodes = [Record(root, 1.0, least=self.task.min_tokens(root))]
        self.seen = {self.task.key(root)}
        self.unaffordable = False
        self.refused: list[str] = []
        self.stop_reason = ""

    # --- choosing

    def select(self) -> int | None:
        if self.rules.policy in ("power", "best_first"):
            return self.heaviest()
        return self.descend() if self.is_alive(0) else None

    def weight(self, node: int) -> float:
        record, weight = self.nodes[node], 1.0
        for _ in range(record.tries):
            weight *= self.rules.decay
        return max(MIN_VALUE, record.value * self.rules.discount**record.least) * weight

    def heaviest(self) -> int | None:
        """The heaviest open node, or one drawn with P proportional to weight^(1/r), r the share of tokens left."""
        nodes = [node for node, record in enumerate(self.nodes) if record.is_open]
        if not nodes:
            return None
        nodes.sort(key=lambda node: -self.weight(node))
        if self.rules.policy == "best_first":
            return nodes[0]
        exponent = 1.0 / (self.left / self.total)
        return nodes[reference.power_draw([self.weight(node) for node in nodes], exponent, self.random)]

    def is_alive(self, node: int) -> bool:
        """Whether something is open there or below."""
        record = self.nodes[node]
        return record.is_open or any(map(self.is_alive, record.children))

    def descend(self) -> int:
        """Down to the child of the highest score, until a node that may have one more child, or that must."""
        node = 0
        while True:
            record = self.nodes[node]
            alive = [child for child in record.children if self.is_alive(child)]
            room = self.rules.widening_scale * record.visits**self.rules.widening_exponent
            if record.is_open and (not alive or len(record.children) < room):
                return node
            node = max(alive, key=lambda child: self.score(record, self.nodes[child]))

    def score(self, parent: Record, child: Record) -> float:
        """As in the papers; in the order of operations of the core, so that ties fall alike."""
        c, n, total = self.rules.exploration, child.visits, child.value_sum
        if self.rules.policy == "ucb":
            share = self.left / self.total
            return total / (n + 1e-8) + c / (share + 1e-8) * math.sqrt(math.log(2.0) / (n + 1e-8))
        if self.rules.policy == "uct":
            r = 1.0 / math.sqrt(n)
            return r * (total * r + c * math.sqrt(math.log(parent.visits)))
        return total * (1.0 / n) + c * math.sqrt(parent.visits) * (1.0 / len(parent.children)) * (1.0 / (n + 1))

    # --- asking

    def search(self) -> Sequential:
        while not self.stop_reason:
            self.stop_reason = self.one_ask()
        return self

    def one_ask(self) -> str:
        """One round; why the search stops, or nothing."""
        room = self.rules.max_nodes - len(self.nodes)
        if room == 0:
            return "max_nodes"
        node = self.select() if self.left > 0 else None
        if node is None:
            return "budget" if self.left == 0 or self.unaffordable else "exhausted"
        record = self.nodes[node]
        if self.left < record.least:
            record.is_open, self.unaffordable = False, True
            return ""
        limit = min(self.rules.max_step_tokens, self.left)
        count = min(self.rules.candidates, self.left // limit, room)
        request = StepRequest("\n".join(record.state) + "\n", self.ask_seed(node, record.asked))
        record.asked += 1
        steps = self.generator.propose([request], [count], [limit])[0]
        if not steps:
            record.is_open = False
            return ""
        record.tries = min(record.tries + 1, 255)
        self.left -= sum(step.tokens for step in steps)
        grown = [self.add(node, state) for state in self.new_states(node, steps)]
        if not grown:
            self.visit(node, None)
        record.fruitless = 0 if grown else record.fruitless + 1
        record.is_open = record.is_open and record.fruitless < self.rules.patience
        return "solved" if any(map(self.is_solution, grown)) else ""

    def ask_seed(self, node: int, asked: int) -> int:
        of_node = mix(self.seed + (node + 1) * 0x9E3779B97F4A7C15)
        return mix(of_node + (asked + 1) * 0xD1B54A32D192ED03) >> 1

    def new_states(self, node: int, steps: Sequence[Step]) -> list[tuple[str, ...]]:
        """The states behind steps: whole, valid, not seen before and not refuted."""
        new, refused = [], []
        for step in steps:
            state = None if step.finish_reason == "limit" else self.task.apply(self.nodes[node].state, step)
            if state is None:
                refused.append("limit" if step.finish_reason == "limit" else "invalid")
            elif self.task.key(state) in self.seen:
                refused.append("duplicate")
            else:
                self.seen.add(self.task.key(state))
                new.append(state)
        right = [state for state in new if not self.task.is_terminal(state) or self.task.verdict(state)]
        self.refused += refused + ["refuted"] * (len(new) - len(right))
        return right

    def is_solution(self, node: int) -> bool:
        return self.task.is_terminal(self.nodes[node].state)

    def add(self, node: int, state: tuple[str, ...]) -> int:
        ends = self.task.is_terminal(state)
        value = 1.0 if ends else max(MIN_VALUE, self.world.value(state))
        child = len(self.nodes)
        self.nodes.append(Record(state, value, node, self.task.min_tokens(state), is_open=not ends))
        self.nodes[node].children.append(child)
        self.visit(child, value)
        return child

    def visit(self, node: int, value: float | None) -> None:
        """Up to the root; a value of None is an ask that brought nothing new."""
        while node >= 0:
            self.nodes[node].visits += 1
            self.nodes[node].value_sum += value or 0.0
            node = self.nodes[node].parent


@settings(max_examples=3 * WORLDS, deadline=None)
@given(
    world=worlds,
    tokens=st.integers(1, 300),
    seed=st.integers(0, 2**63 - 1),
    rules=st.builds(
        Rules,
        policy=st.sampled_from(POLICIES),
        decay=st.sampled_from([0.5, 0.85, 1.0]),
        discount=st.sampled_from([1.0, 0.9]),
        exploration=st.sampled_from([0.0, 1.0, 3.0]),
        candidates=st.sampled_from([1, 1, 3]),
        patience=st.sampled_from([1, 3, 10]),
        max_nodes=st.sampled_from([4, 10**6]),
        max_step_tokens=st.sampled_from([3, 64]),
        widening_scale=st.sampled_from([0.5, 1.0, 2.0]),
        widening_exponent=st.sampled_from([0.0, 0.5, 1.0]),
    ),
)
def test_wave_1_is_the_sequential_algorithm(world: World, tokens: int, seed: int, rules: Rules) -> None:
    expected = Sequential(world, tokens, seed, rules).search()
    result = run(world, tokens=tokens, seed=seed, **asdict(rules))
    tree, nodes = result.tree, expected.nodes
    assert tree.parents.tolist() == [node.parent for node in nodes]
    assert tree.values.tolist() == [node.value for node in nodes]
    assert tree.tries.tolist() == [node.tries for node in nodes]
    assert tree.visit_counts.tolist() == [node.visits for node in nodes]
    assert tree.value_sums.tolist() == [node.value_sum for node in nodes]
    weights = [max(MIN_VALUE, node.value * rules.discount**node.least) for node in nodes]
    assert tree.weights.tolist() == pytest.approx(weights)
    assert result.spent.tokens == tokens - expected.left
    assert result.stop_reason == expected.stop_reason
    assert sorted(refusal.reason for refusal in result.refused) == sorted(expected.refused)
    states = [tuple(node.state) for node in nodes]
    assert [(*states[parent], text[:-1]) for parent, text in zip(tree.parents[1:], result.texts[1:], strict=True)] == (
        states[1:]
    )


@pytest.mark.parametrize("policy", POLICIES)
def test_the_sequential_algorithm_reaches_every_end(policy: str) -> None:
    """What the test above compares is not only the short searches."""
    ends: set[str] = set()
    for seed in range(60):
        world = World(seed, depth=2, max_tokens=3, goal_share=0.1 if seed % 2 else 0.0, min_tokens=seed % 3)
        rules = Rules(policy, max_nodes=3 if seed % 5 == 0 else 10**6, patience=4)
        ends.add(Sequential(world, 20 if seed % 3 else 3000, seed, rules).search().stop_reason)
    assert ends == {"solved", "budget", "exhausted", "max_nodes"}


@settings(max_examples=WORLDS // 2, deadline=None)
@given(world=worlds, seed=st.integers(0, 99), policy=st.sampled_from(["power", "best_first"]))
def test_with_an_exact_critic_and_tokens_to_spare_a_solvable_question_is_solved(
    world: World, seed: int, policy: str
) -> None:
    world = World(world.seed, world.branching, min(world.depth, 4), 0.2, 0.1, 0.0, 0.1, 3, world.min_tokens)
    assume(ExactCritic(world).solvable(("q",)))
    searcher = Searcher(ScriptedGenerator(world), ExactCritic(world), WorldTask(world), policy=policy, patience=10**4)
    result = searcher.search("q", budget=bavt.Budget(tokens=50_000), seed=seed)
    assert result.solved
    check_consistent(result, WorldTask(world))
    assert all(result.tree.values[node] == 1.0 for node in result.path_nodes)


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

        def generator(text: str, count: int, limit: int, replies: Iterator[str] = replies) -> list[Step]:
            return [Step(next(replies), min(3, limit), "delimiter" if limit >= 3 else "limit")]

        result = bavt.search("q", generator=generator, budget=bavt.Budget(tokens=91), wave=wave, max_step_tokens=20)
        assert (result.spent.tokens, result.invalid_steps, result.tree.num_nodes) == (91, 1, 31)
        assert result.overrun == bavt.Spent()


def test_a_wave_is_one_batch_for_the_generator_and_one_for_the_critic() -> None:
    world = World(goal_share=0.0, dead_share=0.0, invalid_share=0.0, merge_share=0.0, depth=8, min_tokens=0)
    generator, critic = ScriptedGenerator(world), TableCritic(world)
    searcher = Searcher(generator, critic, WorldTask(world), wave=4, candidates=2, max_step_tokens=6)
    searcher.search("q", budget=bavt.Budget(tokens=600))
    assert max(map(len, generator.batches)) == 4
    assert max(critic.sizes) > 4
    assert len(critic.sizes) <= len(generator.batches)

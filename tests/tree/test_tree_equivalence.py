"""The native tree against its readable twin: the same random programs, every array compared after every step.

``BAVT_FUZZ_EXAMPLES`` sets the number of programs (1,000 unless told).
"""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bavt_fast import _core, reference

EXAMPLES = int(os.environ.get("BAVT_FUZZ_EXAMPLES", "1000"))
ARRAYS = ("parents", "visit_counts", "value_sums", "values", "depths", "flags", "tries")
POLICIES = ("power", "best_first", "ucb", "uct", "puct")
MARKS = ("penalize", "prune", "close", "mark_terminal", "mark_in_flight", "unmark_in_flight")

values = st.one_of(
    st.sampled_from([1.0, 0.5, 1e-6, 0.0, -0.25, 2.0]),  # ties, and what the global policies never choose
    st.floats(1e-6, 1.0),
    st.floats(-1e6, 1e6),
)
nodes = st.integers(0, 10**6)  # taken modulo the number of nodes
expansions = st.lists(st.tuples(values, st.booleans(), st.floats(0, 1, width=32)), min_size=1, max_size=20)
budgets = st.sampled_from([0.0, 1e-9, 0.01, 0.3, 1.0, 7.0])
policies = st.sampled_from(POLICIES)
steps = st.one_of(
    st.tuples(st.just("expand"), nodes, expansions, st.booleans(), st.booleans()),
    st.tuples(st.just("select"), policies, budgets, st.floats(-2, 2), st.sampled_from([None, 0, 1, 3])),
    st.tuples(st.just("search"), policies, budgets, values, st.integers(1, 4)),
    st.tuples(st.just("backup"), nodes, values, st.sampled_from(["mean", "mean", "max"])),
    st.tuples(st.just("mark"), st.sampled_from(MARKS), nodes),
    st.tuples(st.just("reroot"), nodes),
)


def outcome(tree: Any, step: tuple[Any, ...]) -> Any:
    """What one step of a program returns or raises."""
    try:
        return perform(tree, *step)
    except (ValueError, RuntimeError) as error:
        return type(error)


def perform(tree: Any, kind: str, *args: Any) -> Any:
    if kind == "expand":
        node, children, with_terminal, with_priors = args
        child_values, terminal, priors = (list(column) for column in zip(*children, strict=True))
        return tree.expand(
            node % tree.num_nodes,
            child_values,
            terminal if with_terminal else None,
            priors if with_priors else None,
        )
    if kind == "select":
        policy, remaining, exploration, max_depth = args
        return tree.select(policy, remaining, 1.0, exploration, max_depth)
    if kind == "search":
        policy, remaining, value, children = args
        node = tree.select(policy, remaining, 1.0, 0.7)
        if node >= 0:
            tree.backup(tree.expand(node, [value] * children), value)
        return node
    if kind == "backup":
        node, value, reduce = args
        return tree.backup(node % tree.num_nodes, value, reduce)
    if kind == "mark":
        name, node = args
        return getattr(tree, name)(node % tree.num_nodes)
    return tree.reroot(args[0] % tree.num_nodes).tolist()


def assert_same(native: Any, twin: Any) -> None:
    assert native.num_nodes == twin.num_nodes
    for name in ARRAYS:
        ours, theirs = getattr(native, name), getattr(twin, name)
        assert ours.dtype == theirs.dtype, name
        assert np.array_equal(ours, theirs), name
    assert native.best_path() == twin.best_path()


def both(**options: Any) -> tuple[Any, Any]:
    return _core.Tree(**options), reference.Tree(**options)


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(
    program=st.lists(steps, max_size=30),
    seed=st.integers(-(2**65), 2**65),
    max_nodes=st.sampled_from([None, None, 1, 40]),
    root_value=values,
    decay=st.sampled_from([1.0, 0.85, 1e-3, 1e-300]),
)
def test_random_programs(
    program: list[tuple[Any, ...]], seed: int, max_nodes: int | None, root_value: float, decay: float
) -> None:
    native, twin = both(seed=seed, max_nodes=max_nodes, root_value=root_value, decay=decay)
    for step in program:
        assert outcome(native, step) == outcome(twin, step), step
        assert_same(native, twin)
    for node in range(native.num_nodes):
        assert native.children(node) == twin.children(node)
    copy = _core.Tree.from_bytes(native.to_bytes())
    assert_same(copy, twin)
    for policy in POLICIES:
        expected = twin.select(policy, 0.5)
        assert native.select(policy, 0.5) == copy.select(policy, 0.5) == expected


@pytest.mark.parametrize("seed", range(3))
def test_a_big_tree(seed: int) -> None:
    """Thousands of nodes: the ranking's blocks split and empty, rings of blocks grow long, path buffers too."""
    rng = random.Random(seed)
    native, twin = both(seed=seed)
    for step in range(400):
        policy = rng.choice(POLICIES)
        remaining = rng.choice([1.0, 0.1, 0.001])
        node = native.select(policy, remaining)
        assert node == twin.select(policy, remaining)
        node = max(node, 0)  # -1: all leaves are in flight
        children = [rng.choice([1.0, 0.5, rng.random()]) for _ in range(rng.choice([1, 3, 40]))]
        assert native.expand(node, children) == twin.expand(node, children)
        value = rng.random()
        native.backup(native.num_nodes - 1, value)
        twin.backup(twin.num_nodes - 1, value)
        if step % 3 == 0:
            mark, marked = rng.choice(MARKS[:1] + MARKS[2:3] + MARKS[4:]), rng.randrange(native.num_nodes)
            getattr(native, mark)(marked)
            getattr(twin, mark)(marked)
        if step == 300:
            assert native.reroot(1).tolist() == twin.reroot(1).tolist()
    assert_same(native, twin)


@pytest.mark.parametrize("shape", ["random", "rising", "falling", "ties"])
def test_a_ranking_that_grows_and_shrinks(shape: str) -> None:
    """Blocks of the ranking fill, share, split, empty and merge, wherever in the order nodes come and go."""
    rng = np.random.default_rng(5)
    native, twin = both(seed=3)
    weights = {
        "random": lambda k: rng.random(k) + 1e-6,
        "rising": lambda k: 1 - 1 / (2.0 + native.num_nodes + np.arange(k)),
        "falling": lambda k: 1 / (2.0 + native.num_nodes + np.arange(k)),
        "ties": lambda k: rng.choice([0.25, 0.5, 1.0], k),
    }[shape]
    for size in (700, 1500, 100, 2500):
        values = weights(size)
        native.expand(0, values)
        twin.expand(0, values)
        order = rng.permutation(native.num_nodes)
        for verb in ("mark_in_flight", "unmark_in_flight", "penalize", "close"):
            for node in order[: {"close": size // 3}.get(verb, len(order) * 4 // 5)].tolist():
                getattr(native, verb)(node)
                getattr(twin, verb)(node)
            for remaining in (1.0, 0.3, 1e-3, 0.0):
                assert native.select("power", remaining) == twin.select("power", remaining)
            assert native.select("best_first") == twin.select("best_first")


@pytest.mark.parametrize("policy", ["ucb", "uct", "puct"])
@pytest.mark.parametrize("extreme", [-1.7e308, 1.7e308])
def test_scores_that_are_infinite_or_no_number(policy: str, extreme: float) -> None:
    """Sums overflow; with an exploration of the other sign scores are NaN. If none is above -inf, the first wins."""
    native, twin = both()
    for tree in (native, twin):
        tree.expand(0, [0.5] * 4)
        tree.expand(4, [0.5] * 20)
        for node in (1, 2, 3, *range(5, 25)):
            tree.backup(node, extreme)
            tree.backup(node, extreme)
        for node in (1, 5, 7):
            tree.close(node)
        tree.backup(7, -extreme)
    for exploration in (0.0, 1.0, -1.0, 1.7e308, -1.7e308):
        for remaining in (0.0, 1.0):
            found = native.select(policy, remaining, 1.0, exploration)
            assert found == twin.select(policy, remaining, 1.0, exploration)
            assert native.flags[found] == 0


def test_a_chain_of_thousands() -> None:
    native = _core.Tree()
    for _ in range(5000):
        native.backup(native.expand(native.select("uct"), [0.5]), 1.0)
    assert native.depths.tolist() == list(range(5001))
    assert native.visit_counts.tolist() == [5000, *range(5000, 0, -1)]
    assert len(native.best_path()) == 5000

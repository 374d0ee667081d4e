"""Weights apart from V: what the global policies choose by, held against the twin; and arrays of trees that move."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest

import bavt_fast as bavt
from bavt_fast import _core, reference


@pytest.mark.parametrize("seed", range(40))
def test_draws_by_weight_are_those_of_the_twin(seed: int) -> None:
    rng = random.Random(seed)
    decay = rng.choice([0.5, 0.85, 1.0])
    native, twin = _core.Tree(seed=seed, decay=decay), reference.Tree(seed=seed, decay=decay)
    for _ in range(60):
        count = rng.randint(1, 5)
        values = [rng.uniform(-1.0, 1.0) for _ in range(count)]
        weights = None if rng.random() < 0.4 else [rng.choice([rng.random(), 0.5, 0.0, 1e-300]) for _ in range(count)]
        node = rng.randrange(twin.num_nodes)
        assert native.expand(node, values, weights=weights) == twin.expand(node, values, weights=weights)
        if rng.random() < 0.3:
            closed = rng.randrange(twin.num_nodes)
            native.close(closed)
            twin.close(closed)
        for policy in ("power", "best_first"):
            remaining = rng.random()
            chosen = native.select(policy, remaining=remaining)
            assert chosen == twin.select(policy, remaining=remaining)
        if chosen >= 0:
            native.penalize(chosen)
            twin.penalize(chosen)
        if rng.random() < 0.5:
            node, weight = rng.randrange(twin.num_nodes), rng.choice([rng.random(), 1.0, 0.0, -1.0, 1e-300])
            native.set_weight(node, weight)
            twin.set_weight(node, weight)
    expected = [twin.base_weight(node) for node in range(twin.num_nodes)]
    np.testing.assert_array_equal(native.weights, expected)
    np.testing.assert_array_equal(native.values, twin.values)
    again = pickle.loads(pickle.dumps(native))
    np.testing.assert_array_equal(again.weights, expected)
    assert again.select("power", remaining=0.3) == native.select("power", remaining=0.3)
    kept = native.reroot(1)
    np.testing.assert_array_equal(native.weights, np.array(expected)[kept])


def test_without_weights_they_are_v_and_read_only() -> None:
    tree = _core.Tree()
    tree.expand(0, [0.25, 0.5])
    np.testing.assert_array_equal(tree.weights, [1.0, 0.25, 0.5])
    with pytest.raises(ValueError, match="read-only"):
        tree.weights[0] = 2.0


@pytest.mark.parametrize("weights", [[0.5], [0.5, float("nan")], [0.5, float("inf")], "ab", [0.5, None]])
def test_wrong_weights_are_named_and_change_nothing(weights: object) -> None:
    tree = _core.Tree()
    with pytest.raises((TypeError, ValueError), match=r"^weights: expected"):
        tree.expand(0, [0.25, 0.5], weights=weights)
    assert tree.num_nodes == 1


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), "0.5", None, True])
def test_a_wrong_weight_is_named_and_changes_nothing(weight: object) -> None:
    tree = _core.Tree()
    tree.expand(0, [0.25])
    with pytest.raises((TypeError, ValueError), match=r"^weight: expected"):
        tree.set_weight(1, weight)  # type: ignore[arg-type]
    with pytest.raises(IndexError):
        tree.set_weight(2, 0.5)
    np.testing.assert_array_equal(tree.weights, [1.0, 0.25])


def test_arrays_of_a_tree_that_moves_as_it_grows_stay_as_they_were() -> None:
    """The tree of a result begins small: its memory moves, so its arrays are copies."""
    result = bavt.search("q", generator=lambda text, count: [f"{len(text)}"], budget=bavt.Budget(tokens=20))
    names = ("parents", "visit_counts", "value_sums", "values", "weights", "flags", "tries")
    arrays = {name: getattr(result.tree, name) for name in names}
    before = {name: array.copy() for name, array in arrays.items()}
    for _ in range(2_000):
        result.tree.expand(0, [0.5] * 10, weights=[0.25] * 10)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, before[name])
        assert not array.flags.writeable


def test_arrays_of_a_tree_of_its_own_are_views() -> None:
    tree = _core.Tree()
    values = tree.values
    tree.expand(0, [0.5])
    assert np.shares_memory(values, tree.values)

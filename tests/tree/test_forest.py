"""A forest is its trees: equal to single trees, for every number of threads and every way of asking."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bavt_fast import _core

FIELDS = ("parents", "visit_counts", "value_sums", "values", "depths", "flags", "tries")
POLICIES = ("power", "best_first", "ucb", "uct", "puct")
Ids = npt.NDArray[np.uint32]


def contents(forest: _core.Forest) -> list[dict[str, list[Any]]]:
    return [
        {field: getattr(forest, field)(tree).tolist() for field in FIELDS}
        for tree in np.flatnonzero(forest.num_nodes).tolist()
    ]


def run_waves(forest: _core.Forest, waves: int, seed: int, **options: Any) -> list[tuple[Ids, Ids]]:
    """Waves of select, expand, backup and now and then something else; what each wave selected."""
    rng = np.random.default_rng(seed)
    selected = []
    for wave in range(waves):
        policy = POLICIES[wave % len(POLICIES)]
        trees, nodes = forest.select(policy, remaining=1 - wave / (waves + 1), **options)
        selected.append((trees, nodes))
        counts = rng.integers(0, 4, len(trees))
        values = rng.random(counts.sum())
        first = forest.expand(trees, nodes, values, counts, terminal=values > 0.97, priors=values)
        some = counts > 0
        forest.backup(trees[some], first[some], values[(counts.cumsum() - counts)[some]])
        forest.penalize(trees[::3], nodes[::3])
    return selected


@pytest.mark.parametrize("options", [{}, {"per_tree": 3}, {"wave": 50}, {"wave": 700, "per_tree": 4}])
def test_the_number_of_threads_changes_nothing(options: dict[str, int]) -> None:
    runs = []
    for threads in (1, 2, 3, 7):
        forest = _core.Forest(200, seed=9, threads=threads)
        assert forest.threads == threads
        runs.append((run_waves(forest, 12, 1, **options), contents(forest)))
    for selected, trees in runs[1:]:
        assert trees == runs[0][1]
        for (ours_t, ours_n), (first_t, first_n) in zip(selected, runs[0][0], strict=True):
            assert np.array_equal(ours_t, first_t)
            assert np.array_equal(ours_n, first_n)


@settings(max_examples=50, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    steps=st.lists(
        st.tuples(st.sampled_from(POLICIES), st.sampled_from([1.0, 0.1, 0.0]), st.lists(st.floats(0, 1), max_size=4)),
        max_size=20,
    ),
)
def test_waves_of_one_leaf_are_the_single_tree(seed: int, steps: list[tuple[str, float, list[float]]]) -> None:
    forest, tree = _core.Forest(1, seed=seed), _core.Tree(seed=seed)
    for policy, remaining, values in steps:
        trees, nodes = forest.select(policy, remaining, wave=1)
        node = tree.select(policy, remaining)
        assert nodes.tolist() == ([node] if node >= 0 else [])
        if not values or node < 0:
            forest.cancel(trees, nodes)
            continue
        first = forest.expand(trees, nodes, np.array([values]))
        assert first.tolist() == [tree.expand(node, values)]
        forest.backup(trees, first, [values[0]])
        tree.backup(int(first[0]), values[0])
    assert contents(forest) == [{field: getattr(tree, field).tolist() for field in FIELDS}]
    assert forest.best_path(0) == tree.best_path()


def test_tree_i_has_the_seed_plus_i() -> None:
    last = 2**64 - 1
    forest = _core.Forest(3, seed=last)
    forest.expand([0, 1, 2], [0, 0, 0], np.full((3, 30), 0.5))
    singles = [_core.Tree(seed=last + i) for i in range(3)]
    for tree in singles:
        tree.expand(0, np.full(30, 0.5))
    for _ in range(5):
        trees, nodes = forest.select("power")
        assert nodes.tolist() == [tree.select("power") for tree in singles]
        forest.cancel(trees, nodes)


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_handed_out_stays_marked(policy: str) -> None:
    forest = _core.Forest(2, seed=1)
    forest.expand([0, 1], [0, 0], np.full((2, 5), 0.5))
    forest.close([0, 1], [0, 0])
    trees, nodes = forest.select(policy, per_tree=4)
    assert trees.tolist() == [0] * 4 + [1] * 4
    assert len(set(zip(trees.tolist(), nodes.tolist(), strict=True))) == 8
    rest_trees, rest_nodes = forest.select(policy, per_tree=4)
    assert rest_trees.tolist() == [0, 1]
    assert forest.select(policy, wave=9)[0].size == 0
    forest.cancel(rest_trees, rest_nodes)
    forest.backup(trees[:1], nodes[:1], [0.5])
    forest.expand(trees[4:5], nodes[4:5], np.array([[0.9]]))
    forest.expand(trees[5:6], nodes[5:6], [], counts=[0])  # no step led anywhere: only the mark goes
    free = [int((forest.flags(tree) == 0).sum()) for tree in (0, 1)]
    assert free == [2, 1 + 2 + 1]


def test_a_limited_wave_takes_turns() -> None:
    forest = _core.Forest(5)
    forest.expand(range(5), [0] * 5, np.full((5, 3), 0.5))
    seen: list[int] = []
    for _ in range(5):
        trees, nodes = forest.select("uct", wave=3)
        assert len(set(trees.tolist())) == 3
        seen += trees.tolist()
        forest.cancel(trees, nodes)
    assert np.bincount(seen).tolist() == [3] * 5
    trees, _ = forest.select("uct", wave=100)
    assert np.bincount(trees).tolist() == [3] * 5


def test_remaining_may_differ_from_tree_to_tree() -> None:
    forest = _core.Forest(2, seed=4)
    forest.expand([0, 1], [0, 0], np.tile([0.5, 1.0], (2, 1)))
    forest.close([0, 1], [0, 0])
    drawn = []
    for _ in range(300):
        trees, nodes = forest.select("power", remaining=np.array([1.0, 1e-9]))
        drawn.append(nodes)
        forest.cancel(trees, nodes)
    low_first, low_second = (np.array(drawn) == 1).mean(axis=0)
    assert low_first == pytest.approx(1 / 3, abs=0.1)
    assert low_second == 0


@pytest.mark.parametrize("threads", [1, 3])
def test_descents_take_what_remains_tree_by_tree(threads: int) -> None:
    """200 trees, so that the workers share them; the recipe's rule explores more where less remains."""
    rng = np.random.default_rng(8)
    forest, singles = _core.Forest(200, threads=threads), [_core.Tree() for _ in range(200)]
    remaining = rng.uniform(0.01, 1.0, 200)
    for _ in range(30):
        trees, nodes = forest.select("ucb", remaining, exploration=0.3)
        assert nodes.tolist() == [t.select("ucb", r, exploration=0.3) for t, r in zip(singles, remaining, strict=True)]
        values = rng.random((200, 3))
        first = forest.expand(trees, nodes, values)
        forest.backup(trees, first, values[:, 0])
        for tree, node, own in zip(singles, nodes.tolist(), values, strict=True):
            tree.backup(tree.expand(node, own), own[0])


def test_trees_come_and_go() -> None:
    forest = _core.Forest(3, seed=10)
    run_waves(forest, 10, 2)
    forest.finish(0)
    forest.drop(1)
    assert forest.live.tolist() == [False, False, True]
    assert forest.num_nodes[0] > 1
    assert forest.num_nodes[1] == 0
    assert set(forest.select("uct", wave=10)[0].tolist()) <= {2}
    assert forest.add(root_value=0.25) == 1
    assert forest.values(1).tolist() == [0.25]
    assert forest.add() == 3
    fresh = _core.Tree(seed=13, root_value=0.25)  # the fourth tree ever made
    forest.expand([1], [0], [[0.5] * 20])
    fresh.expand(0, [0.5] * 20)
    trees, nodes = forest.select("puct")
    assert nodes[trees == 1] == [fresh.select("puct")]
    trees, nodes = forest.select("power")
    assert forest.depths(1).tolist() == [0] + [1] * 20
    assert forest.parents(1).tolist() == [-1] + [0] * 20


def test_reroot_in_a_forest() -> None:
    forest = _core.Forest(1)
    forest.expand([0, 0], [0, 0], [[0.5, 0.6], [0.7, 0.8]])
    forest.expand([0], [3], [[0.9]])
    assert forest.reroot(0, 3).tolist() == [3, 5]
    assert forest.children(0, 0) == [1]
    assert forest.values(0).tolist() == [0.7, 0.9]


BAD_WAVES: list[tuple[str, tuple[Any, ...], type[Exception], str]] = [
    ("expand", ([0, 9], [0, 0], np.ones((2, 1))), IndexError, "trees: 9 at 1 is not a tree of this forest"),
    ("expand", ([0, 2], [0, 0], np.ones((2, 1))), IndexError, "trees: 2 at 1 is not a tree"),
    (
        "expand",
        ([0, 1], [0, 99], np.ones((2, 1))),
        IndexError,
        "nodes: expected an id from 0 to 3 in tree 1, got 99 at 1",
    ),
    ("expand", ([0, -1], [0, 0], np.ones((2, 1))), IndexError, "trees: expected ids >= 0, got -1 at 1"),
    ("expand", ([0, 1], [0], np.ones((2, 1))), ValueError, r"nodes: expected ints of shape \(2,\)"),
    ("expand", ([0.0, 1.0], [0, 0], np.ones((2, 1))), TypeError, "trees: expected ints"),
    ("expand", ([0, 1], [0, 0], np.ones(2)), ValueError, r"values: expected shape \(2, m\)"),
    ("expand", ([0, 1], [0, 0], [1.0, np.nan], [1, 1]), ValueError, "values: expected finite numbers, got nan at 1"),
    ("expand", ([0, 1], [0, 0], [1.0], [1, 1]), ValueError, r"values: expected numbers of shape \(2,\)"),
    ("expand", ([0, 1], [0, 0], [1.0], [2, -1]), ValueError, "counts: expected ints >= 0, got -1 at 1"),
    ("expand", ([0, 1], [0, 3], np.ones((2, 1))), ValueError, "node: 3 is terminal or pruned"),
    ("expand", ([0, 0, 1], [0, 0, 0], np.ones((3, 4))), _core.CapacityError, "max_nodes: 8 more nodes do not fit"),
    (
        "expand",
        ([0, 1], [0, 0], np.ones((2, 3)), None, np.ones((3, 2), bool)),
        ValueError,
        r"terminal: expected shape \(2, 3\), got shape \(3, 2\)",
    ),
    ("expand", ([0, 1], [0, 0], np.ones((2, 1)), None, None, [[1.0, 2.0]]), ValueError, r"priors: expected shape"),
    ("expand", ([0, 1], [0, 0], np.ones(2), [1, 1], [[True], [False]]), ValueError, "terminal: expected bools of"),
    ("backup", ([0, 1], [0, 1], [1.0, np.inf]), ValueError, "values: expected finite numbers, got inf at 1"),
    ("backup", ([0, 1], [0, 7], [1.0, 1.0]), IndexError, "nodes"),
    ("mark_terminal", ([0, 1], [1, 0]), ValueError, "node: 0 has children"),
    ("prune", ([0, 1], [1, 7]), IndexError, "nodes"),
    ("select", ("power", np.array([1.0])), ValueError, "remaining: expected numbers of shape"),
    ("select", ("power", np.array([1.0, -1.0, 1.0])), ValueError, "remaining: expected finite numbers >= 0"),
    ("select", ("power", 1.0, 1.0, 1.0, None, 0), ValueError, "wave: expected an int >= 1"),
    ("select", ("power", 1.0, 1.0, 1.0, None, None, True), TypeError, "per_tree: expected an int >= 1"),
    ("drop", (2,), IndexError, "tree: 2 is not a tree of this forest"),
    ("values", (7,), IndexError, "tree: 7 is not a tree of this forest"),
    ("reroot", (0, 50), IndexError, "node: expected an id from 0 to 3, got 50"),
]


@pytest.mark.parametrize(("method", "args", "error", "message"), BAD_WAVES)
def test_a_wave_with_a_mistake_changes_nothing(
    method: str, args: tuple[Any, ...], error: type[Exception], message: str
) -> None:
    forest = _core.Forest(3, max_nodes=10)
    forest.expand([0, 1], [0, 0], np.full((2, 3), 0.5))
    forest.mark_terminal([1], [3])
    forest.drop(2)
    before = contents(forest)
    with pytest.raises(error, match=message):
        getattr(forest, method)(*args)
    assert contents(forest) == before


def test_a_wave_of_nothing_changes_nothing() -> None:
    forest = _core.Forest(2)
    before = forest.to_bytes()
    for values in ([], (), np.empty(0), np.empty((0, 3))):
        assert forest.expand([], [], values).tolist() == []
        assert forest.expand([], [], values, terminal=[], priors=np.empty((0, 3))).tolist() == []
    forest.expand([], [], [], [])
    forest.backup([], [], [])
    assert forest.to_bytes() == before


def test_python_threads_share_a_forest() -> None:
    """Each thread works on trees of its own; calls take turns, so the outcome is that of working alone."""
    forest, alone = _core.Forest(8, seed=5, threads=2), _core.Forest(8, seed=5, threads=1)

    def work(target: _core.Forest, tree: int) -> None:
        rng = np.random.default_rng(tree)
        for _ in range(200):
            node = int(rng.integers(target.num_nodes[tree]))
            first = target.expand([tree], [node], rng.random((1, 2)))
            target.backup([tree], first, rng.random(1))
            target.best_path(tree)

    threads = [threading.Thread(target=work, args=(forest, tree)) for tree in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for tree in range(8):
        work(alone, tree)
    assert contents(forest) == contents(alone)


def test_a_saved_forest_goes_on_as_it_would_have(tmp_path: Path) -> None:
    forest = _core.Forest(5, seed=3)
    run_waves(forest, 8, 4)
    forest.finish(1)
    forest.drop(2)
    forest.save(tmp_path / "forest")
    copy = _core.Forest.load(tmp_path / "forest", threads=2)
    assert copy.live.tolist() == forest.live.tolist()
    for ours, theirs in zip(run_waves(copy, 6, 5), run_waves(forest, 6, 5), strict=True):
        assert np.array_equal(ours[0], theirs[0])
        assert np.array_equal(ours[1], theirs[1])
    assert contents(copy) == contents(forest)
    assert copy.add() == forest.add() == 2

"""Python threads on one forest: on trees of their own, on the same tree, and while others select, save and add."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from bavt_fast import _core

TREES = 12


def run_together(*workers: Callable[[], None]) -> None:
    """Runs every worker in a thread of its own, all begun at once; raises what one of them raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(len(workers))

    def guarded(worker: Callable[[], None]) -> None:
        try:
            barrier.wait()
            worker()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(worker,)) for worker in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def work_on(forest: _core.Forest, tree: int, steps: int, reroots: bool) -> list[Any]:
    """Every verb that takes a tree or its nodes, drawn by the tree's number; what the calls answered."""
    rng = np.random.default_rng(tree)
    answers: list[Any] = []
    for _ in range(steps):
        nodes = int(forest.num_nodes[tree])
        node = int(rng.integers(nodes))
        verb = rng.integers(12)
        if verb < 4:
            values = rng.random((1, 3))
            if forest.flags(tree)[node] & (_core.Tree.TERMINAL | _core.Tree.PRUNED):
                with pytest.raises(ValueError, match="terminal or pruned"):
                    forest.expand([tree], [node], values)
                continue
            first = forest.expand([tree], [node], values, terminal=values > 0.9, priors=values)
            forest.backup([tree], first, rng.random(1), ("mean", "max")[int(verb) % 2])
            answers.append(int(first[0]))
        elif verb == 4:
            forest.penalize([tree], [node])
        elif verb == 5:
            forest.close([tree], [node])
        elif verb == 6 and node > nodes // 2:
            forest.prune([tree], [node])
        elif verb == 7 and not forest.children(tree, node):
            forest.mark_terminal([tree], [node])
        elif verb == 8 and reroots and nodes > 60:
            answers.append(forest.reroot(tree, int(rng.integers(3))).tolist())
        elif verb == 9:
            answers.append(forest.best_path(tree))
        elif verb == 10:
            answers.append(forest.values(tree).sum() + forest.depths(tree).sum())
        else:
            answers.append((forest.visit_counts(tree).tolist(), forest.tries(tree).tolist()))
    return answers


@pytest.mark.parametrize("workers", [1, 3])
def test_threads_on_trees_of_their_own_do_what_they_would_do_alone(workers: int) -> None:
    together, alone = _core.Forest(TREES, seed=5, threads=workers), _core.Forest(TREES, seed=5, threads=1)
    answers: dict[int, list[Any]] = {}

    def work(tree: int) -> Callable[[], None]:
        return lambda: answers.update({tree: work_on(together, tree, 150, reroots=True)})

    run_together(*(work(tree) for tree in range(TREES)))
    for tree in range(TREES):
        assert answers[tree] == work_on(alone, tree, 150, reroots=True)
    assert together.to_bytes() == alone.to_bytes()


def test_selecting_saving_and_coming_and_going_at_the_same_time() -> None:
    """What is selected and given back, saved, or done to other trees leaves no trace in a tree."""
    together, alone = _core.Forest(TREES, seed=5, threads=2), _core.Forest(TREES, seed=5, threads=1)
    done = threading.Event()

    def work() -> None:
        try:
            run_together(*(lambda t=tree: work_on(together, t, 100, reroots=False) for tree in range(TREES)))
        finally:
            done.set()

    def select_and_cancel() -> None:
        while not done.is_set():
            trees, nodes = together.select("uct", per_tree=2)
            lasting = trees < TREES  # the others may have been dropped by now, and cannot be cancelled
            together.cancel(trees[lasting], nodes[lasting])

    def save() -> None:
        while not done.is_set():
            copy = _core.Forest.from_bytes(together.to_bytes(), threads=1)
            assert copy.num_nodes[:TREES].min() >= 1

    def come_and_go() -> None:
        while not done.is_set():
            tree = together.add()
            assert tree >= TREES
            together.finish(tree)
            together.drop(tree)

    run_together(work, select_and_cancel, save, come_and_go)
    for tree in range(TREES):
        work_on(alone, tree, 100, reroots=False)
        for field in ("parents", "visit_counts", "value_sums", "values", "flags", "tries"):
            assert np.array_equal(getattr(together, field)(tree), getattr(alone, field)(tree)), field


@pytest.mark.parametrize("locked", [False, True])
def test_threads_on_the_same_tree_take_turns(locked: bool) -> None:
    """No expansion and no backup is lost: the tree is what some order of the calls makes of it.

    No leaf is handed to two threads either, if expanding and backing up the new child are under one lock: else
    another thread may select that child in between, and the backup clears its mark.
    """
    together = threading.Lock() if locked else contextlib.nullcontext()
    forest = _core.Forest(1, threads=1)
    forest.expand([0], [0], [[0.5] * 8])
    handed_out: list[tuple[int, ...]] = []

    def work() -> None:
        for _ in range(300):
            with together:
                trees, nodes = forest.select("uct", per_tree=2)
            handed_out.append(tuple(nodes.tolist()))
            with together:
                first = forest.expand(trees, nodes, np.full((len(trees), 2), 0.5))
                forest.backup(trees, first, np.ones(len(trees)))

    run_together(*[work] * 4)
    leaves = [node for nodes in handed_out for node in nodes]
    if locked:
        assert len(leaves) == len(set(leaves))
    assert forest.num_nodes.tolist() == [9 + 2 * len(leaves)]
    assert forest.visit_counts(0)[0] == forest.value_sums(0)[0] == len(leaves)
    assert not (forest.flags(0) & _core.Tree.IN_FLIGHT).any()


def test_an_array_of_what_remains_is_never_read_past_its_end() -> None:
    """A tree may be added between counting the trees and selecting."""
    forest = _core.Forest(1, threads=1, max_nodes=10)
    done = threading.Event()

    def add() -> None:
        for _ in range(2000):
            forest.add()
        done.set()

    def select() -> None:
        while not done.is_set():
            remaining = np.ones(len(forest.num_nodes))
            with contextlib.suppress(ValueError):  # a tree has come in between
                trees, nodes = forest.select("power", remaining)
                assert len(trees) == len(remaining)
                forest.cancel(trees, nodes)

    run_together(add, select)
    with pytest.raises(ValueError, match="remaining: expected"):
        forest.select("power", np.ones(2000))


def test_threads_on_one_tree_object_take_turns() -> None:
    """`select` marks nothing: two threads may get the same leaf, and both may expand it."""
    tree = _core.Tree(seed=1)
    expansions = 0
    lock = threading.Lock()

    def work() -> None:
        nonlocal expansions
        for i in range(500):
            node = tree.select(("uct", "power", "best_first")[i % 3])
            tree.backup(tree.expand(node, [0.5, 0.75]), 1.0)
            tree.penalize(node)
            assert _core.Tree.from_bytes(tree.to_bytes()).num_nodes % 2 == 1  # never between two children
            with lock:
                expansions += 1

    run_together(*[work] * 4)
    assert expansions == 2000
    assert tree.num_nodes == 1 + 2 * expansions
    assert tree.visit_counts[0] == tree.value_sums[0] == expansions

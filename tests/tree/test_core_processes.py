"""Trees and forests that are copied, pickled, sent to other processes, or there when the process forks."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sanitizers import cannot_fork

from bavt_fast import _core


def searched_tree() -> _core.Tree:
    tree = _core.Tree(seed=3, max_nodes=5000, decay=0.7)
    for i in range(50):
        node = tree.select(("power", "uct")[i % 2], 0.5)
        tree.backup(tree.expand(node, [0.9, 0.3, 0.5], priors=[0.1, 0.0, 0.9]), 0.5)
        tree.penalize(node)
    tree.mark_in_flight(7)
    return tree


def searched_forest() -> _core.Forest:
    forest = _core.Forest(6, seed=4, threads=3, max_nodes=900)
    for _ in range(10):
        trees, nodes = forest.select("power", 0.5, wave=5)
        forest.backup(trees, forest.expand(trees, nodes, np.full((len(trees), 2), 0.5)), np.full(len(trees), 0.25))
    forest.finish(1)
    forest.drop(2)
    forest.select("uct", wave=2)
    return forest


def work_on(given: _core.Tree | _core.Forest) -> bytes:
    """Goes on with it as both would have gone on; what came of it."""
    for i in range(20):
        if isinstance(given, _core.Forest):
            trees, nodes = given.select(("power", "uct")[i % 2], 0.5, wave=3)
            given.expand(trees, nodes, np.full((len(trees), 2), 0.75))
        else:
            given.expand(given.select(("power", "uct")[i % 2], 0.5), [0.5, 0.75])
    return given.to_bytes()


WAYS = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{
        f"pickle {protocol}": lambda given, protocol=protocol: pickle.loads(pickle.dumps(given, protocol))
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [searched_tree, searched_forest])
def test_a_copy_is_the_same_and_goes_on_by_itself(make: Any, way: str) -> None:
    given = make()
    before = given.to_bytes()
    other = WAYS[way](given)
    assert type(other) is type(given)
    assert other.to_bytes() == before
    assert other.max_nodes == 5000 if isinstance(other, _core.Tree) else other.threads == 3
    after = work_on(other)
    assert given.to_bytes() == before != after
    assert work_on(given) == after


def test_what_is_copied_together_stays_together() -> None:
    tree = searched_tree()
    first, second = pickle.loads(pickle.dumps([tree, tree]))
    assert first is second


def test_a_damaged_pickle_is_refused() -> None:
    tree = _core.Tree.__new__(_core.Tree)
    with pytest.raises(_core.SnapshotError, match="snapshot"):
        tree.__setstate__(b"BAVTTREE")


def test_other_processes_get_what_is_sent_to_them() -> None:
    tree, forest = searched_tree(), searched_forest()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        answers = pool.map(work_on, [tree, forest])
        returned = pool.apply(copy.copy, (tree,))
    assert returned.to_bytes() == tree.to_bytes()
    assert answers == [work_on(tree), work_on(forest)]


FORKED = """
import os, signal, sys, threading
import numpy as np
from bavt_fast import _core

def child(work):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)  # what hangs is killed, and seen by its status
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0

def waves(forest, count=5):
    for _ in range(count):
        trees, nodes = forest.select("uct")
        first = forest.expand(trees, nodes, np.full((len(trees), 2), 0.5))
        forest.backup(trees, first, np.full(len(trees), 0.5))
"""


def run_forking(script: str) -> None:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKED + script]
    result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("threads", [1, 3])
def test_a_forked_child_works_on_as_its_parent_does(threads: int) -> None:
    run_forking(f"""
forest = _core.Forest(300, threads={threads})
waves(forest)
twin = _core.Forest.from_bytes(forest.to_bytes(), threads=1)
waves(twin)

def work():
    waves(forest)
    assert forest.to_bytes() == twin.to_bytes()
    own = _core.Forest(300, threads={threads})  # with threads of its own
    waves(own)
    child(lambda: waves(own))

child(work)
waves(forest)
assert forest.to_bytes() == twin.to_bytes()
""")


@cannot_fork
@pytest.mark.parametrize("threads", [1, 3])
def test_a_fork_while_other_threads_are_inside(threads: int) -> None:
    """The child has every forest as it was between two calls."""
    run_forking(f"""
forests = [_core.Forest(300, threads={threads}) for _ in range(2)]
lonely = _core.Forest(1, threads=1)
done = False
whole = threading.Lock()  # while no tree is missing

def work(forest):
    while not done:
        waves(forest, 1)
        if int(forest.num_nodes.sum()) > 300_000:
            for tree in range(300):
                with whole:
                    forest.drop(tree)
                    forest.add()

def make():  # what takes memory, without the GIL
    data = _core.Forest(20).to_bytes()
    while not done:
        _core.Forest.from_bytes(data, threads=2)
        lonely.values(0)

targets = [make, *(lambda forest=forest: work(forest) for forest in forests)]
threads = [threading.Thread(target=target, daemon=True) for target in targets]
for thread in threads:
    thread.start()

def in_child():
    for forest in forests:
        counts = forest.num_nodes
        assert all(len(forest.parents(tree)) == counts[tree] for tree in (0, 150, 299))
        _core.Forest.from_bytes(forest.to_bytes(), threads=1)  # checks every field
        waves(forest, 2)
        grown = set((forest.num_nodes.astype(int) - counts).tolist())
        assert grown <= {{0, 4}}, grown  # 0: its only leaf was in flight
    _core.Tree(max_nodes=100_000), _core.Forest(50, threads=2)
    forests.clear()  # without its threads it goes, too

for _ in range(25):
    with whole:
        child(in_child)
done = True
for thread in threads:
    thread.join()
""")

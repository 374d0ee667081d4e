"""Rerooting against the twin, at the nodes where it could go wrong; and the memory that it gives back."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sanitizers import keeps_freed_memory

from bavt_fast import _core, reference

FIELDS = ("parents", "visit_counts", "value_sums", "values", "depths", "flags", "tries")
POLICIES = ("power", "best_first", "ucb", "uct", "puct")


def grow(tree: Any) -> None:
    """Blocks of one, three and twenty children, widened nodes, every mark, priors on some.

    0 - 1, 2, 3 (pruned) and, widened, 24, 25; 1 - 4..23 and, widened, 26, 27; 24 - 28, 29 (terminal); 28 - 30; 30 - 31
    """
    rng = np.random.default_rng(3)
    for node, count, priors in ((0, 3, True), (1, 20, False), (0, 2, False), (1, 2, True), (24, 2, False)):
        values = rng.random(count)
        first = tree.expand(node, values, None, rng.random(count) if priors else None)
        for child in range(first, first + count):
            tree.backup(child, float(rng.random()), ("mean", "max")[child % 2])
    tree.expand(28, [0.9])
    tree.expand(30, [0.4])
    tree.prune(3)
    tree.mark_terminal(29)
    tree.close(1)
    tree.close(7)
    for node in (24, 30, 5, 31):
        tree.mark_in_flight(node)
    for node in (2, 2, 26, 31):
        tree.penalize(node)


NODES = {
    "the root": 0,
    "a leaf": 2,
    "a pruned leaf": 3,
    "a closed node, widened": 1,
    "a closed leaf": 7,
    "a leaf in flight": 5,
    "a node in flight, of a widened one": 24,
    "a terminal node": 29,
    "a node in flight above another": 30,
    "the last node": 31,
}


def assert_same(native: Any, twin: Any) -> None:
    for name in FIELDS:
        assert np.array_equal(getattr(native, name), getattr(twin, name)), name
    assert native.best_path() == twin.best_path()
    for node in range(native.num_nodes):
        assert native.children(node) == twin.children(node)


@pytest.mark.parametrize("node", NODES.values(), ids=NODES.keys())
@pytest.mark.parametrize("ranked", [False, True], ids=["", "with a ranking"])
def test_the_twin_agrees(node: int, ranked: bool) -> None:
    native, twin = _core.Tree(seed=2, max_nodes=100), reference.Tree(seed=2, max_nodes=100)
    for tree in (native, twin):
        grow(tree)
        if ranked:
            tree.select("best_first")
    assert native.reroot(node).tolist() == twin.reroot(node).tolist()
    assert_same(native, twin)
    copy = _core.Tree.from_bytes(native.to_bytes())
    for policy in POLICIES * 3:  # in flight stays in flight, pruned stays pruned, and the freed ids are used again
        chosen = twin.select(policy, 0.4)
        assert native.select(policy, 0.4) == copy.select(policy, 0.4) == chosen
        if chosen < 0:
            continue
        for tree in (native, twin, copy):
            tree.backup(tree.expand(chosen, [0.3, 0.8]), 0.8)
    assert_same(native, twin)
    assert copy.to_bytes() == native.to_bytes()


def test_marks_in_flight_move_with_their_nodes() -> None:
    tree = _core.Tree()
    grow(tree)
    old_ids = tree.reroot(24)
    assert old_ids.tolist() == [24, 28, 29, 30, 31]
    assert np.flatnonzero(tree.flags & tree.IN_FLIGHT).tolist() == [0, 3, 4]
    assert tree.select("uct") == -1
    tree.unmark_in_flight(4)
    assert tree.select("uct") == 4


def test_reroot_again_and_again_down_to_one_node() -> None:
    native, twin = _core.Tree(), reference.Tree()
    for tree in (native, twin):
        grow(tree)
    for node in (24, 1, 0, 1, 1):
        assert native.reroot(node).tolist() == twin.reroot(node).tolist()
        assert_same(native, twin)
    assert native.num_nodes == 1
    with pytest.raises(IndexError):
        native.reroot(1)


def test_a_full_tree_has_room_again() -> None:
    tree = _core.Tree(max_nodes=9)
    tree.expand(0, [0.5] * 8)
    with pytest.raises(_core.CapacityError):
        tree.expand(1, [0.5])
    tree.reroot(1)
    assert tree.expand(0, [0.5] * 8) == 1


CUT_OFF = """
import os, sys
import numpy as np
from bavt_fast import _core

NODES, CHILDREN = 2_000_000, 100

def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

in_forest = sys.argv[1] == "forest"
tree = _core.Forest(1) if in_forest else _core.Tree()

def expand(node, values, priors):
    if in_forest:
        tree.expand([0], [node], values[None], priors=priors[None])
    else:
        tree.expand(node, values, priors=priors)

expand(0, np.full(CHILDREN, 0.5), np.full(CHILDREN, 0.5, dtype=np.float32))
values, priors = np.full(NODES // CHILDREN, 0.5), np.full(NODES // CHILDREN, 0.5, dtype=np.float32)
for node in range(1, CHILDREN + 1):
    expand(node, values, priors)
full = resident_bytes()
tree.reroot(*([0, 1] if in_forest else [1]))
print((full - resident_bytes()) / NODES)
"""


@keeps_freed_memory
@pytest.mark.parametrize("owner", ["tree", "forest"])
def test_what_is_cut_off_goes_back_to_the_system(owner: str) -> None:
    """In a process of its own, where nothing else is allocated or given back meanwhile."""
    command = [sys.executable, "-c", CUT_OFF, owner]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert float(done.stdout) > 0.9 * 34  # 99% is cut off, of 30 bytes a node and the priors

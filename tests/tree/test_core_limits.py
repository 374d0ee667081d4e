"""max_nodes and max_bytes: what does not fit is refused, and nothing has changed then, to the last bit."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sanitizers import takes_the_address_space

from bavt_fast import _core

POLICIES = ("power", "best_first", "ucb", "uct", "puct")


@pytest.mark.parametrize(
    ("options", "max_nodes"),
    [
        ({"max_nodes": 10}, 10),
        ({"max_bytes": 10 * 64}, 10),
        ({"max_bytes": 11 * 64 - 1}, 10),
        ({"max_nodes": 10, "max_bytes": 10**9}, 10),
        ({"max_nodes": 10**6, "max_bytes": 640}, 10),
        ({"max_bytes": 64}, 1),
    ],
)
def test_the_smaller_limit_holds_for_every_tree(options: dict[str, int], max_nodes: int) -> None:
    forest, tree = _core.Forest(2, **options), _core.Tree(**options)
    assert tree.max_nodes == max_nodes
    for id in (0, 1, forest.add()):
        with pytest.raises(_core.CapacityError, match=f"{max_nodes} more .* with max_nodes={max_nodes}; .*max_bytes"):
            forest.expand([id], [0], np.ones((1, max_nodes)))
        if max_nodes > 1:
            forest.expand([id], [0], np.ones((1, max_nodes - 1)))
    with pytest.raises(_core.CapacityError):
        tree.expand(0, np.ones(max_nodes))


@pytest.mark.parametrize("kind", [_core.Tree, lambda **options: _core.Forest(1, **options)], ids=["tree", "forest"])
@pytest.mark.parametrize(
    ("max_bytes", "error"), [(45, ValueError), (0, ValueError), (-1, ValueError), (1e3, TypeError), (True, TypeError)]
)
def test_a_bad_limit_on_bytes(kind: Any, max_bytes: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="max_bytes: expected an int of at least 64"):
        kind(max_bytes=max_bytes)


def test_the_largest_int_is_a_limit_on_bytes() -> None:
    assert _core.Tree(max_bytes=2**63 - 1).max_nodes == 100_000_000


def test_a_refused_expansion_leaves_the_tree_as_it_was() -> None:
    tree = _core.Tree(seed=1, max_nodes=30)
    while tree.num_nodes < 28:
        node = tree.select("power")
        tree.backup(tree.expand(node, [0.5, 0.7, 0.2], priors=[0.1, 0.2, 0.7]), 0.5)
    before, untouched = tree.to_bytes(), _core.Tree.from_bytes(tree.to_bytes())
    untouched.select("best_first")  # has a ranking, as the tree has
    for node in range(28):
        with pytest.raises(_core.CapacityError, match="3 more nodes do not fit a tree of 28 with max_nodes=30"):
            tree.expand(node, [0.9, 0.9, 0.9], terminal=[True, False, False], priors=[0.5, 0.5, 0.5])
    assert tree.to_bytes() == before
    for policy in POLICIES:
        assert tree.select(policy, 0.5) == untouched.select(policy, 0.5)
    assert tree.expand(5, [0.5, 0.5]) == 28
    with pytest.raises(_core.CapacityError):
        tree.expand(5, [0.5])


@pytest.mark.parametrize("trees", [3, 300])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_wave_with_one_full_tree_is_refused_whole(trees: int, threads: int) -> None:
    """300 trees: enough for the helpers to take part."""
    forest = _core.Forest(trees, seed=4, threads=threads, max_nodes=8)
    full = trees - 1
    forest.expand([full], [0], np.full((1, 5), 0.5))
    wave_trees, wave_nodes = forest.select("power")
    before, untouched = forest.to_bytes(), _core.Forest.from_bytes(forest.to_bytes())
    with pytest.raises(_core.CapacityError, match="3 more nodes do not fit a tree of 6 with max_nodes=8"):
        forest.expand(wave_trees, wave_nodes, np.full((trees, 3), 0.5), priors=np.full((trees, 3), 0.5))
    assert forest.to_bytes() == before
    twice = np.full(trees + 1, full)
    twice[:-1] = wave_trees
    with pytest.raises(_core.CapacityError, match="4 more nodes do not fit"):  # 2 and 2 in the same tree
        forest.expand(twice, np.append(wave_nodes, 0), np.full((trees + 1, 2), 0.5))
    assert forest.to_bytes() == before
    for copy in (forest, untouched):  # the marks are still there, and the wave can be answered in a way that fits
        assert set(copy.select("uct", wave=trees)[0].tolist()) == {full}
        copy.expand(wave_trees, wave_nodes, np.full((trees, 2), 0.5))
    assert forest.to_bytes() == untouched.to_bytes()


@takes_the_address_space
def test_a_ranking_that_finds_no_memory_is_given_up_and_made_anew() -> None:
    """The tree grows on, in what it has reserved. The next draw fails until there is memory, and then is right."""
    script = """
import resource
import numpy as np
from bavt_fast import _core

def address_space():
    return int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()

values = np.random.default_rng(0).random(50_000)
tree, twin = (_core.Tree(seed=1, max_nodes=3_000_000) for _ in range(2))
tree.select("power"), twin.select("power")
_, most = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (address_space() + 2_000_000, most))
for node in range(50):
    tree.expand(node, values)
    tree.penalize(node)
try:
    tree.select("power", 0.5)
except MemoryError:
    print("MemoryError", end=" ")
resource.setrlimit(resource.RLIMIT_AS, (most, most))
for node in range(50):
    twin.expand(node, values)
    twin.penalize(node)
print(all(tree.select("power", 0.5) == twin.select("power", 0.5) for _ in range(100)))
"""
    result = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["MemoryError", "True"]

"""Where memory runs out: an error with numbers in it, and nothing has changed. Each case in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from sanitizers import takes_the_address_space

pytestmark = takes_the_address_space

PRELUDE = """
import contextlib
import resource
import numpy as np
from bavt_fast import _core

_, most = resource.getrlimit(resource.RLIMIT_AS)

@contextlib.contextmanager
def only(more_bytes):
    now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more_bytes, most))
    try:
        yield
    except (_core.CapacityError, MemoryError) as error:
        told = f"{type(error).__name__}: {error}"
    else:
        told = "nothing was raised"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    print(told)
"""


def run(script: str) -> str:
    result = subprocess.run([sys.executable, "-c", PRELUDE + script], check=False, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_tree_tells_how_much_it_wanted() -> None:
    told = run("""
with only(300_000_000):
    _core.Tree()
with only(300_000_000):
    tree = _core.Tree(max_nodes=1_000_000)
print(tree.expand(0, [0.5]))
""").splitlines()
    wanted = re.fullmatch(
        r"CapacityError: max_nodes: no address space for (\d+) bytes, which a tree of up to 100000000 nodes reserves; "
        r"make it with a smaller max_nodes \(or max_bytes\)",
        told[0],
    )
    assert wanted is not None, told
    assert 30 <= int(wanted[1]) / 100_000_000 <= 60
    assert told[1:] == ["nothing was raised", "1"]


def test_a_forest_tells_how_many_trees_there_was_memory_for() -> None:
    told = run("""
with only(300_000_000):
    _core.Forest(1_000_000, threads=2)
print(_core.Forest(1000).num_nodes.sum())
""").splitlines()
    assert told[0].startswith("CapacityError: num_trees: not enough memory for 1000000 trees, about ")
    assert "MB in all; it ran out after " in told[0]
    assert told[1] == "1000"


def test_threads_that_the_system_does_not_give() -> None:
    told = run("""
with only(300_000_000):
    _core.Forest(1, threads=1024)
print(_core.Forest(1, threads=2).threads)
""").splitlines()
    assert told[0].startswith("CapacityError: threads: the system gives no 1024 threads (")
    assert told[1] == "2"


@pytest.mark.parametrize("threads", [1, 2])
def test_a_wave_that_finds_no_memory_changes_no_tree(threads: int) -> None:
    """Some of its trees have room; the wave is refused before they grow, and fits once there is memory."""
    told = run(f"""
forest = _core.Forest(400, threads={threads})
trees = np.arange(400)
forest.expand(trees[::2], trees[::2] * 0, np.full((200, 50), 0.5))
wave_trees, wave_nodes = forest.select("power")
values = np.random.default_rng(1).random((400, 6000))
before, twin = forest.to_bytes(), _core.Forest.from_bytes(forest.to_bytes())
with only(30_000_000):
    forest.expand(wave_trees, wave_nodes, values)
print(forest.to_bytes() == before)
for each in (forest, twin):
    each.expand(wave_trees, wave_nodes, values)
print(forest.to_bytes() == twin.to_bytes())
""").splitlines()
    wanted = re.match(
        r"CapacityError: expand: not enough memory for 2400000 more nodes in 400 trees, up to (\d+) MB; .* drop\(\)",
        told[0],
    )
    assert wanted is not None, told
    assert 2.4 * 30 <= int(wanted[1]) <= 2.4 * 80
    assert told[1:] == ["True", "True"]


def test_adding_a_tree_that_finds_no_memory_leaves_no_trace() -> None:
    told = run("""
forest, twin = _core.Forest(0), _core.Forest(0)
with only(100_000_000):
    while True:
        forest.add()
trees = len(forest.live)
forest.add(), [twin.add() for _ in range(trees + 1)]
print(forest.to_bytes() == twin.to_bytes())
""").splitlines()
    assert told[0].startswith("MemoryError: not enough memory for this call; drop()")
    assert told[1] == "True"


def test_a_selection_that_finds_no_memory_marks_nothing() -> None:
    """The first trees are ranked and draw, a later one finds no memory for its ranking."""
    told = run("""
forest = _core.Forest(300, threads=1)
trees = np.arange(300)
forest.expand(trees, trees * 0, np.random.default_rng(1).random((300, 9000)))
with only(4_000_000):
    forest.select("power", per_tree=3)
print(sum(int((forest.flags(tree) != 0).sum()) for tree in range(300)))
print(len(forest.select("power", per_tree=3)[0]))
""").splitlines()
    assert told[0].startswith("MemoryError: not enough memory for this call")
    assert told[1:] == ["0", "900"]


def test_pruning_that_finds_no_memory_prunes_nothing() -> None:
    told = run("""
tree = _core.Tree(max_nodes=3_000_000)
tree.expand(0, [0.5, 0.5])
tree.expand(1, np.full(2_500_000, 0.5))
with only(15_000_000):
    tree.prune(1)
print(int(tree.flags.max()))
tree.prune(1)
print(int((tree.flags == tree.PRUNED).sum()))
""").splitlines()
    assert told[0].startswith("MemoryError: not enough memory for this call")
    assert told[1:] == ["0", "2500001"]

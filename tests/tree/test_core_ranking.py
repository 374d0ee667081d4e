"""The order of the open nodes: heaviest first by the float64 weight, the oldest first among equals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from bavt_fast import _core
from bavt_fast.reference import CounterRng, power_draw

Weights = Callable[[np.random.Generator, int], npt.NDArray[np.float64]]

WEIGHTS: dict[str, Weights] = {
    "uniform": lambda rng, n: rng.uniform(1e-9, 1, n),
    "all equal": lambda _, n: np.full(n, 0.7),
    "few values": lambda rng, n: rng.choice([0.2, 0.4, 0.6, 0.8, 1.0], n),
    "float32": lambda rng, n: rng.uniform(1e-9, 1, n).astype(np.float32).astype(np.float64),
    "below the resolution of float32": lambda rng, n: 0.5 + rng.integers(0, 1000, n) * 2.0**-50,
    "below the resolution of a key, many equal": lambda rng, n: 0.5 + rng.integers(0, 7, n) * 2.0**-53,
    "across the ends of a leaf's equals": lambda rng, n: np.where(rng.random(n) < 0.9, 0.3, 0.3 + 2.0**-54),
    "every magnitude": lambda rng, n: 10.0 ** rng.uniform(-320, 308, n),
    "denormal": lambda rng, n: rng.integers(1, 1000, n) * 5e-324,
    "huge": lambda rng, n: rng.uniform(1e300, 1.7e308, n),
    "beside the first and the last key": lambda rng, n: (
        rng.choice([2.0**-44, 2.0**20], n) * (1 + rng.integers(-3, 4, n) * 2.0**-26)
    ),
    "rising": lambda _, n: 1 - 1 / (2.0 + np.arange(n)),
    "falling": lambda _, n: 1 / (2.0 + np.arange(n)),
}


def expected_order(tree: _core.Tree, decay: float) -> npt.NDArray[np.int64]:
    """By a plain sort of all open nodes."""
    powers = np.concatenate([[1.0], np.cumprod(np.full(255, decay))])
    weights = np.asarray(tree.values) * powers[np.asarray(tree.tries)]
    nodes = np.flatnonzero((np.asarray(tree.flags) == 0) & (np.asarray(tree.values) > 0))
    return nodes[np.lexsort((nodes, -weights[nodes]))]


def drain(tree: _core.Tree) -> list[int]:
    """All nodes in the ranking's order. Each is taken out as it comes."""
    order = []
    while (node := tree.select("best_first")) >= 0:
        order.append(node)
        tree.mark_in_flight(node)
    return order


def check_draws(tree: _core.Tree, order: npt.NDArray[np.int64], decay: float, seed: int) -> None:
    """The draws of the tree are those of the twin over the sorted weights."""
    powers = np.concatenate([[1.0], np.cumprod(np.full(255, decay))])
    ranked = (np.asarray(tree.values) * powers[np.asarray(tree.tries)])[order].tolist()
    rng = CounterRng(seed)
    for remaining in (1.0, 0.7, 0.2, 0.05, 1e-3) * 8:
        assert tree.select("power", remaining=remaining) == order[power_draw(ranked, 1.0 / remaining, rng)]


@pytest.mark.parametrize("name", WEIGHTS)
@pytest.mark.parametrize("at_once", [True, False], ids=["ranked at once", "ranked as they come"])
def test_order(name: str, at_once: bool) -> None:
    rng = np.random.default_rng(1)
    for count in (1, 62, 63, 64, 65, 130, 5000):
        tree = _core.Tree(seed=9, root_value=1e-9)
        values = WEIGHTS[name](rng, count)
        if at_once:
            tree.expand(0, values)
        else:
            tree.select("best_first")  # the ranking is made here, of the root alone
            for part in np.array_split(values, max(1, count // 3)):
                tree.expand(0, part)
        order = expected_order(tree, 0.85)
        check_draws(tree, order, 0.85, seed=9)
        assert drain(tree) == order.tolist()


@pytest.mark.parametrize("decay", [0.85, 1.0, 1e-300])
@pytest.mark.parametrize("name", WEIGHTS)
def test_random_programs_against_a_sorted_list(name: str, decay: float) -> None:
    """Phases that mostly add, mostly remove, mostly move: leaves and groups split, share, merge and vanish."""
    rng = np.random.default_rng(2)
    tree = _core.Tree(seed=4, decay=decay)
    tree.select("best_first")
    for phase in ([0.8, 0.1, 0.1], [0.1, 0.2, 0.7], [0.05, 0.9, 0.05], [0.7, 0.1, 0.2], [0.0, 1.0, 0.0]):
        for verb in rng.choice(["expand", "remove", "penalize"], 600, p=phase):
            if verb == "expand":
                tree.expand(int(rng.integers(tree.num_nodes)), WEIGHTS[name](rng, int(rng.integers(1, 20))))
            for node in rng.integers(0, tree.num_nodes, 9).tolist():
                if verb == "penalize":
                    tree.penalize(node)
                elif verb == "remove":
                    tree.mark_in_flight(node)
        order = expected_order(tree, decay)
        if len(order):
            assert tree.select("best_first") == order[0]
        for node in np.flatnonzero(np.asarray(tree.flags))[::3].tolist():
            tree.unmark_in_flight(node)
    order = expected_order(tree, decay)
    assert drain(tree) == order.tolist()
    for node in rng.permutation(tree.num_nodes).tolist():  # an empty ranking fills again
        tree.unmark_in_flight(node)
    order = expected_order(tree, decay)
    assert len(order) == tree.num_nodes
    check_draws(tree, order, decay, seed=4)
    assert drain(tree) == order.tolist()


@pytest.mark.parametrize(
    "name",
    ["below the resolution of float32", *(pytest.param(n, marks=pytest.mark.slow) for n in ("uniform", "few values"))],
)
def test_many_nodes(name: str) -> None:
    """Enough for many groups of leaves, which split while nodes come by threes, and merge while they go."""
    rng = np.random.default_rng(3)
    tree = _core.Tree(seed=6)
    tree.select("best_first")
    for values in WEIGHTS[name](rng, 99_999).reshape(-1, 3):
        tree.expand(0, values)
    for node in rng.integers(0, tree.num_nodes, 50_000).tolist():
        tree.penalize(node)
    check_draws(tree, expected_order(tree, 0.85), 0.85, seed=6)
    for node in rng.permutation(tree.num_nodes)[:90_000].tolist():
        tree.mark_in_flight(node)
    order = expected_order(tree, 0.85)
    assert drain(tree) == order.tolist()


def test_a_lone_node_moves() -> None:
    """Also where it is the only one left of many."""
    tree = _core.Tree(seed=1, decay=0.5)
    tree.expand(0, np.linspace(0.1, 1, 300))
    tree.select("best_first")
    for node in range(300):
        tree.mark_in_flight(node)
    for _ in range(300):  # past the last try that counts
        assert tree.select("best_first") == tree.select("power", remaining=0.5) == 300
        tree.penalize(300)
    tree.mark_in_flight(300)
    assert tree.select("best_first") == -1
    tree.unmark_in_flight(7)
    assert tree.select("best_first") == 7

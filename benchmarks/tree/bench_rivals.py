"""Tree searches that people would otherwise install (the ``rivals`` extra), each where it is fast and fair.

A rival that is not installed is skipped, and the report says so. None of them is given a model: leaf values are random
numbers that cost next to nothing. What a simulation is, and where a rival is better or worse off than we are, stands
with each.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.tree import rows
from benchmarks.tree.conftest import Measure
from benchmarks.tree.effort import BRANCHING, effort
from benchmarks.tree.rows import case


def rival(module: str) -> Any:
    """An import, or a reason to skip the benchmark."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f"{module} does not import: {error}")


# ---- mctx ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 64])
def test_mctx(measure: Measure, rng: np.random.Generator, batch: int) -> None:
    """muzero_policy over 3 actions, jitted, compiled before the clock starts; XLA takes all cores.

    A simulation descends by puct, adds one child and backs up. The embedding is a hash that the value is drawn from,
    so searches differ from round to round.
    """
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    rival("mctx")
    jax = rival("jax")
    search = jax.jit(mctx_search(effort().waves))

    def run(key: Any, hashes: Any) -> None:
        jax.block_until_ready(search(key, hashes))

    def setup() -> tuple[Any, ...]:
        seed, *hashes = rng.integers(2**32, size=batch + 1, dtype=np.uint32)
        return jax.block_until_ready((jax.random.key(seed), jax.numpy.array(hashes)))

    run(*setup())  # compiles
    waves = effort().waves
    measure(case(rows.WAVE_SIMULATION, rows.MCTX, waves, waves * batch, batch), run, setup)


def mctx_search(simulations: int) -> Callable[[Any, Any], Any]:
    import jax
    import jax.numpy as jnp
    import mctx

    def uniform(hashes: Any) -> Any:
        return (hashes >> 8).astype(jnp.float32) / 2**24

    def step(params: None, key: Any, action: Any, hashes: Any) -> tuple[Any, Any]:
        mixed = (hashes ^ (action.astype(jnp.uint32) + 1) * jnp.uint32(0x9E3779B1)) * jnp.uint32(0x85EBCA6B)
        mixed ^= mixed >> 15
        zeros = jnp.zeros(hashes.shape)
        output = mctx.RecurrentFnOutput(
            reward=zeros,
            discount=zeros + 1.0,
            prior_logits=jnp.zeros((*hashes.shape, BRANCHING)),
            value=uniform(mixed),
        )
        return output, mixed

    def search(key: Any, hashes: Any) -> Any:
        logits = jnp.zeros((*hashes.shape, BRANCHING))
        root = mctx.RootFnOutput(prior_logits=logits, value=uniform(hashes), embedding=hashes)
        output = mctx.muzero_policy(None, key, root, step, num_simulations=simulations, dirichlet_fraction=0.0)
        return output.action, jax.tree_util.tree_leaves(output.search_tree)

    return search


# ---- treequest -----------------------------------------------------------------------------------------------------


def step_in_place(algorithm: Any, state: Any, generate: dict[str, Callable[[Any], Any]], steps: int) -> None:
    for _ in range(steps):  # in place: without it every step copies the whole tree
        state = algorithm.step(state, generate, inplace=True)


def treequest_setup(algorithm: Any, rng: np.random.Generator, steps: int) -> tuple[Any, ...]:
    scores: Iterator[float] = iter(rng.random(steps).tolist())
    return algorithm, algorithm.init_tree(), {"step": lambda parent: ("state", next(scores))}, steps


@pytest.mark.parametrize("n", effort().sizes([1_000]))
@pytest.mark.parametrize("who", [rows.TREEQUEST_STANDARD, rows.TREEQUEST_ABMCTSA])
def test_treequest(measure: Measure, rng: np.random.Generator, who: str, n: int) -> None:
    """A simulation is one of its steps, which is in its favour: a step adds one child where ours adds three.

    Both back up every child; StandardMCTS descends once for three steps, ABMCTSA for each.
    """
    treequest = rival("treequest")
    standard = who == rows.TREEQUEST_STANDARD
    algorithm = treequest.StandardMCTS(samples_per_action=BRANCHING) if standard else treequest.ABMCTSA()
    measure(case(rows.SIMULATION, who, n, items=n), step_in_place, lambda: treequest_setup(algorithm, rng, n))


# ---- open_spiel ----------------------------------------------------------------------------------------------------


class EndlessState:
    """Three actions for one player, without an end: as little of a game as open_spiel's search can walk through."""

    __slots__ = ()

    def clone(self) -> EndlessState:
        return self

    def apply_action(self, action: int) -> None:
        pass

    def is_terminal(self) -> bool:
        return False

    def is_chance_node(self) -> bool:
        return False

    def current_player(self) -> int:
        return 0


class RandomEvaluator:
    def __init__(self, values: list[float]) -> None:
        self.values = iter(values)

    def evaluate(self, state: EndlessState) -> list[float]:
        return [next(self.values)]

    def prior(self, state: EndlessState) -> list[tuple[int, float]]:
        return [(action, 1.0 / BRANCHING) for action in range(BRANCHING)]


@pytest.mark.parametrize("n", effort().sizes([1_000, 10_000]))
def test_open_spiel(measure: Measure, rng: np.random.Generator, n: int) -> None:
    """Its search in Python, by uct, over a game whose rules cost next to nothing: select, add 3, back up.

    Its search in C++ is left out: from Python it takes no evaluator but random play to the end of a C++ game, so that
    its figure would be the game's.
    """
    pyspiel = rival("pyspiel")
    mcts = rival("open_spiel.python.algorithms.mcts")
    kind = SimpleNamespace(
        reward_model=pyspiel.GameType.RewardModel.TERMINAL, dynamics=pyspiel.GameType.Dynamics.SEQUENTIAL
    )
    game = SimpleNamespace(get_type=lambda: kind, max_utility=lambda: 1.0)

    def setup() -> tuple[Any, ...]:
        random_state = np.random.RandomState(int(rng.integers(2**32)))
        return mcts.MCTSBot(game, 1.0, n, RandomEvaluator(rng.random(n).tolist()), random_state=random_state), None

    def search(bot: Any, _: None) -> None:
        bot.mcts_search(EndlessState())

    measure(case(rows.SIMULATION, rows.OPEN_SPIEL, n, items=n), search, setup)

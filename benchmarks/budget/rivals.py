"""Searches of the package treequest, driven through its ask and tell."""

from __future__ import annotations

import importlib
import logging
from typing import Any

import numpy as np

from benchmarks.budget.walk import Place, Walk, Wants
from benchmarks.harness import LeftOut

MOST_IN_VAIN = 200
"""Asks in a row that cost nothing (for steps behind an answer), after which a search has come to its end."""


def treequest() -> Any:
    """The package.

    Raises:
        LeftOut: it is not installed.
    """
    try:
        return importlib.import_module("treequest")
    except ImportError as error:
        raise LeftOut(f"treequest: {error}") from error


def ab_mcts_a(walk: Walk, random: np.random.Generator, dist_type: str = "gaussian") -> Wants:
    """AB-MCTS with node aggregation: at every node a draw decides between a new step and one that is there."""
    return _run(walk, random, treequest().ABMCTSA(dist_type=dist_type))


def ab_mcts_m(walk: Walk, random: np.random.Generator) -> Wants:
    """AB-MCTS with a mixed model, fitted anew by sampling for every choice: seconds a step.

    Raises:
        LeftOut: the package's extra abmcts-m is not installed.
    """
    try:
        algorithm = treequest().ABMCTSM()
    except ImportError as error:
        raise LeftOut(f"treequest's AB-MCTS-M: its extra abmcts-m does not import ({error!s:.60})") from error
    return _run(walk, random, algorithm)


def standard_mcts(walk: Walk, random: np.random.Generator, width: int = 4, exploration: float = 1.0) -> Wants:
    """UCT with ``width`` children a node."""
    algorithm = treequest().StandardMCTS(samples_per_action=width, exploration_weight=exploration)
    return _run(walk, random, algorithm)


def _run(walk: Walk, random: np.random.Generator, algorithm: Any) -> Wants:
    """Asks for a node, draws a step there, tells where it leads and the critic's V of it (0 for a step that is not
    valid or a wrong answer)."""
    logging.getLogger("treequest").setLevel(logging.ERROR)
    state, vain = algorithm.init_tree(), 0
    while vain < MOST_IN_VAIN:
        np.random.seed(int(random.integers(2**32)))  # noqa: NPY002 (the package draws from numpy's own)
        state, trial = algorithm.ask(state, ["step"])
        place: Place = walk.root if trial.parent_state is None else trial.parent_state
        child = (yield from walk.expand(place)) if place.is_open else None
        vain = vain + 1 if child is None else 0
        reached = place if child is None else child
        score = min(1.0, max(0.0, reached.value)) if reached.is_open and child is not None else 0.0
        state = algorithm.tell(state, trial.trial_id, (reached, score))

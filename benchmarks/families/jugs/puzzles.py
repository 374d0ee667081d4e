"""States to learn water jugs from: all that moves bring about in jugs of all capacities, but for those held out.

A state is taught whole: what each move makes of the volumes, and how many moves are left behind it.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

JUGS = 3
MOVES = (">A", ">B", ">C", "A>", "B>", "C>", "A>B", "A>C", "B>A", "B>C", "C>A", "C>B")
"""The steps of the task; a state has a place for each."""
ENDS = tuple(tuple(" ABC".index(jug or " ") - 1 for jug in move.split(">")) for move in MOVES)
"""From which jug into which; -1 for the tap and for the drain."""
NO_MOVE = -1
FAR = 255
"""Moves left where the target cannot be reached, and behind a move that changes nothing."""
PARTS, VALIDATION, TEST = 8, (0,), (1, 2, 3)
"""Capacities, whatever their order, are in one of so many parts; these are for validation and for tests."""
HARD_SHARE, MIDDLE_SHARE = 0.5, 0.35
"""Of the states, how many are of puzzles as hard as the family's, and of those half as hard."""


def part_of(capacities: Sequence[int]) -> int:
    """The part that capacities are in, whatever their order."""
    return zlib.crc32(" ".join(map(str, sorted(capacities))).encode()) % PARTS


def is_held_out(capacities: Sequence[int]) -> bool:
    return part_of(capacities) in (*VALIDATION, *TEST)


def moved(volumes: np.ndarray, capacities: np.ndarray) -> np.ndarray:
    """int64 (states, moves, jugs): the volumes after each move, of volumes and capacities (states, jugs)."""
    after = np.repeat(volumes[:, None], len(MOVES), axis=1)
    for move, (source, into) in enumerate(ENDS):
        there = volumes[:, source] if source >= 0 else capacities[:, into]
        amount = np.minimum(there, capacities[:, into] - volumes[:, into]) if into >= 0 else there
        if source >= 0:
            after[:, move, source] -= amount
        if into >= 0:
            after[:, move, into] += amount
    return after


class Graph(NamedTuple):
    """All states of one set of jugs.

    Attributes:
        volumes: int64 (states, jugs); the empty jugs come first.
        after: int64 (states, moves): the state after each move; `NO_MOVE` where it changes nothing.
    """

    volumes: np.ndarray
    after: np.ndarray


def graph_of(capacities: Sequence[int]) -> Graph:
    """What moves bring about from empty jugs."""
    sizes = [capacity + 1 for capacity in capacities]
    volumes = np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)
    after = np.ravel_multi_index(
        tuple(np.moveaxis(moved(volumes, np.tile(capacities, (len(volumes), 1))), 2, 0)), sizes
    )
    reached, fresh = np.zeros(len(volumes), dtype=bool), np.array([0])
    while len(fresh):
        reached[fresh] = True
        fresh = np.unique(after[fresh])
        fresh = fresh[~reached[fresh]]
    numbers = np.cumsum(reached) - 1
    changed = after != np.arange(len(volumes))[:, None]
    return Graph(volumes[reached], np.where(changed, numbers[after], NO_MOVE)[reached])


def moves_left(graph: Graph, targets: Sequence[int]) -> np.ndarray:
    """int64 (targets, states): of the shortest way; `FAR` where there is none."""
    left = np.where((graph.volumes[None] == np.array(targets)[:, None, None]).any(axis=2), 0, FAR)
    while True:
        nearer = np.minimum(left, behind(graph, left).min(axis=2) + 1)
        if (nearer == left).all():
            return left
        left = nearer


def behind(graph: Graph, left: np.ndarray) -> np.ndarray:
    """int64 (targets, states, moves): moves left after each move; `FAR` where it changes nothing."""
    return np.where(graph.after == NO_MOVE, FAR, left[:, graph.after])


class States(NamedTuple):
    """States, and what is to be known of them.

    Attributes:
        capacities, volumes: int64 (states, jugs).
        targets, left: int64 (states,): the target, and the moves that are left.
        left_behind: int64 (states, moves): moves left behind each move; `FAR` where it changes nothing.
    """

    capacities: np.ndarray
    volumes: np.ndarray
    targets: np.ndarray
    left: np.ndarray
    left_behind: np.ndarray

    @property
    def good(self) -> np.ndarray:
        """bool (states, moves): the moves of a shortest way."""
        return self.left_behind == self.left[:, None] - 1

    def take(self, which: np.ndarray | slice) -> States:
        """Some of them."""
        return States(*(part[which] for part in self))

    def reordered(self, orders: np.ndarray) -> States:
        """Each state's jugs in another order: int64 (states, jugs), which jug comes at each place."""
        count = len(orders)
        places = np.concatenate([np.full((count, 1), -1), orders], axis=1)  # behind -1 stands tap or drain
        numbers = {ends: number for number, ends in enumerate(ENDS)}
        lookup = np.full((JUGS + 1, JUGS + 1), NO_MOVE)
        for (source, into), number in numbers.items():
            lookup[source + 1, into + 1] = number
        ends = np.array(ENDS) + 1
        moves = lookup[places[:, ends[:, 0]] + 1, places[:, ends[:, 1]] + 1]
        rows = np.arange(count)[:, None]
        return States(
            self.capacities[rows, orders],
            self.volumes[rows, orders],
            self.targets,
            self.left,
            self.left_behind[rows, moves],
        )


class Teacher:
    """Draws states, each with its jugs in any order.

    Args:
        capacities: the least and the most that a jug can hold.
        difficulty: moves of the puzzles that are to be learnt above all.
        seed: of everything random.
    """

    def __init__(self, capacities: tuple[int, int], difficulty: int, seed: int) -> None:
        sets = itertools.combinations_with_replacement(range(capacities[0], capacities[1] + 1), JUGS)
        self.sets = [one for one in sets if not is_held_out(one)]
        parts = [part for one in self.sets for part in _states_of(one)]
        self._states = States(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
        self._counts = np.array([len(part.left) for part in parts])
        self._firsts = np.cumsum(self._counts) - self._counts
        from_empty = self._states.left[self._firsts]
        shares = np.full(len(parts), (1.0 - HARD_SHARE - MIDDLE_SHARE) / len(parts))
        hard = from_empty >= difficulty
        middle = (from_empty >= difficulty // 2) & ~hard
        for which, share in ((hard, HARD_SHARE), (middle, MIDDLE_SHARE)):
            shares[which] += share / max(1, which.sum())
        self._shares = shares / shares.sum()
        self._seed = seed

    def __len__(self) -> int:
        """Puzzles."""
        return len(self._counts)

    def states(self, count: int, number: int) -> States:
        """So many states.

        Args:
            number: of the call: another has other states.
        """
        random = np.random.default_rng([self._seed, number])
        puzzles = random.choice(len(self._counts), size=count, p=self._shares)
        places = self._firsts[puzzles] + (random.random(count) * self._counts[puzzles]).astype(int)
        orders = np.argsort(random.random((count, JUGS)), axis=1)
        return self._states.take(places).reordered(orders)


def _states_of(capacities: Sequence[int]) -> list[States]:
    """The states of every target that can be reached, those left out that have it; the empty jugs come first."""
    graph = graph_of(capacities)
    targets = list(range(1, max(capacities) + 1))
    left = moves_left(graph, targets)
    after = behind(graph, left)
    found = []
    for number, target in enumerate(targets):
        kept = left[number] > 0
        if left[number, 0] < FAR:
            count = int(kept.sum())
            found.append(
                States(
                    np.tile(capacities, (count, 1)),
                    graph.volumes[kept],
                    np.full(count, target),
                    left[number, kept],
                    after[number, kept],
                )
            )
    return found

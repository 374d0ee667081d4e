"""The readable twin of the native tree: the same names, the same results to the last bit, in plain Python.

It is the oracle of the tests, and the place to read what `bavt_fast.Tree` does. It trades all speed for
clarity, checks only what changes the outcome, and has no snapshots.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from bavt_fast._core import CapacityError

__all__ = ["CounterRng", "Node", "Tree", "power_draw"]

ROOT = 0
MAX_TRIES = 255
_MASK = 2**64 - 1


class CounterRng:
    """Draw i of a stream is a pure function of (seed, i): the finaliser of SplitMix64 over a counter."""

    def __init__(self, seed: int) -> None:
        self.seed = seed & _MASK
        self.drawn = 0

    def uniform(self) -> float:
        """The next number in [0, 1), a multiple of 2^-53."""
        self.drawn += 1
        x = (self.seed + self.drawn * 0x9E3779B97F4A7C15) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        return ((x ^ (x >> 31)) >> 11) * 2.0**-53


@dataclass
class Node:
    """One node. `prior` and `weight` are None where none was given; `children` are ids, oldest first."""

    parent: int
    value: float
    prior: float | None = None
    weight: float | None = None
    value_sum: float = 0.0
    visits: int = 0
    tries: int = 0
    flags: int = 0
    children: list[int] = field(default_factory=list)


class Tree:
    """See `bavt_fast.Tree`, whose behaviour this is."""

    TERMINAL = 1
    PRUNED = 2
    CLOSED = 4
    IN_FLIGHT = 8

    def __init__(
        self, seed: int = 0, max_nodes: int | None = None, root_value: float = 1.0, decay: float = 0.85
    ) -> None:
        self.max_nodes = 100_000_000 if max_nodes is None else max_nodes
        self.nodes = [Node(parent=-1, value=float(root_value))]
        self._rng = CounterRng(seed)
        self._decay_powers = [1.0]
        while len(self._decay_powers) <= MAX_TRIES:
            self._decay_powers.append(self._decay_powers[-1] * decay)

    # ---- Growing

    def expand(
        self,
        node: int,
        values: Sequence[float] | npt.NDArray[np.float64],
        terminal: Sequence[bool] | npt.NDArray[np.bool_] | None = None,
        priors: Sequence[float] | npt.NDArray[np.float32] | None = None,
        weights: Sequence[float] | npt.NDArray[np.float64] | None = None,
    ) -> int:
        """Add children with consecutive ids; the first one's id. A node may be expanded again and again."""
        if len(self.nodes) + len(values) > self.max_nodes:
            raise CapacityError(f"max_nodes: {len(values)} more nodes do not fit")
        if self.nodes[node].flags & (self.TERMINAL | self.PRUNED):
            raise ValueError(f"node: {node} is terminal or pruned and cannot be expanded")
        first = len(self.nodes)
        for i, value in enumerate(values):
            child = Node(parent=node, value=float(value))
            if terminal is not None and terminal[i]:
                child.flags = self.TERMINAL
            if priors is not None:
                child.prior = float(np.float32(priors[i]))
            if weights is not None:
                child.weight = float(weights[i])
            self.nodes[node].children.append(len(self.nodes))
            self.nodes.append(child)
        return first

    # ---- Selecting

    def select(
        self,
        policy: str = "power",
        remaining: float = 1.0,
        total: float = 1.0,
        exploration: float = 1.0,
        max_depth: int | None = None,
    ) -> int:
        """A node to expand; -1 when none is left."""
        if policy in ("power", "best_first"):
            ranked = self._ranked()
            if not ranked:
                return -1
            if policy == "best_first":
                return ranked[0]
            exponent = total / remaining if remaining > 0 else math.inf
            return ranked[power_draw([self.weight(node) for node in ranked], exponent, self._rng)]
        score = self.score_rule(policy, remaining, total, exploration)
        return self._descend(score, math.inf if max_depth is None else max_depth)

    def score_rule(
        self, policy: str, remaining: float, total: float, exploration: float
    ) -> Callable[[Node, Node], float]:
        """What a descent rates a child of a parent by."""
        rule = {"ucb": self._ucb, "uct": self._uct, "puct": self._puct}[policy]
        return rule(remaining, total, exploration)

    def weight(self, node: int) -> float:
        """What the global policies choose by: the weight given, or V, decayed by every try."""
        return self.base_weight(node) * self._decay_powers[self.nodes[node].tries]

    def base_weight(self, node: int) -> float:
        """The weight given, or V."""
        stats = self.nodes[node]
        return stats.value if stats.weight is None else stats.weight

    def _ranked(self) -> list[int]:
        """The open nodes with V > 0, heaviest first, the oldest first among equals."""
        candidates = [i for i, node in enumerate(self.nodes) if node.flags == 0 and self.base_weight(i) > 0]
        return sorted(candidates, key=lambda i: (-self.weight(i), i))

    def _descend(self, score: Callable[[Node, Node], float], max_depth: float) -> int:
        """Walk to the child of highest score, the first on ties, until a node without children or max_depth."""
        enterable = self._enterable()
        if not enterable[ROOT]:
            return -1
        node, depth = ROOT, 0
        while self.nodes[node].children and depth < max_depth:
            children = [child for child in self.nodes[node].children if enterable[child]]
            best, best_score = children[0], -math.inf  # the first one, where every score is -inf or NaN
            for child in children:
                s = score(self.nodes[node], self.nodes[child])
                if s > best_score:  # a NaN never wins over a number
                    best, best_score = child, s
            node, depth = best, depth + 1
        return node

    def _enterable(self) -> list[bool]:
        """Whether each node's subtree holds an open node without children that a descent can reach."""
        enterable = [False] * len(self.nodes)
        for i in reversed(range(len(self.nodes))):
            node = self.nodes[i]
            if node.flags & (self.TERMINAL | self.PRUNED):
                continue
            if node.children:
                enterable[i] = any(enterable[child] for child in node.children)
            else:
                enterable[i] = node.flags == 0
        return enterable

    def _ucb(self, remaining: float, total: float, exploration: float) -> Callable[[Node, Node], float]:
        """The recipe's rule, whose bonus is divided by the budget that remains."""
        bonus, log_total = exploration / (remaining + 1e-8), math.log(total + 1.0)

        def score(parent: Node, child: Node) -> float:
            n = child.visits + 1e-8
            return child.value_sum / n + bonus * math.sqrt(log_total / n)

        return score

    def _uct(self, remaining: float, total: float, exploration: float) -> Callable[[Node, Node], float]:
        """W / n + c sqrt(ln N / n), as r (W r + c sqrt(ln N)) with r = n^-1/2; children without visits first."""

        def score(parent: Node, child: Node) -> float:
            bonus = exploration * (math.sqrt(math.log(parent.visits)) if parent.visits > 0 else 0.0)
            if child.visits == 0:
                return bonus + math.inf  # NaN where the bonus overflows to -inf
            r = 1.0 / math.sqrt(child.visits)
            return r * (child.value_sum * r + bonus)

        return score

    def _puct(self, remaining: float, total: float, exploration: float) -> Callable[[Node, Node], float]:
        """Q + c P sqrt(N) / (1 + n); Q is V before the first visit, P uniform where no prior was given."""

        def score(parent: Node, child: Node) -> float:
            q = child.value if child.visits == 0 else child.value_sum * (1.0 / child.visits)
            prior = 1.0 / len(parent.children) if child.prior is None else child.prior
            return q + exploration * math.sqrt(parent.visits) * prior * (1.0 / (child.visits + 1))

        return score

    # ---- Learning

    def backup(self, node: int, value: float, reduce: str = "mean") -> None:
        """Add a visit and the value to `node` and all its ancestors; "max" keeps the mean at the largest value."""
        for ancestor in self._upwards(node):
            stats = self.nodes[ancestor]
            if reduce == "mean":
                stats.value_sum += value
                stats.visits += 1
            else:
                best = value if stats.visits == 0 else max(stats.value_sum / stats.visits, value)
                stats.visits += 1
                stats.value_sum = best * stats.visits

    def set_weight(self, node: int, weight: float) -> None:
        """What the global policies choose by from now on, before the decay."""
        self.nodes[node].weight = float(weight)

    def penalize(self, node: int) -> None:
        """One more try: the weight is multiplied by the decay."""
        self.nodes[node].tries = min(self.nodes[node].tries + 1, MAX_TRIES)

    def unpenalize(self, node: int) -> None:
        """One try fewer."""
        self.nodes[node].tries = max(self.nodes[node].tries - 1, 0)

    def add_visits(self, node: int, delta: int) -> None:
        """Visits without a value, of the node and all its ancestors."""
        for ancestor in self._upwards(node):
            self.nodes[ancestor].visits += delta

    def prune(self, node: int) -> None:
        """Take `node` and everything below it out of the search, for good."""
        self.nodes[node].flags |= self.PRUNED
        for child in self.nodes[node].children:
            self.prune(child)

    def close(self, node: int) -> None:
        """Never hand `node` out again; it stays part of the best path."""
        self.nodes[node].flags |= self.CLOSED

    def mark_terminal(self, node: int) -> None:
        """`node` ends a path."""
        if self.nodes[node].children:
            raise ValueError(f"node: {node} has children and cannot be terminal")
        self.nodes[node].flags |= self.TERMINAL

    def mark_in_flight(self, node: int) -> None:
        """`node` is being expanded elsewhere: not handed out until it is unmarked."""
        self.nodes[node].flags |= self.IN_FLIGHT

    def unmark_in_flight(self, node: int) -> None:
        """Undo `mark_in_flight`."""
        self.nodes[node].flags &= ~self.IN_FLIGHT

    def reroot(self, node: int) -> npt.NDArray[np.uint32]:
        """Keep the subtree of `node`; the old id of every new id."""
        kept = [i for i in range(node, len(self.nodes)) if node in self._upwards(i)]
        new_ids = {old: new for new, old in enumerate(kept)}
        nodes = [self.nodes[old] for old in kept]
        for stats in nodes:
            stats.parent = new_ids.get(stats.parent, -1)
            stats.children = [new_ids[child] for child in stats.children]
        nodes[ROOT].parent = -1
        self.nodes = nodes
        return np.array(kept, dtype=np.uint32)

    # ---- Reading

    def _upwards(self, node: int) -> Iterator[int]:
        while node >= 0:
            yield node
            node = self.nodes[node].parent

    def children(self, node: int) -> list[int]:
        """Ids of the children, oldest first."""
        return list(self.nodes[node].children)

    def best_path(self) -> list[int]:
        """To the best leaf that is not pruned: terminal before open, highest V, deepest, oldest."""
        depths = self.depths
        leaves = [i for i, n in enumerate(self.nodes) if i and not n.children and not n.flags & self.PRUNED]
        if not leaves:
            return []
        best = max(
            leaves,
            key=lambda i: (self.nodes[i].flags & self.TERMINAL, self.nodes[i].value, depths[i], -i),
        )
        return list(self._upwards(best))[-2::-1]

    @property
    def num_nodes(self) -> int:
        return len(self.nodes)

    @property
    def parents(self) -> npt.NDArray[np.int32]:
        return np.array([node.parent for node in self.nodes], dtype=np.int32)

    @property
    def visit_counts(self) -> npt.NDArray[np.uint32]:
        return np.array([node.visits for node in self.nodes], dtype=np.uint32)

    @property
    def value_sums(self) -> npt.NDArray[np.float64]:
        return np.array([node.value_sum for node in self.nodes], dtype=np.float64)

    @property
    def values(self) -> npt.NDArray[np.float64]:
        return np.array([node.value for node in self.nodes], dtype=np.float64)

    @property
    def depths(self) -> npt.NDArray[np.uint32]:
        return np.array([len(list(self._upwards(i))) - 1 for i in range(len(self.nodes))], dtype=np.uint32)

    @property
    def flags(self) -> npt.NDArray[np.uint8]:
        return np.array([node.flags for node in self.nodes], dtype=np.uint8)

    @property
    def tries(self) -> npt.NDArray[np.uint8]:
        return np.array([node.tries for node in self.nodes], dtype=np.uint8)


def power_draw(weights: Sequence[float], exponent: float, rng: CounterRng) -> int:
    """A rank drawn with P(rank) proportional to ``weights[rank] ** exponent``.

    `weights` fall, and are at least 0. Ranks are cut into groups that start at 0 and at powers of 4; a group has
    the mass (size x relative weight of its first rank), which is at least what its ranks weigh together. A group is
    drawn by mass, a rank in it uniformly, and kept with the ratio of its weight to the first one's; else all is
    drawn again (rejection sampling). The masses exceed the truth by a bounded factor whatever the weights are.
    """

    def relative(rank: int) -> float:
        return 1.0 if weights[rank] == weights[0] else math.pow(weights[rank] / weights[0], exponent)

    groups = _groups(len(weights), relative)
    total_mass = 0.0
    for _, size, bound in groups:
        total_mass += size * bound
    while True:
        target = rng.uniform() * total_mass
        g = 0
        while g + 1 < len(groups) and target >= groups[g][1] * groups[g][2]:
            target -= groups[g][1] * groups[g][2]
            g += 1
        begin, size, bound = groups[g]
        rank = begin + int(min(target / bound, size - 1))
        if rng.uniform() * bound < relative(rank):
            return rank


def _groups(n: int, relative: Callable[[int], float]) -> list[tuple[int, int, float]]:
    """(first rank, size, relative weight of the first rank) of each group of `power_draw`."""
    end = 1
    while end < n and relative(end) >= 0.5:  # the head: where weights are close to the first
        end *= 4
    begin = min(end, n)
    groups, total_mass = [(0, begin, 1.0)], float(begin)
    while begin < n and (bound := relative(begin)) > 0.0:
        is_tail = (n - begin) * bound <= 0.5 * total_mass  # no use in cutting what hardly matters
        end = n if is_tail else min(4 * begin, n)
        groups.append((begin, end - begin, bound))
        total_mass += (end - begin) * bound
        begin = end
    return groups

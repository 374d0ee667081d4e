"""Native core: search trees and the exact Countdown solver."""

import os
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

_Policy = Literal["power", "best_first", "ucb", "uct", "puct"] | str
_Path = str | bytes | os.PathLike[str]

class CapacityError(RuntimeError):
    """A tree would need more nodes than it may hold. Nothing was changed."""

class SnapshotError(ValueError):
    """A snapshot that is none, is damaged or of an unknown version."""

def countdown_solvable(numbers: npt.ArrayLike, targets: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Whether each state can reach its target by + - * / over integers 0..999.

    Args:
        numbers: int32 (states, n), n <= 6, padded with -1 at the end of a row.
        targets: int32 (states,).

    Returns:
        bool (states,).

    Raises:
        ValueError: a wrong shape, or a number outside 0..999.
    """

class Tree:
    """One search tree. The root is node 0; ids are dense and good for the tree's life, but for `reroot`.

    A node is open until it is terminal, pruned, closed or in flight. Calls hold the GIL, so threads may share
    a tree: their calls run one after the other.

    Args:
        seed: any int; 64 bits of it seed the draws of "power".
        max_nodes: most nodes it may hold, up to 100,000,000; None for that many.
        root_value: V of the root, finite.
        decay: what a try that led nowhere multiplies a node's weight by, in (0, 1].
        max_bytes: most memory that its nodes may take, another way to limit them (46 bytes each at most).

    Every method raises IndexError on an unknown node id, and TypeError or ValueError on a bad argument, before
    anything changes. bools are no numbers.
    """

    TERMINAL: ClassVar[int]
    PRUNED: ClassVar[int]
    CLOSED: ClassVar[int]
    IN_FLIGHT: ClassVar[int]

    def __init__(
        self,
        seed: int = 0,
        max_nodes: int | None = None,
        root_value: float = 1.0,
        decay: float = 0.85,
        max_bytes: int | None = None,
    ) -> None: ...
    def expand(
        self,
        node: int,
        values: npt.ArrayLike,
        terminal: npt.ArrayLike | None = None,
        priors: npt.ArrayLike | None = None,
    ) -> int:
        """Add one child per value; returns the first one's id, the others follow.

        Args:
            node: any node that is neither terminal nor pruned; it may have children already (widening).
            values: (m,) finite numbers, V of each child, m >= 1. float64 without a copy.
            terminal: (m,) bools, the children that end a path.
            priors: (m,) numbers >= 0 for "puct", kept as float32. Without them P is 1 / (number of children).

        Raises:
            CapacityError: the tree would have more than `max_nodes` nodes.
            ValueError: `node` is terminal or pruned.
        """
    def select(
        self,
        policy: _Policy = "power",
        remaining: float = 1.0,
        total: float = 1.0,
        exploration: float = 1.0,
        max_depth: int | None = None,
    ) -> int:
        """A node to expand; -1 when none is left. Marks nothing.

        "power" draws with P(node) ∝ weight^(total / remaining) over the open nodes with V > 0, where weight is
        V * decay^tries (arXiv 2603.12634); with nothing remaining, uniformly among the heaviest. "best_first"
        takes the heaviest, the oldest on ties. Both choose expanded nodes too.

        "ucb" (the recipe's rule), "uct" (Kocsis and Szepesvari 2006) and "puct" (Silver et al. 2017) descend
        from the root by the highest score, the first on ties, to an open node without children, or to the node
        at `max_depth`. They pass over every subtree that has no such node left; nodes in flight are skipped.

        Args:
            remaining, total: budget left and in all, same unit; for "power" and "ucb".
            exploration: c of the descents.
            max_depth: depth at which a descent stops.
        """
    def backup(self, node: int, value: float, reduce: Literal["mean", "max"] | str = "mean") -> None:
        """Add a visit to `node` and all its ancestors, and `value` to their sums.

        With "max" a node's sum becomes its visits times the largest value so far (up to rounding).
        """
    def best_path(self) -> list[int]:
        """Ids from the root's child to the best leaf: terminal first, then highest V, deepest, oldest.

        Pruned subtrees do not count. O(nodes).
        """
    def children(self, node: int) -> list[int]:
        """Ids of a node's children, oldest first."""
    def penalize(self, node: int) -> None:
        """Count a try that led nowhere: the node's weight is multiplied by `decay`. No effect after 255."""
    def prune(self, node: int) -> None:
        """Take a node and everything below it out of the search and of the best path, for good."""
    def close(self, node: int) -> None:
        """Never select a node again; its descendants and the best path are not affected."""
    def mark_terminal(self, node: int) -> None:
        """A node ends a path. ValueError where it has children."""
    def mark_in_flight(self, node: int) -> None:
        """Keep a node from being selected until it is unmarked."""
    def unmark_in_flight(self, node: int) -> None:
        """Undo `mark_in_flight`."""
    def reroot(self, node: int) -> npt.NDArray[np.uint32]:
        """Make `node` the root, keep its subtree and free the rest.

        Ids change: entry i of the result (num_nodes,) is the old id of node i. Order is kept. Views taken
        before no longer mean anything, but stay safe to read.
        """
    def save(self, path: _Path) -> None:
        """Write a snapshot: versioned, checksummed, little-endian. The file is replaced whole or not at all.

        Raises:
            OSError: the file cannot be written.
        """
    @staticmethod
    def load(path: _Path) -> Tree:
        """The tree of a snapshot, which goes on as the saved one would have.

        Raises:
            SnapshotError: the file is no snapshot, or damaged.
            OSError: the file cannot be read.
        """
    def to_bytes(self) -> bytes:
        """What `save` writes."""
    @staticmethod
    def from_bytes(data: bytes) -> Tree:
        """What `load` makes of a file with these bytes."""
    @property
    def num_nodes(self) -> int:
        """Nodes in the tree, the root and pruned ones included."""
    @property
    def max_nodes(self) -> int:
        """Most nodes it may hold."""
    @property
    def parents(self) -> npt.NDArray[np.int32]:
        """(num_nodes,) ids, -1 for the root. As all arrays but `depths`: a live, read-only view without copy, of
        the nodes there are now; it keeps the tree alive."""
    @property
    def visit_counts(self) -> npt.NDArray[np.uint32]:
        """(num_nodes,) backups through each node."""
    @property
    def value_sums(self) -> npt.NDArray[np.float64]:
        """(num_nodes,) sum of the values backed up through each node."""
    @property
    def values(self) -> npt.NDArray[np.float64]:
        """(num_nodes,) V as given at expansion."""
    @property
    def depths(self) -> npt.NDArray[np.uint32]:
        """(num_nodes,) steps from the root; computed at each access, O(nodes), and read-only."""
    @property
    def flags(self) -> npt.NDArray[np.uint8]:
        """(num_nodes,) sum of TERMINAL, PRUNED, CLOSED and IN_FLIGHT."""
    @property
    def tries(self) -> npt.NDArray[np.uint8]:
        """(num_nodes,) calls of `penalize`, up to 255."""

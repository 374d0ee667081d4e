"""Native core: search trees and the exact Countdown solver."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from bavt_fast.protocols import Node, Step, StepRequest
from bavt_fast.waves import Pending

_T = TypeVar("_T")
_Record = TypeVar("_Record")

_Policy = Literal["power", "best_first", "ucb", "uct", "puct"] | str
_Path = str | bytes | os.PathLike[str]
_State = TypeVar("_State", bound=tuple[Any, ...])
_Description = TypeVar("_Description", bound=tuple[Any, ...])

class CapacityError(RuntimeError):
    """A tree would need more nodes than it may hold, or a forest more trees, or there is not enough memory for them.

    The message says how much was wanted and what to lower. Nothing was changed.
    """

class SnapshotError(ValueError):
    """Not a snapshot, a damaged one, or one of an unknown version."""

class TicketError(ValueError):
    """A ticket that is not open, of another search, or not in the state that the call needs. Nothing was changed."""

def countdown_solvable(
    numbers: npt.ArrayLike, targets: npt.ArrayLike, denominators: npt.ArrayLike | None = None
) -> npt.NDArray[np.bool_]:
    """Whether each state can reach its target by + - * / over integers 0..999.

    Args:
        numbers: integers (states, n), n <= 6, padded with -1 at the end of a row.
        targets: integers (states,).
        denominators: integers (states, n), 1..999: then numbers are numerators, and a step may leave any fraction
            whose numerator and denominator are 0..999 in lowest terms.

    Returns:
        bool (states,).

    Raises:
        ValueError: a wrong shape, or a number outside 0..999.
    """

def countdown_apply(kind: type[_State], state: _State, text: str, /) -> _State | None:
    """The state after a step over integers, of the class `kind`; None for a step that is not legal.

    NotImplemented for a state or a text that the task never makes.
    """

def countdown_describe(kind: type[Any], state: Any, description: type[_Description], /) -> _Description:
    """A state of the class `kind` over integers as a `description`.

    NotImplemented for a state that the task never makes.
    """

class Tree:
    """One search tree. The root is node 0; ids are dense and good for the tree's life, but for `reroot`.

    A node is open until it is terminal, pruned, closed or in flight.

    Threads may share a tree: calls hold the GIL and run one after the other. Between two calls another thread may
    have changed it, so hold a lock around what belongs together, such as `select` and `mark_in_flight` (two
    threads may select the same node), or a node id and its use where `reroot` is called. `Forest.select` marks
    what it returns.

    Args:
        seed: any int; 64 bits of it seed the draws of "power".
        max_nodes: most nodes it may hold, up to 100,000,000; None for that many.
        root_value: V of the root, finite.
        decay: what a try that led nowhere multiplies a node's weight by, in (0, 1].
        max_bytes: most memory that its nodes may take, another way to limit them (64 bytes each at most).

    Raises CapacityError where there is no address space for `max_nodes` nodes; memory itself is taken as they come. A
    call that finds none raises MemoryError and changes nothing.

    Columns of numbers may be lists, tuples, arrays of any type of number or other sequences, at about the same cost.
    An array with masked entries is refused.

    `pickle`, `copy.copy` and `copy.deepcopy` go through `to_bytes` and `from_bytes`: the copy goes on by itself as this
    tree would have, also in another process. (Pickle protocol 2 or later.)

    Every method raises IndexError on an unknown node id, and TypeError or ValueError on a bad argument, before
    anything changes. A bool is not taken for a number.
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
        weights: npt.ArrayLike | None = None,
    ) -> int:
        """Add one child per value; returns the first one's id, the others follow.

        Args:
            node: any node that is neither terminal nor pruned; it may have children already (widening).
            values: (m,) finite numbers, V of each child, m >= 1. float64 without a copy.
            terminal: (m,) bools, the children that end a path.
            priors: (m,) numbers >= 0 for "puct", kept as float32. Without them P is 1 / (number of children).
            weights: (m,) finite numbers that "power" and "best_first" choose by in the place of V. A child whose weight
                is not above 0 is never chosen by them.

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
    def set_weight(self, node: int, weight: float) -> None:
        """What "power" and "best_first" choose a node by from now on, before the decay; none at 0 or below."""
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

        Ids change: entry i of the result (num_nodes,) is the old id of node i. Order is kept, and so is every mark,
        of nodes in flight too. Views taken before no longer mean anything, but stay safe to read. The memory of
        what is cut off goes back to the system.
        """
    def save(self, path: _Path) -> None:
        """Write a snapshot: versioned, checksummed, little-endian.

        The file is replaced whole or not at all, also when the machine stops: on return it is on the disk. Its mode
        is that of any new file (0666 less the umask).

        Raises:
            OSError: the file cannot be written.
        """
    @staticmethod
    def load(path: _Path) -> Tree:
        """The tree of a snapshot, which goes on as the saved one would have. Marks of leaves in flight are kept.

        Files need not be trusted: whatever is in one, the outcome is a tree that can be used, or an error. It takes
        no more memory than the tree that the file describes: 64 bytes a node, and 25 KB for each tree of a forest.

        Raises:
            SnapshotError: the file is not a snapshot, is damaged, or needs more address space than there is.
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
        """(num_nodes,) ids, -1 for the root. As all arrays but `depths` and `weights`: a live, read-only view
        without copy, of the nodes there are now; it keeps the tree alive. A copy in the tree of a search, whose memory
        moves as it grows."""
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
    def weights(self) -> npt.NDArray[np.float64]:
        """(num_nodes,) what "power" and "best_first" choose by, before the decay; V where nothing was given. A copy."""
    @property
    def tries(self) -> npt.NDArray[np.uint8]:
        """(num_nodes,) calls of `penalize`, up to 255."""

class RecipeTree:
    """The tree behind `bavt_fast.BudgetAwareValueTreeSearch`: nodes with texts, on the native tree.

    It computes what Python would, to the last bit, and leaves the rest to Python; then nothing has changed.

    Args:
        question: the root's text.
        max_depth: where a selection ends.
        score: `BudgetAwareUCB.compute_ucb_score`,
        best_child: and `BudgetAwareUCB.select_best_child`, the functions that the native rule stands in for.
        as_tuple: makes a tuple of steps that are no list, or raises what is wrong with them.
    """

    def __init__(
        self,
        question: str,
        max_depth: int,
        score: object,
        best_child: object,
        as_tuple: Callable[[Any], tuple[str, ...]],
    ) -> None: ...
    def search(self, search: object, count: int, candidates: int) -> tuple[int, str | None, Any]:
        """Iterations of a `BudgetAwareValueTreeSearch`, from its whole budget on, until something is unusual.

        Returns:
            The number of the last iteration; what of it is left to Python, None where the search has ended; and what
            the model or the critic gave there:

            - "select": a method of the rule is not the stock one, or a number is not plain.
            - "steps": some step is not a plain str.
            - "value": not an int or a float64, or so large that a sum may overflow.
        """

    def best_texts(self) -> list[str]:
        """The texts along the descent from the root by the highest mean value, the first child on ties."""

    def nodes(self) -> list[tuple[int | None, str, int, float, float]]:
        """(parent's id, text, visit count, value sum, residual value) of every node, in the order of their ids."""

    @property
    def leaf(self) -> int:
        """The id of the selected node."""

class Forest:
    """Many trees, worked on in waves: arrays of tree ids and of node ids in and out, one call for a whole wave.

    What `select` hands out stays marked in flight until it is expanded, backed up or cancelled, so the leaves of
    a wave differ. Worker threads share the trees out among them; the results are the same for every number of
    threads. A wave with a mistake in it is refused before anything changes. uint32 ids and float64 values are used
    without a copy, and a CPU torch tensor's ``.numpy()`` is such an array; do not change one during a call.

    Python threads may share a forest, on different trees or on the same one: calls release the GIL and take turns,
    each as a whole, so the outcome is that of some order of the calls. Threads with trees of their own get what
    they would get alone. Threads on the same tree lose no expansion and no backup, and a leaf is handed to one of
    them only, until a call clears its mark. `backup` of a new child does that too, to a thread that was handed the
    child in between: hold one lock around `select`, and around `expand` with the `backup` that follows. After
    `reroot` the node ids that other threads hold of that tree mean other nodes.

    Worker threads that are kept from their cores by other programs are not waited for: where sharing a wave out takes
    longer than working alone, the calling thread works alone for a while.

    A fork (`os.fork`, `multiprocessing` with "fork") waits for the calls in progress. The child has the forest as it
    was between two calls, with its marks, and works on it with one thread; nothing goes back to the parent. `pickle`,
    `copy.copy` and `copy.deepcopy` work as of `Tree`, and keep the number of threads.

    Args:
        num_trees: trees to begin with, each a root alone.
        seed: tree number i ever made is what ``Tree(seed=seed + i)`` is.
        threads: workers, this thread included; None for one per core.
        max_nodes: most nodes a tree may hold; None for 16,777,216.
        root_value, decay: as of `Tree`.
        max_bytes: most memory that the nodes of one tree may take, as of `Tree`.

    Methods raise IndexError on an unknown tree or node id, TypeError or ValueError on bad arguments, MemoryError where
    there is not enough memory for the call; nothing has changed then. Making a forest raises CapacityError where there
    is not enough memory for its trees, or the system gives no more threads.
    """

    def __init__(
        self,
        num_trees: int,
        seed: int = 0,
        threads: int | None = None,
        max_nodes: int | None = None,
        root_value: float = 1.0,
        decay: float = 0.85,
        max_bytes: int | None = None,
    ) -> None: ...
    def select(
        self,
        policy: _Policy = "power",
        remaining: float | npt.ArrayLike = 1.0,
        total: float = 1.0,
        exploration: float = 1.0,
        max_depth: int | None = None,
        wave: int | None = None,
        per_tree: int | None = None,
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
        """Leaves to expand, as (w,) tree ids and (w,) node ids, in order of the trees; marks them in flight.

        One leaf of every live tree unless told otherwise; fewer where trees have none left.

        Args:
            policy, total, exploration, max_depth: as of `Tree.select`.
            remaining: one number for all, or a column with one per tree id.
            wave: most leaves in all. They are shared out evenly, and trees take turns where they do not go round.
            per_tree: most leaves of each tree; no limit if only `wave` is given.
        """
    def expand(
        self,
        trees: npt.ArrayLike,
        nodes: npt.ArrayLike,
        values: npt.ArrayLike,
        counts: npt.ArrayLike | None = None,
        terminal: npt.ArrayLike | None = None,
        priors: npt.ArrayLike | None = None,
    ) -> npt.NDArray[np.uint32]:
        """Add children to every pair and clear its mark; (w,) ids of the first children, 0 where there are none.

        Args:
            trees, nodes: (w,) ids.
            values: (w, m), or all children one after the other with `counts`.
            counts: (w,) children of each pair, 0 allowed.
            terminal, priors: one entry per child, shaped as `values` or in one row; see `Tree.expand`.

        Raises:
            CapacityError: a tree would have more than `max_nodes` nodes, or memory runs out. No tree of the wave was
                changed.
        """
    def backup(
        self,
        trees: npt.ArrayLike,
        nodes: npt.ArrayLike,
        values: npt.ArrayLike,
        reduce: Literal["mean", "max"] | str = "mean",
    ) -> None:
        """Back up one value per pair, in order, and clear the pairs' marks; see `Tree.backup`."""
    def cancel(self, trees: npt.ArrayLike, nodes: npt.ArrayLike) -> None:
        """Clear the marks of pairs that come to nothing."""
    def penalize(self, trees: npt.ArrayLike, nodes: npt.ArrayLike) -> None:
        """`Tree.penalize` for every pair."""
    def prune(self, trees: npt.ArrayLike, nodes: npt.ArrayLike) -> None:
        """`Tree.prune` for every pair."""
    def close(self, trees: npt.ArrayLike, nodes: npt.ArrayLike) -> None:
        """`Tree.close` for every pair."""
    def mark_terminal(self, trees: npt.ArrayLike, nodes: npt.ArrayLike) -> None:
        """`Tree.mark_terminal` for every pair."""
    def add(self, root_value: float = 1.0) -> int:
        """A new tree's id; it takes the place and the memory of a dropped one, if there is one.

        Raises:
            CapacityError: there are 1,000,000 trees.
            MemoryError: there is no memory for one more.
        """
    def finish(self, tree: int) -> None:
        """Select nothing more from a tree."""
    def drop(self, tree: int) -> None:
        """Give a tree up; its id and its memory go to the next `add`."""
    def reroot(self, tree: int, node: int) -> npt.NDArray[np.uint32]:
        """`Tree.reroot` of one tree. Leaves in flight are to be answered by their new ids."""
    def best_path(self, tree: int) -> list[int]:
        """`Tree.best_path` of one tree."""
    def children(self, tree: int, node: int) -> list[int]:
        """`Tree.children` of one tree."""
    def save(self, path: _Path) -> None:
        """Write all trees to one snapshot; see `Tree.save`. Other threads' calls wait: it is of one moment."""
    @staticmethod
    def load(path: _Path, threads: int | None = None) -> Forest:
        """The forest of a snapshot; see `Tree.load`."""
    def to_bytes(self) -> bytes:
        """What `save` writes."""
    @staticmethod
    def from_bytes(data: bytes, threads: int | None = None) -> Forest:
        """What `load` makes of a file with these bytes."""
    def parents(self, tree: int) -> npt.NDArray[np.int32]:
        """(num_nodes,) of one tree, as of `Tree`; a copy, as the next six are."""
    def visit_counts(self, tree: int) -> npt.NDArray[np.uint32]: ...
    def value_sums(self, tree: int) -> npt.NDArray[np.float64]: ...
    def values(self, tree: int) -> npt.NDArray[np.float64]: ...
    def depths(self, tree: int) -> npt.NDArray[np.uint32]: ...
    def flags(self, tree: int) -> npt.NDArray[np.uint8]: ...
    def tries(self, tree: int) -> npt.NDArray[np.uint8]: ...
    @property
    def num_nodes(self) -> npt.NDArray[np.uint32]:
        """(ids,) nodes of each tree, 0 for a dropped one."""
    @property
    def live(self) -> npt.NDArray[np.bool_]:
        """(ids,) whether a tree is neither finished nor dropped."""
    @property
    def threads(self) -> int:
        """Worker threads, the calling one included."""

# The engine. `bavt_fast.Search` and `bavt_fast.Searcher` are made of it; an amount is (tokens, prompt_tokens,
# tool_calls, cost in units of 1e-12). `bavt_fast.reference` has twins of the same names that say what each call does.

_Amounts = tuple[int, int, int, int]
_Limits = Sequence[int | None]
# Beside the tokens of a step, where there is more to charge: prompt tokens, tool calls and cost (None: as the options
# say), seconds.
_Others = Sequence[tuple[int, int | None, int | None, float] | None]

class SearchOptions:
    """How to search; see `bavt_fast.Settings`. Prices are in units of 1e-18 a token."""

    def __init__(
        self,
        *,
        policy: _Policy,
        exploration: float,
        decay: float,
        discount: float,
        tried_exponent: float,
        widening_scale: float,
        widening_exponent: float,
        candidates: int,
        patience: int,
        max_nodes: int | None,
        max_step_tokens: int,
        max_step_prompt_tokens: int,
        step_tool_calls: int,
        max_step_cost: int,
        token_price: int,
        prompt_token_price: int,
        max_score: Sequence[int],
    ) -> None: ...

class Account:
    """What may be spent, is spent and is reserved, in whole numbers; see `bavt_fast.Ledger`."""

    def __init__(self, limits: _Limits, seconds: float | None) -> None: ...
    def set_elapsed(self, seconds: float) -> None:
        """The seconds that have passed; they never fall."""
    def first_short(self, asked: Sequence[int]) -> int:
        """The first resource that cannot hold an amount, 4 where the time is up, or 5 where all fits."""
    def reserve(self, asked: Sequence[int]) -> None: ...
    def settle(self, claim: Sequence[int], actual: Sequence[int]) -> None:
        """Give a claim back and charge what was taken."""
    @property
    def spent(self) -> _Amounts: ...
    @property
    def reserved(self) -> _Amounts: ...
    @property
    def overrun(self) -> _Amounts: ...
    @property
    def left(self) -> tuple[int | None, int | None, int | None, int | None]: ...
    @property
    def elapsed_s(self) -> float: ...
    @property
    def remaining_ratio(self) -> float: ...
    @property
    def exhausted(self) -> bool: ...

class Question:
    """One question under search: account, tree, keys seen, open asks."""

    def __init__(
        self,
        seed: int,
        limits: _Limits,
        seconds: float | None,
        options: SearchOptions,
        root_value: float,
        min_tokens: int,
        terminal: bool,
        verified: bool,
    ) -> None: ...
    def set_time(self, now_s: float) -> None:
        """A reading of the clock; the first one starts it."""
    def change_clock(self) -> None:
        """The next reading is of another clock: what has passed by then stays."""
    def best_path(self) -> list[int]:
        """Ids from the root's child to the verified state, else to the best one so far."""
    def knows_key(self, key: int) -> bool: ...
    def see_key(self, key: int) -> None: ...
    def open_asks(self) -> list[tuple[int, int, int, int, int, int]]:
        """(number, node, count, limit, seed, steps that had come back from the node) of each open ask, oldest first."""
    def claims(self) -> list[tuple[int, tuple[int, int, int, int]]]:
        """(number, what it still reserves, for the scores of its states too) of each ask that is out, oldest first."""
    def to_bytes(self) -> bytes: ...
    @staticmethod
    def from_bytes(data: bytes) -> Question: ...
    @property
    def account(self) -> Account:
        """A copy."""
    @property
    def tree(self) -> Tree:
        """A copy."""
    @property
    def num_nodes(self) -> int: ...
    @property
    def stop_reason(self) -> str | None: ...
    @property
    def has_overrun(self) -> bool: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def asks(self) -> int:
        """Asks handed out so far."""
    @property
    def seed(self) -> int: ...
    @property
    def counts(self) -> tuple[int, int, int]:
        """Steps that were invalid, duplicate, refuted."""
    @property
    def memory_bytes(self) -> int:
        """Of everything but the tree."""

class Engine:
    """Many questions worked on in waves, in columns. A ticket is (slot << 32) | the question's number of the ask.

    Every call checks the whole wave before anything changes.

    Raises:
        TicketError: a ticket is not open, or not in the state that the call needs.
        TypeError, ValueError: a column is of the wrong length, or holds what it should not.
    """

    def __init__(self, leaves: int) -> None: ...
    def add(self, question: Question) -> int:
        """The question's slot."""
    def remove(self, slot: int) -> None: ...
    def ask(
        self, limit: int, now_s: float
    ) -> tuple[list[int], list[int], list[int], list[int], list[int], list[int], list[int]]:
        """Slots, nodes, counts, tickets, limits and seeds of up to ``limit`` asks; and slots that have stopped."""
    def admit(
        self,
        now_s: float,
        tickets: Sequence[int],
        counts: Sequence[int],
        tokens: Sequence[int],
        keys: Sequence[int],
        others: _Others | None = None,
        probabilities: Sequence[float] | None = None,
    ) -> list[bool]:
        """Settles ``counts[i]`` steps for each ticket; whether each step's key (-1: invalid) is new.

        ``probabilities`` are the model's of the steps, in [0, 1]; see `Settings.tried_exponent`.
        """
    def grow(
        self,
        now_s: float,
        tickets: Sequence[int],
        counts: Sequence[int],
        values: Sequence[float],
        terminal: Sequence[bool],
        verified: Sequence[bool],
        min_tokens: Sequence[int],
        weights: Sequence[float] | None = None,
        residual: bool = False,
        score_costs: Sequence[Sequence[int]] | None = None,
    ) -> tuple[list[int], list[float], bool]:
        """The first child's id of each ticket (2^32 - 1 without children), V of each child, and whether some value was
        outside of [0, 1]."""
    def cancel(self, ticket: int, tokens: Sequence[int] = (), others: _Others | None = None) -> None: ...
    def cancel_all(self, slot: int) -> None: ...
    def stop(self, slot: int, reason: str) -> None: ...
    def extend(self, slot: int, more: Sequence[int], seconds: float) -> None: ...

# The loops of a wave: `bavt_fast.waves` says what they do, and names them.

def read_wave_objects(names: dict[str, Any]) -> None:
    """Has the loops know the classes and functions that `bavt_fast.waves` has; called once, by it."""

def untracked(object: _T, /) -> _T:
    """The object, which the garbage collector does not look at any more: it holds nothing but numbers and texts."""

def wave_ask(
    engine: Engine, searches: dict[int, Any], limit: int, now_s: float, /
) -> tuple[list[int], list[int], list[int], list[int], list[int], list[int], list[StepRequest], list[int]]:
    """Up to ``limit`` asks: slots, nodes, counts, tickets, limits, seeds and requests; and slots that have stopped."""

def wave_requests(
    searches: dict[int, Any],
    slots: Sequence[int],
    nodes: Sequence[int],
    seeds: Sequence[int],
    tries: Sequence[int] | None = None,
    /,
) -> list[StepRequest]:
    """The requests of asks. ``tries``: of asks that were out before, how many of the steps from its node each knows."""

def wave_admit(
    engine: Engine,
    searches: dict[int, Any],
    slots: Sequence[int],
    nodes: Sequence[int],
    tickets: Sequence[int],
    answers: Sequence[Sequence[Step]],
    now_s: float,
    /,
) -> Pending:
    """Settles answers and finds what is new in them and not refuted.

    Raises:
        BadAnswer: a step is not one. Nothing has changed.
    """

def wave_settle(
    engine: Engine,
    searches: dict[int, Any],
    slots: Sequence[int],
    nodes: Sequence[int],
    tickets: Sequence[int],
    answers: Sequence[Sequence[Step]],
    now_s: float,
    /,
) -> tuple[list[int], list[Any], list[bool]]:
    """The first half of `wave_admit`."""

def wave_describe(
    engine: Engine,
    searches: dict[int, Any],
    slots: Sequence[int],
    nodes: Sequence[int],
    tickets: Sequence[int],
    answers: Sequence[Sequence[Step]],
    settled: tuple[list[int], list[Any], list[bool]],
    described: Mapping[int, Any] | None = None,
    /,
) -> Pending:
    """The second half of `wave_admit`: asks the tasks about new states, and drops what they refute.

    ``described``: what is known already, by step; None for nothing. An exception in it fails its question.
    """

def wave_grow(
    engine: Engine,
    searches: dict[int, Any],
    pending: Pending,
    values: Sequence[float],
    now_s: float,
    residual: bool = False,
    weights: Sequence[float] | None = None,
    score_costs: Sequence[Any] | None = None,
    /,
) -> bool:
    """Turns admitted states into nodes of their trees. Returns whether a value was outside of [0, 1], and clipped.

    Raises:
        TypeError, ValueError: a value is not a finite number. Nothing has changed.
    """

_Left = tuple[Pending, Any, Exception | None, bool]

def wave_tell(
    engine: Engine,
    searches: dict[int, Any],
    slots: Sequence[int],
    nodes: Sequence[int],
    tickets: Sequence[int],
    answers: Sequence[Sequence[Step]],
    score: Callable[[list[Node]], Any],
    clock: Callable[[], float],
    residual: bool,
    /,
) -> _Left | None:
    """`wave_admit`, the critic, and `wave_grow`. Returns None where the critic gave a list of values, and all is done.

    Else what the caller has to look at: what was admitted, what the critic gave, what it raised, and whether the trees
    grew with values that were clipped.

    Raises:
        BadAnswer: a step is not one. Nothing has changed.
    """

_Asked = tuple[list[int], list[int], list[int], list[int], list[int], list[int], list[StepRequest], list[int]]

def wave_rounds(
    engine: Engine,
    searches: dict[int, Any],
    propose: Callable[[list[StepRequest], list[int], list[int]], Any],
    score: Callable[[list[Node]], Any],
    wave: int,
    clock: Callable[[], float],
    residual: bool,
    /,
) -> tuple[_Asked, tuple[Any, ...], _Left | None]:
    """`wave_ask`, the generator, and `wave_tell`, round after round, until something is unusual: then its last wave.

    That is what `wave_ask` gave; the answers in a tuple, which is empty where nobody was asked (questions have stopped,
    or nothing is left to ask for); and what `wave_tell` left. Where it left nothing, the answers were not told: they
    are what the generator raised, or not one list for each ask, or have something in them that is no step.
    """

def wave_stream(
    engine: Engine,
    searches: dict[int, Any],
    out: dict[int, tuple[int, int, int]],
    submit: Callable[[list[int], list[StepRequest], list[int], list[int]], Any],
    collect: Callable[[], Any],
    score: Callable[[list[Node]], Any],
    wave: int,
    clock: Callable[[], float],
    residual: bool,
    /,
) -> tuple[_Asked | None, Exception | None, Any, _Left | None]:
    """`wave_ask`, ``submit``, ``collect`` and `wave_tell`, again and again, until something is unusual.

    Args:
        out: slot, node and count of each ask that the generator has, by its ticket: is kept.
        wave: asks that are out at most.

    Returns:
        One of these, the others None: what `wave_ask` gave, of which nothing was submitted (questions have stopped, or
        nothing is out), with what ``submit`` raised, where it did; what ``collect`` raised; what it gave, where that
        was not told: it is empty, or not a list of tickets that are out and answers, or has something in it that is no
        step; what `wave_tell` left.
    """

def filled(cls: type[_Record], /, *values: Any) -> _Record:
    """A new instance of a class, its ``__slots__`` filled in their order; its constructor is not called.

    The garbage collector does not look at it where none of the values is anything that it looks at.
    """

def outcome(
    question: Question, nodes: list[Node], /
) -> tuple[
    str | None,
    float,
    tuple[str, ...],
    tuple[int, ...],
    tuple[int, int, int, int],
    float,
    tuple[int, int, int, int],
    Tree,
    tuple[Step | None, ...],
    tuple[str | None, ...],
    int,
    int,
    int,
]:
    """What a search has found, most of `bavt_fast.SearchResult`.

    Answer and V at the end of the best path, its texts and its nodes; spent, seconds and overrun; a copy of the tree;
    the steps and the answers of all nodes; how many steps were invalid, duplicate and refuted.
    """

class TokenDrawer:
    """Draws the next tokens of rows on the CPU into columns that share memory with tensors.

    Args:
        columns: the records' columns by name, as `generators/host_sampling.py` has them.
        next_state: int32 (states, vocabulary).
        found: the state behind a stop string.
        ends: bool (vocabulary,): tokens that end the text.
        nameless: bool (vocabulary,): tokens that are never drawn; None for none.

    Raises:
        TypeError, ValueError, KeyError: an array is not as it should be: nothing is converted.
    """

    def __init__(
        self,
        columns: Mapping[str, npt.NDArray[Any]],
        next_state: npt.NDArray[np.int32],
        found: int,
        ends: npt.NDArray[np.bool_],
        nameless: npt.NDArray[np.bool_] | None,
    ) -> None: ...
    def draw(self, records: npt.NDArray[np.int64], logits: npt.NDArray[np.float32]) -> None:
        """The next token of each record that goes on: (rows,), (rows, vocabulary)."""

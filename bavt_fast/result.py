"""What a search found, and how far it has come."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bavt_fast._checks import message_of
from bavt_fast._core import Tree
from bavt_fast.budget import Budget, Spent
from bavt_fast.protocols import GenerationStatistics, Step
from bavt_fast.settings import Settings
from bavt_fast.step_checks import log_probability_of

if TYPE_CHECKING:
    from bavt_fast.view.record import Picture

__all__ = ["ManyProgress", "Progress", "Refusal", "SearchError", "SearchResult"]


class Refusal(NamedTuple):
    """A step that was paid for and did not become a node.

    Attributes:
        node: id of the node that it was proposed from.
        reason: "invalid" (not legal), "limit" or "deadline" (cut short by its limit on tokens, or by time), "duplicate"
            (its state is in the tree already) or "refuted" (it ends on an answer that the task refutes).
        step: the step.
    """

    node: int
    reason: str
    step: Step


class _Referable:
    """Gives a class with slots weak references."""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class SearchResult(_Referable):
    """What a search found.

    ``print(result)`` shows its tree, a notebook draws it. See `bavt_fast.view` for files and for several side by side.

    Attributes:
        answer: the answer of the best terminal state; None where no acceptable one was reached.
        solved: whether the task verified the answer. Always False for a task that cannot verify.
        path: the steps from the question to the best state, without the line breaks around them; also where the path
            is only partial.
        path_nodes: their node ids in ``tree``.
        value: V of the last state of the path.
        spent: what the search took of each resource.
        overrun: what generator or critic took above what was reserved for them; a part of `spent`. Without it, spent
            is within the budget in tokens, prompt tokens, tool calls and cost.
        stop_reason: "solved", "budget" (nothing more fits), "deadline", "exhausted" (no node is left to expand),
            "max_nodes" (the tree is full), "cancelled", "interrupted" (Ctrl-C) or "error"; None while the search can
            still go on.
        tree: a copy of the native tree.
        steps: the step that led to each node, by node id; None for the root.
        answers: what each terminal state commits to, by node id; None for no answer, and for the other states. For a
            vote over them see `bavt_fast.votes`.
        refused: steps that were paid for and dropped, in order.
        invalid_steps, duplicate_steps, refuted_steps: how many of them for which reason; those cut short by their
            limit are invalid.
        error: what failed, where the stop reason is "error"; what fails after another one changes nothing, and is
            logged. An exception that pickle cannot carry, as of many a class
            that takes other arguments than a message, is a RuntimeError that says the same in a pickle and in a copy.
        generation: of a generator that runs a model itself, what it did for all questions of this run until this one
            stopped: prompt tokens computed and saved, hits and evictions of its store, ...; else None.
        question, budget, settings, seed: what was searched, and how.
        events: what happened in order of time (see `bavt_fast.view.Picture`), from a search with ``record=True``; else
            None.
    """

    answer: str | None
    solved: bool
    path: tuple[str, ...]
    path_nodes: tuple[int, ...]
    value: float
    spent: Spent
    overrun: Spent
    stop_reason: str | None
    tree: Tree
    steps: tuple[Step | None, ...]
    answers: tuple[str | None, ...]
    refused: tuple[Refusal, ...]
    invalid_steps: int = 0
    duplicate_steps: int = 0
    refuted_steps: int = 0
    error: Exception | None = None
    generation: GenerationStatistics | None = None
    question: str = ""
    budget: Budget | None = None
    settings: Settings | None = None
    seed: int | None = None
    events: tuple[tuple[Any, ...], ...] | None = None

    def __eq__(self, other: object) -> bool:
        """Whether two results say the same, trees and errors by what is in them: a copy or a pickle's is equal."""
        if not isinstance(other, SearchResult):
            return NotImplemented
        return self is other or self._compared() == other._compared()

    def _compared(self) -> tuple[Any, ...]:
        own = _portable(self.error)  # as a copy has it
        error = None if own is None else (type(own), message_of(own))
        others = [_alike(getattr(self, field.name)) for field in fields(self) if field.name not in ("tree", "error")]
        return *others, error, self.tree.to_bytes()

    def __reduce__(self) -> tuple[Any, ...]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self), (*(values | {"error": _portable(self.error)}).values(),)

    def __repr__(self) -> str:
        """One short line."""
        found = f"solved, answer {self.answer!r:.60}" if self.solved else f"answer {self.answer!r:.60}"
        return (
            f"SearchResult({found}, value {self.value:.3f}, {len(self.path)} steps, {self.tree.num_nodes} nodes, "
            f"{self.spent.tokens} tokens, stopped: {self.stop_reason})"
        )

    def __str__(self) -> str:
        """The tree as text, cut to what fits a terminal."""
        from bavt_fast.view.terminal import text

        return text(self._picture())

    def _repr_html_(self) -> str:
        """The tree in a notebook: the page of `bavt_fast.view.html` in a frame."""
        from bavt_fast.view.page import frame

        return frame(self._picture())

    def to_dict(self) -> dict[str, Any]:
        """The whole result as plain data, in columns: see `bavt_fast.view.Picture`. ``view`` and `to_json` use it."""
        return self._picture().to_dict()

    def to_json(self) -> str:
        """`to_dict` as JSON, a file for ``bavt-fast view``."""
        return self._picture().to_json()

    def to_networkx(self) -> Any:
        """The tree as a ``networkx.DiGraph``; what is known of each node are its attributes.

        Raises:
            ModuleNotFoundError: networkx is not installed.
        """
        from bavt_fast.view.tables import to_networkx

        return to_networkx(self._picture())

    def to_dataframe(self) -> Any:
        """A ``pandas.DataFrame`` with a row for each node, by its id.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        from bavt_fast.view.tables import to_dataframe

        return to_dataframe(self._picture())

    def _picture(self) -> Picture:
        from bavt_fast.view.sources import picture_of_result

        return picture_of_result(self)

    @property
    def texts(self) -> tuple[str, ...]:
        """What the model wrote to reach each node, by node id; "" for the root."""
        return tuple(["" if step is None else step.text for step in self.steps])

    @property
    def log_probabilities(self) -> tuple[float | None, ...]:
        """Log-probability of the step that led to each node, by node id; None where the generator said no number."""
        return tuple([None if step is None else log_probability_of(step) for step in self.steps])


def _alike(value: Any) -> Any:
    """The same as something in which NaN equals itself, and arrays are compared as a whole."""
    if isinstance(value, Step):
        return tuple([_alike(getattr(value, field.name)) for field in fields(value) if field.compare])
    if isinstance(value, (tuple, list)):
        return tuple(map(_alike, value))
    if isinstance(value, np.ndarray):
        return _alike(value.tolist())
    return "NaN" if isinstance(value, float) and value != value else value


def _portable(error: Exception | None) -> Exception | None:
    """An exception that comes back from pickle: where one does not, the whole result is lost with it."""
    if error is not None:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return RuntimeError(f"{type(error).__name__}: {message_of(error)}")
    return error


@dataclass(frozen=True, slots=True)
class Progress:
    """One search under way, for display.

    Attributes:
        spent: what was settled so far.
        remaining_ratio: r, the share of the budget that is left.
        num_nodes: of the tree, the root included.
        value: V of the last state of the path.
        path: the steps to the best state so far.
    """

    spent: Spent
    remaining_ratio: float
    num_nodes: int
    value: float
    path: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ManyProgress:
    """Many searches under way, for display: how many are done, how many of those solved, how many under way, and the
    asks that those had so far."""

    done: int
    solved: int
    active: int
    asks: int


class SearchError(RuntimeError):
    """The generator, the critic or the task failed during a search.

    `results` holds what had been found by then, one per question; `result` is the first of them.
    """

    def __init__(self, message: str, results: Sequence[SearchResult]) -> None:
        super().__init__(message, results)
        self.results = tuple(results)

    def __str__(self) -> str:
        return str(self.args[0])

    @property
    def result(self) -> SearchResult:
        return self.results[0]

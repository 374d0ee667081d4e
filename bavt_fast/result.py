"""What a search found, and how far it has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bavt_fast._core import Tree
from bavt_fast.budget import Spent
from bavt_fast.protocols import GenerationStatistics, Step

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


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

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
        error: what failed, where the stop reason is "error".
        generation: of a generator that runs a model itself, what it did for all questions of this run until this one
            stopped: prompt tokens computed and saved, hits and evictions of its store, ...; else None.
    """

    answer: str | None
    solved: bool
    path: tuple[str, ...]
    path_nodes: tuple[int, ...]
    value: float
    spent: Spent
    overrun: Spent
    stop_reason: str | None
    tree: Tree = field(repr=False)
    steps: tuple[Step | None, ...] = field(repr=False)
    answers: tuple[str | None, ...] = field(repr=False)
    refused: tuple[Refusal, ...] = field(repr=False)
    invalid_steps: int = 0
    duplicate_steps: int = 0
    refuted_steps: int = 0
    error: Exception | None = None
    generation: GenerationStatistics | None = field(default=None, repr=False)

    @property
    def texts(self) -> tuple[str, ...]:
        """What the model wrote to reach each node, by node id; "" for the root."""
        return tuple(["" if step is None else step.text for step in self.steps])

    @property
    def log_probabilities(self) -> tuple[float | None, ...]:
        """Log-probability of the step that led to each node, by node id; None where the generator did not say."""
        return tuple([None if step is None else step.total_log_probability() for step in self.steps])


@dataclass(frozen=True, slots=True)
class Progress:
    """One search under way, for display."""

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

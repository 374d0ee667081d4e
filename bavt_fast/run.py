"""One question's search: its tree, its ledger, and what each node stands for.

`Run.next_jobs` hands out the leaves to expand, `Run.settle` takes the steps proposed for one of them, and `Run.expand`
the values of the states they led to.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from bavt_fast._core import Tree
from bavt_fast.budget import Budget, Remaining, Spent
from bavt_fast.ledger import Ledger, Reservation, ReservationClosed
from bavt_fast.protocols import Candidate, Step, StepRequest, Task

__all__ = ["MIN_VALUE", "Job", "Options", "Progress", "Run", "SearchResult"]

MIN_VALUE = 1e-6
"""V lies in [MIN_VALUE, 1]: no state is ever quite hopeless, so that a budget is never left unspent."""

ROOT = 0


@dataclass(frozen=True)
class SearchResult:
    """What a search found.

    Attributes:
        answer: the answer of the best terminal state; None where no acceptable one was reached.
        solved: whether the task verified the answer. Always False for a task that cannot verify.
        path: the steps from the question to the best state, also where it is only partial.
        nodes: their node ids in ``tree``.
        value: V of the last state of the path.
        spent: what the search took of each resource; never above the budget in tokens, tool calls and cost.
        stop_reason: "solved", "budget" (nothing more fits), "deadline", "exhausted" (no node is left to expand) or
            "interrupted" (Ctrl-C).
        tree: the native tree.
        invalid_steps, duplicate_steps, refuted_steps: proposed steps that were paid for and dropped: not legal, leading
            to a state that is in the tree already, or ending on an answer that the task refutes.
    """

    answer: str | None
    solved: bool
    path: tuple[str, ...]
    nodes: tuple[int, ...]
    value: float
    spent: Spent
    stop_reason: str
    tree: Tree
    invalid_steps: int
    duplicate_steps: int
    refuted_steps: int


@dataclass(frozen=True, slots=True)
class Progress:
    """A search under way, for display: after every wave."""

    spent: Spent
    remaining_ratio: float
    nodes: int
    value: float
    path: tuple[str, ...]


@dataclass(slots=True)
class Node:
    """What the search knows of a node beside the tree's arrays.

    ``answer`` is set on a terminal that the task does not refute: a result is made of it without calling the task,
    which may be what has failed.
    """

    state: Any
    text: str
    step: str
    value: float
    answer: str | None = None
    tried: list[Step] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Job:
    """One leaf of a wave: the request, and the reservation that pays for it."""

    node: int
    request: StepRequest
    count: int
    limit: int
    reservation: Reservation


@dataclass(frozen=True, slots=True)
class Options:
    policy: str
    exploration: float
    candidates: int
    max_step_tokens: int
    decay: float
    discount: float
    max_nodes: int | None
    token_cost: float
    step_tool_calls: int

    def charge(self, tokens: int, steps: int) -> Spent:
        """What steps cost; prices multiply as the decimal numbers they are written as, as the ledger reads them."""
        return Spent(tokens, steps * self.step_tool_calls, 0.0, float(tokens * _decimal(self.token_cost)))

    def fitting(self, left: Remaining) -> tuple[int, int]:
        """Steps and tokens per step to reserve: as many as asked for, or as few as what is left can hold."""
        affordable = left.tokens
        if left.cost is not None:
            paid_for = int(_decimal(left.cost) / _decimal(self.token_cost))
            affordable = paid_for if affordable is None else min(affordable, paid_for)
        tokens, count = self.max_step_tokens, self.candidates
        if affordable is not None:
            tokens = min(tokens, affordable)
            count = max(1, min(count, affordable // tokens)) if tokens else 0
        if left.tool_calls is not None:
            count = min(count, left.tool_calls // self.step_tool_calls)
        return count, tokens


class Run:
    """One question's search: `next_jobs`, then `settle` and `expand` for each job, until `stop_reason` is set."""

    def __init__(self, task: Task[Any], question: str, budget: Budget, options: Options, seed: int) -> None:
        self.task, self.options, self.seed = task, options, seed
        state = task.initial_state(question)
        self.ledger = Ledger(budget)
        self.nodes = [self._node(state, "", 1.0)]
        self.tree = Tree(
            seed=seed, max_nodes=options.max_nodes, decay=options.decay, root_value=self._weight(self.nodes[ROOT])
        )
        self.jobs: list[Job] = []  # in flight
        self.seen = {task.key(state)}
        self.requests = self.invalid_steps = self.duplicate_steps = self.refuted_steps = 0
        self.unaffordable = False
        self.solved_node: int | None = None
        self.stop_reason: str | None = None
        if task.is_terminal(state):
            self.tree.mark_terminal(ROOT)
            if task.verify(state):
                self._solve(ROOT)

    def _node(self, state: Any, step: str, value: float) -> Node:
        accepted = self.task.is_terminal(state) and self.task.verify(state) is not False
        return Node(state, self.task.prompt(state), step, value, self.task.answer(state) if accepted else None)

    def _weight(self, node: Node) -> float:
        """What the tree selects by: V, discounted by the tokens that an answer still takes at the least."""
        return float(max(MIN_VALUE, node.value * self.options.discount ** self.task.min_tokens(node.state)))

    def next_jobs(self, leaves: int) -> list[Job]:
        """Up to ``leaves`` distinct nodes to expand, each in flight and paid for; sets the stop reason if none."""
        while len(self.jobs) < leaves and self.stop_reason is None:
            node = self._select()
            if node < 0:
                if not self.jobs:
                    self._stop_for_lack()
                break
            if (job := self._reserve(node)) is None:
                if self.jobs:
                    break  # what this wave has reserved and does not spend comes back, and may do for this node
                self.tree.close(node)  # nothing from here fits what is left, and what is left only shrinks
                self.unaffordable = True
                continue
            self.jobs.append(job)
            self.tree.mark_in_flight(node)
        return list(self.jobs)

    def _select(self) -> int:
        ratio = self.ledger.remaining_ratio
        if ratio <= 0.0:
            return -1
        return self.tree.select(self.options.policy, remaining=ratio, total=1.0, exploration=self.options.exploration)

    def _reserve(self, node: int) -> Job | None:
        """Claims the most that expanding the node may take; None where its cheapest finish does not fit."""
        entry, left = self.nodes[node], self.ledger.remaining
        if left.tokens is not None and left.tokens < self.task.min_tokens(entry.state):
            return None
        count, limit = self.options.fitting(left)
        if count < 1 or (self.jobs and limit < self.options.max_step_tokens):
            return None  # a wave cuts no step shorter than it would be alone: the tokens would be lost
        most = self.options.charge(count * limit, count)
        reservation = self.ledger.try_reserve(tokens=most.tokens, tool_calls=most.tool_calls, cost=most.cost)
        if reservation is None:
            return None
        self.requests += 1
        request = StepRequest(entry.text, _mix(self.seed, self.requests), tuple(entry.tried))
        return Job(node, request, count, limit, reservation)

    def _stop_for_lack(self) -> None:
        ratio = self.ledger.remaining_ratio
        out_of_time = self.ledger.budget.seconds is not None and self.ledger.remaining.seconds == 0.0
        if out_of_time:
            self.stop_reason = "deadline"
        elif ratio <= 0.0 or self.unaffordable:
            self.stop_reason = "budget"
        else:
            self.stop_reason = "exhausted"

    def settle(self, job: Job, steps: Sequence[Step]) -> list[Candidate]:
        """Charges the proposed steps and returns the valid, new states among them for the critic."""
        used = sum(step.tokens for step in steps)
        self.ledger.settle(job.reservation, self.options.charge(used, len(steps)))
        self.tree.unmark_in_flight(job.node)
        parent = self.nodes[job.node]
        if not steps:
            self.tree.close(job.node)
        candidates = []
        for step in steps:
            parent.tried.append(_slim(step))
            state = self._new_state(parent.state, step)
            if state is not None:
                candidates.append(Candidate(state, parent.text + step.text, step, parent.value))
        if steps:
            self.tree.penalize(job.node)
        return candidates

    def _new_state(self, parent: Any, step: Step) -> Any:
        """The state after a step, or None for a step that is dropped (and counted)."""
        state = self.task.apply(parent, step.text) if step.complete else None
        if state is None:
            self.invalid_steps += 1
            return None
        if self.task.is_terminal(state) and self.task.verify(state) is False:
            self.refuted_steps += 1
            return None
        key = self.task.key(state)
        if key in self.seen:
            self.duplicate_steps += 1
            return None
        self.seen.add(key)
        return state

    def abandon(self) -> None:
        """Takes back the jobs of a wave that failed: nothing stays in flight, what was not settled is free again."""
        for job in self.jobs:
            self.tree.unmark_in_flight(job.node)
            with contextlib.suppress(ReservationClosed):
                self.ledger.cancel(job.reservation)
        self.jobs.clear()

    def expand(self, job: Job, candidates: Sequence[Candidate], values: Sequence[float]) -> None:
        """Adds scored states as children and backs their values up."""
        self.jobs.remove(job)
        if not candidates:
            return
        terminal = [self.task.is_terminal(candidate.state) for candidate in candidates]
        verified = [
            ends and bool(self.task.verify(candidate.state))
            for ends, candidate in zip(terminal, candidates, strict=True)
        ]
        values = [1.0 if right else value for right, value in zip(verified, values, strict=True)]
        # Before the tree grows: every node of the tree has its entry here, wherever the task or a Ctrl-C breaks in.
        added = [
            self._node(candidate.state, candidate.step.text, value)
            for candidate, value in zip(candidates, values, strict=True)
        ]
        weights = [self._weight(node) for node in added]
        self.nodes.extend(added)
        first = self.tree.expand(job.node, weights, terminal)
        for child, weight in enumerate(weights, start=first):
            self.tree.backup(child, weight)
            if verified[child - first] and self.solved_node is None:
                self._solve(child)

    def _solve(self, node: int) -> None:
        self.solved_node = node
        self.stop_reason = "solved"

    def best_path(self) -> list[int]:
        """Node ids from the root's child to the verified state, else to the best one so far."""
        if self.solved_node is None:
            return [int(node) for node in self.tree.best_path()]
        path, node = [], self.solved_node
        while node != ROOT:
            path.append(node)
            node = int(self.tree.parents[node])
        return path[::-1]

    def progress(self) -> Progress:
        path = self.best_path()
        value = self.nodes[path[-1] if path else ROOT].value
        steps = tuple(self.nodes[node].step for node in path)
        return Progress(self.ledger.spent, self.ledger.remaining_ratio, self.tree.num_nodes, value, steps)

    def result(self, broken_off: str = "error") -> SearchResult:
        """What was found, ``broken_off`` being the stop reason of a search that had not come to one."""
        path = self.best_path()
        last = path[-1] if path else ROOT
        return SearchResult(
            answer=self.nodes[last].answer,
            solved=self.solved_node is not None,
            path=tuple(self.nodes[node].step for node in path),
            nodes=tuple(path),
            value=self.nodes[last].value,
            spent=self.ledger.spent,
            stop_reason=self.stop_reason or broken_off,
            tree=self.tree,
            invalid_steps=self.invalid_steps,
            duplicate_steps=self.duplicate_steps,
            refuted_steps=self.refuted_steps,
        )


def _decimal(amount: float) -> Decimal:
    return Decimal(repr(amount))


def _slim(step: Step) -> Step:
    """A tried step without its hidden state, which nothing reads again."""
    return Step(step.text, step.tokens, step.complete, None, step.token_ids, step.token_probabilities)


def _mix(seed: int, request: int) -> int:
    """A 63-bit seed for a request (the finaliser of SplitMix64)."""
    x = (seed * 0x9E3779B97F4A7C15 + request * 0xD1B54A32D192ED03) & (2**64 - 1)
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & (2**64 - 1)
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & (2**64 - 1)
    return (x ^ (x >> 31)) >> 1

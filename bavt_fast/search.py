"""The search loop: the only file that knows all the stages.

    Budget -> policy -> Tree.select -> generator.propose -> critic.score -> Tree.expand/backup -> ledger

One `_Run` per question holds its tree, its ledger and what each node stands for. `Searcher` asks every run for the
leaves it wants expanded, has the generator propose for all of them in one batch and the critic score all the new
states in one call, and hands each run its part back.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from bavt_fast._checks import as_amount, as_count
from bavt_fast._core import Tree
from bavt_fast.ledger import Ledger, Reservation, ReservationClosed
from bavt_fast.protocols import Candidate, Critic, Step, StepGenerator, StepRequest, Task, as_critic, as_generator
from bavt_fast.tasks.text import TextTask
from bavt_fast.types import Budget, Remaining, Spent

__all__ = ["Progress", "SearchError", "SearchResult", "Searcher", "search"]

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


class SearchError(RuntimeError):
    """The generator, the critic or the task failed during a search.

    `results` holds what had been found by then, one per question; `result` is the first of them.
    """

    def __init__(self, message: str, results: Sequence[SearchResult]) -> None:
        super().__init__(message)
        self.results = tuple(results)

    @property
    def result(self) -> SearchResult:
        return self.results[0]


@dataclass(slots=True)
class _Node:
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
class _Job:
    """One leaf of a wave: the request, and the reservation that pays for it."""

    node: int
    request: StepRequest
    count: int
    limit: int
    reservation: Reservation


@dataclass(frozen=True, slots=True)
class _Options:
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


class _Run:
    """One question's search. `next_jobs` and `receive` alternate until `stop_reason` is set."""

    def __init__(self, task: Task[Any], question: str, budget: Budget, options: _Options, seed: int) -> None:
        self.task, self.options, self.seed = task, options, seed
        state = task.initial_state(question)
        self.ledger = Ledger(budget)
        self.nodes = [self._node(state, "", 1.0)]
        self.tree = Tree(
            seed=seed, max_nodes=options.max_nodes, decay=options.decay, root_value=self._weight(self.nodes[ROOT])
        )
        self.jobs: list[_Job] = []  # in flight
        self.seen = {task.key(state)}
        self.requests = self.invalid_steps = self.duplicate_steps = self.refuted_steps = 0
        self.unaffordable = False
        self.solved_node: int | None = None
        self.stop_reason: str | None = None
        if task.is_terminal(state):
            self.tree.mark_terminal(ROOT)
            if task.verify(state):
                self._solve(ROOT)

    def _node(self, state: Any, step: str, value: float) -> _Node:
        accepted = self.task.is_terminal(state) and self.task.verify(state) is not False
        return _Node(state, self.task.prompt(state), step, value, self.task.answer(state) if accepted else None)

    def _weight(self, node: _Node) -> float:
        """What the tree selects by: V, discounted by the tokens that an answer still takes at the least."""
        return float(max(MIN_VALUE, node.value * self.options.discount ** self.task.min_tokens(node.state)))

    def next_jobs(self, leaves: int) -> list[_Job]:
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

    def _reserve(self, node: int) -> _Job | None:
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
        return _Job(node, request, count, limit, reservation)

    def _stop_for_lack(self) -> None:
        ratio = self.ledger.remaining_ratio
        out_of_time = self.ledger.budget.seconds is not None and self.ledger.remaining.seconds == 0.0
        if out_of_time:
            self.stop_reason = "deadline"
        elif ratio <= 0.0 or self.unaffordable:
            self.stop_reason = "budget"
        else:
            self.stop_reason = "exhausted"

    def settle(self, job: _Job, steps: Sequence[Step]) -> list[Candidate]:
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

    def expand(self, job: _Job, candidates: Sequence[Candidate], values: Sequence[float]) -> None:
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


class Searcher:
    """Searches with a fixed generator, critic and task.

    Args:
        generator: a `StepGenerator`, or a function ``(text, count) -> list of step texts``.
        critic: a `Critic`, a function ``text -> value in [0, 1]``, or None for V = 1 everywhere.
        task: a `Task`; None for plain text, where every step is valid and nothing is verified.
        wave: leaves in flight at once. For one question they are leaves of one tree, and ``wave=1`` is the sequential
            algorithm. For `search_many` they are different questions, each searched sequentially, so that a result
            does not depend on the questions beside it; a question that finishes frees its place to the next.
        policy: "power" (P(node) ∝ V^(1/r), r the share of the budget left), "best_first", "uct", "puct" or "ucb".
        candidates: steps proposed per expansion. A node stays expandable, so 1 lets going deeper and trying a sibling
            compete for each token.
        decay: a node's weight is multiplied by this with every try, in (0, 1].
        discount: V is multiplied by this for every token that an answer still takes at the least (`Task.min_tokens`), in
            (0, 1]: below 1, of two states equally likely to lead to an answer the one nearer to it goes first.
        max_step_tokens: tokens after which a step without delimiter is cut off and dropped.
        max_nodes: limit on the tree's nodes.
        token_cost: price of a generated token, what a budget's ``cost`` is charged with.
        step_tool_calls: tool calls that the generator makes for each step, what ``tool_calls`` is charged with.
        on_progress: called after every wave of a one-question search.
    """

    def __init__(
        self,
        generator: StepGenerator | Callable[[str, int], Sequence[str]],
        critic: Critic | Callable[[str], float] | None = None,
        task: Task[Any] | None = None,
        *,
        wave: int = 1,
        policy: str = "power",
        exploration: float = 1.0,
        candidates: int = 1,
        decay: float = 0.85,
        discount: float = 1.0,
        max_step_tokens: int = 64,
        max_nodes: int | None = None,
        token_cost: float = 0.0,
        step_tool_calls: int = 0,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> None:
        self.generator = as_generator(generator)
        self.critic = as_critic(critic)
        self.task: Task[Any] = TextTask() if task is None else task
        self.wave = _positive("wave", wave)
        self.on_progress = on_progress
        self._options = _Options(
            policy,
            exploration,
            _positive("candidates", candidates),
            _positive("max_step_tokens", max_step_tokens),
            decay,
            _share("discount", discount),
            max_nodes,
            as_amount("token_cost", token_cost, allow_zero=True),
            as_count("step_tool_calls", step_tool_calls),
        )
        # A bad policy, exploration or decay is refused here and not in the middle of a search.
        Tree(seed=0, max_nodes=max_nodes, decay=decay).select(policy, remaining=1.0, total=1.0, exploration=exploration)

    def search(self, question: str, *, budget: Budget, seed: int = 0) -> SearchResult:
        """Searches one question. Ctrl-C ends it with the best found so far.

        Raises:
            SearchError: generator, critic or task failed; its ``result`` holds what had been found.
            TypeError, ValueError: a bad question, budget or seed, before anything is spent.
        """
        run = self._start(question, budget, seed)

        def waves() -> None:
            while run.stop_reason is None:
                self._wave([(run, job) for job in run.next_jobs(self.wave)])
                if self.on_progress is not None:
                    self.on_progress(run.progress())

        return self._finish([run], waves)[0]

    def search_many(self, questions: Sequence[str], *, budget: Budget, seed: int = 0) -> list[SearchResult]:
        """Searches many questions side by side, ``wave`` at a time, each with a budget of its own.

        Question i gives what ``search(questions[i], budget=budget, seed=seed)`` gives (with ``wave=1``), up to the
        rounding of a model whose numerics depend on its batch size. Raises as `search` does; `SearchError.results` has
        one result per question.
        """
        if isinstance(questions, str):
            raise TypeError("questions: expected a list of str, got a str; use search() for one question")
        runs = [self._start(question, budget, seed) for question in questions]

        def waves() -> None:
            waiting: Iterator[_Run] = iter(runs)
            active: list[_Run] = []
            while True:
                work = [(run, job) for run in active for job in run.next_jobs(1)]
                while len(work) < self.wave and (run := next(waiting, None)) is not None:
                    run.ledger = Ledger(budget)  # its seconds start now
                    work += [(run, job) for job in run.next_jobs(1)]
                if not work:
                    return
                self._wave(work)
                active = [run for run, _ in work if run.stop_reason is None]

        return self._finish(runs, waves)

    def _finish(self, runs: Sequence[_Run], waves: Callable[[], None]) -> list[SearchResult]:
        """Runs the waves to their end, to Ctrl-C or to a failure, and collects the results in each case."""
        try:
            waves()
        except KeyboardInterrupt:
            return self._broken_off(runs, "interrupted")
        except Exception as error:
            message = f"{type(error).__name__} during the search: {error}"
            raise SearchError(message, self._broken_off(runs, "error")) from error
        return [run.result() for run in runs]

    @staticmethod
    def _broken_off(runs: Sequence[_Run], stop_reason: str) -> list[SearchResult]:
        for run in runs:
            run.abandon()
        return [run.result(stop_reason) for run in runs]

    def _start(self, question: str, budget: Budget, seed: int) -> _Run:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"seed: expected an integer from 0 to 2**63 - 1, got {seed!r}")
        self._check_budget(budget)
        return _Run(self.task, question, budget, self._options, seed)

    def _check_budget(self, budget: Budget) -> None:
        """Refuses a limit that nothing is ever charged to: it would be no limit at all."""
        if not isinstance(budget, Budget):
            raise TypeError(f"budget: expected a Budget such as Budget(tokens=500), got {budget!r:.80}")
        if budget.cost is not None and not self._options.token_cost:
            raise ValueError("budget: cost is limited but tokens are free; give the Searcher a token_cost > 0")
        if budget.tool_calls is not None and not self._options.step_tool_calls:
            raise ValueError(
                "budget: tool_calls is limited but steps make none; give the Searcher step_tool_calls >= 1"
            )

    def _wave(self, work: Sequence[tuple[_Run, _Job]]) -> None:
        """Proposes for all jobs in one call, scores all new states in one call, and grows the trees."""
        if not work:
            return
        proposals = self._propose([job for _, job in work])
        found = [(run, job, run.settle(job, steps)) for (run, job), steps in zip(work, proposals, strict=True)]
        values = iter(self._values([candidate for _, _, candidates in found for candidate in candidates]))
        for run, job, candidates in found:
            run.expand(job, candidates, [next(values) for _ in candidates])

    def _propose(self, jobs: Sequence[_Job]) -> list[list[Step]]:
        """The generator's steps, checked."""
        proposals = self.generator.propose(
            [job.request for job in jobs], [job.count for job in jobs], [job.limit for job in jobs]
        )
        if not isinstance(proposals, Sequence) or not all(isinstance(steps, Sequence) for steps in proposals):
            raise TypeError(f"generator: expected a list of lists of Step, one per state, got {proposals!r:.80}")
        if len(proposals) != len(jobs):
            raise ValueError(f"generator: expected {len(jobs)} lists of steps, one per state, got {len(proposals)}")
        return [_checked_steps(steps, job) for steps, job in zip(proposals, jobs, strict=True)]

    def _values(self, candidates: Sequence[Candidate]) -> list[float]:
        """V of each candidate: the one place where a critic's output becomes a residual and then a value."""
        if not candidates:
            return []
        outputs: Any = self.critic.score(candidates)
        if not hasattr(outputs, "__len__") or isinstance(outputs, str):
            raise TypeError(f"critic: expected a list of {len(candidates)} numbers, one per state, got {outputs!r:.80}")
        if len(outputs) != len(candidates):
            raise ValueError(f"critic: expected {len(candidates)} scores, one per state, got {len(outputs)}")
        values = []
        for candidate, score in zip(candidates, outputs, strict=True):
            output = _checked_score(score, candidate)
            residual = output if self.critic.predicts == "residual" else output - candidate.parent_value
            values.append(min(1.0, max(MIN_VALUE, candidate.parent_value + residual)))
        return values


def search(
    question: str,
    *,
    generator: StepGenerator | Callable[[str, int], Sequence[str]],
    critic: Critic | Callable[[str], float] | None = None,
    task: Task[Any] | None = None,
    budget: Budget,
    policy: str = "power",
    seed: int = 0,
    **options: Any,
) -> SearchResult:
    """Searches one question within a budget; see `Searcher` for the arguments and ``options``."""
    return Searcher(generator, critic, task, policy=policy, **options).search(question, budget=budget, seed=seed)


def _checked_score(score: object, candidate: Candidate) -> float:
    if isinstance(score, (str, bytes)) or not hasattr(score, "__float__"):
        raise TypeError(f"critic: expected a number for each state, got {score!r:.80} for {candidate.text[-60:]!r}")
    output = float(score)
    if not math.isfinite(output):
        raise ValueError(f"critic: expected finite scores, got {output} for {candidate.text[-60:]!r}")
    return output


def _checked_steps(steps: Sequence[Step], job: _Job) -> list[Step]:
    if len(steps) > job.count:
        raise ValueError(f"generator: expected at most {job.count} steps, got {len(steps)}; respect counts")
    for step in steps:
        if not isinstance(step, Step):
            raise TypeError(f"generator: expected Step objects, got {type(step).__name__}")
        if not isinstance(step.text, str):
            raise TypeError(f"generator: expected a str as Step.text, got {type(step.text).__name__}")
        if isinstance(step.tokens, bool) or not isinstance(step.tokens, int):
            raise TypeError(f"generator: expected an int as Step.tokens, got {step.tokens!r}")
        if not 0 < step.tokens <= job.limit:
            raise ValueError(
                f"generator: expected 1 to {job.limit} tokens in a step, got {step.tokens}; respect limits"
            )
    return list(steps)


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


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    return value


def _share(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value <= 1.0:
        raise ValueError(f"{name}: expected a number in (0, 1], got {value!r}")
    return float(value)

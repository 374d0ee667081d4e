"""The search loop: the only file that knows all the stages.

    Budget -> policy -> Tree.select -> generator.propose -> critic.score -> Tree.expand/backup -> ledger

One `Run` per question holds its tree, its ledger and what each node stands for. `Searcher` asks every run for the
leaves it wants expanded, has the generator propose for all of them in one batch and the critic score all the new
states in one call, and hands each run its part back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bavt_fast._checks import as_amount, as_count
from bavt_fast._core import Tree
from bavt_fast.budget import Budget
from bavt_fast.ledger import Ledger
from bavt_fast.protocols import Candidate, Critic, Step, StepGenerator, Task, as_critic, as_generator
from bavt_fast.run import MIN_VALUE, Job, Options, Progress, Run, SearchResult
from bavt_fast.tasks.text import TextTask

__all__ = ["Progress", "SearchError", "SearchResult", "Searcher", "search"]


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


class Searcher:
    """Searches with a fixed generator, critic and task.

    Args:
        generator: a `StepGenerator`, or a function ``(text, count) -> list of step texts``.
        critic: a `Critic`, a function ``text -> value in [0, 1]``, or None for V = 1 everywhere.
        task: a `Task`; None for plain text, where every step is valid and nothing is verified.
        wave: leaves in flight at once. For one question they are leaves of one tree, and ``wave=1`` is the sequential
            algorithm. For `search_many` they are different questions, each searched sequentially, so that a result
            does not depend on the questions beside it; a question that finishes frees its place to the next.
        policy: "power" (P(node) ∝ V^(1/r), r the share of the budget left) or "best_first", which choose among all
            nodes; "uct", "puct" or "ucb", which descend to a leaf and so want ``candidates`` above 1.
        candidates: steps proposed per expansion. A node stays expandable, so 1 lets going deeper and trying a sibling
            compete for each token.
        decay: a node's weight is multiplied by this with every try, in (0, 1].
        discount: V is multiplied by this for every token that an answer still takes at the least (`Task.min_tokens`),
            in (0, 1]: below 1, of two states equally likely to lead to an answer the one nearer to it goes first.
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
        self._options = Options(
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
            waiting: Iterator[Run] = iter(runs)
            active: list[Run] = []
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

    def _finish(self, runs: Sequence[Run], waves: Callable[[], None]) -> list[SearchResult]:
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
    def _broken_off(runs: Sequence[Run], stop_reason: str) -> list[SearchResult]:
        for run in runs:
            run.abandon()
        return [run.result(stop_reason) for run in runs]

    def _start(self, question: str, budget: Budget, seed: int) -> Run:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise ValueError(f"seed: expected an integer from 0 to 2**63 - 1, got {seed!r}")
        self._check_budget(budget)
        return Run(self.task, question, budget, self._options, seed)

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

    def _wave(self, work: Sequence[tuple[Run, Job]]) -> None:
        """Proposes for all jobs in one call, scores all new states in one call, and grows the trees."""
        if not work:
            return
        proposals = self._propose([job for _, job in work])
        found = [(run, job, run.settle(job, steps)) for (run, job), steps in zip(work, proposals, strict=True)]
        values = iter(self._values([candidate for _, _, candidates in found for candidate in candidates]))
        for run, job, candidates in found:
            run.expand(job, candidates, [next(values) for _ in candidates])

    def _propose(self, jobs: Sequence[Job]) -> list[list[Step]]:
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


def _checked_steps(steps: Sequence[Step], job: Job) -> list[Step]:
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


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name}: expected an integer of at least 1, got {value!r}")
    return value


def _share(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value <= 1.0:
        raise ValueError(f"{name}: expected a number in (0, 1], got {value!r}")
    return float(value)

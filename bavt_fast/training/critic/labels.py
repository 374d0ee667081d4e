"""Whether an answer can be reached from a state: what a critic is to predict."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bavt_fast._checks import MAX_SEED, as_count, as_seed
from bavt_fast.answer_checks import is_whole, not_whole, problem_of
from bavt_fast.critics.functions import as_critic
from bavt_fast.generators.prompts import PromptTooLong
from bavt_fast.protocols import Node, Scores, StepRequest, Task
from bavt_fast.step_checks import checked_description, checked_task

__all__ = ["Completions", "label_by_completions", "label_by_oracle"]

_ENOUGH = 32
"""So many answers without one verdict come from a task that gives none."""
_STRIDE = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: seeds of neighbours lie far apart


def label_by_oracle(nodes: Sequence[Node], oracle: Any) -> Tensor:
    """The values of a critic that knows, such as an exact solver: float32 (states,), in [0, 1].

    Raises:
        TypeError: it is not a critic.
        ValueError: it gives something else.
    """
    return labels_and_tokens(nodes, oracle)[0]


def labels_and_tokens(nodes: Sequence[Node], oracle: Any) -> tuple[Tensor, int]:
    """`label_by_oracle`, and the tokens that the oracle says it took."""
    oracle = as_plain_critic(oracle, "oracle")
    if oracle.predicts != "value":
        raise ValueError(f"oracle: expected one that predicts values, got one that predicts {oracle.predicts}s")
    scores: Any = oracle.score(list(nodes))
    tokens = sum(spent.tokens for spent in scores.spent) if isinstance(scores, Scores) else 0
    values: Any = scores.values if isinstance(scores, Scores) else scores
    expected = f"oracle: expected one number in [0, 1] for each state, got {values!r:.80}"
    if not hasattr(values, "__iter__"):
        raise ValueError(expected)
    for value in values:
        if isinstance(value, Exception):
            raise value
    try:
        labels = torch.as_tensor([float(value) for value in values], dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected}: {error}") from error
    if labels.shape != (len(nodes),) or not ((labels >= 0) & (labels <= 1)).all():
        raise ValueError(expected)
    return labels, tokens


def as_plain_critic(critic: Any, name: str = "critic") -> Any:
    """`as_critic` for critics that are asked here, without an event loop. Raises TypeError for a coroutine too."""
    made = as_critic(critic, name)
    if inspect.iscoroutinefunction(made.score):
        raise TypeError(f"{name}: expected a plain one, got a coroutine: {critic!r:.80}")
    return made


@dataclass(frozen=True)
class Completions:
    """What completing the states has shown.

    Attributes:
        labels: the share of each state's completions that the task verified as right, float32 (states,), without those
            whose answer got no verdict; NaN where there is no other. Of a state that ends a path it is the verdict.
        count: completions of each state.
        tokens: what they cost together.
    """

    labels: Tensor
    count: int
    tokens: int


@dataclass(slots=True)
class _Path:
    start: int  # the state that it completes
    node: Node
    seed: int


class _Verdicts:
    """What the task has said of the completions of each state.

    Attributes:
        right, unknown: completions that are right, and those of whose answer nobody knows whether it is.
    """

    def __init__(self, states: int) -> None:
        self.right, self.unknown = torch.zeros(states), torch.zeros(states)
        self._given = self._missing = 0

    def add(self, state: int, verdict: bool | None) -> None:
        """One answer more."""
        if verdict is None:
            self.unknown[state] += 1
            self._missing += 1
        else:
            self.right[state] += verdict
            self._given += 1

    def check(self, least: int) -> None:
        """Raises ValueError where so many answers came and not one verdict."""
        if not self._given and self._missing >= least:
            raise ValueError(
                "task: expected one that verifies its answers, got none with a verdict; give it the right answers, or "
                "label the states in another way"
            )


def label_by_completions(
    nodes: Sequence[Node],
    generator: Any,
    task: Task[Any],
    *,
    completions: int = 8,
    max_steps: int = 64,
    max_step_tokens: int = 128,
    seed: int = 0,
) -> Completions:
    """Completes each state some times, independently, and asks the task's verifier (Wang et al. 2024, "Math-Shepherd").

    A completion ends at an answer, at a step that is invalid or cut short, or after `max_steps`. All are sampled side
    by side. An answer that the task cannot judge, such as one whose verifier is late, counts neither way, nor does a
    question that the model's context does not hold.

    Raises:
        TypeError: `generator` or `task` is something else.
        ValueError: a count is not at least 1, or the task has no verdict on any answer.
    """
    completions = as_count("completions", completions, minimum=1)
    limit, seed = as_count("max_step_tokens", max_step_tokens, minimum=1), as_seed("seed", seed)
    checked_task(task)
    if not callable(getattr(generator, "propose", None)):
        raise TypeError(f"generator: expected one with propose, such as TorchGenerator, got {generator!r:.80}")
    verdicts, tokens, going = _Verdicts(len(nodes)), 0, []
    for start, node in enumerate(nodes):
        about = checked_description(task.describe(node.state))
        if about.terminal:
            verdicts.right[start] = completions * bool(about.verdict)
            verdicts.unknown[start] = completions * (about.verdict is None)
            continue
        seeds = [(seed + (start * completions + copy) * _STRIDE) & MAX_SEED for copy in range(completions)]
        going += [_Path(start, node, own) for own in seeds]
    for level in range(as_count("max_steps", max_steps, minimum=1)):
        if not going:
            break
        requests = [StepRequest(path.node, (path.seed + level) & MAX_SEED) for path in going]
        answers = generator.propose(requests, [1] * len(going), [limit] * len(going))
        if not is_whole(answers, len(going)):
            raise not_whole(answers, len(going))
        reached = []
        for path, steps in zip(going, answers, strict=True):
            if isinstance(steps, PromptTooLong):
                verdicts.unknown[path.start] += 1
                continue
            if (problem := problem_of(steps, 1, False)) is not None:
                raise problem
            tokens += sum(step.tokens for step in steps)
            if steps and _goes_on(path, steps[0], task, verdicts):
                reached.append(path)
        verdicts.check(_ENOUGH)
        going = reached
    verdicts.check(1)
    return Completions(verdicts.right / (completions - verdicts.unknown), completions, tokens)


def _goes_on(path: _Path, step: Any, task: Task[Any], verdicts: _Verdicts) -> bool:
    state = None if step.is_cut else task.apply(path.node.state, step)
    if state is None:
        return False
    about = checked_description(task.describe(state))
    if not about.terminal:
        path.node = Node(state, about.prompt, path.node, step)
        return True
    verdicts.add(path.start, about.verdict)
    return False

"""The baseline: oracle-verified parallel sampling, the strongest form of best-of-n.

Whole paths are sampled independently from the same model, and an oracle says which of them are right. Within B tokens
a problem is solved when one of the paths *finished* within B tokens is right. A path stops, and has cost its tokens, at
its first invalid step.

The success rate at every B is an expectation over the order of the sampled paths, so a few hundred paths per problem
give it with little noise, up to half of the tokens sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bavt_fast.protocols import Step, StepGenerator, StepRequest, Task

MAX_STEP_TOKENS = 64


@dataclass
class Path:
    """One sampled path: where it stands, what it cost, how it ended."""

    problem: int
    state: Any
    tokens: int = 0
    right: bool = False
    visits: list[tuple[Any, Step, Any]] = field(default_factory=list)  # (state, step, child or None)


def sample_paths(
    generator: StepGenerator,
    task: Task[Any],
    questions: Sequence[str],
    paths: int,
    seed: int,
    keep_visits: bool = False,
) -> list[Path]:
    """``paths`` independent paths per question, sampled level by level in large batches."""
    done: list[Path] = []
    active = [Path(i, task.initial_state(q)) for i, q in enumerate(questions) for _ in range(paths)]
    level = 0
    while active:
        requests = [
            StepRequest(prompt_of(task, path.state), seed=(seed << 40) + (level << 32) + number)
            for number, path in enumerate(active)
        ]
        proposals = generator.propose(requests, [1] * len(active), [MAX_STEP_TOKENS] * len(active))
        going = []
        for path, (step,) in zip(active, proposals, strict=True):
            child = task.apply(path.state, step) if step.finish_reason != "limit" else None
            about = None if child is None else task.describe(child)
            path.tokens += step.tokens
            if keep_visits:
                path.visits.append((path.state, step, child))
            if about is not None and not about.terminal:
                path.state = child
                going.append(path)
            else:
                path.right = about is not None and about.verdict is True
                done.append(path)
        active, level = going, level + 1
    return done


def prompt_of(task: Task[Any], state: Any) -> str:
    """The prompt of a state, of a task that gives each state one of its own."""
    prompt = task.describe(state).prompt
    if prompt is None:
        raise ValueError("task: expected one whose states have a prompt each, got a state without")
    return prompt


def success_at(
    paths: Sequence[Path], problems: int, budgets: np.ndarray, orders: int = 200, seed: int = 0
) -> np.ndarray:
    """Expected share of problems solved within each budget, over random orders of each problem's paths."""
    rng = np.random.default_rng(seed)
    solved = np.zeros(len(budgets))
    for problem in range(problems):
        own = [path for path in paths if path.problem == problem]
        tokens, right = np.array([p.tokens for p in own]), np.array([p.right for p in own])
        if not right.any():
            continue
        for _ in range(orders):
            order = rng.permutation(len(own))
            first_right = int(right[order].argmax())
            solved += np.cumsum(tokens[order])[first_right] <= budgets
    return solved / (orders * problems)


def tokens_for(success: float, budgets: np.ndarray, rates: np.ndarray) -> float:
    """The tokens at which a baseline with these success rates reaches ``success``; inf where it never does."""
    reached = np.flatnonzero(rates >= success)
    return float(budgets[reached[0]]) if len(reached) else float("inf")

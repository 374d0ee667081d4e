"""What a generator and a critic must answer, and what an answer that cannot be used took all the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from bavt_fast._checks import as_count, as_number, message_of
from bavt_fast.budget import MAX_COST, Spent, as_spent, exact, priced
from bavt_fast.protocols import GenerationError, Node, Step
from bavt_fast.settings import Settings
from bavt_fast.step_checks import MOST, checked_step
from bavt_fast.waves import Pending, price_of

__all__ = [
    "flat",
    "is_whole",
    "not_whole",
    "per_ask",
    "problem_of",
    "score_problem",
    "taken",
]


def is_whole(answers: Any, size: int) -> bool:
    """Whether there is one answer per ask."""
    return _is_list(answers) and len(answers) == size


def _is_list(answers: Any) -> bool:
    return answers.__class__ is list or (isinstance(answers, Sequence) and not isinstance(answers, (str, bytes)))


def not_whole(answers: Any, size: int) -> Exception:
    got = f"{len(answers)}" if isinstance(answers, (list, tuple)) else f"{answers!r:.80}"
    return ValueError(f"generator: expected {size} lists of steps, one per state, got {got}")


def problem_of(steps: Any, count: int, counts_tried: bool) -> Exception | None:
    """What is wrong with an answer; None where nothing is."""
    if isinstance(steps, Exception):
        return steps
    try:
        if not _is_list(steps):
            return TypeError(f"generator: expected a list of Step for each state, got {steps!r:.80}")
        if len(steps) > count:
            return ValueError(f"generator: expected at most {count} steps, got {len(steps)}; respect counts")
        for step in steps:
            checked_step(step, counts_tried)
    except Exception as error:  # of classes of the user's, whatever they raise
        return error
    return None


def taken(error: Exception, steps: Any, settings: Settings) -> tuple[Spent | None, Any, Exception]:
    """What a failed ask took, as it says and, where nothing of that is priced any more, as the account counts it; and
    why it failed, which is another reason where it says the first by no `Spent`."""
    if not isinstance(error, GenerationError):
        spent = _spent_on(steps, settings)
        return spent, None if spent is None else spent.amounts(), error
    try:
        return None if error.spent is None else as_spent("GenerationError.spent", error.spent), None, error
    except TypeError as wrong:
        wrong.__cause__ = error
        return None, None, wrong


def _spent_on(answer: Any, settings: Settings) -> Spent | None:
    """What an answer that cannot be used took, as far as it says: what each of its steps would be charged."""
    try:
        steps = [step for step in answer if isinstance(step, Step)] if _is_list(answer) else []
        calls = [settings.step_tool_calls if step.tool_calls is None else step.tool_calls for step in steps]
        tokens, read = [step.tokens for step in steps], [step.prompt_tokens for step in steps]
        seconds, costs = [step.seconds for step in steps], [_cost_of(step, settings) for step in steps]
    except Exception:  # of a class of the user's
        return None
    return Spent(_whole(tokens), _whole(calls), _amount(seconds, MOST), _amount(costs, MAX_COST), _whole(read))


def _cost_of(step: Step, settings: Settings) -> Any:
    """What a step says that it cost, or the price of its tokens."""
    if step.cost is not None:
        return step.cost
    tokens, read, cached = (_whole([count]) for count in (step.tokens, step.prompt_tokens, step.cached_tokens))
    return min(float(price_of(settings, tokens, read, min(cached, read))), MAX_COST)


def _whole(counts: Sequence[Any]) -> int:
    """The sum of those that are counts."""
    return sum([count for count in map(_read(as_count), counts) if count <= MOST])


def _amount(numbers: Sequence[Any], most: float) -> float:
    """The sum of those that are amounts, `most` at most."""
    good = [number for number in map(_read(as_number), numbers) if 0.0 < number <= most]
    return min(float(priced(*[(1, exact(number)) for number in good])), most)


def _read(check: Callable[[str, Any], Any]) -> Callable[[Any], Any]:
    """What a step says, taken as a good step's is, with decimal numbers and True for 1; 0 where it is none."""

    def read(value: Any) -> Any:
        kind = float if isinstance(value, Decimal) else int if isinstance(value, bool) else None
        try:
            return check("", value if kind is None else kind(value))
        except Exception:  # of a class of the user's too
            return 0

    return read


def flat(outputs: Any) -> list[Any]:
    """A critic's numbers as a list: also of an array or tensor, and of shape (n, 1)."""
    values = outputs.tolist() if hasattr(outputs, "tolist") else outputs
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"critic: expected a list of numbers, one per node, got {outputs!r:.80}")
    if values and all(isinstance(value, list) and len(value) == 1 for value in values):
        return [value[0] for value in values]
    return list(values)


def score_problem(score: Any, node: Node) -> Exception | None:
    if isinstance(score, Exception):
        return score
    if isinstance(score, (bool, np.bool_, str, bytes)) or not hasattr(score, "__float__"):
        return TypeError(f"critic: expected a number for each state, got {score!r:.80} for {node.text[-60:]!r}")
    try:
        output = float(score)
    except Exception as error:  # of a class of the user's, whatever it raises
        return TypeError(f"critic: expected a number for each state, got {score!r:.80} ({message_of(error)})")
    if not math.isfinite(output):
        return ValueError(f"critic: expected finite scores, got {output} for {node.text[-60:]!r}")
    return None


def per_ask(pending: Pending, costs: Sequence[Any]) -> list[Any]:
    """The critic's `Spent` per node as the engine's amounts per ask."""
    whole = isinstance(costs, Sequence) and len(costs) == len(pending.nodes)
    if not whole or not all(isinstance(cost, Spent) for cost in costs):
        raise TypeError(f"critic: expected {len(pending.nodes)} Spent, one per node, got {costs!r:.80}")
    amounts, at = [], 0
    for count in pending.counts:
        rows = [cost.amounts() for cost in costs[at : at + count]] or [(0, 0, 0, 0)]
        amounts.append(tuple(map(sum, zip(*rows, strict=True))))
        at += count
    return amounts

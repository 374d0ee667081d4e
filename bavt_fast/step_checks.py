"""What callers hand over, checked before anything changes: tasks, steps and their probabilities, descriptions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

from bavt_fast._checks import as_amount, as_count, as_number, is_coroutine_function
from bavt_fast.protocols import CUT, Description, Step, as_step

__all__ = [
    "FINISH_REASONS",
    "MOST",
    "BadAnswer",
    "checked_description",
    "checked_step",
    "checked_steps",
    "checked_task",
    "log_probability_of",
    "numbers_by_step",
    "probability_of",
    "require_numbers",
]

FINISH_REASONS = frozenset(("delimiter", "end", *CUT))
MOST = 2**60
"""Of what one step may report."""


ROUNDING = 1e-6
"""How far above 0 the logarithm of a token's probability may lie, for it is rounded."""


class BadAnswer(Exception):
    """A generator's answer that cannot be used: which one, and what is wrong with it."""

    def __init__(self, place: int, problem: Exception) -> None:
        super().__init__(place, problem)
        self.place = place
        self.problem = problem


def checked_task(task: Any) -> Any:
    """An object with the methods of a task. Raises TypeError for anything else."""
    names = ("initial_state", "apply", "key", "describe")
    missing = [name for name in names if not callable(getattr(task, name, None))]
    if missing or inspect.isclass(task):
        lacks = f"without {' and '.join(missing)}()" if missing else "that was not called"
        raise TypeError(f"task: expected an object with the methods of bavt_fast.Task, got {task!r:.80}, {lacks}")
    for name in (*names, "describe_many"):
        if is_coroutine_function(getattr(task, name, None)):
            raise TypeError(f"task: expected a plain {name}, got a coroutine; only adescribe may be one")
    return task


def checked_steps(steps: Any, counts_tried: bool = False) -> list[Step]:
    """What a caller tells, checked. A text is no list of them, though Python would take its letters.

    Args:
        counts_tried: whether the search reads their probabilities.
    """
    if not isinstance(steps, Sequence) or isinstance(steps, (str, bytes)):
        raise TypeError(f"steps: expected a list of Step or str, got {steps!r:.80}")
    return [checked_step(as_step(step), counts_tried) for step in steps]


def require_numbers(name: str, numbers: Any, method: str = "__iter__") -> None:
    """Raises TypeError for what is no list, or has no such method; None passes. Of a mapping Python would take keys."""
    keyed = isinstance(numbers, (Mapping, Set))
    if numbers is not None and (keyed or not hasattr(numbers, method)):
        raise TypeError(f"{name}: expected a list of numbers, got {numbers!r:.80}")


def numbers_by_step(steps: Sequence[Step], values: Any, weights: Any) -> dict[int, tuple[float, float | None]]:
    """The value (1 where nobody says) and the weight that a caller tells of each step, by its id, checked."""
    by_step: dict[int, tuple[float, float | None]] = {}
    for name, numbers in (("values", values), ("weights", weights)):
        require_numbers(name, numbers, "__getitem__")
        if numbers is not None and len(numbers) != len(steps):
            raise ValueError(f"{name}: expected {len(steps)}, one for each step, got {len(numbers)}")
    for i, step in enumerate(steps):
        value = 1.0 if values is None else as_number("values", values[i])
        weight = None if weights is None else as_amount("weights", weights[i])
        by_step.setdefault(id(step), (value, weight))  # of a step that is there twice the second is a duplicate
    return by_step


def checked_step(step: Any, counts_tried: bool = False) -> Step:
    """A `Step` of a generator, checked; NumPy integers become Python's. Its probability too, where it is read."""
    if not isinstance(step, Step):
        raise TypeError(f"generator: expected Step objects, got {type(step).__name__}; make one: Step(text, tokens)")
    if not isinstance(step.text, str):
        raise TypeError(f"generator: expected a str as Step.text, got {type(step.text).__name__}")
    if not isinstance(step.finish_reason, str) or step.finish_reason not in FINISH_REASONS:
        raise ValueError(
            "generator: expected 'delimiter', 'end', 'limit' or 'deadline' as Step.finish_reason, got "
            f"{step.finish_reason!r:.80}"
        )
    step.tokens = as_count("Step.tokens", step.tokens, minimum=1, maximum=MOST)
    step.prompt_tokens = as_count("Step.prompt_tokens", step.prompt_tokens, maximum=MOST)
    step.cached_tokens = as_count("Step.cached_tokens", step.cached_tokens, maximum=step.prompt_tokens)
    if step.tool_calls is not None:
        step.tool_calls = as_count("Step.tool_calls", step.tool_calls, maximum=MOST)
    step.seconds = as_amount("Step.seconds", step.seconds, allow_zero=True)
    if step.cost is not None:
        step.cost = as_amount("Step.cost", step.cost, allow_zero=True)
    if counts_tried:
        try:
            probability_of(step)
        except BadAnswer as bad:
            raise bad.problem from None
    return step


def checked_description(about: Any) -> Description:
    """What a task said of a state, checked."""
    if type(about) is not Description:
        raise TypeError(f"describe: expected a Description, got {about!r:.80}")
    terminal, verdict, answer, prompt, least = about
    if type(terminal) is not bool or (verdict is not None and type(verdict) is not bool):
        raise TypeError(f"describe: expected bools as terminal and verdict, got {terminal!r:.40} and {verdict!r:.40}")
    if verdict is not None and not terminal:
        raise ValueError(f"describe: expected a verdict of None for a state that is not terminal, got {verdict}")
    if prompt is not None and not isinstance(prompt, str):
        raise TypeError(f"describe: expected a str or None as prompt, got {prompt!r:.80}")
    if answer is not None and not isinstance(answer, str):
        raise TypeError(f"describe: expected a str or None as answer, got {answer!r:.80}")
    if type(least) is not int or least < 0:
        raise ValueError(f"describe: expected an int >= 0 as min_tokens, got {least!r:.80}")
    return about


def probability_of(step: Step, place: int = 0) -> float:
    """The model's probability of a step; 0 where nobody said.

    Raises:
        BadAnswer: what the step says is no probability.
    """
    try:
        logarithm = step.total_log_probability()
        if logarithm is None:
            return 0.0
        if logarithm < ROUNDING * max(1, step.tokens):
            return math.exp(min(0.0, logarithm))
    except (TypeError, ValueError) as error:
        expected = "Step.token_probabilities: expected a tuple of numbers from 0 to 1, or Step.log_probability as one"
        raise BadAnswer(place, TypeError(f"{expected}; {error}")) from error
    expected = f"Step.log_probability: expected a number up to 0, got {logarithm!r:.40}"
    raise BadAnswer(place, ValueError(expected))


def log_probability_of(step: Step) -> float | None:
    """The same as a logarithm, for people: None where nobody said, or what was said is not a number.

    Where a search does not read probabilities, nothing has checked them.
    """
    try:
        logarithm = step.total_log_probability()
        return None if logarithm is None else float(logarithm)
    except (ArithmeticError, TypeError, ValueError):
        return None

"""Generators made of plain functions."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Sequence
from typing import Any

from bavt_fast._checks import as_count, is_coroutine_function, require_function, require_parameters
from bavt_fast.protocols import DeadlinePassed, Step, StepRequest, as_step
from bavt_fast.request_checks import check_requests

__all__ = ["AsyncFunctionGenerator", "FunctionGenerator", "as_generator"]


class FunctionGenerator:
    """A generator from ``function(text, count) -> list of steps``, or ``function(text, count, limit)``.

    The function gets the context as text, how many steps are wanted and, if it has a third parameter that is called
    ``limit`` or has no default, the tokens that a step may have. It returns texts or `Step` objects. What it reports is
    charged in full, also above the limit.

    Args:
        function: returns at most ``count`` next steps.
        count_tokens: tokens of a text; by default its words.
    """

    def __init__(
        self, function: Callable[..., Sequence[str | Step]], count_tokens: Callable[[str], int] | None = None
    ) -> None:
        require_function("function", function, or_none=False, plain=False)
        require_function("count_tokens", count_tokens)
        self._function = function
        self._count_tokens = count_tokens
        self._takes_limit = _takes_limit(function)

    def propose(
        self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
    ) -> list[list[Step] | Exception]:
        """See `StepGenerator.propose`. A call that raises fails its own ask; what the others returned is kept."""
        check_requests((), states=states, counts=counts, limits=limits)
        begin_s, answers = time.monotonic(), list[list[Step] | Exception]()
        for request, count, limit in zip(states, counts, limits, strict=True):
            try:
                _require_time(request, begin_s)
                answers.append(self._steps(self._function(*self._arguments(request, count, limit))))
            except Exception as error:
                answers.append(error)
        return answers

    def _arguments(self, request: StepRequest, count: int, limit: int) -> tuple[Any, ...]:
        return (request.text, count, limit) if self._takes_limit else (request.text, count)

    def _steps(self, answers: Any) -> list[Step]:
        if not isinstance(answers, (list, tuple)):
            raise TypeError(f"generator: expected a list of str from the function, got {answers!r:.80}")
        count = None if self._count_tokens is None else self._tokens_of
        return [as_step(answer, count) for answer in answers]

    def _tokens_of(self, text: str) -> int:
        assert self._count_tokens is not None, "else nobody asks"
        return as_count("count_tokens", self._count_tokens(text))


class AsyncFunctionGenerator(FunctionGenerator):
    """The same from a coroutine function."""

    async def propose(  # type: ignore[override]
        self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
    ) -> list[list[Step] | Exception]:
        check_requests((), states=states, counts=counts, limits=limits)
        begin_s, answers = time.monotonic(), list[list[Step] | Exception]()
        for request, count, limit in zip(states, counts, limits, strict=True):
            try:
                _require_time(request, begin_s)
                found = await self._function(*self._arguments(request, count, limit))  # type: ignore[misc]
                answers.append(self._steps(found))
            except Exception as error:
                answers.append(error)
        return answers


def as_generator(generator: Any) -> Any:
    """The generator itself, or a plain or coroutine function wrapped as one. Raises TypeError for anything else."""
    if inspect.isclass(generator):
        name = generator.__name__
        raise TypeError(f"generator: expected an object, got the class {name}; make one: {name}(...)")
    if hasattr(generator, "propose") or hasattr(generator, "submit"):
        return generator
    if callable(generator):
        require_parameters("generator", generator, "text", "count", *(["limit"] if _takes_limit(generator) else []))
    if is_coroutine_function(generator):
        return AsyncFunctionGenerator(generator)
    if callable(generator):
        return FunctionGenerator(generator)
    hint = "; call its method generator()" if callable(getattr(generator, "generator", None)) else ""
    raise TypeError(
        "generator: expected an object with propose(states, counts, limits) or a function (text, count) -> texts, "
        f"got {type(generator).__name__}{hint}"
    )


def _require_time(request: StepRequest, begin_s: float) -> None:
    """Raises DeadlinePassed where a question's time is over, `begin_s` being when its wave was asked."""
    left_s = request.seconds_left
    if left_s is not None and time.monotonic() - begin_s >= left_s:
        raise DeadlinePassed("the deadline passed before the function was called")


def _takes_limit(function: Callable[..., Any]) -> bool:
    """Whether its third parameter is the limit: it has that name, or no default (unlike ``replies=replies``)."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    by_place = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(by_place) > 2 and (by_place[2].name == "limit" or by_place[2].default is inspect.Parameter.empty)

"""Critics made of plain functions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal

from bavt_fast._checks import is_coroutine_function, require_function, require_parameters
from bavt_fast.protocols import Node
from bavt_fast.request_checks import check_nodes

__all__ = ["AsyncFunctionCritic", "FunctionCritic", "UniformCritic", "as_critic"]


class UniformCritic:
    """V = 1 for every state: the search without a critic."""

    predicts: Literal["value", "residual"] = "value"

    def score(self, candidates: Sequence[Node]) -> list[float]:
        return [1.0] * len(candidates)


class FunctionCritic:
    """A critic from ``function(text) -> V of the state``, with the whole context as text."""

    predicts: Literal["value", "residual"] = "value"

    def __init__(self, function: Callable[[str], Any]) -> None:
        require_function("function", function, or_none=False, plain=False)
        self._function = function

    def score(self, candidates: Sequence[Node]) -> list[float]:
        check_nodes("candidates", candidates)
        return [self._function(candidate.text) for candidate in candidates]


class AsyncFunctionCritic(FunctionCritic):
    """The same from a coroutine function."""

    async def score(self, candidates: Sequence[Node]) -> list[float]:  # type: ignore[override]
        check_nodes("candidates", candidates)
        return [await self._function(candidate.text) for candidate in candidates]


def as_critic(critic: Any, name: str = "critic") -> Any:
    """The critic itself, a plain or coroutine function wrapped as one, or, for None, V = 1 everywhere.

    Args:
        name: what errors call it.
    """
    if critic is None:
        return UniformCritic()
    if inspect.isclass(critic):
        made = critic.__name__
        raise TypeError(f"{name}: expected an object, got the class {made}; make one: {made}(...)")
    if hasattr(critic, "score") and hasattr(critic, "predicts"):
        if critic.predicts not in ("value", "residual"):
            raise ValueError(f"{name}: expected predicts to be 'value' or 'residual', got {critic.predicts!r}")
        return critic
    if callable(critic):
        require_parameters(name, critic, "text")
    if is_coroutine_function(critic):
        return AsyncFunctionCritic(critic)
    if callable(critic):
        return FunctionCritic(critic)
    raise TypeError(
        f"{name}: expected an object with score(candidates) and predicts, or a function text -> value, "
        f"got {type(critic).__name__}"
    )

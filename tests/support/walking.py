"""States of a task that are reached by steps written by hand."""

from __future__ import annotations

from typing import Any

from bavt_fast.protocols import Step


def walk(task: Any, question: str, *steps: str) -> Any:
    """The state after the steps; None where one of them is not legal."""
    state = task.initial_state(question)
    for text in steps:
        state = task.apply(state, Step(text, 2))
        if state is None:
            return None
    return state

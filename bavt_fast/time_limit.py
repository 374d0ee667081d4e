"""A limit in seconds for verifiers: one that does not come to an end leaves its state unverified."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from bavt_fast._checks import as_amount, require_function
from bavt_fast.protocols import Description, Step, Task

__all__ = ["TimeLimit"]

_log = logging.getLogger(__name__)

_UNVERIFIED = Description(terminal=True)


class TimeLimit:
    """Another task, with a limit for what it takes to describe, and so to verify, one state.

        task = bavt.TimeLimit(task, seconds=5)

    A state whose verifier is late ends its path without a verdict: nobody knows whether it is right. It has no answer,
    unless `late` says one, and the search goes on. The first late one is logged (logger
    ``bavt_fast.time_limit``); `num_late` counts them.

    Each call runs in a thread of its own, and Python cannot end a thread: a late one runs on until it returns, or the
    process ends. So what it does must be harmless by then, and a verifier that hangs for ever
    keeps its memory. Code that holds Python's global lock cannot be interrupted; run it in a process of its own. A
    coroutine (`adescribe`) is cancelled. `apply` and `key` are not limited.

    Args:
        task: its ``describe``, ``describe_many`` and ``adescribe`` are limited; all else it has is passed on.
        seconds: for one state. `describe_many` has so much for each of its states; where that is not enough, its states
            are described one by one.
        late: state -> what is said of a state whose verifier is late; terminal without an answer where None. Then it
            has no prompt either: a critic reads the context before it and the step.

    Raises:
        TypeError, ValueError: `task` has no ``describe``, `seconds` is not above 0, or `late` is not a function.
    """

    def __init__(self, task: Task[Any], seconds: float, late: Callable[[Any], Description] | None = None) -> None:
        if inspect.isclass(task) or not callable(getattr(task, "describe", None)):
            raise TypeError(f"task: expected a task, which has a method describe, got {task!r:.80}")
        require_function("late", late)
        self.task = task
        self.seconds = as_amount("seconds", seconds)
        self.num_late = 0
        self._late = late

    def __getattr__(self, name: str) -> Any:
        if name == "task" or name.startswith("__"):  # not there yet, while it is copied
            raise AttributeError(name)
        own = {"describe_many": self._describe_many, "adescribe": self._adescribe, "with_answer": self._with_answer}
        theirs = getattr(self.task, name)
        return own.get(name, theirs)

    def initial_state(self, question: str) -> Any:
        """As the task's."""
        return self.task.initial_state(question)

    def apply(self, state: Any, step: Step) -> Any:
        """As the task's."""
        return self.task.apply(state, step)

    def key(self, state: Any) -> Any:
        """As the task's."""
        return self.task.key(state)

    def describe(self, state: Any) -> Description:
        """As the task's, or that it is unverified."""
        found = _within(self.seconds, self.task.describe, state)
        return self._unverified(state) if found is None else found[0]

    def _describe_many(self, states: Sequence[Any]) -> list[Description]:
        describe_many: Callable[[Sequence[Any]], list[Description]] = self.task.describe_many  # type: ignore[attr-defined]
        found = _within(self.seconds * len(states), describe_many, states)
        if found is not None:
            return found[0]
        if len(states) == 1:
            return [self._unverified(states[0])]
        return [about for state in states for about in self._describe_many([state])]

    async def _adescribe(self, state: Any) -> Description:
        call: Coroutine[Any, Any, Description] = self.task.adescribe(state)  # type: ignore[attr-defined]
        if not inspect.isawaitable(call):
            raise TypeError(f"adescribe: expected a coroutine, got {call!r:.80}")
        running = asyncio.ensure_future(call)
        try:
            done, _ = await asyncio.wait({running}, timeout=self.seconds)
        finally:
            running.cancel()  # also where the search was cancelled; one that is done does not mind
        if done:
            return running.result()
        running.add_done_callback(lambda late: late.cancelled() or late.exception())  # nobody asks for it
        return self._unverified(state)

    def _with_answer(self, answer: str) -> TimeLimit:
        return TimeLimit(self.task.with_answer(answer), self.seconds, self._late)  # type: ignore[attr-defined]

    def _unverified(self, state: Any) -> Description:
        self.num_late += 1
        if self.num_late == 1:
            _log.warning(
                "describe: took more than %g s; the state is unverified, and so are others that take so long: %.80r",
                self.seconds,
                state,
            )
        return _UNVERIFIED if self._late is None else self._late(state)


def _within(seconds: float, call: Callable[[Any], Any], argument: Any) -> tuple[Any] | None:
    """What a call returns, or raises; None where it takes longer."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(context.run(call, argument))
        except BaseException as error:
            errors.append(error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=run, name="bavt_fast verifier", daemon=True)  # a late one does not hold up the end
    thread.start()
    thread.join(min(seconds, threading.TIMEOUT_MAX))
    if errors:
        raise errors[0]
    return (results[0],) if results else None

"""How the questions of a run are searched, and what is written of them: the same in every process that searches."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from bavt_fast._checks import message_of
from bavt_fast.budget import Budget, Spent
from bavt_fast.drive_base import Host
from bavt_fast.engine import Search
from bavt_fast.result import SearchResult
from bavt_fast.runs.questions import Row
from bavt_fast.searcher import Searcher

__all__ = ["Outcome", "Searching", "error_line", "parts_of", "save_search"]

BROKEN_OFF_S = 10.0
"""How long coroutines have to end where the handler of a signal raised, and with that broke off the loop alone.

The loop may have forgotten then whom it was about to wake, who would wait for ever.
"""

Outcome = Callable[[Row, SearchResult], Mapping[str, Any]]


def parts_of(searcher: Searcher) -> dict[str, Any]:
    """What of a searcher has to be the same when a run goes on. JSON."""
    settings = asdict(searcher.settings)
    del settings["record"]
    parts = {"task": searcher.task, "generator": searcher.generator, "critic": searcher.critic}
    return {"settings": settings, **{name: type(part).__qualname__ for name, part in parts.items()}}


class Searching(NamedTuple):
    """What searches the questions of a run. The fields are arguments of `Run`."""

    searcher: Searcher
    budget: Budget
    seed: int = 0
    verify: bool = True
    outcome: Outcome | None = None

    def start(self, row: Row) -> Search:
        """The search of a question, which has not begun. Raises what the task raises for the question."""
        searcher = self.searcher
        task = searcher.task
        if self.verify and row.answer is not None and hasattr(task, "with_answer"):
            task = task.with_answer(row.answer)
        return Search(
            row.question,
            task=task,
            budget=self.budget if row.budget_tokens is None else replace(self.budget, tokens=row.budget_tokens),
            seed=self.seed if row.seed is None else row.seed,
            settings=searcher.settings,
            clock=searcher.clock,
            on_event=searcher.on_event,
        )

    @property
    def uses_answers(self) -> bool:
        """Whether something is done with the right answer of a question, where it is known."""
        return not self.verify or self.outcome is not None or hasattr(self.searcher.task, "with_answer")

    def drive(self, searches: Iterable[Search], host: Host) -> Generator[Search]:
        """The searches as they stop."""
        searcher = self.searcher
        if searcher.is_async:
            return _looped(searcher.arun(searches, host=host), getattr(searcher.generator, "aclose", None))
        return searcher.run(searches, host=host)

    def line(self, row: Row, search: Search) -> dict[str, Any]:
        """The line of a question whose search has stopped."""
        result = search.result()
        line: dict[str, Any] = {
            "id": row.id,
            "answer": result.answer,
            "solved": result.solved,
            "spent": asdict(result.spent),
            "stop_reason": result.stop_reason,
            "path": list(result.path),
            "value": result.value,
        }
        if result.overrun != Spent():
            line["overrun"] = asdict(result.overrun)
        if result.error is not None:
            line["error"] = _about_error(result.error)
        try:
            if self.outcome is not None:
                line |= _checked_fields(self.outcome(row, result))
            if row.answer is not None and not self.verify:
                line["correct"] = line["answer"] is not None and self._is_same(row.answer, line["answer"])
        except Exception as error:
            line["error"] = _about_error(error)
        return line

    def _is_same(self, reference: str, answer: str) -> bool:
        same = getattr(self.searcher.task, "same_answer", None)
        return bool(reference == answer if same is None else same(reference, answer))


def _checked_fields(fields: Any) -> Mapping[str, Any]:
    """What `outcome` gave. Raises TypeError or ValueError for what cannot stand in a line of a run."""
    if not isinstance(fields, Mapping):
        raise TypeError(f"outcome: expected a dictionary of fields, got {fields!r:.80}")
    ours = next((name for name in ("id", "spent", "error") if name in fields), None)
    if ours is not None:
        raise ValueError(
            f"outcome: expected other fields than {ours!r}, by which the run goes on; give it another name"
        )
    try:
        json.dumps(dict(fields), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"outcome: expected fields that JSON can hold, got {fields!r:.80} ({error})") from error
    return fields


def save_search(search: Search, path: Path, line: dict[str, Any]) -> None:
    """Saves the search of a line. Where its task or its steps do not let it, that is an error of the line.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        search.save(path)
    except OSError:
        raise
    except Exception as error:
        line.setdefault("error", _about_error(error))


def error_line(row: Row, error: Exception) -> dict[str, Any]:
    """The line of a question that could not begin."""
    return {
        "id": row.id,
        "answer": None,
        "solved": False,
        "spent": asdict(Spent()),
        "stop_reason": "error",
        "path": [],
        "value": None,
        "error": _about_error(error),
    }


def _about_error(error: Exception) -> str:
    return f"{type(error).__name__}: {message_of(error)}"


def _looped(searches: AsyncGenerator[Search], close: Callable[[], Any] | None) -> Generator[Search]:
    """What an asynchronous driver gives, in an event loop of its own. Ctrl-C breaks it off."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:  # there is none
        pass
    else:
        raise TypeError("generator or critic: expected plain ones within a running event loop, got a coroutine")
    loop = asyncio.new_event_loop()
    task: asyncio.Task[Search] | None = None
    try:
        while True:
            task = loop.create_task(anext(searches))
            try:
                search = _until(loop, task)
            except StopAsyncIteration:
                return
            yield search
    finally:
        try:
            left = set() if task is None or task.done() else {task}
            within_s = BROKEN_OFF_S if left else None
            loop.stop()  # also where it was broken off as it was about to
            loop.run_forever()
            _end_tasks(loop, left, within_s)
            if all(task.done() for task in left):
                loop.run_until_complete(searches.aclose())
                _end_tasks(loop, asyncio.all_tasks(loop), within_s)
                if close is not None:
                    loop.run_until_complete(close())
                loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()


def _end_tasks(loop: asyncio.AbstractEventLoop, left: set[asyncio.Task[Any]], within_s: float | None) -> None:
    """What is left in a loop ends before it, as in `asyncio.run`: coroutines that were given up, the user's tasks."""
    for task in left:
        task.cancel()
    if left:
        ended = asyncio.gather(*left, return_exceptions=True)
        loop.run_until_complete(asyncio.wait({ended}, timeout=within_s))


def _until(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Search]) -> Search:
    """Runs a loop until a task is done. Ctrl-C cancels the task, as in `asyncio.run`, and comes when it has ended."""
    is_ours = threading.current_thread() is threading.main_thread()
    if not is_ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return loop.run_until_complete(task)
    pressed = False

    def cancel(*_: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        loop.call_soon_threadsafe(task.cancel)

    signal.signal(signal.SIGINT, cancel)
    try:
        search = loop.run_until_complete(task)
    except asyncio.CancelledError:
        if not pressed:  # the generator raised it
            raise
        raise KeyboardInterrupt from None
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if pressed:  # as it ended: its result is made again from the journal
        raise KeyboardInterrupt
    return search

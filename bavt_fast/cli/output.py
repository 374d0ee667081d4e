"""What the commands share: how a search is run and shown, and how they end."""

from __future__ import annotations

import errno
import os
import sys
import warnings
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bavt_fast.budget import Budget
from bavt_fast.checkpoint import require_file
from bavt_fast.result import Progress, SearchError, SearchResult
from bavt_fast.traces import JsonLines, jsonl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from bavt_fast.engine import Search
    from bavt_fast.events import Event
    from bavt_fast.searcher import Searcher

__all__ = [
    "BAD_INPUT",
    "NOT_SOLVED",
    "SOLVED",
    "as_json",
    "as_question",
    "check_files",
    "errors",
    "exit_code",
    "opened_trace",
    "plain_warnings",
    "refuse",
    "searched",
    "show_path",
    "show_spent",
    "shown",
]

SOLVED, NOT_SOLVED, BAD_INPUT = 0, 1, 2

errors = Console(stderr=True)


def refuse(error: Exception) -> NoReturn:
    """Says what is wrong with the input, and ends. Where the reader of the output went away nothing is wrong."""
    say(error)
    raise typer.Exit(BAD_INPUT) from error


def say(error: Exception) -> None:
    """Says what is wrong."""
    if isinstance(error, BrokenPipeError):
        raise error
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    names_a_module = text.startswith("bavt_fast.")  # which says nothing at a terminal
    if isinstance(error, ModuleNotFoundError) and ("pip install" not in text or names_a_module):
        text = f"this command needs {error.name}; install it with: pip install 'bavt_fast[all]'"
    errors.print(f"error: {text}", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings are lines for people, without the place in the program that they come from."""

    def show(
        message: Warning | str, category: Any, filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        errors.print(f"warning: {message}", markup=False, highlight=False, soft_wrap=True)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def as_question(words: Sequence[str]) -> str:
    """The words of a command line as one text.

    Raises:
        ValueError: it holds bytes that the terminal's encoding does not know.
    """
    text = " ".join(words)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"question: expected text in {sys.getfilesystemencoding()}, got {text!r:.80}; set LANG to the encoding "
            "that your terminal writes"
        ) from error
    return text


def check_files(trace: Path | None, save: Path | None) -> None:
    """Raises OSError where what ``--trace`` or ``--save`` names could not be written; the files stay as they were."""
    if trace is not None:
        _require_access(trace, trace if trace.exists() else trace.parent)
    if save is not None:
        require_file(save)
        _require_access(save, Path(os.path.realpath(save)).parent)


def _require_access(file: Path, place: Path) -> None:
    """The place is what has to be writable for the file."""
    if not os.access(place, os.W_OK):
        code = errno.EACCES if place.exists() else errno.ENOENT
        raise OSError(code, os.strerror(code), str(file))


def opened_trace(file: Path | None) -> JsonLines | None:
    """What ``--trace`` names, written anew: once all that was given is known to be good, before the search begins.

    Raises OSError where it cannot be written.
    """
    return None if file is None else jsonl(file)


def searched(
    console: Console,
    searcher: Searcher,
    question: str,
    budget: Budget,
    seed: int,
    *,
    trace: JsonLines | None = None,
    live: bool = False,
    save: Path | None = None,
) -> tuple[SearchResult, bool]:
    """Searches and shows how far it is; where something fails, says so and gives what was found by then.

    Returns:
        The result, and whether it and its trace were written where they should be. A result is worth more than a file.

    Args:
        trace: hears what happens, and is closed at the end.
        live: whether to serve the page of `bavt_fast.view` meanwhile.
        save: where to write the search when it has ended.
    """
    trouble: list[OSError] = []
    try:
        with _traced(searcher, trace, trouble):
            search = searcher.start(question, budget=budget, seed=seed)
            with _served(search) if live else nullcontext(), _shown(console, searcher, budget):
                result = searcher.complete(search)
    except SearchError as error:
        errors.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        result = error.result
    except (ValueError, TypeError) as error:
        refuse(error)
    try:
        if save is not None:
            search.save(save)
    except (OSError, TypeError, ValueError) as error:
        say(error)
        return result, False
    return result, not trouble


@contextmanager
def _traced(searcher: Searcher, trace: JsonLines | None, trouble: list[OSError]) -> Iterator[None]:
    """The search is worth more than its trace: what cannot be written is said at the end, and put into `trouble`."""

    def heard(event: Event) -> None:
        assert trace is not None
        if not trouble:
            with _kept(trouble):
                trace(event)

    searcher.on_event = None if trace is None else heard
    try:
        yield
    finally:
        if trace is not None:
            with _kept(trouble):
                trace.close()
        for problem in trouble[:1]:
            errors.print(f"error: trace: {problem}; the file is not whole", markup=False, highlight=False)


@contextmanager
def _kept(trouble: list[OSError]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        trouble.append(error)


@contextmanager
def _served(search: Search) -> Iterator[None]:
    from bavt_fast.view.server import Live as Served

    try:
        served = Served(search)
    except OSError as error:
        refuse(error)
    with served:
        errors.print(f"live: {served.url}", markup=False, highlight=False, soft_wrap=True)
        yield


@contextmanager
def _shown(console: Console, searcher: Searcher, budget: Budget) -> Iterator[None]:
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        searcher.on_progress = _shows(live, budget)
        yield


def _shows(live: Live, budget: Budget) -> Callable[[Progress], None]:
    def update(progress: Progress) -> None:
        table = Table.grid(padding=(0, 2))
        table.add_row("spent", f"{progress.spent.tokens} of {budget.tokens} tokens, {progress.spent.seconds:.1f} s")
        table.add_row("nodes", str(progress.num_nodes))
        table.add_row("best value", f"{progress.value:.3f}")
        table.add_row("best path", Text("\n".join(map(shown, progress.path))))
        live.update(table)

    return update


def shown(text: str) -> str:
    """The lines of a model's text, with escapes in the place of what a terminal would obey."""
    from bavt_fast.view.labels import printable

    return "\n".join(map(printable, text.split("\n")))


def show_path(console: Console, path: Sequence[str]) -> None:
    """The steps, numbered."""
    for number, step in enumerate(path, start=1):
        console.print(f"  {number}. {shown(step.strip())}", markup=False, highlight=False, soft_wrap=True)


def exit_code(found: bool, saved: bool) -> int:
    """Of a search that has ended."""
    return BAD_INPUT if not saved else SOLVED if found else NOT_SOLVED


def show_spent(console: Console, result: SearchResult, budget: Budget) -> None:
    """One line: what was spent, the nodes, and why it stopped."""
    console.print(
        f"spent: {result.spent.tokens} of {budget.tokens} tokens, {result.spent.seconds:.2f} s; "
        f"{result.tree.num_nodes} nodes; stopped: {result.stop_reason}",
        highlight=False,
        soft_wrap=True,
    )


def as_json(question: str, result: SearchResult, solved: bool) -> dict[str, Any]:
    """A result as what JSON has forms for."""
    return {
        "question": question,
        "solved": solved,
        "answer": result.answer,
        "path": list(result.path),
        "value": result.value,
        "spent": asdict(result.spent),
        "stop_reason": result.stop_reason,
        "nodes": result.tree.num_nodes,
        "invalid_steps": result.invalid_steps,
        "duplicate_steps": result.duplicate_steps,
        "refuted_steps": result.refuted_steps,
    }

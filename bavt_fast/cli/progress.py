"""How a run is shown: a bar in a terminal, plain lines elsewhere, or JSON."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bavt_fast.cli.output import errors

if TYPE_CHECKING:
    from bavt_fast.budget import Spent
    from bavt_fast.runs import Run, RunProgress, RunSummary

__all__ = ["Reporter"]

BAR_S = 0.25
LINES_S = 10.0
MOST_BROKEN = 10
"""Broken lines that are named; the rest is counted."""
MOST_REASONS = 3
"""Errors of questions that are told, those that most of them have."""


class Reporter:
    """Tells of a run: results and the end to standard output, what else there is to say to standard error.

    Args:
        json_alone: one JSON object for every event, and nothing else.
        quiet: nothing but errors.
    """

    def __init__(self, json_alone: bool, quiet: bool) -> None:
        self.json_alone, self.quiet = json_alone, quiet
        self._lock = threading.Lock()
        self._reasons: Counter[str] = Counter()

    @contextmanager
    def showing(self, run: Run, questions: Path) -> Iterator[None]:
        """Shows how far the run is, until the block ends."""
        for line in run.broken[:MOST_BROKEN]:
            errors.print(f"{questions}: {line}; passed over", markup=False, highlight=False, soft_wrap=True)
        if len(run.broken) > MOST_BROKEN:
            errors.print(f"{questions}: {len(run.broken) - MOST_BROKEN} more lines passed over", highlight=False)
        begin = run.progress()
        if self.json_alone:
            self._emit("start", {**_counts(begin), "broken": [line._asdict() for line in run.broken]})
        console = Console(stderr=True)
        if self.quiet and not self.json_alone:
            yield
        elif console.is_terminal and not self.json_alone:
            with self._bar(console, run):
                yield
        else:
            with self._lines(run):
                yield

    def finished(self, line: Mapping[str, Any]) -> None:
        """One more question."""
        if "error" in line:
            self._reasons[line["error"]] += 1
        if self.json_alone:
            self._emit("result", line)

    def ended(self, summary: RunSummary, out: Path) -> None:
        """What to say in the end."""
        if self.json_alone:
            fields = asdict(summary)
            fields["broken"] = [line._asdict() for line in summary.broken]
            self._emit("end", fields)
            return
        for reason, count in self._reasons.most_common(MOST_REASONS):
            errors.print(f"{count} with {reason}", markup=False, highlight=False, soft_wrap=True)
        if not self.quiet:
            typer.echo("\n".join(_summary_lines(summary, out)))

    def _emit(self, event: str, fields: Mapping[str, Any]) -> None:
        with self._lock:  # a thread tells of progress
            sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
            sys.stdout.flush()

    @contextmanager
    def _bar(self, console: Console, run: Run) -> Iterator[None]:
        columns = (
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            begin = run.progress()
            shown = bar.add_task("", total=begin.questions, completed=begin.finished)

            def show() -> None:
                now = run.progress()
                bar.update(shown, completed=now.finished, description=_state(now))

            with _every(BAR_S, show):
                yield

    @contextmanager
    def _lines(self, run: Run) -> Iterator[None]:
        start_s, begin = time.monotonic(), run.progress()

        def show() -> None:
            now = run.progress()
            if self.json_alone:
                self._emit("progress", _counts(now))
                return
            passed_s = time.monotonic() - start_s
            rate = (now.answers - begin.answers) / passed_s
            print(
                f"{passed_s:.0f} s: {now.finished} of {now.questions} questions, {_state(now)}, {rate:.1f} steps/s",
                file=sys.stderr,
                flush=True,
            )

        with _every(LINES_S, show):
            yield


@contextmanager
def _every(period_s: float, show: Any) -> Iterator[None]:
    """Calls `show` now and then, in a thread of its own, until the block ends."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(period_s):
            try:
                show()
            except (OSError, ValueError):  # nobody reads it any more
                return

    thread = threading.Thread(target=loop, daemon=True, name="bavt-progress")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _state(now: RunProgress) -> str:
    failed = f", {now.errors} errors" if now.errors else ""
    return f"{now.solved} solved{failed}, {now.spent.tokens:,} tokens"


def _counts(now: RunProgress) -> dict[str, Any]:
    return asdict(now)


def _summary_lines(summary: RunSummary, out: Path) -> list[str]:
    broken = f", {len(summary.broken)} lines passed over" if summary.broken else ""
    lines = [
        f"{summary.finished} of {summary.questions} questions finished: {summary.solved} solved, "
        f"{summary.errors} errors{broken}",
        f"spent: {_amounts(summary.spent)}",
    ]
    if summary.lost_asks:
        lines.append(f"lost with lives that ended: {summary.lost_asks} asks, at most {_amounts(summary.lost)}")
    if summary.end == "total":
        lines.append("nothing more fits the total budget: start again with a larger one to go on")
    elif summary.end == "interrupted":
        lines.append("interrupted: start again with the same command to go on")
    return [*lines, f"results: {out / 'results.jsonl'}"]


def _amounts(spent: Spent) -> str:
    parts = [f"{spent.tokens:,} tokens"]
    if spent.prompt_tokens:
        parts.append(f"{spent.prompt_tokens:,} prompt tokens")
    if spent.tool_calls:
        parts.append(f"{spent.tool_calls:,} tool calls")
    if spent.cost:
        parts.append(f"cost {spent.cost:.6g}")
    return ", ".join(parts)

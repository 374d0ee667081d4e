"""A run's folder as text: how it stands, and a line for each result."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bavt_fast.budget import Spent
from bavt_fast.runs import read_run

__all__ = ["run_table"]

MOST_LINES = 60
_HEADS = ("id", "solved", "tokens", "value", "stopped", "answer")
_RIGHT = ("tokens", "value")
_WIDEST = 24  # of a column but the last


def run_table(folder: Path, *, width: int, lines: int | None = None) -> str:
    """The results of a run, in the order in which they came.

    Args:
        width: of the terminal; longer lines are cut.
        lines: most results; 60 for None.

    Raises:
        OSError, ValueError: there is no run, or what stands there cannot be read.
    """
    try:
        began = json.loads((folder / "run.json").read_bytes())
    except (ValueError, RecursionError):
        began = None
    if not isinstance(began, dict) or "questions" not in began:
        raise ValueError(f"{folder / 'run.json'}: expected what a run wrote, got something else")
    most = MOST_LINES if lines is None else lines
    shown: list[tuple[str, ...]] = []
    finished = solved = errors = tokens = compared = correct = 0
    stopped: Counter[str] = Counter()
    for line in read_run(folder):
        finished += 1
        solved += line.get("solved") is True
        errors += "error" in line
        tokens += _tokens(line)
        compared += "correct" in line
        correct += line.get("correct") is True
        stopped[str(line.get("stop_reason"))] += 1
        if len(shown) < most:
            shown.append(_cells(line))
    reasons = ", ".join(f"{count} {reason}" for reason, count in stopped.most_common())
    head = f"{finished} of {began['questions']} questions finished: {solved} solved, {errors} errors, {tokens:,} tokens"
    if compared:
        head += f", {correct} of {compared} correct"
    text = [head, f"stopped: {reasons or 'none'}", *_table(shown, width)]
    if finished > len(shown):
        text.append(f"… {finished - len(shown)} more")
    if (folder / "searches").is_dir():
        text.append(f"trees: bavt-fast view {folder} -o trees.html")
    return "\n".join(text)


def _tokens(line: Mapping[str, Any]) -> int:
    return Spent(**line["spent"]).tokens  # which need not name all that it has


def _cells(line: Mapping[str, Any]) -> tuple[str, ...]:
    answer = line.get("error") or line.get("answer") or ""
    value = line.get("value")
    is_amount = isinstance(value, (int, float)) and abs(value) < 1e9
    return (
        str(line["id"]),
        "yes" if line.get("solved") else "no",
        f"{_tokens(line):,}",
        "" if value is None else f"{value:.3f}" if is_amount else str(value)[:40],
        str(line.get("stop_reason")),
        " ".join(str(answer)[:2000].split()),
    )


def _table(rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    if not rows:
        return []
    from bavt_fast.view.labels import cut, printable, width_of

    safe = [_HEADS, *[tuple(map(printable, row)) for row in rows]]
    widths = [min(_WIDEST, max(map(width_of, column))) for column in zip(*safe, strict=True)]
    made = []
    for row in safe:
        cells = []
        for head, cell, wide in zip(_HEADS[:-1], row[:-1], widths, strict=False):
            short = cut(cell, wide)
            space = " " * (wide - width_of(short))
            cells.append(space + short if head in _RIGHT else short + space)
        made.append(cut("  ".join([*cells, row[-1]]).rstrip(), width))
    return made

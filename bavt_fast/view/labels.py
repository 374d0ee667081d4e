"""Texts of a model as one short line that is safe to show: it may hold anything, and be of any length."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from bavt_fast.view.record import Picture

__all__ = ["cut", "label", "node_label", "node_notes", "number", "printable", "summary", "width_of"]

_JOINERS = "\u200c\u200d"  # parts of words and of emoji


def printable(text: str) -> str:
    """The text with escapes in the place of what moves a cursor, turns the direction of writing, or is no character."""
    if text.isascii() and text.isprintable():
        return text
    return "".join([c if _is_plain(c) else c.encode("unicode_escape").decode("ascii") for c in text])


def _is_plain(character: str) -> bool:
    return character in _JOINERS or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")


def label(text: str, most: int = 60) -> str:
    """A text as one line of at most so many columns of a terminal."""
    begin = text[: 8 * most + 200]  # a step may have 100 kB
    line = printable(" ".join(begin.split()))
    return cut(line + " " if len(begin) < len(text) else line, most)


def cut(line: str, most: int) -> str:
    """A line that is cut where it is wider than so many columns, with "…" at its end."""
    if len(line) <= most and line.isascii():
        return line
    if width_of(line) <= most:
        return line
    used, kept = 0, []
    for character in line:
        used += _width(character)
        if used > most - 1:
            break
        kept.append(character)
    return "".join(kept).rstrip() + "…" if most > 0 else ""


def width_of(line: str) -> int:
    """Columns that a line takes in a terminal."""
    return len(line) if line.isascii() else sum(map(_width, line))


def _width(character: str) -> int:
    if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def number(value: float) -> str:
    """A value to three places."""
    return f"{value:.3f}"


def node_label(picture: Picture, node: int, most: int = 60) -> str:
    """What a node is called: its step, or for the root the question."""
    return label(picture.nodes.texts[node] if node else picture.question or "(question not known)", most)


def node_notes(picture: Picture, node: int) -> list[str]:
    """What else there is to say of a node: its answer, why it stopped, what was refused."""
    nodes, notes = picture.nodes, []
    answer, status = nodes.answers[node], nodes.statuses[node]
    if status == "verified":
        notes.append("verified" if answer is None else f"answer {label(answer, 30)}, verified")
    elif answer is not None:
        notes.append(f"answer {label(answer, 30)}")
    elif status != "open":
        notes.append("no answer" if status == "answer" else status)
    refused = picture.refusals.get(node)
    if refused:
        notes.append("refused " + ", ".join(f"{count} {reason}" for reason, count in refused.items()))
    return notes


def summary(picture: Picture) -> list[str]:
    """Two lines: what was found; what it took and why it stopped."""
    if picture.answer:
        found = f"{'solved' if picture.solved else 'answer'}: {label(picture.answer, 80)}"
    else:
        found = "no answer"
    limits = picture.budget or {}
    spent = [_amount(name, picture.spent[name], limits.get(name)) for name in _shown(picture)]
    took = [f"{picture.count} node{'s' * (picture.count != 1)}", *spent]
    stopped = "under way" if picture.stop_reason is None else f"stopped: {picture.stop_reason}"
    if picture.error is not None:
        stopped += f" ({label(picture.error, 80)})"
    return [f"{found}  (value {number(picture.value)}, {len(picture.path)} steps)", ", ".join([*took, stopped])]


def _shown(picture: Picture) -> Sequence[str]:
    limits = picture.budget or {}
    return [name for name in picture.spent if picture.spent[name] or limits.get(name) is not None]


def _amount(name: str, spent: float, limit: float | None) -> str:
    unit = {"seconds": "s", "tool_calls": "tool calls", "prompt_tokens": "prompt tokens"}.get(name, name)
    digits = f"{spent:.4g}" if isinstance(spent, float) else f"{spent}"
    return f"{digits} {unit}" if limit is None else f"{digits} of {limit:g} {unit}"

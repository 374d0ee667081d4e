"""A search as a tree of lines: a line a node, the path first, then what was visited most, cut to what fits."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bavt_fast._checks import as_count
from bavt_fast.view.labels import cut, node_label, node_notes, number, summary, width_of
from bavt_fast.view.record import Picture

__all__ = ["text"]

_LINES = 60
_LEAST_TEXT = 24  # columns that a step gets, however deep it lies
_HEAD = "  V      visits tokens  "


class _Signs(NamedTuple):
    branch: str
    last: str
    through: str
    space: str
    more: str


_DRAWN = _Signs("├─ ", "└─ ", "│  ", "   ", "…")
_PLAIN = _Signs("|- ", "`- ", "|  ", "   ", "...")


class _Row(NamedTuple):
    node: int  # -1 for a line about those that are left out
    indent: str
    text: str


def text(
    picture: Picture,
    *,
    width: int | None = None,
    depth: int | None = None,
    lines: int | None = None,
    color: bool = False,
    encoding: str | None = None,
) -> str:
    """The tree as text. The path to the answer is marked with "*".

    Args:
        width: columns; those of the terminal without it, 100 where there is none.
        depth: steps from the question to show; as many as fit the width without it.
        lines: nodes to show at most.
        color: whether to use the terminal's colours.
        encoding: of where it is shown; that of standard output without it. What it cannot hold is escaped.
    """
    width = max(40, shutil.get_terminal_size((100, 40)).columns if width is None else as_count("width", width))
    encoding = encoding or getattr(sys.stdout, "encoding", None) or "utf-8"
    if not _can_show("", encoding):
        encoding = "ascii"
    signs = _DRAWN if _can_show("".join(_DRAWN), encoding) else _PLAIN

    def fitted(line: str, room: int) -> str:
        return cut(line.encode(encoding, "backslashreplace").decode(encoding), room, signs.more)

    head = len(_HEAD)
    most = max(1, (width - head - _LEAST_TEXT) // len(signs.branch))
    kept = picture.foremost(_LINES if lines is None else max(1, as_count("lines", lines)))
    path = {0, *picture.path}
    out = [*[fitted(line, width) for line in summary(picture)], _HEAD.rstrip()]
    for row in _rows(picture, kept, most if depth is None else min(most, as_count("depth", depth)), signs):
        if row.node < 0:
            out.append(" " * head + cut(row.indent + row.text, width - head, signs.more))
            continue
        line = _figures(picture, row.node, row.node in path) + row.indent
        line += _described(picture, row.node, width - width_of(line), fitted)
        out.append(_colored(line, row.node in path, picture.nodes.statuses[row.node]) if color else line)
    return "\n".join(out)


def _can_show(signs: str, encoding: str) -> bool:
    try:
        signs.encode(encoding)
    except (LookupError, UnicodeEncodeError):
        return False
    return True


def _rows(picture: Picture, kept: list[int], depth: int, signs: _Signs) -> Iterator[_Row]:
    """The lines of the tree from its root down, without recursion: a chain may be as deep as the tree is large."""
    chosen = set(kept)
    below = _sizes(picture)
    stack: list[tuple[_Row, int, str]] = [(_Row(0, "", ""), 0, "")]  # row, depth, indent of what is below
    while stack:
        row, level, indent = stack.pop()
        yield row
        if row.node < 0:
            continue
        children = picture.children[row.node]
        shown = [child for child in children if child in chosen] if level < depth else []
        hidden = below[row.node] - 1 - sum(below[child] for child in shown)
        rows: list[tuple[_Row, int, str]] = []
        for child in shown:
            last = child == shown[-1] and not hidden
            sign, after = (signs.last, signs.space) if last else (signs.branch, signs.through)
            rows.append((_Row(child, indent + sign, ""), level + 1, indent + after))
        if hidden:
            rows.append((_Row(-1, indent + signs.last, f"{signs.more} {hidden:,} more"), 0, ""))
        stack += reversed(rows)


def _sizes(picture: Picture) -> list[int]:
    """Nodes of each subtree."""
    sizes = [1] * picture.count
    for node in range(picture.count - 1, 0, -1):
        sizes[picture.nodes.parents[node]] += sizes[node]
    return sizes


def _figures(picture: Picture, node: int, on_path: bool) -> str:
    nodes = picture.nodes
    mark = "* " if on_path else "  "
    return f"{mark}{number(nodes.values[node]):<6} {nodes.visit_counts[node]:>6} {nodes.tokens[node]:>6}  "


def _described(picture: Picture, node: int, room: int, fitted: Callable[[str, int], str]) -> str:
    """The step and what there is to say of it; the step gets at least half of the room."""
    notes = node_notes(picture, node)
    step = fitted(node_label(picture, node, room), room)
    ending = fitted(f"  [{'; '.join(notes)}]" if notes else "", max(room // 2, room - width_of(step)))
    return fitted(node_label(picture, node, room), max(1, room - width_of(ending))) + ending


def _colored(line: str, on_path: bool, status: str) -> str:
    if on_path:
        return f"\x1b[1;32m{line}\x1b[0m"
    return line if status in ("open", "answer") else f"\x1b[2m{line}\x1b[0m"

r"""Where a text says its answer: on a line that begins with ``Answer:``, or in ``\boxed{}``."""

from __future__ import annotations

import re

__all__ = ["BOX", "UNSEEN", "boxes", "find_answer", "is_empty", "last_line", "plain"]

UNSEEN = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\u2066\u2067\u2068\u2069\ufeff"
"""What nobody sees: soft hyphens, joiners, marks of direction."""
BOX = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
# A box that opens, a box of one word, anything else that is escaped, or a brace.
_PART = re.compile(r"(\\(?:boxed|fbox)\s*\{)|\\(?:boxed|fbox)\s+([^\s\\{}$]+)|\\.|([{}])", re.DOTALL)
_EMPTY_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{[\s*_`$]*(?:\}|\Z)")  # also one that was never closed
_MARKS = re.compile(rf"(?:[\s*_`${UNSEEN}]|```\w*|\\[\[\]()])*")


def plain(text: str) -> str:
    """A line without the markdown around it; "" for one that has nothing else, such as ``$$`` or a code fence."""
    return "" if _MARKS.fullmatch(text) else text.strip(f" \t\r\n*_`{UNSEEN}").strip()


def last_line(text: str) -> str:
    """The last line with something in it, without the markdown around it."""
    return next((found for line in reversed(text.splitlines()) if (found := plain(line))), "")


def boxes(text: str) -> tuple[list[tuple[int, str]], int | None]:
    r"""What stands in each ``\boxed{}`` or ``\fbox{}``, braces within it balanced, as (start, content).

    Also where the first one begins that does not close; None where all do.
    """
    found: list[tuple[int, str]] = []
    open_braces: list[tuple[int, int] | None] = []  # (start, start of the content) of a box; None of another brace
    for part in _PART.finditer(text):
        if part[1]:
            open_braces.append((part.start(), part.end()))
        elif part[2]:
            found.append((part.start(), part[2]))
        elif part[3] == "{":
            open_braces.append(None)
        elif part[3] and open_braces:
            box = open_braces.pop()
            if box is not None:
                found.append((box[0], text[box[1] : part.start()]))
    return found, next((box[0] for box in open_braces if box is not None), None)


def find_answer(announcement: re.Pattern[str], text: str) -> tuple[str | None, str]:
    r"""The last answer that a text announces, and what is to be read again with the text that follows.

    Args:
        announcement: its group 1 is the rest of the line.

    Returns:
        The answer, None for none; an empty one is none. Without an answer, the text from an announcement on that waits
        for one: ``Answer:`` alone on its line, or a box that is not closed; else "".
    """
    in_boxes, waiting = boxes(text)
    found = [(start, answer) for start, content in in_boxes if (answer := plain(content))]
    end = len(text)
    for match in reversed(list(announcement.finditer(text))):
        lines = text[match.start(1) : end].splitlines()
        answer = next((line for line in map(plain, lines) if line), "")
        if not answer:
            waiting = match.start() if waiting is None else min(waiting, match.start())
        elif not BOX.search(answer):  # a box in the line speaks for itself
            found.append((match.start(), answer))
            break
        end = match.start()
    if found:
        return max(found)[1], ""
    return None, "" if waiting is None else text[waiting:]


def is_empty(announcement: re.Pattern[str], line: str) -> bool:
    r"""Whether a line announces an answer and has none, such as ``Answer: **`` or ``\boxed{}``."""
    match = announcement.match(line)
    return not plain(_EMPTY_BOX.sub("", line if match is None else match[1]))

"""Plain text: every step with something in it is valid, nothing is verified, a path ends where the text says so."""

from __future__ import annotations

import re
from typing import NamedTuple

from bavt_fast._checks import as_count
from bavt_fast.protocols import Description, Step

__all__ = ["TextState", "TextTask", "make_task"]

_OPEN = Description(min_tokens=1)


class TextState(NamedTuple):
    """The whole text so far, the last step in it, and the number of steps.

    ``ended``: the model ended its text. ``answer``: None where none was announced, "" where it did not come yet.
    """

    text: str
    step: str = ""
    depth: int = 0
    ended: bool = False
    answer: str | None = None


class TextTask:
    """The task for a search without one.

    A path ends with a line that begins with ``end``, such as ``Answer: 42`` or ``**Answer:** 42``, and has an answer
    behind it or on the next line; or where the model ends its text, or at ``max_depth``: the answer is the last line
    then.

    Args:
        end: what announces the answer.
        max_depth: a step at this depth ends its path.
    """

    def __init__(self, end: str = "Answer:", max_depth: int = 10) -> None:
        if not isinstance(end, str) or not end.strip():
            raise ValueError(f"end: expected a non-empty str such as 'Answer:', got {end!r}")
        self.end = end
        self.max_depth = as_count("max_depth", max_depth, minimum=1)
        self._announced = re.compile(rf"^[ \t>#*_`-]*{re.escape(end)}[ \t*_`]*(.*)$", re.MULTILINE)

    def initial_state(self, question: str) -> TextState:
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"question: expected a non-empty str, got {question!r}")
        return TextState(question if question.endswith("\n") else question + "\n")

    def apply(self, state: TextState, step: Step) -> TextState | None:
        text = step.text
        ended = step.finish_reason == "end"
        if not ended and not text.strip():
            return None
        answer = state.answer
        if answer is not None or self.end in text:
            answer = self._answer(answer is not None, text)
        return TextState(state.text + text, text, state.depth + 1, ended, answer)

    def key(self, state: TextState) -> str | tuple[str, str]:
        return (state.text, "ended") if state.ended else state.text

    def describe(self, state: TextState) -> Description:
        if not state.depth:
            return Description(prompt=state.text, min_tokens=1)
        if not state.answer and not state.ended and state.depth < self.max_depth:
            return _OPEN
        return Description(True, None, state.answer or _last_line(state.step or state.text * (state.depth > 1)))

    def _answer(self, awaited: bool, text: str) -> str | None:
        """The answer in a step: None where none is announced, "" where one is and does not follow."""
        announced = list(self._announced.finditer(text))
        if not announced:
            return _plain(_first_line(text)) if awaited else None
        last = announced[-1]
        return _plain(last[1]) or _plain(_first_line(text[last.end() :]))


make_task = TextTask
"""What a model folder that names this module is given."""


def _plain(text: str) -> str:
    """Without the markdown around it."""
    return text.strip(" \t\r*_`").strip()


def _first_line(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")

"""Plain text: every step with something in it is valid, a path ends where the text says so, and its answer is text."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from bavt_fast._checks import as_count, require_function
from bavt_fast._core import untracked
from bavt_fast.protocols import Description, Step
from bavt_fast.tasks.announced import UNSEEN, find_answer, is_empty, last_line
from bavt_fast.tasks.units import CURRENCIES
from bavt_fast.tasks.values import compare, read

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ENDS", "TextState", "TextTask", "make_task"]

ENDS = (
    "Answer:",
    "answer:",
    "Final answer:",
    "Final Answer:",
    "The answer is",
    "the answer is",
    "The final answer is",
    "the final answer is",
    "####",
)
"""How texts announce an answer: models of many kinds, and GSM8K's solutions (``#### 42``; a line that goes on with
something else than a number, or with that of a section, as in ``#### 1. Plan``, is a heading)."""
_LEAD = r"(?:(?:So|Thus|Hence|Therefore),?[ \t]+)?"  # before one of `ENDS`
# What has to follow the last of them: a number, and not that of a section ("1. Plan").
_BEFORE_A_NUMBER = rf"(?![ \t*_]*\d+[.)][ \t*_]+[^\W\d_])(?=[ \t*]*[-−‑+{CURRENCIES}]*[ \t]*\.?\d)"
_COLONS = (":", "：")  # the second one is as wide as a Chinese sign
_COLON = r"[ \t\u00a0*_`]*[:：]"
_SIGNS = ("nswer", "####")  # one of them stands in whatever one of `ENDS` stands in

_OPEN = Description(min_tokens=1)
_new = tuple.__new__


class TextState(NamedTuple):
    """The whole text so far, the last step in it, and the number of steps.

    Attributes:
        ended: the model ended its text.
        answer: the answer that the text announces; None for none yet.
        waiting: the text from an announcement on whose answer did not come yet; "" without one.
        reference: the right answer; None where nobody knows it.
        start: where the first step begins in the text.
    """

    text: str
    step: str = ""
    depth: int = 0
    ended: bool = False
    answer: str | None = None
    waiting: str = ""
    reference: str | None = None
    start: int = 0


class TextTask:
    r"""The task for a search without one.

    A path ends with an answer: a line that begins with ``end``, such as ``Answer: 42``, ``**Answer:** 42`` or ``So the
    answer is 42.``, and has one behind it or on the next line; or ``\boxed{42}`` anywhere in a step. A colon may be a
    full-width one, and stand behind a blank. Of several answers in a step the last one counts, and an empty one is
    none. A path also ends where the model ends its text, or at ``max_depth``: its last line is the answer of last
    resort, unless it announces one and does not say it.

    Args:
        end: what announces the answer; one text or several, as they are written. `ENDS` unless it is given.
        max_depth: a step at this depth ends its path.
        answers: the right answer of every question, or of each by its question. Where there is one, the task verifies:
            an answer is right where `same_answer` says so. Without one, paths are compared by value or by a vote
            (`bavt_fast.votes`).
        prompt: question -> what the model reads of it; the question itself without one.
    """

    def __init__(
        self,
        end: str | Sequence[str] = ENDS,
        max_depth: int = 10,
        answers: str | Mapping[str, str] | None = None,
        prompt: Callable[[str], str] | None = None,
    ) -> None:
        ends = _checked_ends(end)
        require_function("prompt", prompt)
        self.end = end
        self.max_depth = as_count("max_depth", max_depth, minimum=1)
        self.answers = _checked_answers(answers)
        self.prompt = prompt
        words, lead = "|".join(map(_with_marks, ends)), ""
        if ends == ENDS:
            words, lead = f"{words}{_BEFORE_A_NUMBER}", _LEAD
        before = rf"[ \t\u00a0\u3000{UNSEEN}>#*_`-]*"
        self._announcement = re.compile(rf"^{before}{lead}(?:{words})[ \t*_`]*(.*)$", re.MULTILINE)
        # What a step that announces an answer has in it.
        signs = _SIGNS if ends == ENDS else [word.rstrip(" :：") or word for word in ends]
        self._signs = (*signs, "box")

    def initial_state(self, question: str) -> TextState:
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"question: expected a non-empty str, got {question!r}")
        answers = self.answers
        reference = answers if answers is None or isinstance(answers, str) else answers.get(question)
        text = question if self.prompt is None else self.prompt(question)
        if not isinstance(text, str):
            raise TypeError(f"prompt: expected a str from the function, got {text!r:.80}")
        text = text if text.endswith("\n") else text + "\n"
        return untracked(TextState(text, reference=reference, start=len(text)))

    def apply(self, state: TextState, step: Step) -> TextState | None:
        text = step.text
        ended = step.finish_reason == "end"
        if (not text or text.isspace()) and not ended:
            return None
        answer, waiting = None, state.waiting
        for sign in self._signs:
            if waiting or sign in text:
                answer, waiting = find_answer(self._announcement, waiting + text)
                break
        # Past the constructor, which takes as long as all the rest here.
        fields = (state.text + text, text, state.depth + 1, ended, answer, waiting, state.reference, state.start)
        return untracked(_new(TextState, fields))

    def key(self, state: TextState) -> str | tuple[str, str]:
        return (state.text, "ended") if state.ended else state.text

    def describe(self, state: TextState) -> Description:
        if not state.depth:
            return Description(prompt=state.text, min_tokens=1)
        if state.answer is None and not state.ended and state.depth < self.max_depth:
            return _OPEN
        answer = state.answer or last_line(state.step) or last_line(state.text[state.start :])
        if is_empty(self._announcement, answer):
            answer = ""
        if state.reference is None:
            return Description(True, None, answer)
        return Description(True, bool(answer) and self.same_answer(state.reference, answer), answer)

    def with_answer(self, answer: str) -> Self:
        """The same task for a question whose right answer is known."""
        task = copy.copy(self)
        task.answers = _checked_answers(answer)
        return task

    def same_answer(self, reference: str, answer: str) -> bool:
        """Whether two answers are equal: as numbers where both are one (`values.compare`), else as normalised text."""
        return reference == answer or compare(read(reference), read(answer)) is True


make_task = TextTask
"""What a model folder that names this module is given."""


def _with_marks(word: str) -> str:
    """A pattern for a text that announces an answer. Blanks and markdown may stand before its colon; one may follow."""
    bare = word.rstrip()
    if bare.endswith(_COLONS):
        return re.escape(bare[:-1]) + _COLON + re.escape(word[len(bare) :])
    return f"{re.escape(word)}(?:{_COLON})?"


def _checked_ends(end: str | Sequence[str]) -> tuple[str, ...]:
    ends = (end,) if isinstance(end, str) else tuple(end) if isinstance(end, Sequence) else ()
    if not ends or not all(isinstance(word, str) and word.strip() for word in ends):
        raise ValueError(f"end: expected a non-empty str such as 'Answer:', or several, got {end!r:.80}")
    return ends


def _checked_answers(answers: str | Mapping[str, str] | None) -> str | Mapping[str, str] | None:
    if answers is None:
        return None
    if isinstance(answers, Mapping):
        known, answers = list(answers.values()), dict(answers)
    else:
        known = [answers]
    for answer in known:
        if not isinstance(answer, str) or not answer.strip():
            raise ValueError(f"answers: expected a non-empty str, or one by each question, got {answer!r:.80}")
    return answers

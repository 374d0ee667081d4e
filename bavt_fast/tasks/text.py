"""Plain text: every non-empty step is valid, nothing is verified, a path ends where the text says so."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TextState", "TextTask"]


@dataclass(frozen=True, slots=True)
class TextState:
    """The whole text so far, the last step in it, and the number of steps."""

    text: str
    step: str
    depth: int


class TextTask:
    """The task for a search without one.

    Args:
        end: a step that contains this text ends its path.
        max_depth: so does a step at this depth.
    """

    def __init__(self, end: str = "Answer:", max_depth: int = 10) -> None:
        if not isinstance(end, str) or not end:
            raise ValueError(f"end: expected a non-empty str such as 'Answer:', got {end!r}")
        if isinstance(max_depth, bool) or not isinstance(max_depth, int) or max_depth < 1:
            raise ValueError(f"max_depth: expected an integer of at least 1, got {max_depth!r}")
        self.end = end
        self.max_depth = max_depth

    def initial_state(self, question: str) -> TextState:
        if not isinstance(question, str) or not question.strip():
            raise ValueError(f"question: expected a non-empty str, got {question!r}")
        return TextState(question, "", 0)

    def prompt(self, state: TextState) -> str:
        return state.text + "\n"

    def apply(self, state: TextState, step: str) -> TextState | None:
        step = step.strip()
        return TextState(f"{state.text}\n{step}", step, state.depth + 1) if step else None

    def is_terminal(self, state: TextState) -> bool:
        return state.depth >= self.max_depth or (state.depth > 0 and self.end in state.step)

    def verify(self, state: TextState) -> None:
        return None

    def answer(self, state: TextState) -> str:
        return state.step.partition(self.end)[2].strip() if self.end in state.step else state.step

    def key(self, state: TextState) -> str:
        return state.text

    def min_tokens(self, state: TextState) -> int:
        return 1

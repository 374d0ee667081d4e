"""How the text that a context begins with becomes tokens."""

from __future__ import annotations

from typing import Any

__all__ = ["PlainPrompts"]


class PlainPrompts:
    """The tokenizer's plain encoding."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids

"""The token ids of prompts, kept: a text task asks for the same prompt at every step."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["KeptPrompts"]

_MOST_PROMPTS = 4096
_MOST_IDS = 2**21
"""Of all prompts together, some 80 MB: with long prompts fewer are kept."""


class KeptPrompts:
    """The ids of the prompts that came last, within a number of prompts and of ids. One is kept whatever its length."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return len(self._ids)

    def get(self, prompt: str) -> tuple[int, ...] | None:
        """None for a prompt that is not there, or not any more."""
        return self._ids.get(prompt)

    def keep(self, prompt: str, ids: tuple[int, ...]) -> None:
        """Keeps the ids, in the place of those that came first."""
        if self._ids.get(prompt) == ids:  # servers tell those of a prompt with every answer
            return
        self._count += len(ids) - len(self._ids.pop(prompt, ()))
        self._ids[prompt] = ids
        while len(self._ids) > 1 and (len(self._ids) > _MOST_PROMPTS or self._count > _MOST_IDS):
            self._count -= len(self._ids.popitem(last=False)[1])

"""How many prompt tokens a set of contexts needs computed once, whoever computes them and how often."""

from __future__ import annotations

from collections.abc import Sequence


class Prefixes:
    """A trie of all contexts so far.

    A token is needed where no context before had it with the same tokens before it, and no step was decoded through it:
    decoding computes the keys and values of all its tokens but the last, which is drawn and never fed.
    """

    def __init__(self) -> None:
        self.needed = 0
        self._next: dict[tuple[int, int], int] = {}

    def add(self, context: Sequence[int], generated: Sequence[int] = ()) -> None:
        """A context that was read, and what was generated after it."""
        before = len(self._next)
        end = self._walk(0, context)
        self.needed += len(self._next) - before
        self._walk(end, generated[:-1])

    def _walk(self, node: int, tokens: Sequence[int]) -> int:
        for token in tokens:
            node = self._next.setdefault((node, token), len(self._next) + 1)
        return node

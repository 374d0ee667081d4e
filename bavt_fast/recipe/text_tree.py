"""The tree behind the drop-in search: statistics in the native core, texts beside it.

The recipe joins the whole text of every child when it makes the child. Most children are never looked at
again, so here an expansion keeps the parent's text and the steps once; a child's text is joined on demand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from bavt_fast._core import Tree

__all__ = ["MAX_DEPTH", "VISIT_EPSILON", "TextTree", "child_texts", "fits_native"]

VISIT_EPSILON = 1e-8
"""What the recipe adds to every visit count it divides by."""

MAX_DEPTH = 65_535
"""The deepest node of a native tree."""

_MAX_MAGNITUDE = 1e290  # values up to here cannot overflow a sum over any number of iterations

# One expansion, shared by its children: parent's id, first child's id, `child_texts`, the children's depth.
_Expansion = tuple[int, int, str, tuple[str, ...], int]


def fits_native(value: object) -> bool:
    """Whether the native tree adds `value` up exactly as Python does: ints, and floats that cannot overflow.

    NumPy's float64 is a float; its float32 is none, for the recipe would add in float32.
    """
    return isinstance(value, (float, int)) and -_MAX_MAGNITUDE <= value <= _MAX_MAGNITUDE


def child_texts(text: str, steps: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """(prefix, endings), where prefix + endings[i] is ``text + "\\n" + steps[i]``: the text of child i.

    Raises:
        TypeError: `steps`, what the user's model returned, is no iterable of str.
    """
    if type(steps) is not list and (isinstance(steps, (str, bytes)) or not hasattr(steps, "__iter__")):
        raise TypeError(
            f"model.generate_next_steps must return a list of str, got {type(steps).__name__}; "
            "return [] where there is no next step"
        )
    prefix, endings = text + "\n", tuple(steps)
    for step in endings:
        if type(step) is not str:
            return "", tuple(_join(prefix, step) for step in endings)
    return prefix, endings


def _join(prefix: str, step: object) -> str:
    """`prefix` + `step` at once, for a subclass of str may have an addition of its own."""
    if not isinstance(step, str):
        raise TypeError(f"model.generate_next_steps must return a list of str, got a {type(step).__name__} in it")
    return prefix + step


@lru_cache(maxsize=64)
def _unscored(count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """The values of `count` new children: the recipe's rule looks at visits alone, so any number will do."""
    return np.zeros(count)


class TextTree:
    """A native tree whose nodes have the recipe's texts. Node 0 is the root."""

    def __init__(self, question: str) -> None:
        self._tree = Tree()
        self._expansions: list[_Expansion] = [(-1, 0, "", (question,), 0)]  # by child id

    def select(self, remaining: int, total: int, exploration: float) -> tuple[int, str, int]:
        """Descend by the recipe's UCB to a node without children; its id, text and depth."""
        node = self._tree.select("ucb", remaining, total, exploration)
        _, first, prefix, endings, depth = self._expansions[node]
        return node, prefix + endings[node - first], depth

    def expand(self, node: int, text: str, depth: int, steps: Iterable[str]) -> tuple[int, str] | None:
        """Append a child per step to `node`, which has that text and depth.

        Returns the first child's id and text; None where there are no steps.
        """
        prefix, endings = child_texts(text, steps)
        if not endings:
            return None
        first = self._tree.expand(node, _unscored(len(endings)))
        self._expansions += [(node, first, prefix, endings, depth + 1)] * len(endings)
        return first, prefix + endings[0]

    def backup(self, node: int, value: float) -> None:
        """Add `value` and one visit to `node` and all its ancestors."""
        self._tree.backup(node, value)

    def best_texts(self) -> list[str]:
        """The texts along the descent from the root by the highest mean value, the first child on ties."""
        value_sums, visit_counts = self._tree.value_sums, self._tree.visit_counts
        texts, node = [], 0
        while children := self._tree.children(node):
            siblings = slice(children[0], children[-1] + 1)
            means = value_sums[siblings] / (visit_counts[siblings] + VISIT_EPSILON)
            node = children[int(means.argmax())]
            texts.append(self._text(node))
        return texts

    def nodes(self) -> Iterator[tuple[int, str, int, float]]:
        """(parent's id, text, visit count, value sum) of every node, in the order of their ids."""
        visit_counts, value_sums = self._tree.visit_counts.tolist(), self._tree.value_sums.tolist()
        for node, expansion in enumerate(self._expansions):
            yield expansion[0], self._text(node), visit_counts[node], value_sums[node]

    def _text(self, node: int) -> str:
        _, first, prefix, endings, _ = self._expansions[node]
        return prefix + endings[node - first]

"""Searches by levels: all paths grow by a step, and the critic says which of them stay.

Both begin again from the question when their paths have ended and tokens are left. What was drawn before at a place is
not drawn again, so another turn sees other steps.
"""

from __future__ import annotations

from collections.abc import Generator

from benchmarks.budget.trees import children_of
from benchmarks.budget.walk import Place, Walk, Wants


def beam_search(walk: Walk, beams: int = 4, width: int = 4) -> Wants:
    """``beams`` x ``width`` first steps; then the ``beams`` paths with the highest V get ``width`` steps each."""
    while walk.root.is_open:
        level = yield from children_of(walk, walk.root, beams * width)
        while level:
            kept = sorted(level, key=lambda place: -place.value)[:beams]
            level = yield from _grown(walk, kept, width)


def dvts(walk: Walk, beams: int = 4, width: int = 4) -> Wants:
    """Diverse verifier tree search: ``beams`` trees apart, in each of which the best of ``width`` steps stays."""
    while walk.root.is_open:
        trees: list[list[Place]] = []
        for _ in range(beams):
            trees.append((yield from children_of(walk, walk.root, width)))
        while any(trees):
            grown = []
            for level in filter(None, trees):
                best = max(level, key=lambda place: place.value)
                grown.append((yield from children_of(walk, best, width)))
            trees = grown


def _grown(walk: Walk, places: list[Place], width: int) -> Generator[tuple[str, int], None, list[Place]]:
    level: list[Place] = []
    for place in places:
        level += yield from children_of(walk, place, width)
    return level

"""Tree searches with the critic as their papers have them: no decay of a node's weight, no budget in the choice."""

from __future__ import annotations

import heapq
import math
from collections.abc import Generator
from dataclasses import dataclass, field

from benchmarks.budget.walk import Place, Walk, Wants


def best_first(walk: Walk, width: int = 4) -> Wants:
    """Expands the place with the highest V by ``width`` steps; when all are expanded they take their turn again."""
    waiting, expanded, number = [(-1.0, 0, walk.root)], [], 0
    while waiting:
        value, order, place = heapq.heappop(waiting)
        for child in (yield from children_of(walk, place, width)):
            number += 1
            heapq.heappush(waiting, (-child.value, number, child))
        if place.is_open:
            expanded.append((value, order, place))
        if not waiting:
            waiting, expanded = expanded, []
            heapq.heapify(waiting)


def children_of(walk: Walk, place: Place, width: int) -> Generator[tuple[str, int], None, list[Place]]:
    """The next ``width`` steps at a place: where those lead that can go on."""
    children: list[Place] = []
    for _ in range(width):
        child = yield from walk.expand(place)
        if child is None:
            break
        if child.is_open:
            children.append(child)
    return children


@dataclass(slots=True)
class Branch:
    """A node of the UCT tree."""

    place: Place
    parent: Branch | None = None
    children: list[Branch] = field(default_factory=list)
    visits: int = 0
    total: float = 0.0
    is_closed: bool = False


def uct(walk: Walk, width: int = 4, exploration: float = 0.5) -> Wants:
    """Monte Carlo tree search with the critic's V in the place of a rollout: descend by the upper confidence bound,
    expand a leaf by ``width`` steps, back each child's V up. Where all of a node's children are closed it is expanded
    again, by the next steps."""
    root = Branch(walk.root, visits=1)
    while not root.is_closed:
        branch = root
        while any(not child.is_closed for child in branch.children):
            branch = _highest(branch, exploration)
        found = yield from children_of(walk, branch.place, width)
        for place in found:
            child = Branch(place, branch)
            branch.children.append(child)
            _back_up(child, place.value)
        if not found:
            _back_up(branch, 0.0)
        _close(branch)


def _highest(branch: Branch, exploration: float) -> Branch:
    log_visits = math.log(branch.visits)

    def bound(child: Branch) -> float:
        return child.total / child.visits + exploration * math.sqrt(log_visits / child.visits)

    return max((child for child in branch.children if not child.is_closed), key=bound)


def _back_up(branch: Branch | None, value: float) -> None:
    while branch is not None:
        branch.visits += 1
        branch.total += value
        branch = branch.parent


def _close(branch: Branch | None) -> None:
    """Closes a node that has nothing more, and those above that had nothing but it."""
    while branch is not None and not branch.place.is_open and all(child.is_closed for child in branch.children):
        branch.is_closed = True
        branch = branch.parent

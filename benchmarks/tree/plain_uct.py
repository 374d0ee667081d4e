"""UCT in Python as fast as plain Python goes: slots, local names, one logarithm per level."""

from __future__ import annotations

from math import inf, log, sqrt


class Node:
    __slots__ = ("children", "parent", "value_sum", "visits")

    def __init__(self, parent: Node | None) -> None:
        self.parent = parent
        self.children: list[Node] = []
        self.visits = 0
        self.value_sum = 0.0


def select(node: Node, exploration: float) -> Node:
    while node.children:
        log_visits = log(node.visits)
        best_score = -inf
        for child in node.children:
            visits = child.visits
            if not visits:
                node = child
                break
            score = child.value_sum / visits + exploration * sqrt(log_visits / visits)
            if score > best_score:
                best_score = score
                node = child
    return node


def search(values: list[float], branching: int) -> Node:
    """One simulation per value: select, expand, back up the value from the first child."""
    root = Node(None)
    for value in values:
        leaf = select(root, 1.0)
        leaf.children = [Node(leaf) for _ in range(branching)]
        node: Node | None = leaf.children[0]
        while node is not None:
            node.visits += 1
            node.value_sum += value
            node = node.parent
    return root

"""The BAVT recipe as it circulates, in plain Python: the oracle of our search's tests, and what it is timed against.

Nothing here is shared with bavt_fast and nothing is optimised. The neural parts are left out: any object with
`generate_next_steps` is a model and any object with `estimate_residual_value` is a critic head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol


class Model(Protocol):
    def generate_next_steps(self, text: str, num_candidates: int) -> Iterable[str]: ...


class CriticHead(Protocol):
    def estimate_residual_value(self, text: str, /) -> float: ...


class TreeNode:
    def __init__(self, text: str = "", parent: TreeNode | None = None) -> None:
        self.text = text
        self.parent = parent
        self.children: list[TreeNode] = []
        self.visit_count = 0
        self.value_sum = 0.0
        self.residual_value = 0.0


class BudgetAwareUCB:
    def __init__(self, exploration_constant: float = 1.0) -> None:
        self.exploration_constant = exploration_constant

    def compute_ucb_score(self, node_value: float, visit_count: int, total_budget: int, remaining_budget: int) -> float:
        exploitation = node_value / (visit_count + 1e-8)
        budget_factor = self.exploration_constant / (remaining_budget + 1e-8)
        exploration = budget_factor * math.sqrt(math.log(total_budget + 1) / (visit_count + 1e-8))
        return exploitation + exploration

    def select_best_child(self, node: TreeNode, remaining_budget: int, total_budget: int) -> TreeNode | None:
        if not node.children:
            return None
        return max(
            node.children,
            key=lambda child: self.compute_ucb_score(
                child.value_sum, child.visit_count, total_budget, remaining_budget
            ),
        )


class BudgetAwareValueTreeSearch:
    def __init__(self, model: Model, critic_head: CriticHead, budget: int = 1000) -> None:
        self.model = model
        self.critic_head = critic_head
        self.total_budget = budget
        self.remaining_budget = budget
        self.ucb = BudgetAwareUCB()

    def search(self, question: str, max_depth: int = 10) -> str:
        root = TreeNode(text=question)
        for t in range(self.total_budget):
            self.remaining_budget = self.total_budget - t
            leaf = self.select_leaf(root, max_depth)
            if leaf is None:
                break
            value = self.critic_head.estimate_residual_value(leaf.text)
            leaf.residual_value = value
            self.backpropagate(leaf, value)
        return self.extract_answer(root)

    def select_leaf(self, root: TreeNode, max_depth: int) -> TreeNode | None:
        node, depth = root, 0
        while node.children and depth < max_depth:
            node = self.ucb.select_best_child(node, self.remaining_budget, self.total_budget)  # type: ignore[assignment]
            depth += 1
        if depth < max_depth:
            for step in self.model.generate_next_steps(node.text, num_candidates=3):
                node.children.append(TreeNode(text=node.text + "\n" + step, parent=node))
            if node.children:
                return node.children[0]
        return None

    def backpropagate(self, node: TreeNode | None, value: float) -> None:
        while node is not None:
            node.visit_count += 1
            node.value_sum += value
            node = node.parent

    def extract_answer(self, root: TreeNode) -> str:
        texts, node = [], root
        while node.children:
            node = max(node.children, key=lambda child: child.value_sum / (child.visit_count + 1e-8))
            texts.append(node.text)
        return "\n".join(texts)

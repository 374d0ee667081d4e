"""The BAVT recipe as it circulates, in plain Python: the oracle of the drop-in's tests, and what it is timed against.

Nothing here is shared with bavt_fast and nothing is optimised. The neural parts are left out: any object with
`generate_next_steps` is a model and any object with `estimate_residual_value` is a critic head.
"""

from __future__ import annotations

import math


class TreeNode:
    def __init__(self, text="", parent=None):
        self.text = text
        self.parent = parent
        self.children = []
        self.visit_count = 0
        self.value_sum = 0.0
        self.residual_value = 0.0


class BudgetAwareUCB:
    def __init__(self, exploration_constant=1.0):
        self.exploration_constant = exploration_constant

    def compute_ucb_score(self, node_value, visit_count, total_budget, remaining_budget):
        exploitation = node_value / (visit_count + 1e-8)
        budget_factor = self.exploration_constant / (remaining_budget + 1e-8)
        exploration = budget_factor * math.sqrt(math.log(total_budget + 1) / (visit_count + 1e-8))
        return exploitation + exploration

    def select_best_child(self, node, remaining_budget, total_budget):
        if not node.children:
            return None
        return max(
            node.children,
            key=lambda child: self.compute_ucb_score(
                child.value_sum, child.visit_count, total_budget, remaining_budget
            ),
        )


class BudgetAwareValueTreeSearch:
    def __init__(self, model, critic_head, budget=1000):
        self.model = model
        self.critic_head = critic_head
        self.total_budget = budget
        self.remaining_budget = budget
        self.ucb = BudgetAwareUCB()

    def search(self, question, max_depth=10):
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

    def select_leaf(self, root, max_depth):
        node, depth = root, 0
        while node.children and depth < max_depth:
            node = self.ucb.select_best_child(node, self.remaining_budget, self.total_budget)
            depth += 1
        if depth < max_depth:
            for step in self.model.generate_next_steps(node.text, num_candidates=3):
                node.children.append(TreeNode(text=node.text + "\n" + step, parent=node))
            if node.children:
                return node.children[0]
        return None

    def backpropagate(self, node, value):
        while node is not None:
            node.visit_count += 1
            node.value_sum += value
            node = node.parent

    def extract_answer(self, root):
        texts, node = [], root
        while node.children:
            node = max(node.children, key=lambda child: child.value_sum / (child.visit_count + 1e-8))
            texts.append(node.text)
        return "\n".join(texts)

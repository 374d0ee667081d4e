"""The BAVT recipe's classes, with the recipe's exact behaviour, on the fast tree.

Change the import and the numbers, the order of calls to the model and the returned string stay the same. The
recipe's quirks stay with it; each class says what they are and what the engine, `bavt_fast.searcher`, does
instead. The two neural classes are in `bavt_fast.recipe.heads`, so that importing this module needs no torch.

Where the recipe would fail on bad input with an unrelated error, or only after it has called the model, the
classes here raise a TypeError or ValueError that names the argument.
"""

from __future__ import annotations

import math
import numbers
import sys
from collections.abc import Iterable
from typing import Any, Protocol

from bavt_fast._checks import as_count, as_iterator
from bavt_fast._core import RecipeTree

__all__ = ["BudgetAwareUCB", "BudgetAwareValueTreeSearch", "DualRoleLLMAgent", "TreeNode"]

NUM_CANDIDATES = 3
"""Steps the search asks for at every expansion."""

VISIT_EPSILON = BUDGET_EPSILON = 1e-8
"""What the recipe adds to every visit count and to every budget that it divides by."""

_NO_DEPTH_LIMIT = 2**32 - 1  # the largest that the native tree takes; no tree is so deep


class StepModel(Protocol):
    """What the search needs of a model."""

    def generate_next_steps(self, text: str, num_candidates: int) -> Iterable[str]:
        """Up to `num_candidates` next steps after `text`."""


class TrajectoryCritic(Protocol):
    """What the search needs of a critic head."""

    def estimate_residual_value(self, trajectory_text: str) -> float:
        """The value of the trajectory."""


class TreeNode:
    """A state of the search: its whole text so far, its place in the tree and its statistics.

    `visit_count` backups have added up to `value_sum`; `residual_value` is the critic's value where the node
    was scored itself, else 0.

    Quirk: every node holds the text of its whole trajectory. `bavt_fast.Tree` holds no text at all.
    """

    def __init__(self, text: str = "", parent: TreeNode | None = None) -> None:
        self.text = text
        self.parent = parent
        self.children: list[TreeNode] = []
        self.visit_count = 0
        self.value_sum = 0.0
        self.residual_value = 0.0


class BudgetAwareUCB:
    """The recipe's selection rule, in float64 and in this order of operations, without fused multiply-add:

        value / (n + 1e-8) + c / (remaining + 1e-8) * sqrt(ln(total + 1) / (n + 1e-8))

    Quirks:

    - The bonus is divided by the *remaining* budget, so the search explores more as the budget runs out,
      against the method's own idea. The engine's default policy, `power`, draws a node with weight V^(1/r),
      r = remaining / total: broad at first, greedy at the end.
    - An unvisited child has n = 0 and a bonus of 1e4 * c * sqrt(ln(total + 1)) / remaining: siblings are all
      tried before one is deepened while that is above the best mean value, and not tried otherwise.

    Args:
        exploration_constant: c.
    """

    def __init__(self, exploration_constant: float = 1.0) -> None:
        self.exploration_constant = exploration_constant

    def compute_ucb_score(
        self, node_value: float, visit_count: int, total_budget: float, remaining_budget: float
    ) -> float:
        """The score of a node with `visit_count` visits whose values sum to `node_value`.

        Raises:
            ValueError: `visit_count` or `total_budget` is negative.
        """
        if visit_count < 0:
            raise ValueError(f"visit_count: expected at least 0, got {visit_count}")
        weight, log_total = _bonus_terms(self.exploration_constant, total_budget, remaining_budget)
        return _score(node_value, visit_count, weight, log_total)

    def select_best_child(self, node: TreeNode, remaining_budget: float, total_budget: float) -> TreeNode | None:
        """The child with the highest score, the first of them on ties; None where there are no children.

        As in Python's ``max``, a NaN score beats all others on the first child, and none on a later one.
        """
        if not node.children:
            return None
        if not _has_method(self, "compute_ucb_score", _STOCK_SCORE):
            return max(
                node.children,
                key=lambda child: self.compute_ucb_score(
                    child.value_sum, child.visit_count, total_budget, remaining_budget
                ),
            )
        weight, log_total = _bonus_terms(self.exploration_constant, total_budget, remaining_budget)
        return max(node.children, key=lambda child: _score(child.value_sum, child.visit_count, weight, log_total))


def _bonus_terms(exploration: float, total_budget: float, remaining_budget: float) -> tuple[float, float]:
    """c / (remaining + 1e-8) and ln(total + 1), which siblings share."""
    if total_budget < 0:
        raise ValueError(f"total_budget: expected at least 0, got {total_budget}")
    return exploration / (remaining_budget + BUDGET_EPSILON), math.log(total_budget + 1)


def _score(value_sum: float, visit_count: int, bonus_weight: float, log_total: float) -> float:
    visits = visit_count + VISIT_EPSILON
    return value_sum / visits + bonus_weight * math.sqrt(log_total / visits)


_STOCK_SCORE = BudgetAwareUCB.compute_ucb_score
_STOCK_BEST_CHILD = BudgetAwareUCB.select_best_child


def _has_method(owner: object, name: str, function: object) -> bool:
    """Whether a method is still this module's `function`: neither a subclass nor a patch has replaced it."""
    method = getattr(owner, name)
    return getattr(method, "__func__", None) is function and method.__self__ is owner


class BudgetAwareValueTreeSearch:
    """The recipe's search: one iteration per unit of budget, t = 0 .. budget - 1, with budget - t remaining.

    An iteration descends from the root by `self.ucb` while the node has children and lies above `max_depth`.
    It asks the model for 3 next steps there and appends one child per step, with the text
    ``parent + "\\n" + step``. The critic scores the *first* child, and that value goes to the child and to
    all its ancestors.

    Quirks, and what the engine does instead:

    - The budget counts iterations. `bavt_fast.Budget` counts tokens, tool calls, seconds and cost.
    - The whole search ends the first time the descent reaches `max_depth`, or the model returns no step,
      whatever is left of the budget. The engine prunes that node and goes on.
    - Only the first of the new children is scored; its siblings wait unscored. The engine scores every node.
    - The answer repeats every prefix, for each node's text holds that of its ancestors, and follows the mean
      value, so it can end in children that were never visited where all visited ones are below 0.

    The search runs on the native tree and makes no `TreeNode`. Where `select_leaf`, `backpropagate` or
    `extract_answer` are overridden when it starts, and from when `ucb` is anything but an unchanged
    `BudgetAwareUCB`, it runs on objects, calls what it should, and is no faster than the recipe.

    Args:
        model: has ``generate_next_steps(text, num_candidates=3) -> list[str]``.
        critic_head: has ``estimate_residual_value(text) -> float``. A NaN is passed on, as in the recipe.
        budget: the number of iterations, an integer of at least 1 (the recipe returns "" for less).

    Attributes:
        total_budget: `budget`.
        remaining_budget: total_budget - t during iteration t; after the search, what it was in the last one.
        ucb: the selection rule, a `BudgetAwareUCB` or a subclass of it.
    """

    def __init__(self, model: StepModel, critic_head: TrajectoryCritic, budget: int = 1000) -> None:
        self.model = model
        self.critic_head = critic_head
        self.total_budget = as_count("budget", budget, minimum=1)
        self.remaining_budget = self.total_budget
        self.ucb = BudgetAwareUCB()

    def search(self, question: str, max_depth: int = 10) -> str:
        """The texts along the path of the highest mean value, joined with newlines; "" for a bare root.

        Raises:
            TypeError: `question` is not a str, `max_depth` is not a number, or model or critic returned a wrong type.
            ValueError: `max_depth` is NaN.
            Exception: whatever the model or the critic raises passes through.
        """
        _check_question(question, max_depth)
        iterations = range(self.total_budget)
        if type(question) is str and all(_has_method(self, name, stock) for name, stock in _STOCK_SEARCH):
            return self._search_native(question, iterations, max_depth)
        return self._search_nodes(TreeNode(question), iterations, max_depth)

    def _search_native(self, question: str, iterations: range, max_depth: float) -> str:
        """The search on the native tree; on objects from where that leaves to Python what only it computes exactly."""
        tree = RecipeTree(question, _depth_limit(max_depth), _STOCK_SCORE, _STOCK_BEST_CHILD, _as_tuple)
        t, left, given = tree.search(self, min(iterations.stop, sys.maxsize), NUM_CANDIDATES)
        if left is None:
            return "\n".join(tree.best_texts())
        nodes = _as_nodes(tree)
        if left == "select":
            return self._search_nodes(nodes[0], iterations[t:], max_depth)
        if left == "steps":
            _append_children(nodes[tree.leaf], given)
            self._score_leaf(nodes[tree.leaf].children[0])
        else:
            self._learn(nodes[tree.leaf].children[0], given)
        return self._search_nodes(nodes[0], iterations[t + 1 :], max_depth)

    def _search_nodes(self, root: TreeNode, iterations: range, max_depth: float) -> str:
        """The search on objects, step by step as the recipe has it."""
        for t in iterations:
            self.remaining_budget = self.total_budget - t
            leaf = self.select_leaf(root, max_depth)
            if leaf is None:
                break
            self._score_leaf(leaf)
        return self.extract_answer(root)

    def _score_leaf(self, leaf: TreeNode) -> None:
        self._learn(leaf, self.critic_head.estimate_residual_value(leaf.text))

    def _learn(self, leaf: TreeNode, value: float) -> None:
        _check_value(value)
        leaf.residual_value = value
        self.backpropagate(leaf, value)

    def select_leaf(self, root: TreeNode, max_depth: float) -> TreeNode | None:
        """Descend from `root`, expand, and return the first new child; None ends the search."""
        node, depth = root, 0
        while node.children and depth < max_depth:
            best = self.ucb.select_best_child(node, self.remaining_budget, self.total_budget)
            if best is None:
                raise TypeError("ucb.select_best_child: expected a child of a node that has children, got None")
            node = best
            depth += 1
        if depth >= max_depth:
            return None
        _append_children(node, self.model.generate_next_steps(node.text, num_candidates=NUM_CANDIDATES))
        return node.children[0] if node.children else None

    def backpropagate(self, node: TreeNode | None, value: float) -> None:
        """Add `value` and a visit to `node` and all its ancestors."""
        while node is not None:
            node.visit_count += 1
            node.value_sum += value
            node = node.parent

    def extract_answer(self, root: TreeNode) -> str:
        """The texts along the descent from `root` by the highest mean value, the first child on ties."""
        texts, node = [], root
        while node.children:
            node = max(node.children, key=lambda child: child.value_sum / (child.visit_count + VISIT_EPSILON))
            texts.append(node.text)
        return "\n".join(texts)


_STOCK_SEARCH = [
    (name, getattr(BudgetAwareValueTreeSearch, name)) for name in ("select_leaf", "backpropagate", "extract_answer")
]


class DualRoleLLMAgent:
    """One model as generator and critic.

    Quirks, and what the engine does instead:

    - The critic head has the default width, 768; for another model assign
      ``agent.critic_head = CriticHead(model, hidden_dim=...)``.
    - `budget_tokens` counts iterations of the search; ``bavt_fast.Budget(tokens=...)`` counts tokens.
    - Candidates are generated one call at a time; the engine's generator batches them.
    - `compare_budgets` calls ``self.evaluate``, which a subclass has to define.

    Args:
        base_model: has ``generate(prompt, max_tokens=..., temperature=...) -> str`` and, for the critic head,
            ``encode(text) -> Tensor`` of shape (1, 768).
    """

    def __init__(self, base_model: Any) -> None:
        from bavt_fast.recipe.heads import CriticHead

        self.model = base_model
        self.critic_head = CriticHead(base_model)

    def reason_with_budget(self, question: str, budget_tokens: int = 1000, max_depth: int = 10) -> str:
        """`BudgetAwareValueTreeSearch.search` with this agent as the model and `budget_tokens` iterations."""
        budget = as_count("budget_tokens", budget_tokens, minimum=1)
        return BudgetAwareValueTreeSearch(self, self.critic_head, budget).search(question, max_depth)

    def generate_next_steps(self, context: str, num_candidates: int = NUM_CANDIDATES) -> list[str]:
        """`num_candidates` sampled steps after `context`, stripped of surrounding white space.

        Raises:
            TypeError: ``base_model.generate`` returned no str.
        """
        prompt = context + "\n\nNext reasoning steps:"
        return [_stripped(self.model.generate(prompt, max_tokens=50, temperature=0.7)) for _ in range(num_candidates)]

    def compare_budgets(self, question: str, budgets: Iterable[int] = (100, 250, 500, 1000)) -> dict[int, Any]:
        """{budget: self.evaluate(reasoning, question)} for the reasoning that each budget buys.

        Raises:
            AttributeError: the agent has no ``evaluate(reasoning, question)``; define it in a subclass.
            TypeError, ValueError: a budget is not an integer of at least 1. No search has run then.
        """
        if not callable(getattr(self, "evaluate", None)):
            raise AttributeError(
                f"evaluate: expected a method evaluate(reasoning, question) of {type(self).__name__}, got none; "
                "define it in a subclass"
            )
        given = list(as_iterator("budgets", budgets, "integers of at least 1"))
        for budget in given:
            as_count("budgets", budget, minimum=1)
        scores = {}
        for budget in given:
            reasoning = self.reason_with_budget(question, budget)
            scores[budget] = self.evaluate(reasoning, question)  # type: ignore[attr-defined]
        return scores


def _check_question(question: object, max_depth: object) -> None:
    if not isinstance(question, str):
        raise TypeError(f"question: expected a str, got {type(question).__name__}")
    if type(max_depth) is not int and not isinstance(max_depth, numbers.Real):
        raise TypeError(f"max_depth: expected a number, got {type(max_depth).__name__}")
    if max_depth != max_depth:
        raise ValueError("max_depth: expected a number, got nan")


def _check_value(value: object) -> None:
    """Raises TypeError for what is not one number that can be added and compared."""
    if isinstance(value, (float, int)):
        return
    shape = tuple(getattr(value, "shape", ()))
    try:
        is_number = math.prod(shape) == 1
        _ = 0.0 + value > 0.0  # type: ignore[operator]
    except TypeError:
        is_number = False
    if not is_number:
        kind = type(value).__name__ + (f" of shape {shape}" if shape else "")
        raise TypeError(
            f"critic_head.estimate_residual_value: expected a number, got {kind}; return a float, e.g. tensor.item()"
        )


def _stripped(text: Any) -> str:
    """What a model generated, without surrounding white space."""
    if not isinstance(text, str):
        raise TypeError(f"base_model.generate: expected a str, got {type(text).__name__}; return the text alone")
    return text.strip()


def _depth_limit(max_depth: float) -> int:
    """The smallest whole depth that is not below `max_depth`."""
    if max_depth <= 0:
        return 0
    return _NO_DEPTH_LIMIT if max_depth >= _NO_DEPTH_LIMIT else math.ceil(max_depth)


def _as_tuple(steps: Iterable[str]) -> tuple[str, ...]:
    """What the user's model returned, an iterable of str."""
    if isinstance(steps, (str, bytes)) or not hasattr(steps, "__iter__"):
        raise TypeError(
            f"model.generate_next_steps: expected a list of str, got {type(steps).__name__}; "
            "return [] where there is no next step"
        )
    return tuple(steps)


def _append_children(node: TreeNode, steps: Iterable[str]) -> None:
    for step in _as_tuple(steps):
        if not isinstance(step, str):
            raise TypeError(f"model.generate_next_steps: expected a list of str, got {type(step).__name__} in it")
        node.children.append(TreeNode(node.text + "\n" + step, node))


def _as_nodes(tree: RecipeTree) -> list[TreeNode]:
    """The nodes of a native tree as objects, in the order of their ids."""
    nodes: list[TreeNode] = []
    for parent, text, visit_count, value_sum, residual_value in tree.nodes():
        node = TreeNode(text, None if parent is None else nodes[parent])
        node.visit_count, node.value_sum, node.residual_value = visit_count, value_sum, residual_value
        if node.parent is not None:
            node.parent.children.append(node)
        nodes.append(node)
    return nodes

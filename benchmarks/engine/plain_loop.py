"""The loop that people write by hand: dictionaries and lists, power selection, a counter for the budget.

The same search as ours with ``wave=1`` in what it does for a step: choose among all nodes by P ∝ weight^(1/r), ask for
one step within what is left, drop duplicates, score, add the child, back up. It reserves nothing, checks nothing that
the model returns and cannot be resumed.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

MAX_STEP_TOKENS = 64
MIN_VALUE = 1e-6


def search(
    question: str,
    generate: Callable[[str, int], tuple[str, int]],
    score: Callable[[str], float],
    budget_tokens: int,
    *,
    max_depth: int = 10,
    decay: float = 0.85,
    end: str = "Answer:",
    seed: int = 0,
) -> tuple[list[str], dict[str, Any]]:
    """Searches plain text within a budget; returns the best path's steps and the root.

    Args:
        generate: ``(context, most tokens) -> (step, its tokens)``.
        score: ``context -> V``.
    """
    rng = random.Random(seed)
    root = {"text": question, "step": "", "value": 1.0, "depth": 0, "visits": 0, "sum": 0.0, "parent": None}
    nodes, weights = [root], [1.0]
    seen = {question}
    best, spent = root, 0
    while spent < budget_tokens:
        power = budget_tokens / (budget_tokens - spent)
        top = max(weights)
        if top <= 0.0:
            break
        place = rng.choices(range(len(nodes)), [(weight / top) ** power for weight in weights])[0]
        node = nodes[place]
        step, tokens = generate(node["text"] + "\n", min(MAX_STEP_TOKENS, budget_tokens - spent))
        spent += tokens
        weights[place] *= decay
        step = step.strip()
        text = f"{node['text']}\n{step}"
        if not step or text in seen:
            continue
        seen.add(text)
        value = min(1.0, max(MIN_VALUE, score(text)))
        depth = node["depth"] + 1
        ends = depth >= max_depth or end in step
        child = {"text": text, "step": step, "value": value, "depth": depth, "visits": 0, "sum": 0.0, "parent": node}
        nodes.append(child)
        weights.append(0.0 if ends else value)
        above: dict[str, Any] | None = child
        while above is not None:
            above["visits"] += 1
            above["sum"] += value
            above = above["parent"]
        if ends and (best["parent"] is None or value > best["value"]):
            best = child
    path = []
    while best["parent"] is not None:
        path.append(best["step"])
        best = best["parent"]
    return path[::-1], root

"""Votes over the answers that a search reached, where no task can verify them.

One sample's answer may be wrong where that of most is right (Wang et al. 2023, "Self-Consistency Improves Chain of
Thought Reasoning in Language Models"). Here the states that end a path vote: each with one vote, or with its value V,
so that a critic's doubt counts. They are not independent samples as they are there: a search goes on where values are
high, paths share their beginnings, and texts that are equal are one state, which votes once however often it was
sampled.
"""

from __future__ import annotations

import inspect
import math
from collections import Counter
from typing import Any, NamedTuple

from bavt_fast.result import SearchResult
from bavt_fast.step_checks import checked_task

__all__ = ["Vote", "vote"]

RULES = ("value", "majority")


class Vote(NamedTuple):
    """The outcome of a vote.

    Attributes:
        answer: the answer with most votes, in the wording that most of its states have; None where no state has one.
        share: its part of all votes, from 0 to 1.
        counts: the votes of each answer, most first: how many states (`"majority"`), or the sum of their V (`"value"`).
    """

    answer: str | None
    share: float
    counts: dict[str, float]


def vote(result: SearchResult, task: Any = None, by: str = "value") -> Vote:
    """Which answer the terminal states of a search agree on.

    Equal answers count together: where ``task.same_answer(a, b)`` says so in either order, or else where they are the
    same text. Of answers with as many votes the one whose best state has the highest V wins, and then the one that was
    reached first.

    Args:
        result: of a search.
        task: the search's task; None compares texts.
        by: "value" weighs each state's vote by its V, "majority" gives each one vote. A state is a text: one that was
            sampled again is no second state.

    Raises:
        TypeError: `result` or `task` is something else.
        ValueError: there is no such rule.
    """
    if not isinstance(result, SearchResult):
        raise TypeError(f"result: expected a SearchResult, got {result!r:.80}")
    if inspect.isclass(task) or (task is not None and not hasattr(task, "same_answer")):
        checked_task(task)
    if by not in RULES:
        raise ValueError(f"by: expected one of {', '.join(RULES)}, got {by!r:.80}")
    groups = _groups(result.answers, getattr(task, "same_answer", None))
    values = result.tree.values
    ranked = []
    for nodes in groups:
        own = [float(values[node]) for node in nodes]
        votes = math.fsum(own) if by == "value" else len(own)
        wordings = Counter(str(result.answers[node]) for node in nodes)
        ranked.append((votes, max(own), -nodes[0], wordings.most_common(1)[0][0]))
    ranked.sort(reverse=True)
    counts = {answer: votes for votes, _, _, answer in ranked}
    if not ranked:
        return Vote(None, 0.0, {})
    return Vote(ranked[0][3], ranked[0][0] / math.fsum(counts.values()), counts)


def _groups(answers: tuple[str | None, ...], same_answer: Any) -> list[list[int]]:
    """The nodes of each answer, ascending. An answer belongs to the first that it is equal to."""
    groups: dict[str, list[int]] = {}  # by the answer that was reached first
    known: dict[str, str] = {}
    for node, answer in enumerate(answers):
        if answer is None:
            continue
        if answer not in known:
            known[answer] = answer
            if same_answer is not None:
                found = (first for first in groups if same_answer(first, answer) or same_answer(answer, first))
                known[answer] = next(found, answer)
        groups.setdefault(known[answer], []).append(node)
    return list(groups.values())

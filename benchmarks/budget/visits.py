"""What a search does with its tokens, and how good the critic is on the states that the search visits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bavt_fast import Search
from bavt_fast.tasks.countdown import CountdownOracle
from bavt_fast.training.figures import auc

KINDS = ("kept the target within reach", "put it out of reach", "at a dead state", "duplicate", "invalid")
"""What a step did. A dead state is one from which the target cannot be reached."""


@dataclass
class Visits:
    """States that searches have visited, the questions themselves and answers left out.

    Attributes:
        left: (states,) how many numbers each has left.
        values: (states,) the critic's V.
        alive: bool (states,) whether the target can be reached (exact search).
        searches: (states,) which search visited it.
        tokens: (kinds,) tokens spent on steps of each of `KINDS`.
    """

    left: np.ndarray
    values: np.ndarray
    alive: np.ndarray
    searches: np.ndarray
    tokens: np.ndarray

    def figures(self) -> dict[str, float]:
        """AUC and Brier score by numbers left, the share of wrong pairs, and the share of tokens by kind."""
        found: dict[str, float] = {"brier": self.brier(np.ones(len(self.left), dtype=bool))}
        for left in sorted(set(self.left.tolist())):
            chosen = self.left == left
            found[f"auc_{left}_left"] = auc(self.values[chosen], self.alive[chosen])
            found[f"brier_{left}_left"] = self.brier(chosen)
            found[f"alive_{left}_left"] = float(self.alive[chosen].mean())
            found[f"states_{left}_left"] = float(chosen.sum())
        found["rank_errors"] = self.rank_errors()
        total = max(1, int(self.tokens.sum()))
        return found | {kind: float(tokens / total) for kind, tokens in zip(KINDS, self.tokens, strict=True)}

    def brier(self, chosen: np.ndarray) -> float:
        """Mean square of V minus the truth."""
        return float(((self.values - self.alive)[chosen] ** 2).mean()) if chosen.any() else float("nan")

    def rank_errors(self) -> float:
        """Of all pairs of a living and a dead state in one search, the share in which the dead one has the higher V."""
        wrong, pairs = 0.0, 0
        for search in set(self.searches.tolist()):
            own = self.searches == search
            living, dead = self.values[own & self.alive], self.values[own & ~self.alive]
            difference = dead[:, None] - living[None, :]
            wrong += float((difference > 0).sum() + 0.5 * (difference == 0).sum())
            pairs += difference.size
        return wrong / pairs if pairs else float("nan")

    def reliability(self, bins: int = 10) -> list[tuple[float, float, int]]:
        """(mean V, share alive, states) of each tenth of V that has states."""
        place = np.minimum((self.values * bins).astype(int), bins - 1)
        rows = []
        for number in range(bins):
            chosen = place == number
            if chosen.any():
                rows.append((float(self.values[chosen].mean()), float(self.alive[chosen].mean()), int(chosen.sum())))
        return rows


def visits_of(searches: Iterable[Search]) -> Visits:
    """What searches that are done have visited."""
    columns: list[tuple[int, float, bool, int]] = []
    tokens = np.zeros(len(KINDS), dtype=np.int64)
    for number, search in enumerate(searches):
        alive = np.array(CountdownOracle().score(search.nodes)) == 1.0
        tree = search.tree
        tokens += _spent(search, alive, tree.parents.tolist())
        for node, is_alive in zip(search.nodes[1:], alive[1:].tolist(), strict=True):
            if len(node.state.numbers) > 1:
                columns.append((len(node.state.numbers), float(node.value or 0.0), is_alive, number))
    left, values, living, numbers = zip(*columns, strict=True) if columns else ((), (), (), ())
    return Visits(
        np.array(left, dtype=int),
        np.array(values, dtype=float),
        np.array(living, dtype=bool),
        np.array(numbers, dtype=int),
        tokens,
    )


def _spent(search: Search, alive: np.ndarray, parents: Sequence[int]) -> np.ndarray:
    """(kinds,) tokens by what they did."""
    kept, lost, dead, duplicate, invalid = range(len(KINDS))
    tokens = np.zeros(len(KINDS), dtype=np.int64)
    for place, node in enumerate(search.nodes[1:], start=1):
        assert node.step is not None, "only the root has none"
        kind = dead if not alive[parents[place]] else kept if alive[place] else lost
        tokens[kind] += node.step.tokens
    for refusal in search.result().refused:
        if refusal.reason == "duplicate":
            kind = duplicate
        elif refusal.reason == "refuted":
            kind = lost if alive[refusal.node] else dead
        else:
            kind = invalid
        tokens[kind] += refusal.step.tokens
    return tokens

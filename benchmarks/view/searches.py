"""Searches to look at: as many nodes as wanted, steps of 40 characters, events recorded."""

from __future__ import annotations

import random
from collections.abc import Callable

from bavt_fast.budget import Budget
from bavt_fast.result import SearchResult
from bavt_fast.searcher import Searcher

STEP_CHARACTERS = 40


def steps_of(rng: random.Random) -> Callable[[str, int], list[str]]:
    """A generator of words nobody knows, which compress no better than words do."""
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randrange(2, 9))) for _ in range(400)]

    def propose(text: str, count: int) -> list[str]:
        return [" ".join(rng.choices(words, k=STEP_CHARACTERS // 3))[:STEP_CHARACTERS] for _ in range(count)]

    return propose


def search_of(nodes: int, record: bool = True) -> SearchResult:
    """A search that ends at so many nodes."""
    rng = random.Random(0)
    searcher = Searcher(steps_of(rng), lambda text: rng.random(), record=record, wave=4, max_nodes=nodes)
    return searcher.search("Which of these words are words?", budget=Budget(tokens=20 * nodes))

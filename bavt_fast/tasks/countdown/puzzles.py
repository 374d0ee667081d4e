"""The Game of 24 puzzles that the field reports on."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib import resources
from typing import Any

__all__ = ["GAME24_TEST_RANKS", "gym_question", "load_game24"]

GAME24_TEST_RANKS = range(901, 1001)
"""The ranks of the public test set, as the Tree-of-Thoughts paper uses them."""


def load_game24() -> list[tuple[int, tuple[int, ...]]]:
    """The 1,362 Game of 24 puzzles of the Tree-of-Thoughts paper: (rank, numbers), in its order."""
    text = resources.files("bavt_fast.tasks.countdown").joinpath("data/game24.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(text.splitlines())
    return [(int(row["rank"]), tuple(int(n) for n in row["numbers"].split())) for row in rows]


def gym_question(problem: Mapping[str, Any]) -> str:
    """A problem of reasoning-gym's "countdown" or "puzzle24" as `Countdown` takes it, for `ReasoningGymTask`."""
    about = problem["metadata"]
    return f"{' '.join(map(str, about['numbers']))} -> {about.get('target', 24)}"

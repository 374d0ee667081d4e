"""How much a run of the benchmarks takes on, from the environment variable BAVT_BENCH."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

BRANCHING = 3  # children per expansion, everywhere
WAVES = 400  # simulations in each tree of a forest, and of the rivals that search in batches, in a full run


@dataclass(frozen=True)
class Effort:
    """Limits of a run: the largest tree in nodes or simulations, and what a row takes in rounds and in seconds."""

    largest: int
    trees: tuple[int, ...]
    waves: int
    row_s: float
    rounds: tuple[int, int]  # fewest and most, whatever a row takes

    def sizes(self, wanted: Iterable[int]) -> list[int]:
        return [size for size in wanted if size <= self.largest]


EFFORTS = {
    "full": Effort(10_000_000, (1, 64, 1024), WAVES, row_s=5.0, rounds=(5, 300)),
    "quick": Effort(10_000, (1, 64, 1024), 100, row_s=0.2, rounds=(2, 20)),
    "tiny": Effort(1_000, (1, 64), 20, row_s=0.0, rounds=(2, 2)),
}


def effort() -> Effort:
    name = os.environ.get("BAVT_BENCH", "full")
    if name not in EFFORTS:
        raise ValueError(f"BAVT_BENCH: {name!r} is none of {', '.join(EFFORTS)}")
    return EFFORTS[name]

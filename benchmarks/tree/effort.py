"""How much a run of the benchmarks takes on, from the environment variable BAVT_BENCH."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from benchmarks.harness import Limits

BRANCHING = 3  # children per expansion, everywhere
WAVES = 400  # simulations in each tree of a forest, and of the rivals that search in batches, in a full run


@dataclass(frozen=True)
class Effort:
    """Limits of a run: the largest tree in nodes or simulations, and what a row takes."""

    largest: int
    trees: tuple[int, ...]
    waves: int
    limits: Limits

    def sizes(self, wanted: Iterable[int]) -> list[int]:
        return [size for size in wanted if size <= self.largest]


EFFORTS = {
    "full": Effort(10_000_000, (1, 64, 1024), WAVES, Limits(5.0, fewest=5, most=300)),
    "quick": Effort(10_000, (1, 64, 1024), 100, Limits(0.2, fewest=2, most=20)),
    "tiny": Effort(1_000, (1, 64), 20, Limits(0.0, fewest=2, most=2)),
}


def effort() -> Effort:
    name = os.environ.get("BAVT_BENCH", "full")
    if name not in EFFORTS:
        raise ValueError(f"BAVT_BENCH: expected one of {', '.join(EFFORTS)}, got {name!r}")
    return EFFORTS[name]

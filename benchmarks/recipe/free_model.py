"""A model and critic that cost next to nothing, so that what is timed is the search."""

from __future__ import annotations

import random


class FreeModel:
    """Three constant steps and values drawn beforehand."""

    def __init__(self, budget: int, step_chars: int, seed: int) -> None:
        self.steps = [name * step_chars for name in "abc"]
        rng = random.Random(seed)
        self.values = iter([rng.random() for _ in range(budget)])
        self.num_calls = 0

    def generate_next_steps(self, text: str, num_candidates: int = 3) -> list[str]:
        self.num_calls += 1
        return self.steps

    def estimate_residual_value(self, trajectory_text: str) -> float:
        return next(self.values)

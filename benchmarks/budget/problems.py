"""The problems that the embedded model was not trained on."""

from __future__ import annotations

from bavt_fast.tasks.countdown import GAME24_TEST_RANKS, load_game24
from bavt_fast.tasks.countdown.training.figures import held_out_problems


def countdown_questions(residue: int, count: int, seed: int) -> list[str]:
    """Held-out Countdown-5 problems: numbers from 1 to 50, targets from 1 to 100."""
    numbers, targets = held_out_problems(residue, count, 5, seed)
    return [f"{' '.join(map(str, row))} -> {target}" for row, target in zip(numbers, targets, strict=True)]


def game24_questions() -> list[str]:
    return [" ".join(map(str, numbers)) for rank, numbers in load_game24() if rank in GAME24_TEST_RANKS]

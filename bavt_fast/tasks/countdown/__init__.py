"""Countdown and the Game of 24: the task, the exact solver as a critic, the puzzles, and the model that ships."""

from __future__ import annotations

from bavt_fast.tasks.countdown.oracle import CountdownOracle
from bavt_fast.tasks.countdown.puzzles import GAME24_TEST_RANKS, gym_question, load_game24
from bavt_fast.tasks.countdown.task import Countdown, CountdownState, check_expression

__all__ = [
    "GAME24_TEST_RANKS",
    "Countdown",
    "CountdownOracle",
    "CountdownState",
    "check_expression",
    "gym_question",
    "load_game24",
    "make_oracle",
    "make_task",
]

make_task = Countdown
"""What a model folder that names this module is given."""


def make_oracle(fractions: bool = False) -> CountdownOracle:
    """The exact solver, as what a critic is to learn: 1 where the target can be reached, 0 elsewhere.

    Args:
        fractions: as of the task.
    """
    return CountdownOracle(unsolvable_value=0.0, fractions=fractions)

"""Countdown's half of the training: what the embedded model is, and what it is trained and judged on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bavt_fast.tasks.countdown.training.course import CountdownCourse

__all__ = ["make_course"]


def make_course() -> CountdownCourse:
    """What `bavt_fast.training.trainer.Trainer` needs to train the embedded model. Needs torch and transformers."""
    from bavt_fast.tasks.countdown.training.course import CountdownCourse

    return CountdownCourse()

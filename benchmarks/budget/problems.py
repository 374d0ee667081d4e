"""The problems: sets that the model was not trained on, and those that settings are chosen on.

`bavt_fast.tasks.countdown.training.states` keeps two residues of a hash of a problem's numbers out of training,
whatever range the numbers are from: one for validation, one for tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from bavt_fast.protocols import Critic, Description
from bavt_fast.tasks.countdown import GAME24_TEST_RANKS, Countdown, CountdownState, load_game24
from bavt_fast.tasks.countdown.training.figures import held_out_problems
from bavt_fast.tasks.countdown.training.states import SMALL, TEST, VALIDATION, WIDE, Range, held_out
from benchmarks.harness import LeftOut

GAME24 = "Game of 24, ranks 901-1000"


@dataclass(frozen=True)
class Problems:
    """A set of problems.

    Attributes:
        questions: those that the task can state.
        refused: how many more there are whose numbers it does not take: they count as not solved.
        task: verifies as the set's owner does.
        solver: knows exactly from which states of the task an answer can be reached; None for Countdown's.
    """

    name: str
    questions: Sequence[str]
    refused: int
    task: Any
    solver: Critic | None = None

    @property
    def size(self) -> int:
        return len(self.questions) + self.refused

    @property
    def held_out(self) -> int:
        """How many of the questions training leaves out for sure; it may have drawn the others by chance."""
        states = [self.task.initial_state(question).numbers for question in self.questions]
        return sum(bool(held_out(np.array([numbers], np.int32))[0]) for numbers in states)

    def part(self, count: int) -> Problems:
        """So many at even distances, for a set may be sorted by how hard they are; refused ones in proportion."""
        size = min(count, self.size)
        kept = max(1, round(len(self.questions) * size / self.size))
        places = np.linspace(0, len(self.questions) - 1, kept).round().astype(int).tolist()
        return replace(self, questions=[self.questions[place] for place in places], refused=size - kept)


def countdown_set(name: str, numbers: int, span: Range, count: int, seed: int, residue: int = TEST) -> Problems:
    """Held-out Countdown problems that have a solution."""
    drawn, targets = held_out_problems(residue, count, numbers, seed, span)
    questions = [f"{' '.join(map(str, row))} -> {target}" for row, target in zip(drawn, targets, strict=True)]
    return Problems(name, questions, 0, Countdown())


def game24_questions() -> list[str]:
    """The public test set."""
    return [" ".join(map(str, numbers)) for rank, numbers in load_game24() if rank in GAME24_TEST_RANKS]


def game24_set() -> Problems:
    return Problems(GAME24, game24_questions(), 0, Countdown())


def reasoning_gym_set(family: str, count: int = 100, seed: int = 42) -> Problems:
    """``countdown`` or ``puzzle24`` of reasoning_gym at its defaults, judged by its own verifier.

    Raises:
        LeftOut: the package is not installed.
    """
    try:
        import reasoning_gym
    except ImportError as error:
        raise LeftOut(f"reasoning_gym's {family}: {error}") from error
    dataset = reasoning_gym.create_dataset(family, size=count, seed=seed)
    questions, entries = [], {}
    for entry in dataset:
        numbers, target = entry["metadata"]["numbers"], entry["metadata"].get("target", 24)
        question = f"{' '.join(map(str, numbers))} -> {target}"
        try:
            state = Countdown().initial_state(question)
        except ValueError:
            continue
        questions.append(question)
        entries[state.numbers, state.target] = entry
    task = JudgedCountdown(lambda start, answer: dataset.score_answer(answer, entries[start]) == 1.0)
    return Problems(f"reasoning_gym {family}", questions, count - len(questions), task)


class JudgedCountdown(Countdown):
    """Countdown whose answers somebody else judges: ``judge((numbers, target), expression)``. What the task refutes
    stays refuted."""

    def __init__(self, judge: Callable[[tuple[tuple[int, ...], int], str], bool]) -> None:
        super().__init__()
        self._judge = judge

    def describe(self, state: CountdownState) -> Description:
        about = super().describe(state)
        if not about.verdict:
            return about
        assert about.answer is not None, "a number left alone has its expression"
        numbers = tuple(sorted(int(word) for word in _words(about.answer)))
        return about._replace(verdict=self._judge((numbers, state.target), about.answer))


def _words(expression: str) -> list[str]:
    return "".join(c if c.isdigit() else " " for c in expression).split()


def validation_set(count: int, seed: int) -> Problems:
    """A quarter each of Countdown-4, -5 and -6 in the small range and Countdown-5 in the wide one."""
    kinds = [(4, SMALL), (5, SMALL), (6, SMALL), (5, WIDE)]
    parts = [
        countdown_set("", k, span, len(range(i, count, len(kinds))), seed, VALIDATION)
        for i, (k, span) in enumerate(kinds)
    ]
    return Problems("validation", [question for part in parts for question in part.questions], 0, Countdown())


def _reasoning_gym(family: str) -> Callable[[int, int], Problems]:
    return lambda count, seed: reasoning_gym_set(family, min(count, 100))


def _countdown(name: str, numbers: int, span: Range) -> Callable[[int, int], Problems]:
    return lambda count, seed: countdown_set(name, numbers, span, count, seed)


SETS: dict[str, Callable[[int, int], Problems]] = {
    "game24": lambda count, seed: game24_set(),
    "countdown4": _countdown("Countdown-4", 4, SMALL),
    "countdown5": _countdown("Countdown-5", 5, SMALL),
    "countdown6": _countdown("Countdown-6", 6, SMALL),
    "wide5": _countdown("Countdown-5, numbers to 100, targets to 999", 5, WIDE),
    "gym-countdown": _reasoning_gym("countdown"),
    "gym-puzzle24": _reasoning_gym("puzzle24"),
}
"""Sets by the name that the command line takes: made of a number of problems and a seed."""

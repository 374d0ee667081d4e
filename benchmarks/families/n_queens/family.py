"""reasoning_gym's n_queens on 12 rows with 8 or 9 queens to place, and which of its problems are for what.

No text that the model learns from has all queens of a problem that is held out (`boards.contains`): it has seen none of
the states that a search of such a problem can come to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bavt_fast.protocols import Node
from bavt_fast.tasks.n_queens import NO_QUEEN
from benchmarks.budget.methods import SOLVER, TUNED
from benchmarks.families.family import CRITIC_SEED, Choices, Family, Texts
from benchmarks.families.n_queens.boards import Teacher, all_solutions
from benchmarks.families.n_queens.imitation import Sizes, Student

TEXTS = Texts(
    problems="""\
A board of 12 rows on which 3 or 4 queens stand, and 8 or 9 are to be placed. The prompt shows the squares of every
empty row that no queen attacks; a step is one of those of the first empty row (`c4` and a line break, two tokens). A
path ends at a full board, or at a row that has no free square; nobody says before that it was lost some queens ago
(`bavt_fast/tasks/n_queens.py`).""",
    learnt="""\
The model imitates good queens, and is asked beside it whether boards can be completed and what a queen leaves in other
rows (`benchmarks/families/n_queens/imitation.py`). The critic reads contexts: the prompt of the state behind a step,
where the free squares stand. To compute it is what the next step from there would have cost; of a step alone it knows
less (`docs/critics.md`; the multipliers were 1.2 / 1.8 / 2.1 / 3.0 with the same model, commit 7b0ad91).""",
    held_out="""\
No state that the model learnt from, and none behind a step of one, has all queens of a validation or test problem on
its board. So it has seen no state, living or dead, that a search of such a problem can come to (`boards.contains`;
tests prove it from the data). The problems of the critic's training are others of the family.""",
    groups="by the queens that are missing",
    group="missing",
    good="can be completed",
    limit="""\
While six or more queens are missing, the critic often does not see that one is wrong, as the model did not when it set
it. Two queens later it mostly does: what a search pays for it is these queens.""",
)


@dataclass(frozen=True)
class Queens(Family):
    """The family, and how large its boards and its model are."""

    name: ClassVar[str] = "n_queens"
    minutes: ClassVar[float] = 20.0
    temperatures: ClassVar[tuple[float, ...]] = (0.5, 0.7)
    choices: ClassVar[Choices] = {
        TUNED: {
            "policy": ("power", "best_first"),
            "decay": (0.6, 0.5, 0.7, 0.8),
            "tried_exponent": (1.0, 0.5, 0.0),
            "root_value": (1.0, 0.4),
            "discount": (0.65, 0.5, 0.8, 0.88, 0.94, 0.97),
        },
        SOLVER: {"discount": (0.8,)},
    }
    """The task counts a queen as one token at the least, so the discount that fits is the probability that a step from
    a living state is good (docs/how_to/choose.md)."""
    texts: ClassVar[Texts] = TEXTS

    config: Mapping[str, Any] = field(default_factory=lambda: {"n": 12, "min_remove": 8, "max_remove": 9})
    critic_options: Mapping[str, Any] = field(
        default_factory=lambda: {
            "task": "reasoning_gym",
            "temperature": 0.7,
            "budget-tokens": 100,
            "rounds": 2,
            "completions": 4,
            "max-step-tokens": 4,
            "reads": "context",
        }
    )
    sizes: Sizes = field(default_factory=Sizes)

    def train_model(self, folder: Path, minutes: float) -> None:
        held_out = self.held_out_boards()
        teacher = Teacher(all_solutions(self.config["n"]), held_out, seed=0)
        print(f"{len(teacher.solutions)} solutions to imitate; {len(held_out)} puzzles held out", flush=True)
        Student(teacher, folder, minutes, self.sizes).train()

    def held_out_boards(self) -> np.ndarray:
        """int64 (problems, size): the columns of the queens that stand in each problem that is held out."""
        sets = [self.validation_set(self.validation), self.fresh_set(self.test)]
        states = [part.task.initial_state(question).inner for part in sets for question in part.questions]
        return np.array([list(state.columns) for state in states], dtype=np.int64)

    @property
    def critic_task(self) -> str:
        return f"reasoning_gym:{self.name}"

    def critic_problem_words(self, folder: Path) -> list[str]:
        options = {"name": self.name, "inner": self.name, **self.config}
        options |= {"size": self.critic_problems, "seed": CRITIC_SEED}
        return [word for name, value in options.items() for word in ("--task-option", f"{name}={value}")]

    def judged(self, nodes: Sequence[Node], solver: Any) -> list[tuple[int, bool]]:
        """By the queens that are missing; good is what can be completed."""
        missing = [node.state.inner.columns.count(NO_QUEEN) for node in nodes]
        return list(zip(missing, [value == 1.0 for value in solver.score(nodes)], strict=True))

"""reasoning_gym's jugs as it comes (3 jugs of 3 to 13 litres, 10 moves at the least), and which of its problems are for
what.

There are few sets of jugs that ask for so many moves: 70, whatever their order. So they are told apart by the
capacities alone (`puzzles.part_of`): capacities of validation and test problems are in nothing that the model or the
critic learns from, in whatever order, with whatever target.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from bavt_fast.protocols import Node
from bavt_fast.tasks.jugs import Jugs, JugsState, distance
from benchmarks.budget.methods import SOLVER, TUNED
from benchmarks.budget.problems import Problems
from benchmarks.families.family import (
    CRITIC_PROBLEMS,
    CRITIC_SEED,
    TEST_SEED,
    VALIDATION_SEED,
    Choices,
    Family,
    Texts,
    with_task,
)
from benchmarks.families.jugs.imitation import Sizes, Student
from benchmarks.families.jugs.puzzles import PARTS, TEST, VALIDATION, Teacher, part_of

FOR_CRITIC = tuple(part for part in range(PARTS) if part not in (*VALIDATION, *TEST))
DRAWN_FOR_ONE = 12
"""Problems drawn for each one that is wanted; those of other parts, and those that came before, are left out."""
TEXTS = Texts(
    problems="""\
Three jugs of 3 to 13 litres, all empty, and a target that one of them is to hold, 10 to 22 moves away: fill a jug,
empty it, or pour one into another. The prompt shows the target and, of each jug, volume and capacity; a step is one
move (`A>B` and a line break, two tokens). A move that changes nothing ends a path, and nothing else does: any jug can
be emptied again, so a sampled path is never lost, it only wanders. It is given up after 20, 40 or 100 moves: for every
budget after as many as does best on the test problems themselves, which favours sampling (temperatures of 0.1 and 0.5,
in an earlier run, did not do better). A search drops volumes that it has come to before, in jugs of one capacity in
whatever order (`bavt_fast/tasks/jugs.py`).""",
    learnt="""\
The model imitates all moves of shortest ways, and is asked beside it how many moves are left, which moves come nearer,
and what each makes of the volumes (`benchmarks/families/jugs/imitation.py`).""",
    held_out="""\
Capacities of validation and test problems are in nothing that model or critic learnt from, in whatever order and with
whatever target (`puzzles.part_of`; tests prove it from the data). The family has few sets of jugs that ask for so many
moves, 70. So the 160 test problems, no two of them the same, are 82 puzzles in 28 sets when the jugs' order is left
out, which the model does not: the intervals, over problems, are narrower than over puzzles.""",
    groups="by the moves that led there, in fives",
    group="moves up to",
    good="at most half of the way left",
    limit="""\
A state is good where no more than half of the moves are left that a shortest way from empty jugs has. From most volumes
two ways go on, round and round in opposite directions, and which one is shorter is a matter of remainders, which the
model does not work out for capacities that it has not seen. A path that is sampled goes to and fro, for the prompt does
not say where it came from; a search goes each way once.""",
)


@dataclass(frozen=True)
class ThreeJugs(Family):
    """The family, and how large its model is."""

    name: ClassVar[str] = "jugs"
    minutes: ClassVar[float] = 3.2
    temperatures: ClassVar[tuple[float, ...]] = (0.3, 0.2)
    choices: ClassVar[Choices] = {
        TUNED: {
            "policy": ("best_first", "power"),
            "decay": (0.7, 0.5, 0.85),
            "tried_exponent": (0.0, 0.5, 1.0),
            "root_value": (1.0, 0.4),
        },
        SOLVER: {"policy": ("best_first",), "decay": (0.7, 0.85)},
    }
    most_steps: ClassVar[Sequence[int]] = (100, 20, 40)
    """An answer of more moves could be longer than `ReasoningGymTask` gives to a verifier."""
    texts: ClassVar[Texts] = TEXTS

    config: Mapping[str, Any] = field(default_factory=lambda: {"difficulty": 10})
    validation: int = 40
    test: int = 160
    critic_problems: int = 120
    critic_options: Mapping[str, Any] = field(
        default_factory=lambda: {"temperature": 0.7, "budget-tokens": 200, "rounds": 2, "max-step-tokens": 4}
    )
    sizes: Sizes = field(default_factory=Sizes)

    def validation_set(self, count: int) -> Problems:
        return self._of_parts("validation", VALIDATION, count, self.validation, VALIDATION_SEED)

    def fresh_set(self, count: int, first: int = 0) -> Problems:
        drawn = self._of_parts(f"reasoning_gym {self.name}", TEST, first + count, self.test, TEST_SEED)
        return replace(drawn, questions=drawn.questions[first:])

    def _of_parts(self, name: str, parts: Collection[int], count: int, most: int, seed: int) -> Problems:
        """The first of the family's problems whose capacities are in some parts, no question twice."""
        every = _drawn(self, name, most * DRAWN_FOR_ONE // len(parts), seed)
        states = {question: every.task.initial_state(question).inner for question in every.questions}
        questions = [question for question, state in states.items() if part_of(state.capacities) in parts][:count]
        if len(questions) < count:
            raise ValueError(f"count: expected at most {len(questions)}, got {count}")
        return replace(every, questions=questions)

    def limited(self, problems: Problems, most_steps: int) -> Problems:
        return with_task(problems, Jugs(max_moves=most_steps))

    def train_model(self, folder: Path, minutes: float) -> None:
        most = 3 + self.config["difficulty"]  # litres, as the family draws them
        teacher = Teacher((3, most), self.config["difficulty"], seed=0)
        print(f"{len(teacher)} puzzles in {len(teacher.sets)} sets of jugs", flush=True)
        Student(teacher, most, folder, minutes, self.sizes).train()

    @property
    def critic_task(self) -> str:
        return self.name

    def critic_problem_words(self, folder: Path) -> list[str]:
        return ["--task", self.name, "--problems", str(folder / CRITIC_PROBLEMS)]

    def critic_questions(self) -> list[str]:
        """Problems of the family with capacities that nothing else has."""
        drawn = self._of_parts("critic", FOR_CRITIC, self.critic_problems, self.critic_problems, CRITIC_SEED)
        return list(drawn.questions)

    def judged(self, nodes: Sequence[Node], solver: Any) -> list[tuple[int, bool]]:
        """By the moves that led there, in fives; good is what has come half of the way."""
        states = [node.state.inner for node in nodes]
        starts = [state._replace(volumes=(0,) * len(state.volumes)) for state in states]
        good = [2 * _left(state) <= _left(start) for state, start in zip(states, starts, strict=True)]
        return [(-(-len(state.moves) // 5) * 5, is_good) for state, is_good in zip(states, good, strict=True)]


@lru_cache(maxsize=8)
def _drawn_for(config: tuple[tuple[str, Any], ...], name: str, count: int, seed: int) -> Problems:
    """Drawing takes long: each set once in a process."""
    return Family.problems(ThreeJugs(dict(config)), name, count, seed)


def _drawn(family: ThreeJugs, name: str, count: int, seed: int) -> Problems:
    return _drawn_for(tuple(sorted(family.config.items())), name, count, seed)


def _left(state: JugsState) -> int:
    left = distance(state)
    assert left is not None, "the family asks for what can be reached, and any jug can be emptied"
    return left

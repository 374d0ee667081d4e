"""What a family of problems is to this benchmark: its problems, how a model learns it, and what its report says.

Everything else (the critic, the methods, the choices, the tables) is the same for all families.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from bavt_fast.protocols import Node
from bavt_fast.tasks import task_module
from bavt_fast.tasks.reasoning_gym import ReasoningGymTask
from benchmarks.budget.problems import Problems

MODEL, CRITIC, CRITIC_PROBLEMS = "model", "critic.safetensors", "critic_problems.txt"
"""In a family's folder."""
VALIDATION_SEED, TEST_SEED, CRITIC_SEED = 2_000_000, 3_000_000, 1_000_000
"""Of reasoning_gym, whose problem of a number has a seed of its own: the sum of the two."""
Choices = Mapping[str, Mapping[str, Sequence[Any]]]


class Texts(NamedTuple):
    """What the report says in words.

    Attributes:
        problems: what the problems are, what a step is and when a path ends.
        learnt: what the model imitates, and what it is asked beside it.
        held_out: what training has not seen, and who proves it.
        groups: by what visited states are grouped, as a clause; group, good: heads of that table.
        limit: what the table shows.
    """

    problems: str
    learnt: str
    held_out: str
    groups: str
    group: str
    good: str
    limit: str


@dataclass(frozen=True)
class Family(ABC):
    """A family of reasoning_gym that the package has a task for, by the same name.

    Args:
        config: of the family.
        validation, test: how many problems training keeps away from; a plan measures no others.
        critic_problems: how many the critic is trained on.
        critic_options: of `bavt-fast train critic`, by name.
    """

    name: ClassVar[str]
    minutes: ClassVar[float]  # of a core, for the model
    temperatures: ClassVar[tuple[float, ...]]
    choices: ClassVar[Choices]
    """Of methods by name: what is chosen on validation problems besides the temperature, the default first."""
    most_steps: ClassVar[Sequence[int]] = ()
    """After how many steps a sampled path may be given up; none where a path ends by itself."""
    texts: ClassVar[Texts]

    config: Mapping[str, Any]
    validation: int = 60
    test: int = 200
    critic_problems: int = 400
    critic_options: Mapping[str, Any] = field(default_factory=dict)

    def problems(self, name: str, count: int, seed: int) -> Problems:
        """So many problems, judged by the family's own verifier."""
        task = ReasoningGymTask(self.name, inner=self.name, size=count, seed=seed, **self.config)
        oracle = task_module(self.name).make_oracle()
        return Problems(name, task.questions, 0, task, InnerSolver(oracle))

    def validation_set(self, count: int) -> Problems:
        """What settings are chosen on."""
        return self.problems("validation", count, VALIDATION_SEED)

    def fresh_set(self, count: int, first: int = 0) -> Problems:
        """What is reported; from the first of these numbers on."""
        return self.problems(f"reasoning_gym {self.name}", count, TEST_SEED + first)

    def limited(self, problems: Problems, most_steps: int) -> Problems:
        """The same problems, where a path that has made so many steps is wrong."""
        raise ValueError(f"most_steps: expected none for {self.name}, whose paths end by themselves, got {most_steps}")

    @abstractmethod
    def train_model(self, folder: Path, minutes: float) -> None:
        """Trains the model that a folder is to hold; it goes on where it was interrupted."""

    @property
    @abstractmethod
    def critic_task(self) -> str:
        """The name of the task in the critic's file."""

    @abstractmethod
    def critic_problem_words(self, folder: Path) -> list[str]:
        """The words of `bavt-fast train critic` that say what task and which problems."""

    def critic_questions(self) -> list[str] | None:
        """Of the file that those words name; None where they name none."""
        return None

    def prepare_critic(self, folder: Path) -> None:
        """Writes that file, a question a line."""
        questions = self.critic_questions()
        if questions is not None:
            (folder / CRITIC_PROBLEMS).write_text("".join(f"{question}\n" for question in questions))

    def critic_command(self, folder: Path) -> list[str]:
        """The call of `bavt-fast train critic`, behind the name of the program."""
        options = {**self.critic_options, "model": folder / MODEL, "out": folder / CRITIC}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        return ["train", "critic", *words, *self.critic_problem_words(folder)]

    @abstractmethod
    def judged(self, nodes: Sequence[Node], solver: Any) -> list[tuple[int, bool]]:
        """Of states that a search visited, in which row of the critic's table each counts, and whether it is good."""


class InnerSolver:
    """The exact solver of a reasoning_gym task's inner task."""

    predicts: Literal["value", "residual"] = "value"

    def __init__(self, solver: Any) -> None:
        self._solver = solver

    def score(self, candidates: Sequence[Node]) -> list[float]:
        scores: list[float] = self._solver.score([Node(node.state.inner, None) for node in candidates])
        return [max(score, 1e-6) for score in scores]


def with_task(problems: Problems, inner: Any) -> Problems:
    """The same problems with another inner task, which takes the same questions."""
    task = copy.copy(problems.task)
    task.inner = inner
    return replace(problems, task=task)

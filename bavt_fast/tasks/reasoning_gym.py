"""Tasks that nobody here wrote: the generated, verified families of the package reasoning-gym.

    task = ReasoningGymTask("chain_sum", size=200, seed=42)
    results = searcher.search_many(task.questions, budget=...)  # a Searcher over this task

An answer is right where the family's own verifier gives it full marks. How a search goes about it is another task's
business (`inner`): in words, line by line, unless told otherwise. An answer in words is one line, so families whose
answers have several, such as "sudoku" and "binary_matrix", need an inner task that writes the whole answer. So do those
whose verifiers run an answer as Python, such as "n_queens".
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from bavt_fast._checks import as_count, as_seed, require_function
from bavt_fast.protocols import Critic, Description, Node, Step, Task
from bavt_fast.tasks import task_module
from bavt_fast.tasks.text import TextTask

__all__ = ["GymState", "ReasoningGymTask", "make_task"]

MAX_ANSWER = 2000
"""Characters of an answer, or twice as many as the family's own has; a longer one is wrong. What a verifier makes of it
may take long."""


QuestionOf = Callable[[Mapping[str, Any]], str]


class GymState(NamedTuple):
    """The inner task's state, and which problem it belongs to."""

    inner: Any
    problem: int


class ReasoningGymTask:
    """A family of reasoning-gym as a task.

    Args:
        name: of the family, such as "chain_sum".
        size, seed: how many problems, and which: the same seed gives the same problems.
        inner: what a step and an answer are: a task, or the name of one that has `gym_question`, such as "n_queens";
            `TextTask` without one. A warning says where that cannot find the family's answers, which have several
            lines.
        question_of: the inner task's question of a problem, which is a mapping with "question", "answer" and
            "metadata"; the named inner task's `gym_question`, else its "question", without one.
        **config: of the family.

    Raises:
        ModuleNotFoundError: reasoning-gym is not installed.
        TypeError, ValueError: there is no such family or inner task, the family does not take these settings, or a
            named inner task does not read the family's problems.
    """

    def __init__(
        self,
        name: str,
        *,
        size: int = 500,
        seed: int = 0,
        inner: Task[Any] | str | None = None,
        question_of: QuestionOf | None = None,
        **config: Any,
    ) -> None:
        try:
            import reasoning_gym  # type: ignore[import-untyped]
        except ModuleNotFoundError as error:
            if error.name != "reasoning_gym":
                raise
            raise ModuleNotFoundError(
                "task: these families need reasoning-gym; install it with: pip install 'bavt_fast[gym]'",
                name=error.name,
            ) from error
        if not isinstance(name, str):
            raise TypeError(f"name: expected a str such as 'chain_sum', got {name!r:.80}")
        self.name = name
        size, seed = as_count("size", size, minimum=1), as_seed("seed", seed)
        require_function("question_of", question_of)
        self._inner_oracle: Callable[[], Critic] | None = None
        named = inner if question_of is None else None
        if isinstance(inner, str):
            self._inner_oracle = getattr(task_module(inner), "make_oracle", None)
            inner, question_of = _named(inner, question_of)
        try:
            self._dataset = reasoning_gym.create_dataset(name, size=size, seed=seed, **config)
            self.problems: list[Mapping[str, Any]] = [self._dataset[place] for place in range(size)]
        except (AssertionError, ValueError, TypeError, LookupError, ArithmeticError) as error:
            raise ValueError(
                f"name: expected a family of reasoning-gym and its settings, got {name!r}: {error}"
            ) from error
        self.inner: Task[Any] = TextTask() if inner is None else _checked_inner(inner)
        self._question_of = question_of or (lambda problem: problem["question"])
        if isinstance(named, str):
            self._check_read_by(named)
        if isinstance(self.inner, TextTask):
            self._warn_of_lines()

    def _check_read_by(self, named: str) -> None:
        """Raises ValueError for a named inner task whose problems are those of another family."""
        try:
            self._question_of(self.problems[0])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"inner: expected a task that reads problems of {self.name!r}, got {named!r} ({error!r:.80}); give "
                "question_of for problems of another form"
            ) from error

    def _warn_of_lines(self) -> None:
        of_lines = sum("\n" in str(problem["answer"] or "").strip() for problem in self.problems)
        if of_lines:
            warnings.warn(
                f"inner: {of_lines} of {len(self.problems)} answers of {self.name!r} have several lines, and an answer "
                "in words is one line: searches cannot find them without an inner task that writes the whole answer",
                stacklevel=3,
            )

    @cached_property
    def questions(self) -> list[str]:
        """The inner task's questions, one for each problem; a question that comes twice is the first one's."""
        questions = [self._question_of(problem) for problem in self.problems]
        for question in questions:
            if not isinstance(question, str):
                raise TypeError(f"question_of: expected a str from the function, got {question!r:.80}")
        return questions

    @cached_property
    def _places(self) -> dict[str, int]:
        return {question: place for place, question in reversed(list(enumerate(self.questions)))}

    def make_oracle(self) -> Critic | None:
        """The exact solver of a named inner task, for the states of this one; None where it has none."""
        return None if self._inner_oracle is None else _OfInner(self._inner_oracle())

    def initial_state(self, question: str) -> GymState:
        """The start of a problem, named by its question.

        Raises:
            ValueError: the question is none of `questions`, or the inner task does not take it.
        """
        place = self._places.get(question) if isinstance(question, str) else None
        if place is None:
            raise ValueError(
                f"question: expected one of the {len(self.problems)} of {self.name!r}, got {question!r:.80}"
            )
        return GymState(self.inner.initial_state(question), place)

    def apply(self, state: GymState, step: Step) -> GymState | None:
        inner = self.inner.apply(state.inner, step)
        return None if inner is None else GymState(inner, state.problem)

    def key(self, state: GymState) -> Hashable:
        return self.inner.key(state.inner)

    def describe(self, state: GymState) -> Description:
        """What the inner task says, but for the verdict, which is the family's."""
        about = self.inner.describe(state.inner)
        if not about.terminal:
            return about
        return about._replace(verdict=self._is_right(state.problem, about.answer))

    def check_answer(self, question: str, answer: str | None) -> bool:
        """Whether the family's verifier gives the answer full marks.

        Raises:
            ValueError: the question is none of `questions`.
        """
        return self._is_right(self.initial_state(question).problem, answer)

    def _is_right(self, problem: int, answer: str | None) -> bool:
        entry = self.problems[problem]
        if not isinstance(answer, str) or not answer or len(answer) > max(MAX_ANSWER, 2 * len(str(entry["answer"]))):
            return False
        try:
            score = self._dataset.score_answer(answer=answer, entry=entry)
        except Exception:  # what a verifier cannot read is no answer, whatever it raises
            return False
        return isinstance(score, (int, float)) and score >= 1.0


class _OfInner:
    """A critic of inner states, shown the states around them."""

    def __init__(self, critic: Critic) -> None:
        self._critic = critic
        self.predicts = critic.predicts

    def score(self, candidates: Sequence[Node]) -> Any:
        return self._critic.score([Node(node.state.inner, node.prompt, None, node.step) for node in candidates])


def _checked_inner(inner: Any) -> Task[Any]:
    if isinstance(inner, type) or not callable(getattr(inner, "describe", None)):
        raise TypeError(f"inner: expected a task, or the name of one, got {inner!r:.80}")
    task: Task[Any] = inner
    return task


def _named(inner: str, question_of: QuestionOf | None) -> tuple[Task[Any], QuestionOf]:
    """An inner task by its name, and what makes its question of a problem."""
    module = task_module(inner)
    if not hasattr(module, "gym_question"):
        raise ValueError(f"inner: expected a task that has gym_question, such as 'n_queens', got {inner!r}")
    return module.make_task(), question_of or module.gym_question


make_task = ReasoningGymTask
"""What a model folder that names this module is given."""

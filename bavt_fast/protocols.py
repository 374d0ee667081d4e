"""What a search asks of a task, a generator and a critic. The three know these types and nothing of each other.

One expansion, in the order of the data:

    StepRequest  --generator.propose-->  Step  --task.apply-->  state  --critic.score-->  value

`as_generator` and `as_critic` turn plain functions into the protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, cast, runtime_checkable

__all__ = [
    "Candidate",
    "Critic",
    "FunctionCritic",
    "FunctionGenerator",
    "Step",
    "StepGenerator",
    "StepRequest",
    "Task",
    "as_critic",
    "as_generator",
]

State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class Step:
    """One generated reasoning step.

    Attributes:
        text: what the model wrote, up to and with the step delimiter, stripped.
        tokens: generated tokens that the step cost, the delimiter's included.
        complete: False when the token limit cut it short; such a step is paid for and then dropped.
        hidden: hidden state of the step's last token, ``(H,)``, for a critic that reads it; None if there is none.
        token_ids, token_probabilities: the sampled tokens and the model's probability of each, for a generator that
            samples without replacement; empty otherwise.
    """

    text: str
    tokens: int
    complete: bool = True
    hidden: Any = None
    token_ids: tuple[int, ...] = ()
    token_probabilities: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class StepRequest:
    """A request for the next steps from one node.

    Attributes:
        text: the context that the model continues.
        seed: seeds everything random about this request, so that a result does not depend on the batch around it.
        tried: the steps proposed before from the same node.
    """

    text: str
    seed: int = 0
    tried: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A valid, new state for the critic.

    Attributes:
        state: the task's state after the step; None for a caller without a task.
        text: the whole context with the step.
        step: the step that led here.
        parent_value: V of the parent, in (0, 1].
    """

    state: Any
    text: str
    step: Step
    parent_value: float


class Task(Protocol[State]):
    """What a state, a step, validity and an answer are. States are immutable."""

    def initial_state(self, question: str) -> State:
        """Parses the question. Raises ValueError, saying what is expected, where it cannot."""
        ...

    def prompt(self, state: State) -> str:
        """The text that the model continues with the next step."""
        ...

    def apply(self, state: State, step: str) -> State | None:
        """The state after a step, or None where the step is invalid."""
        ...

    def is_terminal(self, state: State) -> bool:
        """Whether the state ends a path."""
        ...

    def verify(self, state: State) -> bool | None:
        """Whether a terminal state is right; None for a task that cannot tell (they are then compared by value)."""
        ...

    def answer(self, state: State) -> str:
        """The answer that a terminal state commits to."""
        ...

    def key(self, state: State) -> Hashable:
        """Equal keys are the same state: the second one is dropped before it costs more."""
        ...

    def min_tokens(self, state: State) -> int:
        """A lower bound on the tokens from here to an answer; 0 where none is known."""
        ...


@runtime_checkable
class StepGenerator(Protocol):
    """Proposes next steps."""

    def propose(
        self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
    ) -> Sequence[Sequence[Step]]:
        """At most ``counts[i]`` candidates for ``states[i]``, each of at most ``limits[i]`` tokens.

        Returns one sequence per request. An empty one means that nothing new can be proposed there.
        """
        ...


@runtime_checkable
class Critic(Protocol):
    """Scores new states.

    Attributes:
        predicts: "value" for V of the state, "residual" for its difference to the parent's V. The search turns both
            into V(child) = clip(V(parent) + residual).
    """

    predicts: Literal["value", "residual"]

    def score(self, candidates: Sequence[Candidate]) -> Sequence[float]:
        """One finite number per candidate."""
        ...


class FunctionGenerator:
    """A generator from ``function(text, count) -> list of step texts``.

    Args:
        function: returns the texts of at most ``count`` next steps.
        count_tokens: tokens of a text; by default its words. What the budget is charged with.
    """

    def __init__(
        self, function: Callable[[str, int], Sequence[str]], count_tokens: Callable[[str], int] | None = None
    ) -> None:
        self._function = function
        self._count_tokens = count_tokens or (lambda text: len(text.split()))

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        return [
            [self._step(text, limit) for text in self._texts(request.text, count)]
            for request, count, limit in zip(states, counts, limits, strict=True)
        ]

    def _texts(self, text: str, count: int) -> Sequence[str]:
        texts = self._function(text, count)
        if not isinstance(texts, (list, tuple)) or not all(isinstance(t, str) for t in texts):
            raise TypeError(f"generator: expected a list of str from the function, got {texts!r:.80}")
        return texts

    def _step(self, text: str, limit: int) -> Step:
        tokens = max(1, self._count_tokens(text))
        return Step(text, min(tokens, limit), complete=tokens <= limit)


class FunctionCritic:
    """A critic from ``function(text) -> V of the state``, with the whole context as text."""

    predicts: Literal["value", "residual"] = "value"

    def __init__(self, function: Callable[[str], float]) -> None:
        self._function = function

    def score(self, candidates: Sequence[Candidate]) -> list[float]:
        return [self._function(candidate.text) for candidate in candidates]


def as_generator(generator: Any) -> StepGenerator:
    """The generator itself, or a plain function wrapped as one. Raises TypeError for anything else."""
    if hasattr(generator, "propose"):  # not isinstance, which from Python 3.12 on does not see through a proxy
        return cast(StepGenerator, generator)
    if callable(generator):
        return FunctionGenerator(generator)
    raise TypeError(
        "generator: expected an object with propose(states, counts, limits) or a function (text, count) -> texts, "
        f"got {type(generator).__name__}"
    )


def as_critic(critic: Any) -> Critic:
    """The critic itself, a plain function wrapped as one, or, for None, a critic that gives every state V = 1."""
    if critic is None:
        return FunctionCritic(lambda text: 1.0)
    if hasattr(critic, "score") and hasattr(critic, "predicts"):
        if critic.predicts not in ("value", "residual"):
            raise ValueError(f"critic: expected predicts to be 'value' or 'residual', got {critic.predicts!r}")
        return critic
    if callable(critic):
        return FunctionCritic(critic)
    raise TypeError(
        f"critic: expected an object with score(candidates) and predicts, or a function text -> value, "
        f"got {type(critic).__name__}"
    )

"""The contract between a search and what it is given: a task, a generator and a critic.

The three know these types and nothing of each other. One expansion, in the order of the data:

    StepRequest --generator--> Step --task.apply--> state --task.key--> new? --task.describe--> Node --critic--> V

A *step* is what the model writes in one go. A *state* is the task's own object, immutable. A *node* is a state in the
tree, with the step that led to it. This module imports nothing else of the package.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np

__all__ = [
    "CUT",
    "AsyncStepGenerator",
    "Critic",
    "DeadlinePassed",
    "Description",
    "FinishReason",
    "GenerationError",
    "GenerationStatistics",
    "Node",
    "Sampling",
    "Scores",
    "Step",
    "StepGenerator",
    "StepRequest",
    "StreamingStepGenerator",
    "Task",
    "as_step",
    "without_hidden",
]

State = TypeVar("State")
FinishReason = Literal["delimiter", "end", "limit", "deadline"]
CUT = ("limit", "deadline")
"""How a step ends that is not whole."""
_new = tuple.__new__


@dataclass(slots=True)
class Step:
    """One generated reasoning step, with what it cost. Treat it as immutable.

    Attributes:
        text: exactly what the model wrote, the delimiter that ended it included. The context of a node is its prompt
            and the texts of the steps since, one after the other.
        tokens: generated tokens, the delimiter's included. All of them are charged, also those above the limit that
            the generator was given.
        finish_reason: "delimiter"; "end" where the model ended its text; "limit" or "deadline" where the limit on
            tokens or the time that was left cut the step short: it is paid for and dropped.
        prompt_tokens: tokens that the model read for this step, where they are counted.
        tool_calls: calls of tools made for it; None for the search's `step_tool_calls`.
        cost: money; None for the search's prices per token.
        seconds: time that passed where the search's clock did not see it, such as on another machine.
        hidden: hidden state of the step's last token, ``(H,)``, for a critic that reads it; None if there is none. The
            search keeps it no longer than until the critic has read it.
        token_ids: the generated tokens, for a model whose contexts go on from tokens instead of text.
        token_probabilities: the model's probability of each, for a generator that samples without replacement.
        log_probability: of the whole step; None to take it from `token_probabilities`, where there are any.
        cached_tokens: how many of `prompt_tokens` came out of a cache, for a price of their own.
    """

    text: str
    tokens: int
    finish_reason: FinishReason = "delimiter"
    prompt_tokens: int = 0
    tool_calls: int | None = None
    cost: float | None = None
    seconds: float = 0.0
    hidden: Any = field(default=None, compare=False)
    token_ids: tuple[int, ...] = ()
    token_probabilities: tuple[float, ...] = ()
    log_probability: float | None = None
    cached_tokens: int = 0

    @property
    def is_cut(self) -> bool:
        """Whether it was cut short."""
        return self.finish_reason in CUT

    def total_log_probability(self) -> float | None:
        """Natural logarithm of the model's probability of the step; None where nobody said."""
        if self.log_probability is not None or not self.token_probabilities:
            return self.log_probability
        if min(self.token_probabilities) <= 0.0:
            return -math.inf
        return math.fsum(math.log(p) for p in self.token_probabilities)


def as_step(answer: Any, count_tokens: Callable[[str], int] | None = None) -> Step:
    """A `Step`, or a text made into one: with a line break at its end, and its words (at least one) as its tokens."""
    if isinstance(answer, Step):
        return answer
    if not isinstance(answer, str):
        raise TypeError(f"generator: expected steps as str or Step, got {answer!r:.80}")
    tokens = len(answer.split()) if count_tokens is None else count_tokens(answer)
    return Step(answer if answer.endswith("\n") else answer + "\n", max(1, tokens))


class _DescriptionFields(NamedTuple):
    terminal: bool = False
    verdict: bool | None = None
    answer: str | None = None
    prompt: str | None = None
    min_tokens: int = 0


class Description(_DescriptionFields):
    """What the search needs to know of a new state, asked for once. NumPy's bools and integers become Python's.

    Attributes:
        terminal: whether the state ends a path.
        verdict: whether a terminal state is right; None where the task cannot tell (they are then compared by value).
            A state that is wrong never becomes a node.
        answer: what a terminal state commits to; None or "" for no answer.
        prompt: the text that the model goes on from; None to append the step to the context it was made from, token
            by token as the model wrote it. The initial state has a prompt.
        min_tokens: a lower bound on the tokens from here to an answer; 0 where none is known.
    """

    __slots__ = ()

    def __new__(
        cls,
        terminal: bool = False,
        verdict: bool | None = None,
        answer: str | None = None,
        prompt: str | None = None,
        min_tokens: int = 0,
    ) -> Description:
        are_flags = terminal.__class__ is bool and (verdict is None or verdict.__class__ is bool)
        if not are_flags or min_tokens.__class__ is not int:
            terminal, verdict, min_tokens = _plain(terminal), _plain(verdict), _plain(min_tokens)
        return _new(cls, (terminal, verdict, answer, prompt, min_tokens))

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Description:  # type: ignore[override]
        """By which `_replace` makes its copy, too."""
        return cls(*iterable)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, (np.bool_, np.integer)) else value


class Node:
    """A state in the tree, or one about to be: what a critic scores.

    The search makes it, and hides it from the garbage collector where its state holds texts and numbers alone: its
    attributes are for reading.

    Attributes:
        state: the task's state; None for a caller without a task.
        prompt: the text that its context begins with, or None where its context is its parent's and the step.
        parent: the node it was expanded from; None for the root.
        step: the step that led here; None for the root.
        value: V, in (0, 1]; None until it is scored.
        answer: what a terminal state commits to, else None.
    """

    __slots__ = ("_tried", "answer", "parent", "prompt", "state", "step", "value")

    def __init__(
        self,
        state: Any,
        prompt: str | None,
        parent: Node | None = None,
        step: Step | None = None,
        value: float | None = None,
    ) -> None:
        self.state = state
        self.prompt = prompt
        self.parent = parent
        self.step = step
        self.value = value
        self.answer: str | None = None
        self._tried: Step | list[Step] | None = None  # most nodes have one or none

    @property
    def tried(self) -> tuple[Step, ...]:
        """The steps that were proposed from here, in order."""
        tried = self._tried
        if tried is None:
            return ()
        return (tried,) if isinstance(tried, Step) else tuple(tried)

    def add_try(self, step: Step) -> None:
        """One more step that was proposed from here."""
        tried = self._tried
        if tried is None:
            self._tried = step
        elif isinstance(tried, Step):
            self._tried = [tried, step]
        else:
            tried.append(step)

    @property
    def parent_value(self) -> float:
        """V of the parent; 1 for the root."""
        return 1.0 if self.parent is None or self.parent.value is None else self.parent.value

    def context(self) -> tuple[str, list[Step]]:
        """The prompt that the context begins with, and the steps since."""
        node, steps = self, []
        while node.prompt is None:
            assert node.step is not None, "a root has a prompt"
            assert node.parent is not None, "a root has a prompt"
            steps.append(node.step)
            node = node.parent
        return node.prompt, steps[::-1]

    @property
    def text(self) -> str:
        """The whole context as text."""
        if self.prompt is not None:
            return self.prompt
        prompt, steps = self.context()
        return prompt + "".join([step.text for step in steps])

    def __repr__(self) -> str:
        return f"Node({self.text[-60:]!r}, value={self.value})"


class Sampling(NamedTuple):
    """How to sample, and how much may be read for it; None leaves a setting to the generator.

    Attributes:
        temperature, top_p, top_k, min_p: what tokens are drawn from.
        max_prompt_tokens: the most that the model may read for one candidate, with all requests that this takes
            together; None where nothing is reserved for it.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_prompt_tokens: int | None = None


class _RequestFields(NamedTuple):
    node: Node
    seed: int
    tried: tuple[Step, ...]
    sampling: Sampling
    seconds_left: float | None


class StepRequest(_RequestFields):
    """A request for the next steps from one node. Small when it is pickled: the context and nothing of the tree.

    Attributes:
        node: where the context ends. A text makes a request without a tree.
        seed: 63 bits that seed everything random about this request, so that a result does not depend on the batch
            around it.
        tried: the steps proposed before from the same node.
        sampling: temperature, top-p, top-k, min-p, and the most that may be read.
        seconds_left: time to the deadline; None without one.
    """

    __slots__ = ()

    def __new__(
        cls,
        node: Node | str,
        seed: int = 0,
        tried: tuple[Step, ...] = (),
        sampling: Sampling = Sampling(),  # noqa: B008 (immutable)
        seconds_left: float | None = None,
    ) -> StepRequest:
        ends = Node(None, node) if isinstance(node, str) else node
        return super().__new__(cls, ends, seed, tried, sampling, seconds_left)

    @property
    def text(self) -> str:
        """The context that the model continues, as text."""
        return self.node.text

    @property
    def prompt(self) -> str:
        """The text that the context begins with."""
        return self.node.context()[0]

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The tokens of the context after `prompt`, as the model made them; empty where steps carry none."""
        return tuple([token for step in self.node.context()[1] for token in step.token_ids])

    def __reduce__(self) -> Any:
        prompt, steps = self.node.context()
        slim, tried = [tuple([without_hidden(step) for step in some]) for some in (steps, self.tried)]
        begin: Any = self.node
        for _ in steps:
            begin = begin.parent
        return _request, (prompt, slim, self.seed, tried, tuple(self.sampling), self.seconds_left, begin.parent is None)

    def __repr__(self) -> str:
        return f"StepRequest({self.text[-60:]!r}, seed={self.seed}, tried={len(self.tried)})"


def _request(
    prompt: str,
    steps: Sequence[Step],
    seed: int,
    tried: tuple[Step, ...],
    sampling: tuple[Any, ...],
    seconds_left: float | None,
    is_root: bool,
) -> StepRequest:
    # A state with a prompt of its own has a parent, if only a blank one: its context may be too long, a question's not.
    node = Node(None, prompt, None if is_root else Node(None, ""))
    for step in steps:
        node = Node(None, None, node, step)
    return StepRequest(node, seed, tried, Sampling(*sampling), seconds_left)


def without_hidden(step: Step) -> Step:
    """The step as it is kept: hidden states are large, and nothing reads them again."""
    if step.hidden is None:
        return step
    return Step(
        step.text,
        step.tokens,
        step.finish_reason,
        step.prompt_tokens,
        step.tool_calls,
        step.cost,
        step.seconds,
        None,
        step.token_ids,
        step.token_probabilities,
        step.log_probability,
        step.cached_tokens,
    )


class GenerationError(RuntimeError):
    """One ask failed. A generator returns it in the place of that ask's steps; the others of the batch are used.

    Args:
        message: what failed.
        spent: what it cost all the same, a `Spent`; None for nothing.
    """

    spent: Any = None  # also of a class of the user's that calls no __init__ of ours

    def __init__(self, message: str, spent: Any = None) -> None:
        super().__init__(message, spent)
        self.spent = spent

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class DeadlinePassed(GenerationError):
    """One ask was not answered, for its question's deadline is past, or would be before anything can come.

    Nothing failed: the question stops for its deadline.

    Args:
        message, spent: as of `GenerationError`.
        is_known: whether `spent` is known. If not, all that the ask had reserved is charged.
    """

    is_known: bool = True

    def __init__(self, message: str, spent: Any = None, is_known: bool = True) -> None:
        super().__init__(message, spent)
        self.is_known = is_known


class Task(Protocol[State]):
    """What a state, a step, validity and an answer are. States are immutable, and `apply` and `key` are pure.

    Two optional methods take the place of `describe` where they exist, for verifiers that run code:
    ``describe_many(states) -> list of Description`` and, in `Searcher.asearch`, ``async adescribe(state)``. The initial
    state is always given to `describe`.

    Two more are for answers in words: ``same_answer(reference, answer) -> bool``, by which a vote counts equal answers
    together and a run compares with the right one, and ``with_answer(answer) -> Task``, the task for one question whose
    right answer is known, which a run asks for.
    """

    def initial_state(self, question: str) -> State:
        """Parses the question. Raises ValueError, saying what is expected, where it cannot."""
        ...

    def apply(self, state: State, step: Step) -> State | None:
        """The state after a step, or None where the step is invalid. Not called for a step that its limit cut short."""
        ...

    def key(self, state: State) -> Hashable:
        """Equal keys are the same state: the second one is dropped before anything else is asked of it."""
        ...

    def describe(self, state: State) -> Description:
        """Asked once for each state that is new: this is the place to verify."""
        ...


Answer = Sequence[Step] | Exception
"""A generator's answer to one ask: its steps (none: nothing new can be proposed there), or why it failed."""


class StepGenerator(Protocol):
    """Proposes next steps, a batch at a time."""

    def propose(
        self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
    ) -> Sequence[Sequence[Step] | Exception]:
        """At most ``counts[i]`` candidates for ``states[i]``, each of at most ``limits[i]`` tokens.

        Returns one sequence per request. An empty one means that nothing new can be proposed there; an exception in
        its place (`GenerationError`) that this ask failed and the others did not.
        """
        ...


class AsyncStepGenerator(Protocol):
    """A `StepGenerator` whose ``propose`` is a coroutine: called for each ask by itself, many at once."""

    def propose(
        self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
    ) -> Awaitable[Sequence[Sequence[Step] | Exception]]:
        """As `StepGenerator.propose`."""
        ...


class StreamingStepGenerator(Protocol):
    """A generator that finishes requests one by one: what is done is told at once, and another takes its place."""

    def submit(
        self, tickets: Sequence[int], states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
    ) -> None:
        """Begins to work on requests. A ticket is a number that names one of them."""
        ...

    def collect(self) -> Sequence[tuple[int, Sequence[Step] | Exception]]:
        """Waits until at least one request is done; (ticket, its answer) of all that are, each once.

        It may also come back with nothing, so that a search is ended whose deadline is past.
        """
        ...

    def discard(self, tickets: Sequence[int]) -> Mapping[int, Any] | None:
        """Gives up requests; nothing is told of them any more. One that is done already is passed over.

        Returns what each of them took by then, a `Spent` by its ticket; None where nobody counts that.
        """
        ...


class GenerationStatistics(NamedTuple):
    """What a generator that runs a model itself has done, told by its method ``statistics()``.

    Attributes:
        generated_tokens: tokens that were sampled.
        prompt_tokens: tokens of the contexts of all candidates.
        computed_prompt_tokens, saved_prompt_tokens: of contexts, those that were computed and those that were stored.
        store_hits, store_evictions, store_bytes: contexts of which something was stored; what had to go; what is there.
        too_long: requests that did not fit the model's positions.
        forward_passes, decode_passes: of the model, and those of them that decode.
        row_passes, wanted_row_passes: rows in the passes that decode, and rows that could have been there.
        forward_seconds, sampling_seconds: time in the model, and in drawing tokens from its logits.
    """

    generated_tokens: int = 0
    prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    saved_prompt_tokens: int = 0
    store_hits: int = 0
    store_evictions: int = 0
    store_bytes: int = 0
    too_long: int = 0
    forward_passes: int = 0
    decode_passes: int = 0
    row_passes: int = 0
    wanted_row_passes: int = 0
    forward_seconds: float = 0.0
    sampling_seconds: float = 0.0


class Scores(NamedTuple):
    """What a critic returns if scoring costs something: a number (or an exception) per node, and a `Spent` per node.

    Their seconds do not count: the search's own clock runs while a critic is asked.
    """

    values: Sequence[float | Exception]
    spent: Sequence[Any]


class Critic(Protocol):
    """Scores new states.

    Attributes:
        predicts: "value" for V of the state, "residual" for its difference to the parent's V. The search makes
            V(child) of it: the value, or V(parent) + residual, clipped to [1e-6, 1].

    A critic whose scoring costs something says so by an attribute ``max_score``, a `Spent`: the most that one node may
    take. It is reserved together with the step. ``score`` may be a coroutine, for `Searcher.asearch`.
    """

    predicts: Literal["value", "residual"]

    def score(self, candidates: Sequence[Node]) -> Sequence[float | Exception] | Scores:
        """One finite number per node; an exception in its place ends the node's question, and the others go on. A node
        that the task has verified needs none."""
        ...

"""The states that a search visits, with the hidden states that a critic would read."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from bavt_fast._checks import MAX_SEED, as_seed
from bavt_fast.budget import Budget
from bavt_fast.critics.value_head import ContextReader
from bavt_fast.generators.prompts import PromptTooLong
from bavt_fast.protocols import Critic, Node, Task
from bavt_fast.searcher import Searcher
from bavt_fast.training.critic.labels import as_plain_critic

__all__ = ["Visits", "collect_visits", "listed"]

log = logging.getLogger(__name__)

_STRIDE = 0xD1342543DE82EF95  # odd, and not the engine's own: nodes of two searches have no seed in common


class _Generator(ContextReader, Protocol):
    def propose(self, requests: Any, counts: Any, limits: Any) -> Any: ...


@dataclass(frozen=True)
class Visits:
    """States in the order in which they were scored; the roots of the questions come first.

    Attributes:
        nodes: the states, with the context of each; a root has no step.
        questions: the number of the question that each belongs to, int64 (states,). Questions that the model reads as
            the same text are one, and have the number of the first.
        parents: the place of each one's parent in this list, int64 (states,); -1 for a root.
        depths: steps from the root, int64 (states,).
        hidden: float32 (states, H), on the CPU: what a critic reads; zeros for a root.
        tokens: what it cost to come to them.
    """

    nodes: tuple[Node, ...]
    questions: Tensor
    parents: Tensor
    depths: Tensor
    hidden: Tensor
    tokens: int

    def __len__(self) -> int:
        return len(self.nodes)


class _Recorder:
    """A critic that keeps what it is shown. It gives the values of another one, or V = 1 to all."""

    def __init__(self, critic: Critic | None, reader: ContextReader | None) -> None:
        self._critic = critic
        self._reader = reader
        self.predicts: Literal["value", "residual"] = "value" if critic is None else critic.predicts
        self.nodes: list[Node] = []
        self.hidden: list[Tensor] = []

    def score(self, candidates: Sequence[Node]) -> Any:
        """Keeps what was scored alone: where a wave fails, its states come again one by one."""
        hidden = [state.detach().float().cpu() for state in self._states(candidates)]
        scores = [1.0] * len(candidates) if self._critic is None else self._critic.score(candidates)
        self.nodes += candidates
        self.hidden += hidden
        return scores

    def _states(self, candidates: Sequence[Node]) -> list[Tensor]:
        states: list[Any]
        if self._reader is None:
            states = [None if node.step is None else node.step.hidden for node in candidates]
        else:
            states = list(self._reader.read(candidates))
        for state in states:
            if state is None:
                raise TypeError("generator: expected steps with hidden states for the critic to read, got one without")
            if isinstance(state, Exception):
                raise state
        return [torch.as_tensor(state) for state in states]


def collect_visits(
    generator: _Generator,
    task: Task[Any],
    questions: Sequence[str],
    *,
    budget: Budget,
    critic: Critic | None = None,
    reads: Literal["step", "context"] = "step",
    seed: int = 0,
    **search: Any,
) -> Visits:
    """Searches the questions and keeps the states that come before the critic.

    Args:
        generator: one whose steps carry hidden states, such as `TorchGenerator`.
        questions: a text that comes again is searched again, with another seed. One that the model's context does not
            hold is passed over.
        budget: of each question.
        critic: steers the search, as the one of `Searcher`; V = 1 everywhere without one.
        reads: which hidden states to keep, as `CriticManifest.reads` has it.
        **search: of `Searcher`.

    Raises:
        TypeError: a step carries no hidden state, the generator reads no contexts where they are asked for, the critic
            is a coroutine, or `questions` is one text.
        ValueError: no question, no state was visited, or no question is short enough for the model.
        What generator or task raised, if one of them failed.
    """
    questions = listed(questions)
    seed = as_seed("seed", seed)
    if reads not in ("step", "context"):
        raise ValueError(f"reads: expected 'step' or 'context', got {reads!r:.80}")
    if not questions:
        raise ValueError("questions: expected at least one, got none")
    critic = None if critic is None else as_plain_critic(critic)
    if reads == "context" and not callable(getattr(generator, "read", None)):
        raise TypeError(f"generator: expected one that reads contexts, such as TorchGenerator, got {generator!r:.80}")
    recorder = _Recorder(critic, generator if reads == "context" else None)
    searcher = Searcher(generator, recorder, task, **search)
    searches = [
        searcher.start(question, budget=budget, seed=own)
        for question, own in zip(questions, _seeds(questions, seed), strict=True)
    ]
    tokens, too_long = 0, []
    for ended in searcher.run(searches):
        result = ended.result()
        if isinstance(result.error, PromptTooLong):
            too_long.append(result.error)
        elif result.error is not None:
            raise result.error
        tokens += result.spent.tokens
    if too_long:
        log.warning("%d questions are passed over, such as one with this error: %s", len(too_long), too_long[0])
    if not recorder.nodes and too_long:
        raise too_long[0]
    if not recorder.nodes:
        raise ValueError(f"budget: expected enough for a step, got {budget} and no state that is new and not an answer")
    return _visits([one.nodes[0] for one in searches], recorder, tokens)


def listed(questions: Iterable[str]) -> list[str]:
    """The questions as a list. Raises TypeError for one text, whose letters are no questions, and for no texts."""
    if isinstance(questions, (str, bytes)) or not isinstance(questions, Iterable):
        raise TypeError(f"questions: expected a list of str, got {questions!r:.80}")
    found = list(questions)
    for number, question in enumerate(found):
        if not isinstance(question, str):
            raise TypeError(f"questions[{number}]: expected a str, got {question!r:.80}")
    return found


def _seeds(questions: Sequence[str], seed: int) -> list[int]:
    """A question's first search has the seed itself."""
    seen: Counter[str] = Counter()
    seeds = []
    for question in questions:
        seeds.append((seed + seen[question] * _STRIDE) & MAX_SEED)
        seen[question] += 1
    return seeds


def _visits(roots: Sequence[Node], recorder: _Recorder, tokens: int) -> Visits:
    nodes = [*roots, *recorder.nodes]
    place = {id(node): number for number, node in enumerate(nodes)}
    firsts: dict[str | None, int] = {}
    parents, depths = [-1] * len(roots), [0] * len(roots)
    questions = [firsts.setdefault(root.prompt, number) for number, root in enumerate(roots)]
    for node in recorder.nodes:  # a parent was scored before its children
        parent = place[id(node.parent)]
        parents.append(parent)
        questions.append(questions[parent])
        depths.append(depths[parent] + 1)
    hidden = torch.stack(recorder.hidden)
    return Visits(
        nodes=tuple(nodes),
        questions=torch.tensor(questions),
        parents=torch.tensor(parents),
        depths=torch.tensor(depths),
        hidden=torch.cat([hidden.new_zeros(len(roots), hidden.shape[1]), hidden]),
        tokens=tokens,
    )

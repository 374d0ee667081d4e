"""One pool of random steps for all methods, so that they differ only by what they choose.

A pool keeps, for every prompt, the steps that the model draws there one after the other without replacement, each with
its probability and with what the critic says of the state behind it. They are drawn when somebody first needs them,
many prompts at once, and never again: whoever is the k-th time at a state gets its k-th step, at whatever cost in
tokens that step has. A prompt names a state whole (Countdown), so the prompt is the key.

The first occurrences in independent draws are a draw without replacement, so several steps are drawn at once and
repetitions are left out. How many are drawn when does not depend on who asks: the pool is the same whatever methods
run, and in whatever order, up to the model's rounding in batches of another size.

Draws *with* replacement are made of the same steps (`Draws`): a step that was seen is drawn again as often as its
probability says, and a new one is the next that the pool has.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bavt_fast.generators.sampling import NEW_MASS
from bavt_fast.protocols import Critic, FinishReason, Node, Sampling, Step, StepGenerator, StepRequest

MAX_STEP_TOKENS = 64
ROUNDS = (1, 1, 2, 4, 8, 16, 32)
"""How many steps of a prompt are drawn at once: first, then, ..."""
MOST_REQUESTS = 1024
"""Prompts in one call of the generator."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A step, its probability by the rules that it was drawn by, and the V that a critic gives it who reads steps."""

    step: Step
    probability: float
    value: float


@dataclass(slots=True)
class Steps:
    """What was drawn for one prompt so far, in order; `is_all` where nothing new can be drawn."""

    entries: list[Entry] = field(default_factory=list)
    values: dict[str, float] = field(default_factory=dict)  # by the text of the step
    known: float = 0.0  # probability of the entries together
    rounds: int = 0
    is_all: bool = False


class Pool:
    """The steps of one model at one temperature.

    Args:
        generator: draws without replacement where `StepRequest.tried` says what was drawn before.
        critic: scores each step as it comes, or a state's prompt when somebody asks, where it reads contexts; None for
            V = 1.
        temperature: None for the generator's own.
        seed: with the prompt it seeds every draw.
    """

    def __init__(
        self, generator: StepGenerator, critic: Critic | None, temperature: float | None = None, seed: int = 0
    ) -> None:
        self.temperature, self.seed = temperature, seed
        self.predicts: Literal["value", "residual"] = "value" if critic is None else critic.predicts
        self.reads_contexts = getattr(critic, "reader", None) is not None
        self._generator, self._critic = generator, critic
        self._values: dict[str, float] = {}  # by the state's prompt, where the critic reads that
        self._steps: dict[str, Steps] = {}
        self.drawn_steps = self.drawn_tokens = 0

    def steps(self, prompt: str) -> Steps:
        """What there is of a prompt."""
        found = self._steps.get(prompt)
        if found is None:
            found = self._steps[prompt] = Steps()
        return found

    def entry(self, prompt: str, number: int) -> Entry | None:
        """The step that the model draws in the number-th place (from 0); None where there are not so many."""
        steps = self.steps(prompt)
        if number >= len(steps.entries) and not steps.is_all:
            self.fill({prompt: number + 1})
        return steps.entries[number] if number < len(steps.entries) else None

    def value(self, entry: Entry, prompt: str) -> float:
        """The critic's V of the state behind a step. ``prompt``: that state's own; "" for an answer, which has none."""
        return self.values([prompt])[0] if self.reads_contexts else entry.value

    def values(self, prompts: Sequence[str]) -> list[float]:
        """V of states by a critic that reads contexts; 1 for an answer."""
        new = list({prompt: None for prompt in prompts if prompt and prompt not in self._values})
        if new and self._critic is not None:
            scores = self._critic.score([Node(None, prompt, Node(None, prompt)) for prompt in new])
            self._values.update(zip(new, map(float, scores), strict=True))  # type: ignore[arg-type]
        return [self._values[prompt] if prompt else 1.0 for prompt in prompts]

    def fill(self, wanted: Mapping[str, int]) -> None:
        """Draws until every prompt has at least so many steps, or all that it can have."""
        while short := [p for p, n in wanted.items() if len(self.steps(p).entries) < n and not self.steps(p).is_all]:
            for at in range(0, len(short), MOST_REQUESTS):
                self._draw(short[at : at + MOST_REQUESTS])

    def _draw(self, prompts: Sequence[str]) -> None:
        requests, counts = [], []
        for prompt in prompts:
            steps = self.steps(prompt)
            tried = tuple([entry.step for entry in steps.entries])
            seed = _seed_of(prompt, self.seed, steps.rounds)
            requests.append(StepRequest(prompt, seed, tried, Sampling(temperature=self.temperature)))
            counts.append(ROUNDS[min(steps.rounds, len(ROUNDS) - 1)])
            steps.rounds += 1
        answers = self._generator.propose(requests, counts, [MAX_STEP_TOKENS] * len(prompts))
        drawn: list[tuple[str, Step]] = []
        for prompt, answer in zip(prompts, answers, strict=True):
            if isinstance(answer, Exception):
                raise answer
            drawn += [(prompt, step) for step in answer]
            self._end_where_nothing_is_new(prompt, answer)
        for (prompt, step), value in zip(drawn, self._scores(drawn), strict=True):
            self._add(self.steps(prompt), step, value)
            self.drawn_steps += 1
            self.drawn_tokens += step.tokens

    def _end_where_nothing_is_new(self, prompt: str, answer: Sequence[Step]) -> None:
        steps = self.steps(prompt)
        known = {entry.step.token_ids or entry.step.text for entry in steps.entries}
        steps.is_all = all((step.token_ids or step.text) in known for step in answer)

    def _scores(self, drawn: Sequence[tuple[str, Step]]) -> Sequence[float]:
        if self._critic is None or self.reads_contexts or not drawn:
            return [1.0] * len(drawn)
        scores = self._critic.score([Node(None, None, Node(None, prompt), step) for prompt, step in drawn])
        return [float(score) for score in scores]  # type: ignore[arg-type]

    def _add(self, steps: Steps, step: Step, value: float) -> None:
        if steps.is_all or any(_is_same(entry.step, step) for entry in steps.entries):
            return
        probability = float(np.prod(step.token_probabilities)) if step.token_probabilities else 0.0
        kept = Step(
            step.text,
            step.tokens,
            step.finish_reason,
            token_ids=step.token_ids,
            token_probabilities=step.token_probabilities,
            log_probability=step.log_probability,
        )
        steps.entries.append(Entry(kept, probability, value))
        steps.values[step.text] = value
        steps.known += probability
        steps.is_all = steps.known > 1.0 - NEW_MASS

    # ---- files

    def save(self, path: Path) -> None:
        """Writes all steps as compressed JSON, so that another run need not draw them."""
        prompts = {
            prompt: [s.rounds, s.is_all, [_dump(entry) for entry in s.entries]] for prompt, s in self._steps.items()
        }
        record = {"seed": self.seed, "temperature": self.temperature, "predicts": self.predicts, "prompts": prompts}
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", encoding="utf-8", compresslevel=3) as file:
            json.dump(record, file)

    def load(self, path: Path) -> None:
        """Takes the steps that `save` wrote, of the same model (nobody checks), temperature and seed.

        Raises:
            ValueError: the file is of another seed, temperature or kind of critic.
        """
        with gzip.open(path, "rt", encoding="utf-8") as file:
            record = json.load(file)
        for name in ("seed", "temperature", "predicts"):
            if record[name] != getattr(self, name):
                raise ValueError(f"{name}: expected {getattr(self, name)}, got {record[name]} in {path}")
        for prompt, (rounds, is_all, rows) in record["prompts"].items():
            entries = [_load(row) for row in rows]
            values = {entry.step.text: entry.value for entry in entries}
            known = float(sum(entry.probability for entry in entries))
            self._steps[prompt] = Steps(entries, values, known, rounds, is_all)


def _is_same(one: Step, other: Step) -> bool:
    return one.token_ids == other.token_ids and one.text == other.text


def _seed_of(prompt: str, seed: int, number: int) -> int:
    """63 bits."""
    digest = hashlib.blake2b(f"{seed} {number} {prompt}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def _dump(entry: Entry) -> list[Any]:
    step = entry.step
    drawn = [step.token_ids, step.token_probabilities, step.log_probability]
    return [step.text, step.tokens, step.finish_reason, *drawn, entry.value]


def _load(row: Sequence[Any]) -> Entry:
    text, tokens, reason, ids, probabilities, logarithm, value = row
    step = Step(
        text,
        tokens,
        reason,
        token_ids=tuple(ids),
        token_probabilities=tuple(probabilities),
        log_probability=logarithm,
    )
    return Entry(step, float(np.prod(probabilities)) if probabilities else 0.0, value)


def cut(step: Step, limit: int) -> Step:
    """A step as a generator gives it that may take ``limit`` tokens: what is longer ends there, and is paid for."""
    if step.tokens <= limit:
        return step
    reason: FinishReason = "limit"
    return Step(
        "", limit, reason, token_ids=step.token_ids[:limit], token_probabilities=step.token_probabilities[:limit]
    )


class Draws:
    """Draws with replacement from one prompt: independent, and made of the pool's steps.

    Of n steps seen so far one is drawn again with its probability; else comes the (n + 1)-th, for it was drawn from
    what those left.
    """

    __slots__ = ("_up_to", "seen")

    def __init__(self) -> None:
        self.seen = 0
        self._up_to: list[float] = []  # running sums of the probabilities of what was seen

    def number(self, steps: Steps, uniform: float) -> int:
        """Which step is drawn, given a number in [0, 1): the place in the pool's order, maybe the next one.

        Where the pool has all, what is left of the probability goes to what there is.
        """
        if self.seen < len(steps.entries) or not steps.is_all:
            return bisect_right(self._up_to, uniform)
        return min(bisect_right(self._up_to, uniform * self._up_to[-1]), self.seen - 1)

    def see(self, steps: Steps, number: int) -> None:
        """Notes that the step was drawn."""
        if number == self.seen:
            before = self._up_to[-1] if self._up_to else 0.0
            self._up_to.append(before + steps.entries[number].probability)
            self.seen += 1


class PoolGenerator:
    """A `StepGenerator` that replays a pool: a node that has tried k steps gets the next after those.

    Args:
        independent: what a generator does that is asked for one node several times at once: each ask draws by its own
            seed from what was not tried when it was asked, so two of them may draw the same.
    """

    def __init__(self, pool: Pool, independent: bool = False) -> None:
        self.pool, self.independent = pool, independent

    def propose(self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]) -> list[list[Step]]:
        """See `StepGenerator.propose`."""
        if self.independent:
            return self._draw_apart(states, counts, limits)
        wanted: dict[str, int] = {}
        for request, count in zip(states, counts, strict=True):
            prompt = _prompt_of(request)
            wanted[prompt] = max(wanted.get(prompt, 0), len(request.tried) + count)
        self.pool.fill(wanted)
        answers = []
        for request, count, limit in zip(states, counts, limits, strict=True):
            first = len(request.tried)
            entries = self.pool.steps(_prompt_of(request)).entries[first : first + count]
            answers.append([cut(entry.step, limit) for entry in entries])
        return answers

    def _draw_apart(
        self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
    ) -> list[list[Step]]:
        answers: list[list[Step]] = [[] for _ in states]
        asked = zip(states, counts, strict=True)
        uniforms = [np.random.default_rng(request.seed).random(count).tolist() for request, count in asked]
        open_asks = list(range(len(states)))
        while open_asks:
            wanted: dict[str, int] = {}
            still = []
            for place in open_asks:
                drawn = self._untried(states[place], uniforms[place])
                if drawn is None:
                    prompt = _prompt_of(states[place])
                    wanted[prompt] = len(self.pool.steps(prompt).entries) + 1
                    still.append(place)
                else:
                    answers[place] = [cut(entry.step, limits[place]) for entry in drawn]
            self.pool.fill(wanted)
            open_asks = still
        return answers

    def _untried(self, request: StepRequest, uniforms: Sequence[float]) -> list[Entry] | None:
        """Steps that were not tried, each by its probability; None where the pool must draw more first."""
        steps = self.pool.steps(_prompt_of(request))
        tried = {step.text for step in request.tried}
        new = [entry for entry in steps.entries if entry.step.text not in tried]
        up_to = np.cumsum([entry.probability for entry in new])
        if steps.is_all:
            mass = float(up_to[-1]) if new else 0.0
        else:
            mass = 1.0 - sum(entry.probability for entry in steps.entries if entry.step.text in tried)
        drawn = []
        for uniform in uniforms if new or not steps.is_all else ():
            place = int(np.searchsorted(up_to, uniform * mass, side="right"))
            if place >= len(new) and not steps.is_all:
                return None
            drawn.append(new[min(place, len(new) - 1)])
        return drawn


class PoolCritic:
    """The critic's values as the pool keeps them."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.predicts: Literal["value", "residual"] = pool.predicts

    def score(self, candidates: Sequence[Node]) -> list[float]:
        """See `Critic.score`."""
        if self.pool.reads_contexts:
            return self.pool.values([node.prompt or "" for node in candidates])
        scores = []
        for node in candidates:
            assert node.parent is not None, "a node that is scored was expanded from one"
            assert node.step is not None, "and by a step"
            scores.append(self.pool.steps(_prompt_of(node.parent)).values[node.step.text])
        return scores


def _prompt_of(place: StepRequest | Node) -> str:
    node = place.node if isinstance(place, StepRequest) else place
    if node.prompt is None:
        raise ValueError("task: expected one that gives every state a prompt of its own, got a state without")
    return node.prompt

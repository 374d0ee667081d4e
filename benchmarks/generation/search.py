"""Rounds of our search with so many questions and so many asks in flight."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from bavt_fast import Budget, Searcher, SearchResult
from bavt_fast.generators.static_decode import buckets
from bavt_fast.protocols import GenerationStatistics
from benchmarks.generation import rows
from benchmarks.generation.counters import PeakMemory, since, synchronize
from benchmarks.generation.models import Subject
from benchmarks.generation.prefixes import Prefixes
from benchmarks.generation.rounds import Round
from benchmarks.harness import Stopwatch


class OurSearch:
    """A search of `questions`, `asks` of them in flight; of one question all are leaves of its tree.

    Attributes:
        step_tokens, question_tokens: means of the last round, for those that are to generate as much.
    """

    who = rows.OURS

    def __init__(self, subject: Subject, questions: int, asks: int, tokens: int, most_step_tokens: int) -> None:
        self.at = subject.at(questions, asks, tokens)
        self.step_tokens = self.question_tokens = 0.0
        self._subject, self._questions, self._asks = subject, questions, asks
        self._budget = Budget(tokens=tokens)
        self._most_step_tokens = most_step_tokens
        self._generator = subject.generator(asks)
        self._rounds = 0
        self._searcher = Searcher(
            self._generator,
            subject.critic,
            subject.task,
            wave=asks,
            leaves=asks if questions == 1 else 1,
            max_step_tokens=most_step_tokens,
            **subject.settings,
        )

    def warm(self) -> None:
        """What is made once: graphs of all sizes, on CUDA, and a round. Nothing if another side did it."""
        if self._generator.statistics().decode_passes:
            self._rounds += 1
            return
        subject = self._subject
        if subject.device.type == "cuda":
            lengths = [len(subject.ids_of(subject.prompt_of(question))) for question in subject.asked(0, 8)]
            longest = max(lengths) + int(self.at["tokens"]) + self._most_step_tokens
            for rows_at_once, tokens in buckets(self._asks, min(lengths), longest):
                self._generator.warm_up(rows_at_once, tokens)
        self.round()

    def round(self) -> Round:
        generator, critic = self._generator, Stopwatch(self._subject.critic, "score")
        generator.clear()
        questions = self._subject.asked(self._rounds, self._questions)
        watch = _Watch(questions, generator, self._asks)
        memory = PeakMemory(self._subject.device)
        try:
            synchronize(self._subject.device)
            before, waited_s, start_s = generator.statistics(), generator.waited_seconds, time.perf_counter()
            found, first_s = [], 0.0
            for index, result in self._searcher.search_iter(watch, budget=self._budget, seed=self._rounds):
                if result.error is not None:
                    raise RuntimeError(f"a search failed: {result.error}") from result.error
                if result.stop_reason == "interrupted":
                    raise KeyboardInterrupt  # what there is by then is no round
                first_s = first_s or time.perf_counter() - start_s
                found.append((questions[index], result))
            seconds = time.perf_counter() - start_s
        finally:
            del self._subject.critic.score  # the stopwatch on it
        self._rounds += 1
        synchronize(self._subject.device)
        took = since(generator.statistics(), before)
        figures = {
            **self._prompt_figures(found, took),
            **watch.figures(),
            rows.HITS: float(took.store_hits),
            rows.EVICTIONS: float(took.store_evictions),
            rows.MEMORY: memory.read() / 1e6,
        }
        inside_s = took.forward_seconds + took.sampling_seconds
        if self._subject.device.type == "cuda":  # the critic's head is computed beside the passes
            print(f"  {passes_in_words(took, seconds, generator.waited_seconds - waited_s)}", flush=True)
        else:
            inside_s += critic.seconds
        figures[rows.OUTSIDE] = 1.0 - inside_s / seconds
        tokens = sum(result.spent.tokens for _, result in found)
        self.question_tokens = tokens / len(found)
        return Round(tokens, seconds, first_s, figures)

    def _prompt_figures(
        self, found: Sequence[tuple[str, SearchResult]], took: GenerationStatistics
    ) -> dict[str, float]:
        """A round's steps, and its prompt tokens: those computed against those needed once."""
        prefixes, steps, tokens = Prefixes(), 0, 0
        for question, result in found:
            for context, step in contexts_of(self._subject, question, result):
                prefixes.add(context, step.token_ids)
                steps += 1
                tokens += step.tokens
        self.step_tokens = tokens / steps
        return {rows.STEP_TOKENS: self.step_tokens, rows.PROMPT: took.computed_prompt_tokens / prefixes.needed}


def passes_in_words(took: GenerationStatistics, seconds: float, waited_s: float) -> str:
    """Where a GPU's time of a round went, in milliseconds per pass that decodes, and how long the host waited for it:
    where that is next to nothing, the host is what keeps the GPU from more."""
    passes = max(1, took.decode_passes)
    gaps_s = seconds - took.forward_seconds - took.sampling_seconds
    parts = {"model": took.forward_seconds, "drawing": took.sampling_seconds, "gaps": gaps_s}
    words = f"{passes} passes of {took.row_passes / passes:.1f} rows, {1e3 * seconds / passes:.2f} ms each: "
    words += ", ".join(f"{name} {1e3 * part / passes:.2f}" for name, part in parts.items())
    others = took.forward_passes - took.decode_passes
    return f"{words}; the host waits {1e3 * waited_s / passes:.2f}; {others} other passes"


class _Watch:
    """Hands out questions, and looks at the generator while its batch is full.

    That is from when the first place came free and was taken again, until the last question was taken. At both moments
    the other rows stand somewhere in their steps, so what is told at the end of a step is right on average.
    """

    def __init__(self, questions: Sequence[str], generator: Any, slots: int) -> None:
        self._questions, self._generator, self._slots = questions, generator, slots
        self._moments: list[tuple[float, GenerationStatistics]] = []

    def __iter__(self) -> Iterator[str]:
        for number, question in enumerate(self._questions):
            if number == self._slots:
                self._look()
            yield question
        self._look()

    def _look(self) -> None:
        self._moments.append((time.perf_counter(), self._generator.statistics()))

    def figures(self) -> dict[str, float]:
        """Idle slots and tokens per second of the full batch; nothing where no question had to wait for a slot."""
        if len(self._moments) < 2:
            return {}
        (start_s, before), (end_s, after) = self._moments
        took = since(after, before)
        return {
            rows.IDLE: 1.0 - took.row_passes / (took.decode_passes * self._slots),
            rows.FULL_SPEED: took.generated_tokens / (end_s - start_s),
        }


def contexts_of(subject: Subject, question: str, result: SearchResult) -> Iterator[tuple[list[int], Any]]:
    """(tokens of the context, step) of all steps that were proposed in a search, kept or not."""
    task = subject.task
    states = [task.initial_state(question)]
    contexts = [subject.ids_of(subject.prompt_of(question))]
    parents = result.tree.parents.tolist()
    for parent, step in zip(parents[1:], result.steps[1:], strict=True):
        assert step is not None, "only the root has none"
        yield contexts[parent], step
        state = task.apply(states[parent], step)
        prompt = task.describe(state).prompt
        states.append(state)
        contexts.append([*contexts[parent], *step.token_ids] if prompt is None else subject.ids_of(prompt))
    for refusal in result.refused:
        yield contexts[refusal.node], refusal.step

"""A step generator over any transformers causal language model.

Requests from many trees are decoded in one batch, and no row waits for another: a step that ends is told at once, and
the next request takes its place. What was computed of a context is kept, so a step costs the tokens that it adds. The
hidden state that a critic reads comes from the same forward passes: it is the last layer's state that predicted the
step's last token, so nothing is ever encoded again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from bavt_fast._checks import as_count, as_flag, as_number, as_seed, require_function
from bavt_fast.budget import Spent
from bavt_fast.generators.contexts import BaseScheduler, Context
from bavt_fast.generators.device_memory import is_out_of_memory, limit_error
from bavt_fast.generators.forward import Forward
from bavt_fast.generators.group_scheduler import GroupScheduler
from bavt_fast.generators.host_sampling import sampler_on
from bavt_fast.generators.kept_prompts import KeptPrompts
from bavt_fast.generators.model_checks import ModelFacts, check_model, check_unchanged
from bavt_fast.generators.own_cache import has_plain_cache, plan_decoding
from bavt_fast.generators.packed_pass import PackedPass
from bavt_fast.generators.prefix_store import PrefixStore
from bavt_fast.generators.prompts import PlainPrompts, PromptTooLong, bare_ids, checked_ids, too_long
from bavt_fast.generators.sampling import (
    BROKEN,
    DELIMITER,
    END,
    RUNNING,
    Drawn,
    Sampler,
    SamplingRules,
    checked_sampling,
)
from bavt_fast.generators.scheduler import Scheduler
from bavt_fast.generators.static_decode import StaticDecoder
from bavt_fast.generators.stopping import StopTable
from bavt_fast.generators.vocabulary import Vocabulary, end_ids
from bavt_fast.protocols import (
    FinishReason,
    GenerationError,
    GenerationStatistics,
    Node,
    Sampling,
    Step,
    StepRequest,
)
from bavt_fast.request_checks import check_nodes, check_requests
from bavt_fast.threads import Turns

__all__ = ["TorchGenerator"]


class TorchGenerator:
    """Samples steps from a causal language model.

    It is a `StepGenerator` and a `StreamingStepGenerator`; calls from several threads take turns. Of several runs at
    once one has the stream, and the others are answered in whole waves. After the model's weights change call `clear`;
    after it was converted, moved or given another vocabulary make a new generator: this one refuses it.

    Args:
        model: a transformers causal LM; its device and dtype are used as they are, and it is put into eval mode. Of its
            generation config the ids that end a text are read, and nothing else: no temperature, no penalties.
        tokenizer: its tokenizer.
        delimiter: text that ends a step, or several.
        temperature: softmax temperature; 0 takes the most likely token.
        top_p: the most likely tokens that reach this probability together, in (0, 1].
        top_k: so many of the most likely tokens; 0 for all.
        min_p: tokens at least this share as likely as the most likely one.
        without_replacement: never sample a step again from the same node: the probability of the steps in
            ``StepRequest.tried`` is taken out of the distribution token by token (Shi et al. 2020, "Incremental
            Sampling Without Replacement for Sequence Models"). So no ask repeats what an earlier one brought. The
            steps of one ask are drawn side by side, independently of each other, and may be equal; at temperature 0
            they all are.
        prompts: ``text -> token ids`` of the text that a context begins with; None for the tokenizer's plain encoding.
        processors: change the logits before they are drawn from, such as transformers' ``LogitsProcessorList`` for
            repetition penalties or biases: ``(ids, logits) -> logits`` of all rows. A row's ids are filled up at their
            beginning with the first of them.
        max_batch: rows that are decoded at once.
        store_bytes: limit of the store of contexts that were computed; None for 1 GiB, on a GPU half of what is free;
            0 for no store.
        graphs: on a GPU, replay CUDA graphs in decoding. They are captured when a number of rows and tokens is first
            reached, or ahead by `warm_up`; a model that cannot be captured goes without, with a warning.
        threads: of a forward pass on the CPU; None to choose by its work (`bavt_fast.threads`). The caller's
            own number is back after each pass.
        measure: on a GPU, take the times in `statistics` there; otherwise they are the host's, which does not wait.

    A request's `Sampling` goes before temperature, top_p, top_k and min_p. Where it is none that they could be, the
    error is the answer to that request.

    Raises:
        TypeError, ValueError: an argument is not what it should be, or the model cannot be driven.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        delimiter: str | Sequence[str] = "\n",
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int = 0,
        min_p: float = 0.0,
        without_replacement: bool = True,
        prompts: Callable[[str], Sequence[int]] | None = None,
        processors: Callable[[Tensor, Tensor], Tensor] | None = None,
        max_batch: int = 256,
        store_bytes: int | None = None,
        graphs: bool = True,
        threads: int | None = None,
        measure: bool = False,
    ) -> None:
        self.temperature, self.top_p, self.top_k, self.min_p = checked_sampling(temperature, top_p, top_k, min_p)
        self.max_batch = as_count("max_batch", max_batch, minimum=1)
        self.store_bytes = None if store_bytes is None else as_count("store_bytes", store_bytes)
        self.threads = None if threads is None else as_count("threads", threads, minimum=1)
        if not isinstance(delimiter, Sequence):
            raise TypeError(f"delimiter: expected a str such as '\\n', or several, got {delimiter!r:.80}")
        self.delimiters = (delimiter,) if isinstance(delimiter, str) else tuple(delimiter)
        self.without_replacement = as_flag("without_replacement", without_replacement)
        require_function("prompts", prompts)
        require_function("processors", processors)
        self._facts = check_model(model, tokenizer)
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.prompts: Callable[[str], Sequence[int]] = PlainPrompts(tokenizer) if prompts is None else prompts
        self.processors = processors
        self.graphs, self.measure = as_flag("graphs", graphs), as_flag("measure", measure)
        self._build()

    @torch.inference_mode(False)
    @torch.no_grad()
    def _build(self) -> None:
        """Everything that is made from the arguments."""
        facts = self._facts
        forward = Forward(self.model, facts, self.measure, self.threads)
        size = facts.vocabulary_size
        self._vocabulary = Vocabulary(self.tokenizer, size)
        stops = StopTable(self._vocabulary, self.delimiters)
        ends = end_ids(facts.core, self.tokenizer, size)
        named = self._vocabulary.named
        sampler = sampler_on(forward.device, stops.next_state, stops.FOUND, ends, named)
        self._most_tokens = facts.max_positions
        self._known_ids = _known_ids(facts)
        self._store = PrefixStore(self._store_limit(facts.device))
        self._scheduler = self._make_scheduler(forward, sampler)
        self._lock = Turns("generator")
        self._contexts: dict[int, Context] = {}  # by ticket
        self._done: list[Context] = []
        self._answered: list[tuple[int, list[Step] | Exception]] = []
        self._prompt_ids = KeptPrompts()
        self._generated = self._read = self._too_long = 0

    def _make_scheduler(self, forward: Forward, sampler: Sampler) -> BaseScheduler:
        options: dict[str, Any] = {"max_rows": self.max_batch, "processors": self.processors}
        if not has_plain_cache(self.model):
            return GroupScheduler(forward, sampler, plan_decoding(self.model), **options)
        on_cuda = forward.device.type == "cuda"
        options["ahead"] = on_cuda
        prefill_tokens = 4096 if on_cuda else 512
        options["static"] = StaticDecoder(forward, capture=True) if on_cuda and self.graphs else None
        layout = forward.layout()
        options["packed"] = PackedPass(forward, layout) if forward.device.type == "cpu" else None
        return Scheduler(forward, sampler, layout, self._store, prefill_tokens=prefill_tokens, **options)

    def _store_limit(self, device: torch.device) -> int:
        if self.store_bytes is not None:
            return self.store_bytes
        return torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 2**30

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._facts = check_model(self.model, self.tokenizer)
        self._build()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """A thread's turn, out of inference mode: what is made there can be written to nowhere else."""
        with self._lock, torch.inference_mode(False), torch.no_grad():
            yield

    # ---- the contract

    def propose(
        self, states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
    ) -> list[list[Step] | Exception]:
        """See `StepGenerator.propose`. Requests that were submitted go on beside these."""
        check_requests((), states=states, counts=counts, limits=limits)
        with self._turn():
            check_unchanged(self._facts)
            done: list[Context] = []
            answers: list[list[Step] | Exception] = []
            contexts: dict[int, Context] = {}
            try:
                for place, request in enumerate(zip(states, counts, limits, strict=True)):
                    started = self._begin(*request, done)
                    answers.append([] if isinstance(started, Context) else started)
                    if isinstance(started, Context):
                        contexts[place] = started
                while any(not context.is_over for context in contexts.values()):
                    self._advance(contexts.values())
                    late = [c for c in contexts.values() if c.is_late(time.monotonic())]
                    if late:
                        self._scheduler.drop(late)
            finally:
                self._scheduler.drop([context for context in contexts.values() if not context.is_over])
            for place, context in contexts.items():
                answers[place] = self._answer(context)
            return answers

    def _advance(self, contexts: Collection[Context]) -> None:
        """One pass. Where processors raise, these have ended with the error, and with what they took."""
        try:
            self._scheduler.advance()
        except GenerationError:
            if not all(context.is_over for context in contexts):
                raise

    def submit(
        self, tickets: Sequence[int], states: Sequence[StepRequest], counts: Sequence[int], limits: Sequence[int]
    ) -> None:
        """See `StreamingStepGenerator.submit`."""
        with self._turn():
            out = {*self._contexts, *[ticket for ticket, _ in self._answered]}
            check_requests(out, tickets=tickets, states=states, counts=counts, limits=limits)
            check_unchanged(self._facts)
            for ticket, request, count, limit in zip(tickets, states, counts, limits, strict=True):
                started = self._begin(request, count, limit, self._done)
                if isinstance(started, Context):
                    started.ticket = ticket
                    self._contexts[ticket] = started
                else:
                    self._answered.append((ticket, started))

    def collect(self) -> list[tuple[int, list[Step] | Exception]]:
        """See `StreamingStepGenerator.collect`. Empty where a request's time is over before it has a token."""
        with self._turn():
            while not (self._done or self._answered) and self._contexts:
                self._scheduler.advance()
                now = time.monotonic()
                if any(context.is_late(now) for context in self._contexts.values()):
                    break
            answers, self._answered = self._answered, []
            for context in self._done:
                del self._contexts[context.ticket]
                answers.append((context.ticket, self._answer(context)))
            self._done.clear()
            return answers

    def discard(self, tickets: Sequence[int]) -> Mapping[int, Spent]:
        """See `StreamingStepGenerator.discard`: what each of them took by now."""
        with self._turn():
            wanted = set(tickets)
            self._answered = [(ticket, answer) for ticket, answer in self._answered if ticket not in wanted]
            contexts = [self._contexts.pop(ticket) for ticket in tickets if ticket in self._contexts]
            self._scheduler.drop([context for context in contexts if not context.is_over])
            self._done[:] = [context for context in self._done if context.ticket not in wanted]
            return {context.ticket: self._charge(context) for context in contexts}

    def read(self, nodes: Sequence[Node]) -> list[Tensor | Exception]:
        """The hidden state (H,) at the last token of each node's context, of the last layer behind the final norm.

        What is computed for it is kept like all contexts: a step from one of these nodes computes none of it again. Of
        a context that is longer than the model takes, it is the state that the last step left behind.
        """
        check_nodes("nodes", nodes)
        with self._turn():
            check_unchanged(self._facts)
            keys: list[tuple[tuple[int, ...], bool] | Tensor | Exception] = []
            for node in nodes:
                try:
                    ids = self._ids_of(node)
                except Exception as error:
                    keys.append(error)
                    continue
                is_too_long = self._most_tokens is not None and len(ids) > self._most_tokens
                keys.append(_left_behind(node) if is_too_long else (ids, _is_alone(node)))
            states = self._states_of([key for key in keys if isinstance(key, tuple)])
            return [states[key] if isinstance(key, tuple) else key for key in keys]

    def _states_of(
        self, keys: Sequence[tuple[tuple[int, ...], bool]]
    ) -> dict[tuple[tuple[int, ...], bool], Tensor | Exception]:
        """What `read` says of contexts, by their ids and whether they are alone. No more than a batch of them is held
        at once, besides what the store holds."""
        states: dict[tuple[tuple[int, ...], bool], Tensor | Exception] = {}
        left = list(dict.fromkeys(keys))
        while left:
            part, left = left[: self._scheduler.max_rows], left[self._scheduler.max_rows :]
            contexts = [Context(ids, [], [], alone=alone) for ids, alone in part]
            self._scheduler.read(contexts)
            states.update(zip(part, map(_state_of, contexts), strict=True))
        return states

    # ---- more

    def statistics(self) -> GenerationStatistics:
        """What was done since this generator was made."""
        scheduler = self._scheduler
        return GenerationStatistics(
            generated_tokens=self._generated,
            prompt_tokens=self._read,
            computed_prompt_tokens=scheduler.computed_tokens,
            saved_prompt_tokens=scheduler.saved_tokens,
            store_hits=scheduler.hits,
            store_evictions=self._store.evictions,
            store_bytes=self._store.nbytes,
            too_long=self._too_long,
            forward_passes=scheduler.forward.passes,
            decode_passes=scheduler.passes,
            row_passes=scheduler.row_passes,
            wanted_row_passes=scheduler.wanted_passes,
            forward_seconds=scheduler.forward.seconds,
            sampling_seconds=scheduler.sampling_seconds,
        )

    @property
    def waited_seconds(self) -> float:
        """Seconds that the host has waited for what a GPU drew. Where it hardly waits, the GPU waits for the host."""
        return self._scheduler.waits.seconds

    def warm_up(self, rows: int, tokens: int) -> None:
        """On a GPU, captures decoding of so many rows of at most so many tokens ahead. Elsewhere it does nothing.

        Raises:
            RuntimeError: requests are under way.
        """
        with self._turn():
            if self._contexts:
                raise RuntimeError("warm_up: expected no request under way, got some; call it before the search")
            scheduler = self._scheduler
            static = scheduler.batch.static if isinstance(scheduler, Scheduler) else None
            if isinstance(scheduler, Scheduler) and static is not None and static.suits(rows, tokens):
                static.warm_up(scheduler.batch.window, rows, tokens)

    def clear(self) -> None:
        """Forgets every context that was computed: after the model's weights have changed."""
        with self._turn():
            if isinstance(self._scheduler, Scheduler):
                self._scheduler.forget()

    # ---- requests and answers

    def _begin(
        self, request: StepRequest, count: int, limit: int, done: list[Context]
    ) -> Context | list[Step] | Exception:
        """A context in the queue, or the answer where there is nothing to do."""
        try:
            count, limit = as_count("counts", count), as_count("limits", limit)
            ids = self._ids_of(request.node)
            sampling, seed = self._sampling(request.sampling), as_seed("seed", request.seed)
            left_s = None if request.seconds_left is None else as_number("seconds_left", request.seconds_left)
            tried = _taken_out(request.tried if self.without_replacement else (), self._facts.vocabulary_size)
        except Exception as error:
            return error
        if self._most_tokens is not None and len(ids) + limit > self._most_tokens:
            limit = self._most_tokens - len(ids)
            self._too_long += limit <= 0
            if limit <= 0 and request.node.parent is None:
                return too_long(len(ids), self._most_tokens)
        if count <= 0 or limit <= 0:
            return []
        if (too_large := limit_error(limit, self._scheduler.sampler.device)) is not None:
            return too_large
        deadline = None if left_s is None else time.monotonic() + left_s
        rules = [SamplingRules(seed, candidate, limit, *sampling, tried) for candidate in range(count)]
        context = Context(ids, rules, done, _is_alone(request.node), deadline)
        self._scheduler.submit(context)
        return context

    def _sampling(self, wanted: Sampling) -> tuple[float, float, int, float]:
        """Temperature, top-p, top-k and min-p of a request. What it asks for is checked as our own settings are."""
        return checked_sampling(
            self.temperature if wanted.temperature is None else wanted.temperature,
            self.top_p if wanted.top_p is None else wanted.top_p,
            self.top_k if wanted.top_k is None else wanted.top_k,
            self.min_p if wanted.min_p is None else wanted.min_p,
        )

    def _ids_of(self, node: Node) -> tuple[int, ...]:
        """The prompt's tokens, and those of the steps since as the model made them."""
        prompt, steps = node.context()
        ids = self._prompt_ids.get(prompt)
        if ids is None:
            ids = checked_ids("prompts", self.prompts(prompt), self._known_ids)
            if not ids:
                raise ValueError(f"states: expected a text of at least one token to continue, got {prompt!r:.80}")
            self._prompt_ids.keep(prompt, ids)
        for step in steps:
            ids += self._step_ids(step) if step.token_ids else self._encode(step.text)
        return ids

    def _step_ids(self, step: Step) -> tuple[int, ...]:
        """A step's own tokens. Those of another model may be none of this one's, such as in a checkpoint."""
        ids = tuple(step.token_ids)
        if min(ids) < 0 or max(ids) >= self._known_ids:
            return checked_ids("Step.token_ids", ids, self._known_ids)
        return ids

    def _encode(self, text: str) -> tuple[int, ...]:
        return checked_ids("tokenizer", bare_ids(self.tokenizer, text), self._known_ids)

    def _charge(self, context: Context) -> Spent:
        tokens = sum(len(drawn.tokens) for drawn in context.drawn.values())
        self._generated += tokens
        read = len(context.ids) * len(context.drawn)
        self._read += read
        return Spent(tokens=tokens, prompt_tokens=read)

    def _answer(self, context: Context) -> list[Step] | Exception:
        """The steps of a context that is over, or why there are none."""
        spent = self._charge(context)
        drawn = [context.drawn[candidate] for candidate in sorted(context.drawn)]
        if context.error is not None:
            return GenerationError(_why(context.error), spent)
        if any(row.reason == BROKEN for row in drawn):
            return GenerationError(self._why_broken(context), spent)
        steps = [self._step(context, row) for row in drawn if row.tokens]
        if steps and context.computed:  # the first of them read what had to be computed
            steps[0].cached_tokens = len(context.ids) - min(context.computed, len(context.ids))
        return steps

    def _why_broken(self, context: Context) -> str:
        own = "processors that allow no token do this; so does " if self.processors is not None else ""
        return (
            f"model: expected logits that are numbers, got NaN or infinity after {self._tail(context)!r}; {own}half "
            "precision that overflows, or a temperature next to 0: take bfloat16 or float32, or 0"
        )

    def _step(self, context: Context, drawn: Drawn) -> Step:
        return Step(
            self._vocabulary.text(drawn.tokens),
            len(drawn.tokens),
            _FINISH_REASONS.get(drawn.reason, "limit"),
            len(context.ids),
            hidden=drawn.hidden,
            token_ids=drawn.tokens,
            token_probabilities=drawn.probabilities,
            log_probability=drawn.log_probability if math.isfinite(drawn.log_probability) else None,
            cached_tokens=len(context.ids),
        )

    def _tail(self, context: Context) -> str:
        return str(self.tokenizer.decode(context.ids[-40:]))[-60:]


def _taken_out(tried: Sequence[Step], size: int) -> list[tuple[tuple[int, ...], tuple[float, ...]]]:
    """The tokens of tried steps and their probabilities, none of which is part of another's.

    Steps that were drawn side by side may be equal, and one that was cut short holds all that go on from it. What
    cannot be drawn from `size` tokens, such as a step of another model, takes nothing out.
    """
    own = [step for step in tried if step.token_probabilities and _could_be_drawn(step, size)]
    known = {tuple(step.token_ids): step.token_probabilities for step in own}
    cut = {tuple(step.token_ids) for step in own if step.is_cut}
    inside = {ids for ids in known if cut and any(ids[:count] in cut for count in range(1, len(ids)))}
    return [one for one in known.items() if one[0] not in inside]


def _could_be_drawn(step: Step, size: int) -> bool:
    ids = step.token_ids
    return len(ids) == len(step.token_probabilities) and min(ids) >= 0 and max(ids) < size


def _known_ids(facts: ModelFacts) -> int:
    """How many token ids the model's input embedding knows; the vocabulary's where it does not say."""
    known = getattr(facts.core.get_input_embeddings(), "num_embeddings", None)
    return known if isinstance(known, int) else facts.vocabulary_size


def _is_alone(node: Node) -> bool:
    """Whether the task gives every state a prompt of its own, which shares nothing with others."""
    return node.prompt is not None and node.parent is not None


def _left_behind(node: Node) -> Tensor | Exception:
    hidden = None if node.step is None else node.step.hidden
    if hidden is None:
        return PromptTooLong(
            "states: expected a context that the model can take, or a step with a hidden state, got none"
        )
    return torch.as_tensor(hidden)


def _state_of(context: Context) -> Tensor | Exception:
    if context.ends is not None:
        return context.ends.hidden
    assert context.error is not None, "it was read"
    return GenerationError(_why(context.error), Spent())


_FINISH_REASONS: Mapping[int, FinishReason] = {DELIMITER: "delimiter", END: "end", RUNNING: "deadline"}


def _why(error: BaseException) -> str:
    if is_out_of_memory(error):
        return (
            f"device: out of memory with one row and an empty store ({error}); use shorter prompts or a smaller model"
        )
    if isinstance(error, GenerationError):
        return str(error)
    return f"{type(error).__name__} in the model's forward pass: {error}"

"""Contexts that are gone on from, and what both ways of scheduling them share."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bavt_fast._checks import message_of
from bavt_fast.device_queue import PendingRead, Spans
from bavt_fast.generators.forward import Forward
from bavt_fast.generators.kv_cache import StoredStates
from bavt_fast.generators.prefix_store import Ends
from bavt_fast.generators.sampling import RUNNING, Drawn, Sampler, SamplingRules
from bavt_fast.protocols import GenerationError

__all__ = ["BaseScheduler", "Context", "Drawing", "Row", "waiting_rows"]

Processor = Callable[[Tensor, Tensor], Tensor]
"""``(token ids, logits) -> logits``, as transformers' logits processors are called."""


@dataclass(slots=True, eq=False)
class Context:
    """A context and the candidates that are to go on from it.

    Attributes:
        ids: its tokens.
        rules: how each candidate draws.
        done: where it is put once it is done.
        alone: it shares its beginning with no other.
        deadline: on the clock of `time.monotonic`; None for none.
        drawn: what each candidate has drawn, once it is done.
        error: why it cannot be gone on from.
        computed: how many of its tokens were computed for it.
        known, pieces: its first tokens that have their states, and these.
        new: states that were computed for it.
        ends: what the model said after it.
        started: candidates that have begun.
        resumes: a row that had to leave the batch and goes on from here; there are no candidates then.
        ticket: the caller's number for it.
    """

    ids: tuple[int, ...]
    rules: list[SamplingRules]
    done: list[Context]
    alone: bool = False
    deadline: float | None = None
    drawn: dict[int, Drawn] = field(default_factory=dict)
    error: BaseException | None = None
    computed: int = 0
    known: int = 0
    pieces: list[tuple[StoredStates, int]] = field(default_factory=list)
    new: list[StoredStates] = field(default_factory=list)
    ends: Ends | None = None
    started: int = 0
    resumes: Row | None = None
    is_dropped: bool = False
    ticket: int = -1

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.is_done or self.is_dropped

    def is_late(self, now: float) -> bool:
        """Whether its time is over and some of its candidates have not ended."""
        return self.deadline is not None and now >= self.deadline and not self.is_over

    @property
    def is_done(self) -> bool:
        return len(self.drawn) == len(self.rules)

    @property
    def target(self) -> int:
        """Tokens to compute before rows can go on from here: the last one of a row that resumes is its next."""
        return len(self.ids) - (self.resumes is not None)

    @property
    def owner(self) -> Context:
        """The context that was submitted."""
        return self if self.resumes is None else self.resumes.owner


@dataclass(slots=True, eq=False)
class Row:
    """A sequence under way.

    Attributes:
        owner: the context that it goes on from.
        candidate: its number among the owner's.
        record: its record in the sampler.
        length: tokens whose states are there.
        slot: its place in the batch; -1 outside.
        ids: once it leaves, the tokens whose states are there.
    """

    owner: Context
    candidate: int
    record: int
    length: int
    slot: int = -1
    ids: tuple[int, ...] = ()

    @property
    def is_over(self) -> bool:
        """Whether what it has drawn was handed over."""
        return self.candidate in self.owner.drawn

    @property
    def is_at_its_limit(self) -> bool:
        """Whether it has drawn as many tokens as it may, if it has drawn one after each pass."""
        return self.length - len(self.owner.ids) + 1 >= self.owner.rules[self.candidate].limit


@dataclass(slots=True)
class Drawing:
    """A token was drawn for each of some rows, or will be by the time that `reasons` have come."""

    rows: list[Row]
    reasons: PendingRead

    def finished(self) -> list[Row]:
        """Those that are done. On a GPU it waits for them."""
        reasons = self.reasons.read()
        return [row for row, reason in zip(self.rows, reasons, strict=True) if reason != RUNNING and not row.is_over]


class BaseScheduler(ABC):
    """Contexts in, what was drawn after them out.

    Args:
        forward, sampler: what it works with.
        max_rows: rows that are decoded at once. It is halved where the device runs out of memory.
        processors: change the logits before they are drawn from.

    Attributes:
        computed_tokens, saved_tokens: prompt tokens that were computed, and that were in the store.
        hits: contexts of which something was in the store.
        passes, row_passes: passes that decode, and rows in them. A row that was done before counts once somebody asks
            for what was computed of it.
        wanted_passes: rows that were decoded or could have been, summed over the passes: up to `max_rows` of those that
            wait.
    """

    def __init__(
        self,
        forward: Forward,
        sampler: Sampler,
        *,
        max_rows: int,
        processors: Processor | None = None,
    ) -> None:
        self.forward, self.sampler = forward, sampler
        self.max_rows, self.processors = max_rows, processors
        self.waiting: deque[Context] = deque()
        self._submitted: dict[int, Context] = {}  # by id; whatever happens to one on its way, it ends
        self.computed_tokens = self.saved_tokens = self.hits = 0
        self.passes = self.row_passes = self.wanted_passes = 0
        self.drawing_spans = Spans(forward.device, forward.measure)
        self.waits = Spans(forward.device, measure=False)  # of the host, for what was drawn

    def submit(self, context: Context) -> None:
        """Puts a context in the queue. It comes into its list ``done`` with what was drawn, or with an error."""
        self._submitted[id(context)] = context
        self.waiting.append(context)

    def advance(self) -> None:
        """Some prompts and one token more of every row. Where it is interrupted, all that is under way ends."""
        try:
            with self.forward.threads.of_pass(1):  # passes of more tokens set a number of their own
                self._advance()
        except BaseException as error:
            self._abandon(error)
            raise

    def read(self, contexts: Sequence[Context]) -> None:
        """Computes contexts without candidates: each one's ``ends``, or its ``error``. What is under way waits."""
        try:
            with self.forward.threads.of_pass(1):
                self._read(contexts)
        except BaseException as error:
            self._abandon(error)
            raise

    @abstractmethod
    def drop(self, contexts: Sequence[Context]) -> None:
        """Gives contexts up: what their candidates have drawn by now is in ``drawn``."""

    @abstractmethod
    def _advance(self) -> None: ...

    @abstractmethod
    def _read(self, contexts: Sequence[Context]) -> None: ...

    @abstractmethod
    def _abandon(self, error: BaseException) -> None: ...

    # ---- drawing

    def _draw(
        self,
        rows: Sequence[Row],
        records: Tensor,
        numbers: np.ndarray,
        logits: Tensor | Sequence[Tensor],
        hidden: Tensor,
    ) -> Drawing:
        """Draws a token for each row."""
        with self.drawing_spans.one():
            if self.processors is not None:
                logits = logits if isinstance(logits, Tensor) else torch.stack(list(logits))
                own = logits.to(torch.float32, copy=True)  # they may change it, and others read what the model gave
                logits = self._processed(self.processors, rows, records, own)
            self.sampler.draw(records, numbers, logits, hidden)
            return Drawing(list(rows), self.sampler.standing(records))

    def _processed(self, processors: Processor, rows: Sequence[Row], records: Tensor, logits: Tensor) -> Tensor:
        try:
            found: object = processors(self._texts(rows, records), logits)
        except Exception as error:
            raise GenerationError(f"processors: {type(error).__name__}: {message_of(error)}") from error
        if isinstance(found, Tensor) and found.shape == logits.shape:
            return found
        shape = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"{found!r:.80}"
        raise GenerationError(
            f"processors: expected the logits back, a tensor of shape {tuple(logits.shape)}, got {shape}"
        )

    @property
    def sampling_seconds(self) -> float:
        """Spent on drawing so far."""
        return self.drawing_spans.seconds

    def _texts(self, rows: Sequence[Row], records: Tensor) -> Tensor:
        """int64 (rows, longest): all ids of each row so far. Its first id fills it up at its beginning."""
        texts = [[*row.owner.ids, *drawn] for row, drawn in zip(rows, self.sampler.tokens(records), strict=True)]
        longest = max(map(len, texts))
        return torch.tensor([[ids[0]] * (longest - len(ids)) + ids for ids in texts], device=self.forward.device)

    def _end(self, rows: Sequence[Row], beside: bool = False) -> list[Drawn]:
        """Keeps what rows have drawn, and gives their records back. `beside`: see `Sampler.drawn`."""
        if not rows:
            return []
        numbers = [row.record for row in rows]
        drawn = self.sampler.drawn(numbers, beside)
        for row, one in zip(rows, drawn, strict=True):
            row.owner.drawn[row.candidate] = one
            if row.owner.is_done and not row.owner.is_dropped:
                self._submitted.pop(id(row.owner), None)
                row.owner.done.append(row.owner)
        self.sampler.close(numbers)
        return drawn

    def _late(self, rows: Sequence[Row]) -> list[Row]:
        """Rows whose deadline has passed."""
        timed = [row for row in rows if row.owner.deadline is not None]
        now = time.monotonic() if timed else 0.0
        return [row for row in timed if row.owner.deadline is not None and row.owner.deadline <= now]

    def _give_up(self, contexts: Sequence[Context]) -> None:
        for context in contexts:
            context.is_dropped = True
            self._submitted.pop(id(context), None)

    def _end_all(self, rows: Sequence[Row], error: BaseException) -> None:
        """Everything ends with an error; what rows have drawn is kept where nobody has it yet."""
        owners = {number: context for number, context in self._submitted.items() if not context.is_over}
        self._submitted.clear()
        for row in rows:
            if id(row.owner) in owners and not row.is_over:
                [row.owner.drawn[row.candidate]] = self.sampler.drawn([row.record])
        self.sampler.release()
        for owner in owners.values():
            owner.is_dropped = True
            owner.error = error
            owner.done.append(owner)


def waiting_rows(contexts: Sequence[Context]) -> int:
    """Rows that contexts still want."""
    return sum(max(1, len(context.rules) - context.started) for context in contexts)

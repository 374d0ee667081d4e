"""Which contexts are computed when: prompts beside rows that decode, each prefix once, no row waiting for another.

    submit -> waiting -> (prefix store | prefill) -> ready -> decode batch -> done

One `advance` computes some prompts, one token more of every row, and draws the next tokens.

On a GPU it reads which rows are done only when the next pass is queued: texts, trees and new requests are the host's
work beside that pass. A row that is done takes part in one pass too many. Its last token is computed there, which is
what the next step from there begins with, so this is kept with the step.

    GPU     pass 1, draw 1 | pass 2, draw 2 | pass 3, draw 3
    host    queue pass 2   | read draw 1, its steps end, others come; queue pass 3 | read draw 2 ...
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from bavt_fast.generators.contexts import BaseScheduler, Context, Drawing, Row, waiting_rows
from bavt_fast.generators.decode_batch import Computed, DecodeBatch, Pieces, prefill_apart
from bavt_fast.generators.device_memory import give_back_memory, is_out_of_memory
from bavt_fast.generators.forward import Forward
from bavt_fast.generators.kv_cache import Layout, first_of, joined
from bavt_fast.generators.packed_pass import PackedPass
from bavt_fast.generators.prefix_store import Ends, Match, PrefixStore
from bavt_fast.generators.sampling import BROKEN, DELIMITER, EXHAUSTED, Drawn, Sampler, as_numbers
from bavt_fast.generators.static_decode import StaticDecoder

__all__ = ["Scheduler"]

_WORTH_WAITING = 0.05
"""Where more than this share of what is missing of a context is being computed for another, it waits for that."""
_ALIKE = 0.75
"""Prompts at least this long, as a share of the longest, are computed together."""


class Scheduler(BaseScheduler):
    """For models that keep keys and values and nothing else.

    Args:
        layout: of the model's keys and values.
        store: of contexts that were computed.
        prefill_tokens: prompt tokens that are computed before the rows that decode have their turn.
        static, packed: see `DecodeBatch`.
        ahead: queue a pass before it is read which rows the one before has ended.
        options: see `BaseScheduler`.
    """

    def __init__(
        self,
        forward: Forward,
        sampler: Sampler,
        layout: Layout,
        store: PrefixStore,
        *,
        prefill_tokens: int,
        static: StaticDecoder | None = None,
        packed: PackedPass | None = None,
        ahead: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(forward, sampler, **options)
        self.layout, self.store = layout, store
        self.prefill_tokens = prefill_tokens
        self.batch = DecodeBatch(forward, layout, static, packed)
        self.prefilling: list[Context] = []
        self.ready: deque[Context] = deque()  # some candidates have not started
        self.joining: list[Context] = []  # their last token is computed with the rows that decode
        self.ahead = ahead
        self._unread: deque[Drawing] = deque()
        self._last: tuple[Tensor, Tensor] | None = None  # what the last pass gave, until the next one
        self._failed_alone = False

    def _advance(self) -> None:
        self._start()
        beside = self._beside()
        if not beside:
            self._prefill()
        self._begin()
        if self._unread and self._must_read():
            self._settle()
        self._go_on(*self._decode(beside))
        late = self._late(self.batch.rows)
        if late:
            self._settle()
            self._retire([row for row in late if not row.is_over], [])

    def _read(self, contexts: Sequence[Context]) -> None:
        left = list(contexts)
        while left:
            put_off: list[Context] = []
            reading: list[Context] = []
            for context in left:
                match = self.store.find(context.ids, context.alone)
                most = len(context.ids) - 1
                if match.ends is None and self._is_computed_now(context, min(match.tokens, most), reading):
                    put_off.append(context)
                    continue
                self._end_with(context, match.ends)
                if match.ends is None:
                    self._know(context, match, most)
                    reading.append(context)
            self.prefilling += reading
            while any(context.ends is None and context.error is None for context in reading):
                self._prefill()
            left = put_off

    def drop(self, contexts: Sequence[Context]) -> None:
        """Gives contexts up: what their candidates have drawn by now is in ``drawn``."""
        if not contexts:
            return
        self._settle()
        self._give_up(contexts)
        rows = [row for row in self.batch.rows if row.owner.is_dropped]
        for queue in (self.waiting, self.prefilling, self.ready, self.joining):
            rows += [c.resumes for c in queue if c.resumes is not None and c.owner.is_dropped]
            kept = [context for context in queue if not context.owner.is_dropped]
            queue.clear()
            queue.extend(kept)
        self._retire(rows, [])

    def forget(self) -> None:
        """Forgets the states of all contexts but those of the rows that are under way."""
        self.store.clear()
        self.batch.forget_left()

    # ---- contexts that begin

    def _start(self) -> None:
        """Takes waiting contexts while there is room for their rows, and looks up what is known of them."""
        put_off: list[Context] = []
        coming = waiting_rows([*self.ready, *self.prefilling, *self.joining])
        room = self.max_rows - len(self.batch.rows) - coming
        self.batch.expected_rows = self.max_rows - max(0, room - waiting_rows(self.waiting))
        while self.waiting and room > 0:
            context = self.waiting.popleft()
            match = self.store.find(context.ids, context.alone)
            known = min(match.tokens, context.target if match.ends is not None else len(context.ids) - 1)
            if known < context.target and self._is_computed_now(context, known, [*self.prefilling, *self.joining]):
                put_off.append(context)
                continue
            self._know(context, match, known)
            room -= max(1, len(context.rules))
            self._sort_in(context, match.ends)
        self.waiting.extendleft(reversed(put_off))

    def _know(self, context: Context, match: Match, most: int) -> None:
        """Takes the states of a context's first tokens out of the store, of so many at most."""
        context.known = min(match.tokens, most)
        context.pieces = first_of(match.pieces, context.known)
        self.saved_tokens += context.known
        self.hits += context.known > 0

    def _sort_in(self, context: Context, ends: Ends | None) -> None:
        if context.resumes is not None and context.known == context.target:
            self.joining.append(context)
        elif ends is not None and context.resumes is None:
            self._end_with(context, ends)
            self.ready.append(context)
        elif context.known == len(context.ids) - 1 and len(context.rules) == 1:
            self.joining.append(context)
        else:
            self.prefilling.append(context)

    def _end_with(self, context: Context, ends: Ends | None) -> None:
        """What the model said after a context is known. If a row computed it that was done, it is counted now."""
        context.ends = ends
        if ends is not None and ends.is_early:
            ends.is_early = False
            context.computed += 1
            self.computed_tokens += 1
            self.saved_tokens -= context.known > 0
            self.row_passes += 1

    def _is_computed_now(self, context: Context, known: int, others: Sequence[Context]) -> bool:
        """Whether more of a context is on its way for one of others, so that it pays to wait."""
        if self.store.limit_bytes <= 0:
            return False
        ids, enough = context.ids, known + 1 + int(_WORTH_WAITING * (len(context.ids) - known))
        for other in others:
            if other.ids == ids or (not (context.alone or other.alone) and other.ids[:enough] == ids[:enough]):
                return True
        return False

    def _beside(self) -> list[Context]:
        """The prompts, if they are to be computed in the pass that decodes: all that wait for it, or none."""
        packed, prompts = self.batch.packed, self.prefilling
        coming = [*self.ready, *self.joining]
        rows = len(self.batch.rows) + waiting_rows(coming)
        if packed is None or not prompts or not rows or any(c.known or c.resumes for c in prompts):
            return []
        longest = max([row.length for row in self.batch.rows] + [len(context.ids) for context in coming])
        return list(prompts) if packed.suits(rows, longest, [len(context.ids) for context in prompts]) else []

    def _prefill(self) -> None:
        """Computes prompts, up to `prefill_tokens` of them."""
        left = self.prefill_tokens
        while self.prefilling and left > 0:
            group = self._group(left)
            rows = []
            for context in group:
                size = min(context.target - context.known, self.prefill_tokens)
                rows.append((context.ids[context.known : context.known + size], context.known, context.pieces))
                left -= size
            try:
                if self._suits_batch(group):
                    computed = self.batch.prefill([(context.ids, context.known, context.pieces) for context in group])
                else:
                    computed = prefill_apart(self.forward, self.layout, rows)
            except Exception as error:
                if not self._made_room(error, len(group)):
                    self._fail(group, error)
                continue
            self._know_more(group, [len(ids) for ids, _, _ in rows], computed)

    def _suits_batch(self, group: Sequence[Context]) -> bool:
        """Whether prompts can be computed where their rows will be: to their ends, and each has a row that begins."""
        whole = all(c.rules and len(c.ids) - c.known <= self.prefill_tokens for c in group)
        return whole and self.batch.has_room(len(group))

    def _know_more(self, contexts: Sequence[Context], sizes: Sequence[int], computed: Computed) -> None:
        """So many more tokens of each context were computed."""
        for context, size, logits, hidden, states in zip(contexts, sizes, *computed, strict=True):
            self.computed_tokens += size
            context.computed += size
            context.known += size
            context.pieces = [*context.pieces, (states, size)]
            context.new.append(states)
            if context.known == context.target:
                self.prefilling.remove(context)
                self._is_computed(context, Ends(logits.clone(), hidden.clone()))

    def _group(self, most_tokens: int) -> list[Context]:
        """Contexts whose prompts are computed in one pass: of about the same length."""
        first = self.prefilling[0]

        def size(context: Context) -> int:
            return min(context.target - context.known, self.prefill_tokens)

        if first.known:
            alike = [c for c in self.prefilling if c.known and size(c) == size(first)]
        else:
            longest = size(first)
            alike = [c for c in self.prefilling if not c.known and _ALIKE * longest <= size(c) <= longest]
        rows = min(self.max_rows, max(1, most_tokens // size(first)))
        return alike[:rows]

    def _is_computed(self, context: Context, ends: Ends) -> None:
        """The last token of a context was computed: it is stored, and its candidates can start."""
        states, context.new = joined(context.new), []
        first = context.target - context.computed
        starts = context.resumes is None
        # A key that is not finite spoils those before it, which others share. (On a GPU one would have to wait for it.)
        if self.forward.device.type != "cpu" or ends.hidden.isfinite().all():
            kept = ends if starts else None
            self.store.add(context.ids[: context.target], states, first, kept, starts and context.alone)
        if not starts:
            self.joining.append(context)
            return
        context.ends = ends
        if context.rules:  # else it was only to be read
            self.ready.append(context)

    # ---- rows

    def _decode(self, beside: Sequence[Context]) -> tuple[Tensor | None, Tensor | None]:
        """One token more of every row: (rows, vocabulary) logits, (rows, H) hidden states; None without rows.

        Computes whole prompts beside them, whose rows count as decoded: they get their first token from this pass.
        """
        joined = self._join()
        if not self.batch.rows:
            return None, None
        waits = waiting_rows([*self.waiting, *self.prefilling, *self.ready])
        records, _, _ = self.batch.members()
        tokens, packed, computed = self.sampler.next_token[records], self.batch.packed, None
        try:
            if beside and packed is not None:
                prompts = [context.ids for context in beside]
                logits, hidden, computed = self.batch.decode_beside(packed, tokens, prompts)
            else:
                logits, hidden = self.batch.decode(tokens)
        except Exception as error:
            rows = list(self.batch.rows)
            if self._made_room(error, len(rows)):
                self._park(rows)
            else:
                self._fail([row.owner for row in rows], error)
            return None, None
        self._failed_alone = False
        count = len(self.batch.rows)
        if computed is not None:
            started = waiting_rows(beside)
            count, waits = count + started, waits - started
            self._know_more(beside, [len(context.ids) for context in beside], computed)
        self._last = (logits, hidden) if self.ahead else None
        self.passes += 1
        self.row_passes += count
        self.wanted_passes += max(count, min(self.max_rows, count + waits))
        for row in joined:
            self._store_last(row, logits[row.slot], hidden[row.slot])
        return logits, hidden

    def _join(self) -> list[Row]:
        """Rows for contexts of which the last token alone is missing: it is computed as the row's first."""
        if not self.joining:
            return []
        coming: list[tuple[Row, Pieces]] = []
        new = [context for context in self.joining if context.resumes is None]
        if new:
            records = self.sampler.open([c.rules[0] for c in new], [c.ids[-1] for c in new])
            for context, record in zip(new, records, strict=True):
                context.started = 1
                context.computed += 1
                self.computed_tokens += 1
                coming.append((Row(context, 0, record, context.known), context.pieces))
        joined = [row for row, _ in coming]
        for context in self.joining:
            if context.resumes is not None:
                context.resumes.length = context.known
                coming.append((context.resumes, context.pieces))
        self.joining = []
        return joined if self._change([], coming) else []

    def _store_last(self, row: Row, logits: Tensor, hidden: Tensor) -> None:
        """What a row that joined has computed of its context: the last token's states, and what follows."""
        context = row.owner
        if self.store.limit_bytes > 0:
            states = self.batch.window.read(row.slot, row.length, row.length - 1, 1)
            ends = Ends(logits.clone(), hidden.clone())
            self.store.add(context.ids, states, len(context.ids) - 1, ends, context.alone)

    def _begin(self) -> None:
        """The first token of every row that starts: its logits are there. Those that go on join the batch."""
        starting = self._starting()
        if starting:
            rows = [row for row, _ in starting]
            logits = [ends.logits for _, ends in starting]
            hidden = torch.stack([ends.hidden for _, ends in starting])
            records, numbers = as_numbers([row.record for row in rows], self.forward.device)
            drawing = self._draw(rows, records, numbers, logits, hidden)
            if self.ahead:
                self._unread.append(drawing)
                self._change([], [(row, row.owner.pieces) for row in rows])
                return
            finished = drawing.finished()
            gone = set(map(id, finished))
            self._retire(finished, [(row, row.owner.pieces) for row in rows if id(row) not in gone])

    def _go_on(self, logits: Tensor | None, hidden: Tensor | None) -> None:
        """The next token of every row of the batch; those that are done leave."""
        if logits is None or hidden is None:
            self._settle()
            return
        records, numbers, _ = self.batch.members()
        self._unread.append(self._draw(self.batch.rows, records, numbers, logits, hidden))
        self._settle(int(self.ahead))

    def _settle(self, keep: int = 0) -> None:
        """Reads which rows are done, all draws but the last `keep`; these rows leave."""
        finished: list[Row] = []
        while len(self._unread) > keep:
            drawing = self._unread.popleft()
            with self.waits.one():
                finished += drawing.finished()
        self._retire(finished, [], beside=keep > 0)
        if not self.batch.rows:  # those of a draw that is still under way were done before
            self._unread.clear()
            self._last = None

    def _must_read(self) -> bool:
        """Whether to read which rows are done before the next pass: one would go to a place that the model does not
        have, or all of them have come to their limits."""
        rows, most = self.batch.rows, self.forward.facts.max_positions
        if most is not None and any(row.length >= most for row in rows):
            return True
        return not self.joining and all(row.is_at_its_limit for row in rows)

    def _starting(self) -> list[tuple[Row, Ends]]:
        """New rows for candidates whose context is known, as far as there is room."""
        candidates: list[tuple[Context, int]] = []
        room = self.max_rows - len(self.batch.rows) - len(self.joining)
        while self.ready and room > 0:
            context = self.ready[0]
            count = min(room, len(context.rules) - context.started)
            candidates += [(context, context.started + i) for i in range(count)]
            context.started += count
            room -= count
            if context.started == len(context.rules):
                self.ready.popleft()
        if not candidates:
            return []
        records = self.sampler.open([context.rules[i] for context, i in candidates], [-1] * len(candidates))
        starting = []
        for (context, candidate), record in zip(candidates, records, strict=True):
            assert context.ends is not None
            starting.append((Row(context, candidate, record, len(context.ids)), context.ends))
        return starting

    def _retire(self, finished: Sequence[Row], coming: Sequence[tuple[Row, Pieces]], *, beside: bool = False) -> None:
        """Takes rows out of the batch, keeps what they have drawn, and puts others in their places."""
        for row, drawn in zip(finished, self._end(finished, beside), strict=True):
            computed = row.length - len(row.owner.ids)
            row.ids = row.owner.ids + drawn.tokens[:computed]
            self._store_step(row, drawn)
            if row.slot >= 0:
                needed = len(drawn.tokens) - (drawn.reason not in (EXHAUSTED, BROKEN))
                self.row_passes -= computed - needed
            if drawn.reason == BROKEN and row.slot >= 0:
                self.batch.window.clear(row.slot)
                row.ids = ()  # nobody goes on from there
        self._change([row for row in finished if row.slot >= 0], coming)

    def _change(self, leaving: Sequence[Row], coming: Sequence[tuple[Row, Pieces]]) -> bool:
        """Takes rows out of the batch and puts others in; False where there was no memory for these, and all wait."""
        try:
            self.batch.change(leaving, coming)
        except Exception as error:
            new = [row for row, _ in coming]
            rows = [*new, *(row for row in self.batch.rows if row not in new)]
            if not rows or not is_out_of_memory(error):
                raise
            if self._made_room(error, len(rows)):
                self._park(rows)
            else:
                self._fail([row.owner for row in rows], error)
                self._end([row for row in new if not row.is_over])  # the others left the batch as their contexts failed
            return False
        return True

    def _store_step(self, row: Row, drawn: Drawn) -> None:
        """The states of a step that others may go on from. If its last token was computed too, and just now, what the
        model said after it."""
        context, before = row.owner, len(row.owner.ids)
        count = len(row.ids) - before
        if drawn.reason != DELIMITER or count < 1 or context.alone or row.slot < 0 or self.store.limit_bytes <= 0:
            return
        states, ends = self.batch.window.read(row.slot, row.length, before, count), None
        if count == len(drawn.tokens) and len(row.ids) == row.length and self._last is not None:
            logits, hidden = self._last
            ends = Ends(logits[row.slot].clone(), hidden[row.slot].clone(), is_early=True)
        self.store.add(row.ids, states, before, ends)

    # ---- failures

    def _made_room(self, error: Exception, rows: int) -> bool:
        """Whether there is hope to do with less memory what has just failed: without the store, and with half of the
        rows. One row alone is tried again once."""
        if not is_out_of_memory(error) or (rows == 1 and (self._failed_alone or not self.store.nbytes)):
            return False
        self._failed_alone = rows == 1
        self.max_rows = max(1, min(self.max_rows, rows // 2)) if rows > 1 else self.max_rows
        self.store.clear()
        self._last = None
        give_back_memory(error, self.forward.device)
        return True

    def _park(self, rows: Sequence[Row]) -> None:
        """Takes rows out of the batch, with all its memory. Each is computed anew when there is room, and goes on."""
        self._settle()
        rows = [row for row in rows if not row.is_over]
        drawn_by_now = self.sampler.drawn([row.record for row in rows]) if rows else []
        for row, drawn in zip(rows, drawn_by_now, strict=True):
            row.slot = -1
            owner = row.owner
            resumed = Context(owner.ids + drawn.tokens, [], owner.done, owner.alone, owner.deadline, resumes=row)
            self.waiting.appendleft(resumed)
        self.batch.reset()
        self._last = None

    def _abandon(self, error: BaseException) -> None:
        """Ends everything under way, also where the batch was left half changed."""
        rows = self.batch.rows
        for queue in (self.waiting, self.prefilling, self.ready, self.joining):
            rows += [context.resumes for context in queue if context.resumes is not None]
            queue.clear()
        self._unread.clear()
        self._last = None
        self._end_all(rows, error)
        self.batch.reset()

    def _fail(self, contexts: Sequence[Context], error: Exception) -> None:
        """Contexts whose forward pass failed, with what their candidates have drawn."""
        self._settle()
        found = {id(context.owner): context.owner for context in contexts}.values()
        owners = [owner for owner in found if not (owner.rules and owner.is_over)]  # without rules: only to be read
        self.drop(owners)
        for owner in owners:
            owner.error = error
            owner.done.append(owner)

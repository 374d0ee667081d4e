"""Scheduling for models that keep more of a context than keys and values: nothing is shared, no padding enters a state.

Contexts of one length are begun together and decoded as a group, each token one pass for each group. A row that is done
leaves its group at once. Where the device has no memory for a pass, the rows of its group wait, and begin anew with
what they have drawn, fewer at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bavt_fast.generators.contexts import BaseScheduler, Context, Row, waiting_rows
from bavt_fast.generators.device_memory import give_back_memory, is_out_of_memory
from bavt_fast.generators.forward import Forward
from bavt_fast.generators.own_cache import DecodingPlan, OwnCacheDecoder
from bavt_fast.generators.prefix_store import Ends
from bavt_fast.generators.sampling import Sampler, as_numbers

__all__ = ["GroupScheduler"]


@dataclass(slots=True, eq=False)
class _Group:
    decoder: OwnCacheDecoder
    rows: list[Row]


class GroupScheduler(BaseScheduler):
    """For models that keep a context in a way of their own.

    Args:
        plan: how the model's context is kept.
        options: see `BaseScheduler`.
    """

    def __init__(self, forward: Forward, sampler: Sampler, plan: DecodingPlan, **options: Any) -> None:
        super().__init__(forward, sampler, **options)
        self.plan = plan
        self.groups: list[_Group] = []

    def drop(self, contexts: Sequence[Context]) -> None:
        self._give_up(contexts)
        self._end([c.resumes for c in self.waiting if c.resumes is not None and c.owner.is_dropped])
        kept = [context for context in self.waiting if not context.owner.is_dropped]
        self.waiting.clear()
        self.waiting.extend(kept)
        for group in self.groups:
            self._leave(group, [row for row in group.rows if row.owner.is_dropped])

    def _advance(self) -> None:
        for group in [group for group in self.groups if group.rows]:
            self._step(group, None)
        self._start()
        for group in self.groups:
            self._leave(group, self._late(group.rows))
        self.groups = [group for group in self.groups if group.rows]

    def _read(self, contexts: Sequence[Context]) -> None:
        by_length: dict[int, list[Context]] = {}
        for context in contexts:
            by_length.setdefault(len(context.ids), []).append(context)
        for length, alike in by_length.items():
            for begin in range(0, len(alike), self.max_rows):
                self._read_alike(alike[begin : begin + self.max_rows], length)

    def _read_alike(self, contexts: Sequence[Context], length: int) -> None:
        """Contexts of one length, in one pass."""
        decoder = OwnCacheDecoder(self.forward.model, self.plan)
        ids = [context.ids for context in contexts]
        self.computed_tokens += length * len(ids)
        try:
            logits, hidden = self.forward.timed(lambda: decoder.begin(ids), length * len(ids))
        except Exception as error:
            if len(contexts) > 1 and is_out_of_memory(error):
                self._read_halves(contexts, length, error)
                return
            for context in contexts:
                context.error = error
            return
        for place, context in enumerate(contexts):
            context.ends = Ends(logits[place].clone(), hidden[place].clone())

    def _read_halves(self, contexts: Sequence[Context], length: int, error: Exception) -> None:
        """Contexts that had no memory together."""
        half = (len(contexts) + 1) // 2
        self.max_rows = min(self.max_rows, half)
        give_back_memory(error, self.forward.device)
        self._read_alike(contexts[:half], length)
        self._read_alike(contexts[half:], length)

    def _start(self) -> None:
        """Begins contexts that wait, as far as there is room, in groups of equal length."""
        room = self.max_rows - sum(len(group.rows) for group in self.groups)
        by_length: dict[int, list[tuple[Context, int]]] = {}
        while self.waiting and room > 0:
            context = self.waiting[0]
            count = min(room, waiting_rows([context]))
            candidates = [(context, context.started + i) for i in range(count)]
            by_length.setdefault(len(context.ids), []).extend(candidates)
            context.started += count
            room -= count
            if context.resumes is not None or context.started == len(context.rules):
                self.waiting.popleft()
        begun = [(self._group_of(candidates), candidates) for candidates in by_length.values()]
        self.groups += [group for group, _ in begun]
        for group, candidates in begun:
            distinct = {context.ids: context for context, _ in candidates}
            for context in distinct.values():
                context.computed = len(context.ids)
                self.computed_tokens += len(context.ids)
            self._step(group, [context.ids for context, _ in candidates])

    def _group_of(self, candidates: Sequence[tuple[Context, int]]) -> _Group:
        """A group of new rows, and of those that had to wait."""
        new = [context.rules[i] for context, i in candidates if context.resumes is None]
        records = iter(self.sampler.open(new, [-1] * len(new)) if new else [])
        rows = [context.resumes or Row(context, i, next(records), len(context.ids)) for context, i in candidates]
        return _Group(OwnCacheDecoder(self.forward.model, self.plan), rows)

    def _step(self, group: _Group, contexts: Sequence[Sequence[int]] | None) -> None:
        """One token more of a group, whose first pass reads its contexts."""
        records, numbers = as_numbers([row.record for row in group.rows], self.forward.device)

        def compute() -> tuple[Tensor, Tensor]:
            if contexts is not None:
                return group.decoder.begin(contexts)
            return group.decoder.advance(self.sampler.next_token[records])

        tokens = len(group.rows) if contexts is None else sum(map(len, contexts))
        try:
            logits, hidden = self.forward.timed(compute, tokens)
        except Exception as error:
            if is_out_of_memory(error) and sum(len(group.rows) for group in self.groups) > 1:
                self._park(group, self.sampler.tokens(records), error)
            else:
                self._fail(group, error)
            return
        if contexts is None:
            count = len(group.rows)
            self.passes += 1
            self.row_passes += count
            self.wanted_passes += max(count, min(self.max_rows, count + waiting_rows([*self.waiting])))
        self._leave(group, self._draw(group.rows, records, numbers, logits, hidden).finished())

    def _leave(self, group: _Group, rows: Sequence[Row]) -> None:
        if not rows:
            return
        self._end(rows)
        gone = set(map(id, rows))
        kept = [i for i, row in enumerate(group.rows) if id(row) not in gone]
        group.rows = [group.rows[i] for i in kept]
        group.decoder.keep(kept)

    def _park(self, group: _Group, drawn: Sequence[Sequence[int]], error: Exception) -> None:
        """Takes the rows of a group out, for which there was no memory. They go on when there is room for them."""
        at_once = sum(len(group.rows) for group in self.groups)
        self.max_rows = max(1, min(self.max_rows, at_once // 2))
        for row, ids in zip(reversed(group.rows), reversed(drawn), strict=True):
            owner = row.owner
            resumed = Context(owner.ids + tuple(ids), [], owner.done, owner.alone, owner.deadline, resumes=row)
            self.waiting.appendleft(resumed)
        group.rows = []
        group.decoder.keep([])
        give_back_memory(error, self.forward.device)

    def _fail(self, group: _Group, error: Exception) -> None:
        owners = list({id(row.owner): row.owner for row in group.rows}.values())
        self.drop(owners)
        for owner in owners:
            owner.error = error
            owner.done.append(owner)

    def _abandon(self, error: BaseException) -> None:
        rows = [row for group in self.groups for row in group.rows]
        rows += [context.resumes for context in self.waiting if context.resumes is not None]
        self.waiting.clear()
        self._end_all(rows, error)
        self.groups.clear()

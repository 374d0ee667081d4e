"""The rows that are decoded together: each pass computes one more token of every row.

A row that is done leaves at once, and another takes its place; before the next pass the last rows fill the holes that
are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bavt_fast.device_queue import to_device
from bavt_fast.generators.contexts import Row
from bavt_fast.generators.device_memory import is_out_of_memory
from bavt_fast.generators.forward import Forward
from bavt_fast.generators.kv_cache import KeyValueWindow, Layout, Placed, StoredStates
from bavt_fast.generators.packed_pass import PackedPass
from bavt_fast.generators.static_decode import StaticDecoder

__all__ = ["Computed", "DecodeBatch", "Pieces", "prefill_apart"]

Pieces = Sequence[tuple[StoredStates, int]]

Prompt = tuple[Sequence[int], int, Pieces]
"""New ids, tokens before them, the states of those."""

Computed = tuple[Tensor, Tensor, list[StoredStates]]
"""Of prompts: logits (rows, vocabulary) and hidden states (rows, H) of each last token, and each row's new states."""


class DecodeBatch:
    """Rows with their keys and values.

    Args:
        forward, layout: the model.
        static: decodes by passes of fixed shapes, as far as they suit.
        packed: computes prompts in the passes that decode, as far as it suits.

    Attributes:
        expected_rows: that there will be, as far as that is known: memory of the host that has to grow is made for so
            many, for it is not taken before it is used.
    """

    def __init__(
        self,
        forward: Forward,
        layout: Layout,
        static: StaticDecoder | None = None,
        packed: PackedPass | None = None,
    ) -> None:
        self.forward = forward
        self.layout = layout
        self.static = static
        self.packed = packed
        self.expected_rows = 0
        self.reset()

    def reset(self) -> None:
        """Lets go of all rows and their memory."""
        if self.static is not None:
            self.static.forget()
        self.window = KeyValueWindow(self.layout)
        self._slots: list[Row | None] = []  # None for a hole
        self._left: dict[tuple[int, ...], int] = {}  # by tokens: the hole where their states still are
        self._is_prefilled = False  # whether the holes are those of prompts that were computed there
        self._members: tuple[Tensor, Any, Tensor] | None = None  # records, the same on the host, lengths

    def forget_left(self) -> None:
        """What rows that have left were computed with is not so any more."""
        self._left.clear()

    @property
    def rows(self) -> list[Row]:
        """Those that are decoded, by slot."""
        return [row for row in self._slots if row is not None]

    def change(self, leaving: Sequence[Row], coming: Sequence[tuple[Row, Pieces]]) -> None:
        """Takes rows out and puts others in, with the states of their `length` tokens.

        One that goes on from where another has just left finds them in its hole.
        """
        if not leaving and not coming:
            return
        self._members = None
        for row in leaving:
            self._slots[row.slot] = None
            if len(row.ids) == row.length:
                self._left[row.ids] = row.slot
            row.slot = -1
        rows = self.rows
        if not rows and not self._is_prefilled:
            self._empty()
        self._is_prefilled = False
        self.window.rows = len(self._slots)
        if coming:
            longest = max(row.length for row in (*rows, *(row for row, _ in coming)))
            end = self.window.end
            expected = self.expected_rows if self.forward.device.type == "cpu" else 0
            self.window.make_room(max(len(self._slots), len(rows) + len(coming)), longest, 1, expected)
            if self.window.end != end:  # what is longer than all rows was cut off
                self._left.clear()
        for row, _ in coming:
            self._return(row)
        holes = iter([slot for slot, row in enumerate(self._slots) if row is None])
        placed: list[Placed] = []
        for row, pieces in coming:
            if row.slot < 0:
                row.slot = next(holes, len(self._slots))
                self._slots[row.slot : row.slot + 1] = [row]
                placed.append((row.slot, row.length, pieces))
        if placed:
            self.window.place(placed)
        self._left = {ids: slot for ids, slot in self._left.items() if self._slots[slot] is None}
        self.window.rows = len(self._slots)

    def _empty(self) -> None:
        """Forgets what is in the window, in which no row is."""
        self._slots.clear()
        self._left.clear()
        self.window.end = self.window.rows = 0

    def _return(self, row: Row) -> None:
        """Gives a row the hole where its states are, if there is one."""
        known = row.owner.ids[: row.length]
        slot = self._left.pop(known, -1) if len(known) == row.length else -1  # not where it has drawn some of them
        if slot >= 0:
            row.slot = slot
            self._slots[slot] = row

    def _fill_holes(self) -> None:
        """Moves the last rows into the holes that no row came to take."""
        self._left.clear()
        for hole, row in enumerate(self._slots):
            if row is not None:
                continue
            while self._slots and self._slots[-1] is None:
                self._slots.pop()
            if hole >= len(self._slots):
                break
            last = self._slots.pop()
            assert last is not None
            self.window.move(last.slot, hole, last.length)
            self._slots[hole] = last
            last.slot = hole
        self.window.rows = len(self._slots)

    def has_room(self, rows: int) -> bool:
        """Whether `prefill` can take so many prompts: on the CPU, while there are fewer rows than there will be."""
        taken = len(self._slots) if self._is_prefilled or self.rows else 0
        return self.forward.device.type == "cpu" and taken + rows <= self.expected_rows

    def prefill(self, prompts: Sequence[tuple[tuple[int, ...], int, Pieces]]) -> Computed:
        """Computes the prompts of rows that come, where these will be decoded; see `has_room`.

        Args:
            prompts: (all ids, how many are known, the states of those); as for `prefill`.
        """
        if not self._is_prefilled and not self.rows:
            self._empty()
        first, before = len(self._slots), max(known for _, known, _ in prompts)
        new = max(len(ids) - known for ids, known, _ in prompts)
        longest = max([before + new, *map(len, self._left), *(row.length for row in self.rows)])
        self.window.make_room(first + len(prompts), longest, 1, self.expected_rows)
        part = self.window.part(first, len(prompts), before + new)
        part.end += before
        try:
            rows = [(ids[known:], known, pieces) for ids, known, pieces in prompts]
            logits, hidden, states = prefill(self.forward, part, rows)
        except BaseException:
            for row in range(len(prompts)):
                part.clear(row)  # half a pass may have left what is not finite
            raise
        for row, ((ids, _, _), state) in enumerate(zip(prompts, hidden, strict=True)):
            if state.isfinite().all():
                part.clear_before(row, len(ids))
                self._left[ids] = first + row
            else:
                part.clear(row)
        self._slots += [None] * len(prompts)
        self._is_prefilled = True
        self.window.rows = len(self._slots)
        return logits, hidden, states

    def members(self) -> tuple[Tensor, Any, Tensor]:
        """(records, the same on the host, lengths) of the rows, int64 (rows,)."""
        if self._members is None:
            self._fill_holes()
            host = np.array([[row.record for row in self.rows], [row.length for row in self.rows]], dtype=np.int64)
            records, lengths = to_device(host, self.forward.device).unbind()  # one copy
            self._members = records, host[0], lengths
        return self._members

    def decode(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Computes one token more of every row, int64 (rows,): logits (rows, vocabulary), hidden states (rows, H)."""
        _, _, lengths = self.members()
        longest = max(row.length for row in self.rows)
        if self.static is not None and self.static.suits(len(self.rows), longest):
            logits, hidden = self._decode_static(self.static, tokens, lengths, longest)
        else:
            logits, hidden = self._decode(tokens, lengths, longest)
        self._grow()
        return logits, hidden

    def decode_beside(
        self, packed: PackedPass, tokens: Tensor, prompts: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor, Computed | None]:
        """`decode`, and whole prompts in the same pass: what was computed of them, None where it could not be done."""
        _, _, lengths = self.members()
        count, longest = len(self.rows), max(row.length for row in self.rows)
        self.window.make_room(count, longest)
        try:
            logits, hidden, states = packed.decode(self.window, tokens, [row.length for row in self.rows], prompts)
        except Exception as error:  # a model that takes no such pass; if it takes none at all, the plain one says so
            if is_out_of_memory(error):
                raise
            packed.is_on = False
            return *self.decode(tokens), None
        computed: Computed = (logits[count:], hidden[count:], states)
        logits, hidden = logits[:count], hidden[:count]
        if not packed.is_checked(longest):
            expected = self._decode(tokens, lengths, longest)
            plain = prefill_apart(self.forward, self.layout, [(ids, 0, ()) for ids in prompts])
            if not packed.check(
                (logits, hidden, *computed[:2]), (*expected, *plain[:2]), max(longest, *map(len, prompts))
            ):
                (logits, hidden), computed = expected, plain
        self._grow()
        return logits, hidden, computed

    def _grow(self) -> None:
        """Every row has one token more."""
        records, numbers, lengths = self.members()
        self.window.end += 1
        for row in self.rows:
            row.length += 1
        self._members = records, numbers, lengths + 1

    def _decode(self, tokens: Tensor, lengths: Tensor, longest: int) -> tuple[Tensor, Tensor]:
        window = self.window
        window.make_room(len(self.rows), longest)
        window.begin = window.end - longest
        known = [row.length for row in self.rows]
        mask = None
        if min(known) < longest:
            mask = None if self.packed is None else self.packed.mask_of_rows(known)
        if min(known) < longest and mask is None:
            columns = torch.arange(longest + 1, device=lengths.device)
            mask = columns >= longest - lengths[:, None]
        return self.forward(tokens[:, None], mask, lengths[:, None], window.cache)

    def _decode_static(
        self, static: StaticDecoder, tokens: Tensor, lengths: Tensor, longest: int
    ) -> tuple[Tensor, Tensor]:
        """The first pass is compared with a plain one, which is the result where anything is amiss."""
        try:
            found = static.decode(self.window, tokens, lengths, longest)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            static.turn_off(error)
            return self._decode(tokens, lengths, longest)
        if static.is_checked:
            return found
        expected = self._decode(tokens, lengths, longest)
        return found if static.check(found, expected) else expected


def prefill_apart(forward: Forward, layout: Layout, rows: Sequence[Prompt]) -> Computed:
    """Computes the prompts of new rows, in a window of their own; see `prefill`."""
    before = max(known for _, known, _ in rows)
    window = KeyValueWindow(layout, len(rows), before + max(len(ids) for ids, _, _ in rows), zeros=False)
    window.end = before
    return prefill(forward, window, rows)


def prefill(forward: Forward, window: KeyValueWindow, rows: Sequence[Prompt]) -> Computed:
    """Computes the prompts of new rows.

    Args:
        window: where to, with room for the longest before its end and behind it.
        rows: of which either nothing stands before any, or they have equally many new ids: padding in the middle of a
            row would shift a sliding window.
    """
    before = max(known for _, known, _ in rows)
    new = max(len(ids) for ids, _, _ in rows)
    window.place([(row, known, pieces) for row, (_, known, pieces) in enumerate(rows)])
    for row, (_, known, _) in enumerate(rows):
        if known < before:  # all other columns are written
            window.clear_before(row, known)
    ids = to_device([[ids[0]] * (new - len(ids)) + list(ids) for ids, _, _ in rows], forward.device)
    sizes = to_device([[len(ids), known] for ids, known, _ in rows], forward.device)
    columns = torch.arange(before + new, device=forward.device)
    positions = (columns[before:] - (before + new) + sizes.sum(1, keepdim=True)).clamp_min(0)
    lengths = sizes.sum(1, keepdim=True)
    is_padded = any(known + len(ids) < before + new for ids, known, _ in rows)
    mask = columns >= before + new - lengths if is_padded else None
    logits, hidden = forward(ids, mask, positions, window.cache)
    window.end += new
    states = [window.read(row, known + len(ids), known, len(ids)) for row, (ids, known, _) in enumerate(rows)]
    return logits, hidden, states

"""Keys and values of contexts that were computed before, found by their token ids.

A radix tree: each segment holds the states of a run of tokens, and a context is a path of segments. What begins in the
same way is stored once. A segment also keeps what the model said after its last token (logits, hidden state), so that
going on from there again computes nothing. Contexts that share nothing with others are kept apart, each by its whole
ids.

Over the byte limit the segment that was used longest ago goes first, among those that nothing stored goes on from.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from bavt_fast.generators.kv_cache import StoredStates

__all__ = ["Ends", "Match", "PrefixStore"]

Ids = tuple[int, ...]


@dataclass(slots=True, eq=False)
class Ends:
    """What a model said after a context.

    Attributes:
        logits: (vocabulary,).
        hidden: (H,).
        is_early: it was computed before anybody asked for it, and nobody has by now.
    """

    logits: Tensor
    hidden: Tensor
    is_early: bool = False

    @property
    def nbytes(self) -> int:
        return int(self.logits.nbytes + self.hidden.nbytes)


class Match(NamedTuple):
    """What is known of a context.

    Attributes:
        tokens: how many of its first tokens have their states in `pieces`.
        pieces: (states, how many of their tokens), one after the other.
        ends: what the model said after the whole context, where that is known.
    """

    tokens: int
    pieces: list[tuple[StoredStates, int]]
    ends: Ends | None


class _Segment:
    """A run of tokens behind `parent`, None for the segments that contexts begin with."""

    __slots__ = ("children", "ends", "ids", "last_used", "parent", "states")

    def __init__(self, ids: Ids, states: StoredStates, parent: _Segment | None, ends: Ends | None = None) -> None:
        self.ids = ids
        self.states = states
        self.parent = parent
        self.ends = ends
        self.children: dict[int, _Segment] = {}
        self.last_used = 0

    @property
    def nbytes(self) -> int:
        return sum(int(part.nbytes) for part in self.states) + (self.ends.nbytes if self.ends else 0)


class PrefixStore:
    """States of contexts under a byte limit.

    Args:
        limit_bytes: of all states together; 0 stores nothing.

    Attributes:
        nbytes: what is stored.
        evictions: segments that had to go.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.nbytes = 0
        self.evictions = 0
        self._roots: dict[int, _Segment] = {}
        self._alone: dict[Ids, _Segment] = {}
        self._clock = 0

    def clear(self) -> None:
        """Forgets everything, such as after the model's weights changed."""
        self._roots.clear()
        self._alone.clear()
        self.nbytes = 0

    def find(self, ids: Ids, alone: bool = False) -> Match:
        """The longest beginning of a context that is stored.

        Args:
            ids: the context.
            alone: it was stored by its whole ids.
        """
        if alone:
            segment = self._alone.get(ids)
            if segment is None:
                return Match(0, [], None)
            self._touch(segment)
            return Match(len(ids), [(segment.states, len(ids))], segment.ends)
        path, tokens = self._walk(ids)
        pieces = [(segment.states, count) for segment, count in path]
        if path:
            self._touch(path[-1][0])
        ends = path[-1][0].ends if path and tokens == len(ids) and path[-1][1] == len(path[-1][0].ids) else None
        return Match(tokens, pieces, ends)

    def add(self, ids: Ids, states: StoredStates, first: int, ends: Ends | None = None, alone: bool = False) -> None:
        """Stores what was computed of a context.

        Args:
            ids: the whole context.
            states: of its tokens from `first` on. What lies before must be stored; if it is not any more, nothing is.
            ends: what the model said after its last token.
            alone: keep it apart from all others (`first` is 0 then).
        """
        if self.limit_bytes <= 0:
            return
        if alone:
            if ids not in self._alone:
                self._keep(_Segment(ids, states, None, ends), self._alone, ids)
            return
        path, tokens = self._walk(ids)
        if tokens < first:
            return
        parent = self._end_of(path)
        if tokens < len(ids):
            children = self._roots if parent is None else parent.children
            parts = [part[:, :, tokens - first :] for part in states]
            if tokens > first:
                parts = [part.clone() for part in parts]
            self._keep(_Segment(ids[tokens:], parts, parent, ends), children, ids[tokens])
        elif parent is not None and ends is not None and parent.ends is None:
            parent.ends = ends
            self._grow(ends.nbytes, parent)

    def shrink(self, limit_bytes: int) -> None:
        """Evicts down to a limit, which stays the limit."""
        self.limit_bytes = limit_bytes
        self._evict(limit_bytes)

    def _walk(self, ids: Ids) -> tuple[list[tuple[_Segment, int]], int]:
        """(segment, how many of its tokens match) along a context, and their sum."""
        path: list[tuple[_Segment, int]] = []
        at, children = 0, self._roots
        while at < len(ids):
            segment = children.get(ids[at])
            if segment is None:
                break
            count = _common(segment.ids, ids, at)
            path.append((segment, count))
            at += count
            if count < len(segment.ids):
                break
            children = segment.children
        return path, at

    def _end_of(self, path: Sequence[tuple[_Segment, int]]) -> _Segment | None:
        """The segment that a path ends with, split where it ends within one."""
        if not path:
            return None
        segment, count = path[-1]
        return segment if count == len(segment.ids) else self._split(segment, count)

    def _split(self, segment: _Segment, count: int) -> _Segment:
        """Makes a segment's first tokens a segment of their own, in the same memory; returns it."""
        begin = [part[:, :, :count] for part in segment.states]
        rest = [part[:, :, count:] for part in segment.states]
        first = _Segment(segment.ids[:count], begin, segment.parent)
        first.last_used = segment.last_used
        siblings = self._roots if segment.parent is None else segment.parent.children
        siblings[first.ids[0]] = first
        segment.ids, segment.states, segment.parent = segment.ids[count:], rest, first
        first.children[segment.ids[0]] = segment
        return first

    def _keep(self, segment: _Segment, children: dict, key: object) -> None:  # type: ignore[type-arg]
        children[key] = segment
        self._grow(segment.nbytes, segment)

    def _grow(self, nbytes: int, segment: _Segment) -> None:
        self.nbytes += nbytes
        self._touch(segment)
        if self.nbytes > self.limit_bytes:
            self._evict(self.limit_bytes * 9 // 10)

    def _touch(self, segment: _Segment | None) -> None:
        self._clock += 1
        while segment is not None:
            segment.last_used = self._clock
            segment = segment.parent

    def _evict(self, limit_bytes: int) -> None:
        """Drops what was used longest ago, ends first, until the rest is within the limit."""
        leaves = [(s.last_used, i, s) for i, s in enumerate(self._leaves())]
        heapq.heapify(leaves)
        number = len(leaves)
        while self.nbytes > limit_bytes and leaves:
            _, _, segment = heapq.heappop(leaves)
            self.nbytes -= segment.nbytes
            self.evictions += 1
            self._unshare(segment)
            parent = segment.parent
            if parent is not None:
                del parent.children[segment.ids[0]]
                if not parent.children:
                    number += 1
                    heapq.heappush(leaves, (parent.last_used, number, parent))
            elif self._alone.get(segment.ids) is segment:
                del self._alone[segment.ids]
            else:
                del self._roots[segment.ids[0]]

    @staticmethod
    def _unshare(segment: _Segment) -> None:
        """Copies what segments before one that goes have in the same memory, so that the memory is free."""
        before = segment.parent
        while before is not None and _memory_of(before) == _memory_of(segment):
            before.states = [part.clone() for part in before.states]
            before = before.parent

    def _leaves(self) -> list[_Segment]:
        leaves = list(self._alone.values())
        open_segments = list(self._roots.values())
        while open_segments:
            segment = open_segments.pop()
            if segment.children:
                open_segments.extend(segment.children.values())
            else:
                leaves.append(segment)
        return leaves


def _memory_of(segment: _Segment) -> list[int]:
    """Where the memory of its states begins; segments that were split share it."""
    return [part.untyped_storage().data_ptr() for part in segment.states]


def _common(run: Ids, ids: Ids, at: int) -> int:
    """How many tokens of a run stand in `ids` from place `at` on."""
    most = min(len(run), len(ids) - at)
    if run[:most] == ids[at : at + most]:
        return most
    return next(i for i in range(most) if run[i] != ids[at + i])

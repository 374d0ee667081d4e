"""Draws the next tokens of many rows at once, on the device where the logits are.

What a row has so far (tokens, probabilities, how it ended) lies in tensors, by *record*: a record stays where it is
while the rows of the batch move. Each row has its own uniform numbers, drawn when it starts by a counter-based
generator (Philox) from its seed, so a result does not depend on the batch around it.

A token is the smallest one whose cumulative probability is above u times the whole, found in two steps: the block of
tokens it lies in, then its place in there.

Sampling without replacement takes the probability of steps tried before out of the distribution, token by token (Shi et
al. 2020, "Incremental Sampling Without Replacement for Sequence Models").
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bavt_fast._checks import as_amount, as_count, as_share
from bavt_fast.device_queue import PendingRead, call_complete, side_stream, to_device
from bavt_fast.generators.device_memory import LEAST_RECORDS, is_out_of_memory, too_many_tokens

__all__ = [
    "BROKEN",
    "DELIMITER",
    "END",
    "EXHAUSTED",
    "LIMIT",
    "RUNNING",
    "Drawn",
    "Sampler",
    "SamplingRules",
    "checked_sampling",
]

RUNNING, DELIMITER, END, LIMIT, EXHAUSTED, BROKEN = range(6)
"""Why a row stands: it goes on; a stop string; the end of the text; its limit on tokens; nothing new is left; its
logits are not numbers."""

NEW_MASS = 1e-6
"""Where less than this share of the probability is left to steps not tried yet, nothing new is drawn: in float32 that
may be rounding."""
SPENT_SHARE = 1e-6  # of a token's probability, below which what is left of it is rounding
_BLOCK = 256
_UINT64 = 2**64 - 1
_CACHED = 2**18  # logits that a CPU works on at once: they stay in its cache


@dataclass(slots=True)
class SamplingRules:
    """How one row draws. `tried` are steps not to draw again: their tokens and the probability of each."""

    seed: int
    candidate: int
    limit: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    tried: Sequence[tuple[Sequence[int], Sequence[float]]] = field(default=())


@dataclass(slots=True)
class Drawn:
    """What a row has drawn.

    Attributes:
        tokens: their ids.
        probabilities: of each, by the rules of the row.
        log_probability: of all together, as the model has it at temperature 1.
        reason: RUNNING, DELIMITER, ...
        hidden: the state that predicted the last token, (H,), on the device.
    """

    tokens: tuple[int, ...]
    probabilities: tuple[float, ...]
    log_probability: float
    reason: int
    hidden: Tensor


class Sampler:
    """The records of all rows that are under way.

    Args:
        next_state: integer (states, vocabulary), a `StopTable`'s; `found` is the state behind a stop string.
        ends: ids that end the text.
        named: bool (vocabulary,); other ids are never drawn.
        device: of the logits.
    """

    def __init__(
        self, next_state: np.ndarray, found: int, ends: Sequence[int], named: np.ndarray, device: torch.device
    ) -> None:
        self.device = device
        self._next_state = torch.as_tensor(next_state, device=device)
        self._found = found
        self._ends = torch.zeros(len(named), dtype=torch.bool, device=device)
        self._ends[list(ends)] = True
        self._zero = torch.zeros((), dtype=torch.float64, device=device)
        self._nameless = None if named.all() else torch.as_tensor(~named, device=device)
        self._hidden: Tensor | None = None
        self._moved: Any = None  # on a GPU, when the records have moved to larger columns
        self._free: list[int] = []
        self._is_greedy, self._is_cut, self._is_plain, self._has_tried = (np.zeros(0, dtype=bool) for _ in range(4))
        self._make_columns(0, 1, 1)

    # ---- records

    def _make_columns(self, records: int, tokens: int, tries: int) -> None:
        def zeros(*shape: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=self.device)

        self._numbers = zeros(5, records, dtype=torch.long)  # in one tensor: a row that begins writes them all
        self._count, self._limit, self._state, self._reason, self.next_token = self._numbers
        self._settings = zeros(records, 4, dtype=torch.float32)  # temperature, top_p, top_k, min_p
        self._log_probability = zeros(records, dtype=torch.float64)
        self._tokens = zeros(records, tokens, dtype=torch.long)
        self._uniforms, self._probabilities = (zeros(records, tokens, dtype=torch.float64) for _ in range(2))
        self._tried = zeros(records, tries, tokens, dtype=torch.long)
        self._rest = zeros(records, tries, tokens, dtype=torch.float32)  # probability of the tokens behind
        self._alive = zeros(records, tries, dtype=torch.bool)

    def _make_room(self, rows: int, tokens: int, tries: int) -> None:
        records, had_tokens = self._tokens.shape
        had_tries = self._tried.shape[1]
        grown = records if len(self._free) >= rows else max(LEAST_RECORDS, 2 * records, records + rows)
        grown += grown % 2  # so each of `_numbers` begins at 16 bytes, as a kernel was compiled for
        if grown == records and tokens <= had_tokens and tries <= had_tries:
            return
        old, before = {name: getattr(self, name) for name in COLUMNS}, dict(vars(self))
        try:
            self._make_columns(grown, max(tokens, had_tokens), max(tries, had_tries))
        except Exception as error:
            vars(self).update(before)
            raise too_many_tokens(tokens - 1) if is_out_of_memory(error) else error from None
        for name in COLUMNS:
            new = getattr(self, name)
            new[tuple(slice(size) for size in old[name].shape)] = old[name]
        if self._hidden is not None:
            hidden = self._hidden.new_zeros(grown, self._hidden.shape[1])
            hidden[:records] = self._hidden
            self._hidden = hidden
        if self.device.type == "cuda":
            self._moved = torch.cuda.current_stream(self.device).record_event()
        more = grown - records
        self._free.extend(range(grown - 1, records - 1, -1))
        for name in MASKS:
            setattr(self, name, np.concatenate([getattr(self, name), np.zeros(more, dtype=bool)]))

    def open(self, rules: Sequence[SamplingRules], next_tokens: Sequence[int]) -> list[int]:
        """Records for rows that start, each of which has `next_tokens` before it (-1 where its logits are there)."""
        longest = max(rule.limit for rule in rules) + 1
        tries = max(len(rule.tried) for rule in rules)
        longest = max([longest, *(len(tokens) + 1 for rule in rules for tokens, _ in rule.tried)])
        self._make_room(len(rules), longest, tries)
        numbers = [self._free.pop() for _ in rules]
        width = self._tokens.shape[1]
        uniforms = _uniforms(rules, width)
        settings = self._as_settings(rules)
        limits = [rule.limit for rule in rules]
        self._begin(numbers, uniforms, settings, limits, next_tokens)
        self._is_greedy[numbers] = [rule.temperature == 0.0 for rule in rules]
        self._is_cut[numbers] = (settings[:, 1:] != (1.0, 0.0, 0.0)).any(1)
        self._is_plain[numbers] = (settings[:, 0] == 1.0) & ~self._is_greedy[numbers] & ~self._is_cut[numbers]
        self._has_tried[numbers] = [len(rule.tried) > 0 for rule in rules]
        known = [(number, rule.tried) for number, rule in zip(numbers, rules, strict=True) if rule.tried]
        if known:
            self._remember(*zip(*known, strict=True))
        return numbers

    def _as_settings(self, rules: Sequence[SamplingRules]) -> np.ndarray[Any, Any]:
        """(rules, 4): temperature, top_p, top_k, min_p. What is next to 1 or 0 may be that in float32."""
        most, size = float(np.finfo(np.float32).max), self._next_state.shape[1]
        rows = [(min(rule.temperature, most) or 1.0, rule.top_p, min(rule.top_k, size), rule.min_p) for rule in rules]
        return np.array(rows, dtype=np.float32)

    def _begin(
        self,
        numbers: Sequence[int],
        uniforms: np.ndarray,
        settings: np.ndarray,
        limits: Sequence[int],
        next_tokens: Sequence[int],
    ) -> None:
        """Writes what rows start with into their records."""
        nothing = [0] * len(numbers)
        whole = np.array([numbers, nothing, limits, nothing, nothing, next_tokens], dtype=np.float64).T
        packed = to_device(np.concatenate([whole, settings, uniforms], 1), self.device)  # one copy; all of it is exact
        columns = packed[:, :6].long().T
        at = columns[0]
        self._numbers[:, at] = columns[1:]
        self._settings[at] = packed[:, 6:10].float()
        self._uniforms[at] = packed[:, 10:]
        for column in (self._log_probability, self._alive):
            column.index_fill_(0, at, 0)

    def _remember(
        self, numbers: Sequence[int], tried: Sequence[Sequence[tuple[Sequence[int], Sequence[float]]]]
    ) -> None:
        """Writes the steps tried before into the records of the rows that have some."""
        counts = [len(steps) for steps in tried]
        tokens = np.full((len(tried), max(counts), self._tried.shape[2]), -1, dtype=np.int64)
        rest = np.zeros(tokens.shape, dtype=np.float32)
        for row, steps in enumerate(tried):
            for i, (ids, probabilities) in enumerate(steps):
                tokens[row, i, : len(ids)] = ids
                behind = np.cumprod(np.asarray(probabilities, dtype=np.float64)[::-1])[::-1]
                rest[row, i, : len(ids)] = [*behind[1:], 1.0]
        self._keep_tried(numbers, counts, tokens, rest)

    def _keep_tried(self, numbers: Sequence[int], counts: Sequence[int], tokens: np.ndarray, rest: np.ndarray) -> None:
        """Of so many steps of each row the ids, and the probability behind each: (rows, steps, tokens)."""
        rows, most, _ = tokens.shape
        parts = [np.array([numbers, counts]).T, tokens.reshape(rows, -1), rest.reshape(rows, -1)]
        packed = to_device(np.concatenate(parts, 1, dtype=np.float64), self.device)  # one copy; all of it is exact
        at, count = packed[:, :2].long().unbind(1)
        ids, behind = packed[:, 2:].unflatten(1, (2, most, -1)).unbind(1)
        self._tried[:, :most][at] = ids.long()
        self._rest[:, :most][at] = behind.float()
        self._alive[:, :most][at] = torch.arange(most, device=self.device) < count[:, None]

    def close(self, numbers: Sequence[int]) -> None:
        """Gives records back."""
        self._free.extend(numbers)

    def release(self) -> None:
        """Gives all records back."""
        self._free = list(range(len(self._count) - 1, -1, -1))

    def tokens(self, records: Tensor) -> list[list[int]]:
        """What rows have drawn so far."""
        counts, tokens = self._count[records].tolist(), self._tokens[records].tolist()
        return [row[:count] for row, count in zip(tokens, counts, strict=True)]

    def standing(self, records: Tensor) -> PendingRead:
        """Why each row stands."""
        return PendingRead(self._reason[records])

    def drawn(self, numbers: Sequence[int], beside: bool = False) -> list[Drawn]:
        """What rows have drawn: one copy to the host for all.

        Args:
            beside: on a GPU, do not wait for what is queued. The rows are known to be done, so nothing of them changes
                any more: a draw that they are still in writes the same numbers again.
        """
        if not beside or self.device.type != "cuda":
            return self._drawn(numbers)
        passes = torch.cuda.current_stream(self.device)
        with side_stream(self.device) as stream:
            if self._moved is not None:
                stream.wait_event(self._moved)
                self._moved = None
            rows = self._drawn(numbers)
            for row in rows:
                row.hidden.record_stream(passes)  # where it may be read, and was not made
                call_complete(row.hidden)
        return rows

    def _drawn(self, numbers: Sequence[int]) -> list[Drawn]:
        at = to_device(list(numbers), self.device)
        width = self._tokens.shape[1]
        hidden = None if self._hidden is None else self._hidden[at]  # before the copy, for which the host waits
        packed = torch.cat(
            [
                torch.stack([self._count[at], self._reason[at]], 1).double(),
                self._log_probability[at, None],
                self._tokens[at].double(),
                self._probabilities[at],
            ],
            dim=1,
        ).tolist()
        rows = []
        for i, row in enumerate(packed):
            count = int(row[0])
            tokens = tuple(map(int, row[3 : 3 + count]))
            probabilities = tuple(row[3 + width : 3 + width + count])
            state = torch.empty(0) if hidden is None else hidden[i]
            rows.append(Drawn(tokens, probabilities, row[2], int(row[1]), state))
        return rows

    # ---- drawing

    def draw(self, records: Tensor, numbers: np.ndarray, logits: Tensor | Sequence[Tensor], hidden: Tensor) -> None:
        """The next token of each row that goes on.

        Args:
            records, numbers: (rows,) the records, on the device and on the host.
            logits: (rows, vocabulary) of each row's next token, or (vocabulary,) of each one.
            hidden: (rows, H), the states that they were made from.
        """
        logits = logits if isinstance(logits, Tensor) else torch.stack(list(logits))
        size = max(1, _CACHED // logits.shape[1]) if self.device.type == "cpu" else len(numbers)
        parts = [
            self._choose(records[at : at + size], numbers[at : at + size], logits[at : at + size])
            for at in range(0, len(numbers), size)
        ]
        went_on = self._append(
            records, *(torch.cat(column) if len(parts) > 1 else column[0] for column in zip(*parts, strict=True))
        )
        self._keep_hidden(records, hidden, went_on)

    def _keep_hidden(self, records: Tensor, hidden: Tensor, went_on: Tensor | None = None) -> None:
        """Of the rows that went on, or of all: those that are done keep theirs until they are read."""
        if self._hidden is None:
            self._hidden = hidden.new_zeros(self._tokens.shape[0], hidden.shape[1])
        if went_on is not None:
            hidden = torch.where(went_on[:, None], hidden, self._hidden[records])
        self._hidden[records] = hidden

    def _choose(self, records: Tensor, numbers: np.ndarray, logits: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(rows,) each: a token, its probability by the row's rules, the probability of all tokens that could be drawn,
        and the token's log-probability at temperature 1."""
        if self._nameless is not None:
            logits = logits.masked_fill(self._nameless, -torch.inf)
        logits = logits.float()
        probabilities = self._weights(records, numbers, logits)
        uniforms = self._uniforms[records, self._count[records]]
        has_tried = bool(self._has_tried[numbers].any())
        if has_tried and (self.device.type != "cpu" or bool(self._alive[records].any())):
            token, mass = self._pick_untried(records, probabilities, uniforms)
        else:
            token, mass = _pick(probabilities, uniforms)
        chosen = probabilities.gather(1, token[:, None])[:, 0].double()
        if self._is_plain[numbers].all():
            return token, chosen, mass, chosen.log()
        return token, chosen, mass, logits.log_softmax(-1).gather(1, token[:, None])[:, 0].double()

    def _weights(self, records: Tensor, numbers: np.ndarray, logits: Tensor) -> Tensor:
        """(rows, vocabulary) probabilities by each row's settings. A row with logits that are not numbers is NaN."""
        settings = self._settings[records]
        probabilities = (logits / settings[:, :1]).softmax(-1)
        at = self._places(self._is_greedy[numbers])
        if at is not None:
            best = logits[at].argmax(-1, keepdim=True)
            broken = probabilities[at].sum(-1, keepdim=True) * 0.0  # NaN stays NaN
            probabilities[at] = torch.zeros_like(probabilities[at]).scatter_(1, best, 1.0) + broken
        at = self._places(self._is_cut[numbers])
        if at is not None:
            probabilities[at] = _truncated(probabilities[at], settings[at])
        return probabilities

    def _places(self, wanted: np.ndarray) -> Tensor | slice | None:
        """Which rows are wanted; None for none. All of them are a slice, for which no index is copied."""
        if wanted.all():
            return slice(None)
        return to_device(np.flatnonzero(wanted), self.device) if wanted.any() else None

    def _pick_untried(self, records: Tensor, probabilities: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
        """A token of each row without the mass of the tried steps that run through it, and the mass that is left."""
        places = self._count[records][:, None, None].expand(-1, self._tried.shape[1], 1)
        tokens = self._tried[records].gather(2, places)[:, :, 0]
        rest = self._rest[records].gather(2, places)[:, :, 0]
        follows = self._alive[records] & (tokens >= 0)
        at = tokens.clamp_min(0)
        before = probabilities.gather(1, at)
        probabilities.scatter_add_(1, at, -before * rest * follows)
        is_spent = follows & (probabilities.gather(1, at) < SPENT_SHARE * before)
        probabilities.scatter_reduce_(1, at, torch.where(is_spent, 0.0, torch.inf), "amin")
        probabilities.scatter_reduce_(1, at, torch.where(follows, 0.0, -torch.inf), "amax")
        token, mass = _pick(probabilities, uniforms)
        probabilities.scatter_(1, at, before)
        self._alive[records] = follows & (tokens == token[:, None])
        return token, mass

    def _append(self, records: Tensor, token: Tensor, chosen: Tensor, mass: Tensor, log_probability: Tensor) -> Tensor:
        """Writes what was drawn into the records; bool (rows,), whether each row went on until now."""
        reason, count, before = self._reason[records], self._count[records], self._state[records]
        went_on = reason == RUNNING
        is_new = mass >= NEW_MASS  # not where it is NaN
        is_drawn = went_on & is_new
        self._tokens[records, count] = token
        self._probabilities[records, count] = chosen
        self.next_token[records] = token
        count = count + is_drawn
        self._count[records] = count
        self._log_probability[records] += torch.where(is_drawn, log_probability, self._zero)
        state = self._next_state[before, token].long()
        self._state[records] = torch.where(is_drawn, state, before)
        ended = (count >= self._limit[records]) * LIMIT
        ended.masked_fill_(state == self._found, DELIMITER)
        ended.masked_fill_(self._ends[token], END)
        ended.masked_fill_(~is_new, EXHAUSTED)
        ended.masked_fill_(mass.isnan(), BROKEN)
        self._reason[records] = torch.where(went_on, ended, reason)
        return went_on


COLUMNS = (
    "_count",
    "_limit",
    "_state",
    "_reason",
    "next_token",
    "_settings",
    "_log_probability",
    "_tokens",
    "_uniforms",
    "_probabilities",
    "_tried",
    "_rest",
    "_alive",
)
MASKS = ("_is_greedy", "_is_cut", "_is_plain", "_has_tried")
"""What the host knows of each record without looking at the device."""


def _uniforms(rules: Sequence[SamplingRules], width: int) -> np.ndarray[Any, Any]:
    """float64 (rules, width): uniform numbers up to each rule's limit, the same for a seed and candidate wherever they
    stand. One generator takes all their keys in turn: to make another takes five times as long."""
    bits = np.random.Philox(key=[0, 0])
    random, state = np.random.Generator(bits), bits.state
    key = state["state"]["key"]
    uniforms = np.zeros((len(rules), width))
    for row, rule in zip(uniforms, rules, strict=True):
        key[:] = int(rule.seed) & _UINT64, rule.candidate  # a numpy integer would overflow
        bits.state = state
        row[: rule.limit] = random.random(rule.limit)
    return uniforms


def _pick(weights: Tensor, uniforms: Tensor) -> tuple[Tensor, Tensor]:
    """A token of each row (rows, vocabulary) in proportion to its weight, and the sum of the weights, float64."""
    size = weights.shape[1]
    blocks = size // _BLOCK
    sums = weights[:, : blocks * _BLOCK].unflatten(1, (blocks, _BLOCK)).sum(-1) if blocks else weights[:, :0]
    if blocks * _BLOCK < size:
        sums = torch.cat([sums, weights[:, blocks * _BLOCK :].sum(-1, keepdim=True)], 1)
    up_to = sums.double().cumsum(-1)
    mass = up_to[:, -1]
    target = uniforms * mass
    block = _first_above(up_to, target)
    target = target - up_to.gather(1, (block - 1).clamp_min(0)[:, None])[:, 0] * (block > 0)
    places = block[:, None] * _BLOCK + _offsets(weights.device)
    within = weights.gather(1, places.clamp_max(size - 1)).double() * (places < size)
    return (block * _BLOCK + _first_above(within.cumsum(-1), target)).clamp_max(size - 1), mass


@functools.cache
def _offsets(device: torch.device) -> Tensor:
    return torch.arange(_BLOCK, device=device)


def _first_above(up_to: Tensor, target: Tensor) -> Tensor:
    """(rows,) the first place where running sums are above a target; rounding never leads past the last weight."""
    above = torch.searchsorted(up_to, target[:, None], right=True)[:, 0]
    last = torch.searchsorted(up_to, up_to[:, -1:].contiguous(), right=False)[:, 0]
    return torch.minimum(above, last)


def _truncated(probabilities: Tensor, settings: Tensor) -> Tensor:
    """Only the most likely tokens: at most top_k (and those that are as likely), no more than it takes to reach top_p,
    none below min_p times the most likely one (Nguyen et al. 2024, "Turning Up the Heat")."""
    top_p, top_k, min_p = settings[:, 1:2], settings[:, 2].long(), settings[:, 3:4]
    top_p = torch.where(top_p < 1.0, top_p, torch.inf)  # a sum may be rounded to 1 before its end
    ordered = probabilities.sort(-1, descending=True).values
    size = ordered.shape[1]
    before = ordered.cumsum(-1) - ordered
    kept = (before < top_p).sum(-1).clamp_min(1)
    kept = torch.where(top_k > 0, torch.minimum(kept, top_k), kept).clamp_max(size)
    floor = torch.maximum(ordered.gather(1, kept[:, None] - 1), min_p * ordered[:, :1])
    cut = probabilities.masked_fill(probabilities < floor, 0.0)
    return cut / cut.sum(-1, keepdim=True)


def checked_sampling(
    temperature: object, top_p: object, top_k: object, min_p: object
) -> tuple[float, float, int, float]:
    """The four settings in the types that they have in `SamplingRules`.

    Raises:
        TypeError, ValueError: one of them is not what it should be.
    """
    at_least = as_amount("min_p", min_p, allow_zero=True)
    if at_least > 1.0:
        raise ValueError(f"min_p: expected a number from 0 to 1, got {min_p!r}")
    warmth = as_amount("temperature", temperature, allow_zero=True)
    return warmth, as_share("top_p", top_p), as_count("top_k", top_k), at_least


def as_numbers(numbers: Sequence[int], device: torch.device) -> tuple[Tensor, np.ndarray[Any, Any]]:
    """Record numbers on the device and on the host."""
    host = np.asarray(numbers, dtype=np.int64)
    return to_device(host, device), host

"""The Triton kernel that draws the next token of each row: all that `Sampler.draw` does, in one launch.

One program has one row. It reads the row's logits three times, from the second on out of the cache: for the largest;
for the sums of the weights exp((logit - largest) / temperature), at the row's temperature and at 1; and for the block
in which the running sum of what is left passes a uniform number times their sum. Weights are fp32, and each block's sum
is fp64, as running sums are. A weight loses what belongs to steps tried before that run through its token (sampling
without replacement); below `spent_share` of it what is left is rounding, and counts as nothing.

What was drawn is written into the columns of the row's record. A row that is done is left as it is.
"""

# mypy: ignore-errors
# A kernel is compiled by triton, whose language has no static types.

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["draw_kernel"]

_DELIMITER = tl.constexpr(1)
_END = tl.constexpr(2)
_LIMIT = tl.constexpr(3)
_EXHAUSTED = tl.constexpr(4)
_BROKEN = tl.constexpr(5)


@triton.jit
def _logits(row_logits, nameless, token, VOCAB: tl.constexpr):
    """fp32 logits; minus infinity past the vocabulary and for ids without a name."""
    values = tl.load(row_logits + token, mask=token < VOCAB, other=float("-inf")).to(tl.float32)
    if nameless is not None:
        hidden = tl.load(nameless + token, mask=token < VOCAB, other=0)
        values = tl.where(hidden != 0, float("-inf"), values)
    return values


@triton.jit
def _left(weight, token, tried, rest, alive, place, width, tries, spent_share, HAS_TRIED: tl.constexpr):
    """Weights without what belongs to the steps tried before; pointers are to a record's own."""
    if HAS_TRIED:
        share = weight * 0.0  # of each weight, that is tried; NaN stays NaN
        runs_through = token < 0
        attempt = tries * 0
        while attempt < tries:  # triton 3.6 has no range of a number like this in its interpreter
            at = attempt * width + place
            follows = (token == tl.load(tried + at)) & (tl.load(alive + attempt) != 0)
            share += tl.where(follows, tl.load(rest + at), 0.0)
            runs_through = runs_through | follows
            attempt += 1
        kept = weight - weight * share
        weight = tl.where(runs_through & (kept < spent_share * weight), 0.0, kept)
    return weight


@triton.jit(do_not_specialize=["logits_stride", "hidden_stride", "width", "tries", "most_tried"])
def draw_kernel(
    logits, hidden, records, standing,
    count, limit, state, reason, next_token, settings, log_probability,
    tokens, uniforms, probabilities, tried, rest, alive, kept_hidden,
    next_state, ends, nameless,
    logits_stride, hidden_stride, width, tries, most_tried, new_mass, spent_share,
    FOUND: tl.constexpr, VOCAB: tl.constexpr, HIDDEN: tl.constexpr, BLOCK: tl.constexpr, HAS_TRIED: tl.constexpr,
):  # fmt: skip
    """The next token of row i, whose record is ``records[i]``; ``standing[i]`` is its reason then. Grid (rows,).

    Columns are those of `Sampler`; `width` and `tries` are the tokens and the tried steps that a record has room for,
    and no row has more than `most_tried` of these.
    """
    row = tl.program_id(0).to(tl.int64)
    record = tl.load(records + row)
    why = tl.load(reason + record)
    if why == 0:
        place, before = tl.load(count + record), tl.load(state + record)
        temperature = tl.load(settings + record * 4)
        row_logits = logits + row * logits_stride
        offset = tl.arange(0, BLOCK)
        own_tried, own_rest = tried + record * tries * width, rest + record * tries * width
        own_alive = alive + record * tries

        largest = tl.full((BLOCK,), float("-inf"), tl.float32)
        for start in range(0, VOCAB, BLOCK):
            largest = tl.maximum(largest, _logits(row_logits, nameless, start + offset, VOCAB))
        top = tl.max(largest, 0)

        weights = tl.zeros((BLOCK,), tl.float32)
        at_1 = tl.zeros((BLOCK,), tl.float32)
        mass = tl.zeros((BLOCK,), tl.float64)
        for start in range(0, VOCAB, BLOCK):
            token = start + offset
            below = _logits(row_logits, nameless, token, VOCAB) - top
            weight = tl.exp(below / temperature)
            weights += weight
            at_1 += tl.exp(below)
            mass += _left(
                weight, token, own_tried, own_rest, own_alive, place, width, most_tried, spent_share, HAS_TRIED
            ).to(tl.float64)
        whole = tl.sum(weights.to(tl.float64), 0)
        whole = tl.where(tl.abs(top / temperature) < float("inf"), whole, float("nan"))
        left = tl.sum(mass, 0)
        share_left = left / whole

        target = tl.load(uniforms + record * width + place) * left
        running = left * 0.0
        begin, within, is_found = record.to(tl.int32) * 0, target, record.to(tl.int32) * 0
        for start in range(0, VOCAB, BLOCK):
            token = start + offset
            weight = tl.exp((_logits(row_logits, nameless, token, VOCAB) - top) / temperature)
            weight = _left(
                weight, token, own_tried, own_rest, own_alive, place, width, most_tried, spent_share, HAS_TRIED
            )
            here = tl.sum(weight.to(tl.float64), 0)
            takes = (is_found == 0) & (here > 0.0)  # until it is found, the last block that has any
            begin, within = tl.where(takes, start, begin), tl.where(takes, target - running, within)
            is_found = tl.where(takes & (running + here > target), 1, is_found)
            running += here

        token = begin + offset
        weight = tl.exp((_logits(row_logits, nameless, token, VOCAB) - top) / temperature)
        weight = _left(weight, token, own_tried, own_rest, own_alive, place, width, most_tried, spent_share, HAS_TRIED)
        is_above = (tl.cumsum(weight.to(tl.float64), 0) > within) & (weight > 0.0)
        first = tl.min(tl.where(is_above, offset, BLOCK), 0)
        last = tl.max(tl.where(weight > 0.0, offset, 0), 0)  # where rounding leads past it
        chosen = begin + tl.where(first < BLOCK, first, last)

        below = tl.load(row_logits + chosen).to(tl.float32) - top
        is_new = share_left >= new_mass  # not where it is NaN
        reached = place + is_new.to(tl.int64)
        after = tl.load(next_state + before * VOCAB + chosen).to(tl.int64)
        at = record * width + place
        tl.store(tokens + at, chosen.to(tl.int64))
        tl.store(probabilities + at, tl.exp(below / temperature).to(tl.float64) / whole)
        tl.store(next_token + record, chosen.to(tl.int64))
        tl.store(count + record, reached)
        logarithm = (below - tl.log(tl.sum(at_1, 0))).to(tl.float64)
        sum_before = tl.load(log_probability + record)
        tl.store(log_probability + record, tl.where(is_new, sum_before + logarithm, sum_before))
        tl.store(state + record, tl.where(is_new, after, before))
        why = tl.where(reached >= tl.load(limit + record), _LIMIT, why)
        why = tl.where(after == FOUND, _DELIMITER, why)
        why = tl.where(tl.load(ends + chosen) != 0, _END, why)
        why = tl.where(is_new, why, _EXHAUSTED)
        why = tl.where(share_left == share_left, why, _BROKEN)
        tl.store(reason + record, why)
        attempt = most_tried * 0
        while attempt < most_tried:
            drawn = tl.load(own_tried + attempt * width + place)
            goes_on = (tl.load(own_alive + attempt) != 0) & (drawn == chosen)
            tl.store(own_alive + attempt, goes_on)
            attempt += 1
        for start in range(0, HIDDEN, BLOCK):
            unit = start + offset
            values = tl.load(hidden + row * hidden_stride + unit, mask=unit < HIDDEN)
            tl.store(kept_hidden + record * HIDDEN + unit, values, mask=unit < HIDDEN)
    tl.store(standing + row, why)

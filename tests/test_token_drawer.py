"""Native drawing over plain arrays against its definition in float64: without torch, so that sanitizers can run it."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from bavt_fast._core import TokenDrawer

RUNNING, DELIMITER, END, LIMIT, EXHAUSTED, BROKEN = range(6)
PROGRAMS = int(os.environ.get("BAVT_FUZZ_EXAMPLES", "60"))
WIDTH, TRIES = 5, 3


def make_columns(records: int) -> dict[str, Any]:
    columns: dict[str, Any] = {
        name: np.zeros(records, dtype=np.int64) for name in ("count", "limit", "state", "reason", "next_token")
    }
    columns |= {name: np.zeros(records, dtype=bool) for name in ("is_greedy", "is_cut", "has_tried")}
    columns["settings"] = np.tile(np.float32([1.0, 1.0, 0.0, 0.0]), (records, 1))
    columns["log_probability"] = np.zeros(records)
    columns["tokens"] = np.zeros((records, WIDTH), dtype=np.int64)
    columns["uniforms"], columns["probabilities"] = np.zeros((records, WIDTH)), np.zeros((records, WIDTH))
    columns["tried"] = np.full((records, TRIES, WIDTH), -1, dtype=np.int64)
    columns["rest"] = np.zeros((records, TRIES, WIDTH), dtype=np.float32)
    columns["alive"] = np.zeros((records, TRIES), dtype=bool)
    return columns


def fill(columns: dict[str, Any], random: np.random.Generator, size: int) -> None:
    records = len(columns["count"])
    columns["limit"][:] = random.integers(1, WIDTH, records)
    columns["uniforms"][:] = random.random((records, WIDTH))
    columns["settings"][:, 0] = random.choice([0.5, 1.0, 2.0], records)
    columns["settings"][:, 1] = random.choice([1.0, 0.9, 0.1, 0.0], records)
    columns["settings"][:, 2] = random.choice([0, 1, 4, 2 * size], records)
    columns["settings"][:, 3] = random.choice([0.0, 0.2], records)
    columns["is_cut"][:] = (columns["settings"][:, 1:] != [1.0, 0.0, 0.0]).any(1)
    columns["is_greedy"][:] = random.random(records) < 0.2
    columns["settings"][columns["is_greedy"], 0] = 1.0
    columns["has_tried"][:] = random.random(records) < 0.5
    columns["tried"][:] = random.integers(-1, size + 1, columns["tried"].shape)  # some that no model has
    columns["rest"][:] = random.random(columns["rest"].shape) / TRIES
    columns["alive"][:] = random.random((records, TRIES)) < 0.7


def weights_of(columns: dict[str, Any], record: int, logits: np.ndarray) -> np.ndarray:
    """By a record's settings; they sum to 1."""
    temperature, top_p, top_k, min_p = columns["settings"][record].astype(np.float64)
    p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    if columns["is_greedy"][record]:
        return (np.arange(len(p)) == logits.argmax()).astype(float)
    if columns["is_cut"][record]:
        order = np.argsort(-p, kind="stable")
        kept = max(1, int((np.cumsum(p[order]) - p[order] < top_p).sum()))
        kept = min(kept, int(top_k)) if top_k else kept
        p = np.where(p >= max(p[order[kept - 1]], min_p * p.max()), p, 0.0)
    return p / p.sum()


def left_of(columns: dict[str, Any], record: int, weights: np.ndarray) -> np.ndarray:
    """The weights without what belongs to the steps tried before."""
    left, place = weights.copy(), columns["count"][record]
    for attempt in range(TRIES):
        token = columns["tried"][record, attempt, place]
        if columns["has_tried"][record] and columns["alive"][record, attempt] and 0 <= token < len(left):
            left[token] -= weights[token] * columns["rest"][record, attempt, place]
    return np.maximum(left, 0.0)


@pytest.mark.parametrize("seed", range(PROGRAMS))
def test_tokens_are_those_of_the_definition(seed: int) -> None:
    random = np.random.default_rng(seed)
    records, size = int(random.integers(1, 6)), int(random.choice([1, 3, 17, 256, 300, 700]))
    columns = make_columns(records)
    fill(columns, random, size)
    table = random.integers(0, 3, (3, size)).astype(np.int32)
    ends, nameless = random.random(size) < 0.1, random.random(size) < 0.2
    nameless[random.integers(size)] = False
    if seed % 2:
        nameless[:] = False
    drawer = TokenDrawer(columns, table, 1, ends, nameless if nameless.any() else None)
    for _ in range(WIDTH):
        logits = random.normal(0.0, 3.0, (records, size)).astype(np.float32)
        before = {name: column.copy() for name, column in columns.items()}
        order = random.permutation(records)
        drawer.draw(order, logits)
        for record, row in zip(order, logits.astype(np.float64), strict=True):
            row[nameless] = -np.inf
            check(before, columns, record, row, table, ends)


def check(before: Any, after: Any, record: int, logits: np.ndarray, table: np.ndarray, ends: np.ndarray) -> None:
    """What a record has drawn, against its definition; numbers next to a border may fall on either side."""
    if before["reason"][record] != RUNNING:
        assert all((after[name][record] == before[name][record]).all() for name in after)
        return
    place = before["count"][record]
    weights = weights_of(before, record, logits)
    left = left_of(before, record, weights)
    if after["reason"][record] == EXHAUSTED:
        assert left.sum() < 1.01e-4
        assert after["count"][record] == place
        return
    token = after["tokens"][record, place]
    assert after["count"][record] == place + 1
    assert after["next_token"][record] == token
    target, up_to = before["uniforms"][record, place] * left.sum(), np.cumsum(left)
    assert left[token] > 0
    assert up_to[token] - left[token] - 1e-5 <= target <= up_to[token] + 1e-5
    assert after["probabilities"][record, place] == pytest.approx(weights[token], rel=1e-4)
    plain = np.exp(logits - logits.max())
    drawn = after["log_probability"][record] - before["log_probability"][record]
    assert drawn == pytest.approx(np.log(plain[token] / plain.sum()), rel=1e-4, abs=1e-4)
    state = table[before["state"][record], token]
    assert after["state"][record] == state
    limit = LIMIT if place + 1 >= before["limit"][record] else RUNNING
    assert after["reason"][record] == (END if ends[token] else DELIMITER if state == 1 else limit)
    if before["has_tried"][record]:
        follows = before["alive"][record] & (before["tried"][record, :, place] == token)
        assert (after["alive"][record] == follows).all()


def test_logits_that_are_not_numbers() -> None:
    for bad in ([np.nan, 0.0], [np.inf, 0.0], [-np.inf, -np.inf]):
        columns = make_columns(1)
        columns["limit"][:] = 3
        drawer = TokenDrawer(columns, np.zeros((2, 2), dtype=np.int32), 1, np.zeros(2, dtype=bool), None)
        drawer.draw(np.zeros(1, dtype=np.int64), np.array([bad], dtype=np.float32))
        assert (columns["reason"][0], columns["count"][0]) == (BROKEN, 0)


@pytest.mark.parametrize(
    ("settings", "likeliest_alone"),
    [
        ([1.0, 0.0, 0.0, 0.0], True),
        ([1.0, -1.0, 0.0, 0.0], True),
        ([1.0, 1.0, 0.0, 2.0], True),
        ([1.0, 1.0, -3.0, 0.0], False),
        ([1.0, 1.0, np.inf, 0.0], False),
        ([1.0, np.nan, np.nan, np.nan], True),
    ],
)
def test_settings_out_of_range_leave_the_likeliest_token(settings: list[float], likeliest_alone: bool) -> None:
    records, size = 40, 300
    columns = make_columns(records)
    columns["limit"][:] = WIDTH
    columns["uniforms"][:, 0] = np.linspace(0.0, 0.99, records)
    columns["settings"][:], columns["is_cut"][:] = settings, True
    logits = np.tile(np.random.default_rng(0).normal(0.0, 2.0, size).astype(np.float32), (records, 1))
    drawer = TokenDrawer(columns, np.zeros((2, size), dtype=np.int32), 1, np.zeros(size, dtype=bool), None)
    drawer.draw(np.arange(records), logits)
    assert (columns["count"] == 1).all()
    assert (set(columns["tokens"][:, 0]) == {logits[0].argmax()}) == likeliest_alone
    assert (columns["probabilities"][:, 0] == 1.0).all() == likeliest_alone


def test_columns_that_do_not_fit_are_refused() -> None:
    table, ends = np.zeros((2, 4), dtype=np.int32), np.zeros(4, dtype=bool)
    for name, column in make_columns(2).items():
        with pytest.raises(ValueError, match="expected an array of shape"):
            TokenDrawer(make_columns(2) | {name: np.concatenate([column, column])[1:]}, table, 1, ends, None)
        with pytest.raises(TypeError, match=name):
            TokenDrawer(make_columns(2) | {name: column.astype(np.int16)}, table, 1, ends, None)
        with pytest.raises(KeyError):
            TokenDrawer({key: kept for key, kept in make_columns(2).items() if key != name}, table, 1, ends, None)
    with pytest.raises(ValueError, match="ends: expected an array of shape"):
        TokenDrawer(make_columns(2), table, 1, np.zeros(3, dtype=bool), None)
    with pytest.raises(TypeError, match="next_state"):
        TokenDrawer(make_columns(2), table.astype(np.int64), 1, ends, None)


@pytest.mark.parametrize(("column", "value"), [("count", WIDTH), ("count", -1), ("state", 2), ("state", -1)])
def test_records_that_say_what_cannot_be_are_refused(column: str, value: int) -> None:
    columns = make_columns(1)
    columns["limit"][:] = WIDTH
    drawer = TokenDrawer(columns, np.zeros((2, 4), dtype=np.int32), 1, np.zeros(4, dtype=bool), None)
    columns[column][0] = value
    with pytest.raises(IndexError):
        drawer.draw(np.zeros(1, dtype=np.int64), np.zeros((1, 4), dtype=np.float32))

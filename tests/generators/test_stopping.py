"""Stop strings over tokens, against a walk over the text's bytes, for every kind of tokenizer."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizers import KINDS, tiny_tokenizer

from bavt_fast.generators.stopping import StopTable
from bavt_fast.generators.vocabulary import Vocabulary

FOUND = StopTable.FOUND


class Tokens(Vocabulary):
    """A vocabulary of these tokens."""

    def __init__(self, *tokens: bytes) -> None:
        self.token_bytes, self.size = list(tokens), len(tokens)
        self.named, self.special = np.ones(self.size, dtype=bool), np.zeros(self.size, dtype=bool)


BYTES = Tokens(*(bytes([byte]) for byte in range(256)))


def end_in_text(step: bytes, stops: Sequence[bytes]) -> int | None:
    """Where the first stop string ends that has content before it. The reference: it reads the text, not tokens.

    A stop string with nothing but white space before it is passed over: what counts as content begins behind it.
    """
    begin = 0
    for end in range(1, len(step) + 1):
        endings = [stop for stop in stops if step[begin:end].endswith(stop)]
        if endings:
            before = step[begin : end - max(map(len, endings))]
            if before.strip(b" \t\n\r\v\f"):
                return end
            begin = end
    return None


def states(table: StopTable, ids: Sequence[int]) -> list[int]:
    """The state after each token of a step."""
    state, found = 0, []
    for token in ids:
        state = int(table.next_state[state, token])
        found.append(state)
    return found


def expected_found(vocabulary: Vocabulary, ids: Sequence[int], stops: Sequence[str]) -> list[bool]:
    """After each token, whether the reference has found a stop string in the text so far."""
    lengths = np.cumsum([len(vocabulary.token_bytes[token]) for token in ids])
    step = b"".join(vocabulary.token_bytes[token] for token in ids)
    end = end_in_text(step, [stop.encode() for stop in stops])
    return [end is not None and int(length) >= end for length in lengths]


def check(vocabulary: Vocabulary, table: StopTable, ids: Sequence[int]) -> bool:
    found = [state == FOUND for state in states(table, ids)]
    assert found == expected_found(vocabulary, ids, table.stops), [vocabulary.token_bytes[token] for token in ids]
    return any(found)


def by_bytes(text: str, *stops: str) -> int | None:
    """Where a step ends, a token a byte."""
    found = [state == FOUND for state in states(StopTable(BYTES, stops), list(text.encode()))]
    return found.index(True) + 1 if any(found) else None


# --- what ends a step


@pytest.mark.parametrize(
    ("text", "stops", "end"),
    [
        ("a\nb", ["\n"], 2),
        ("\n\n a\n", ["\n"], 5),
        (" \t\r\v\f\n", ["\n"], None),
        ("a</step>b", ["</step>"], 8),
        ("</step>", ["</step>"], None),
        ("</step>a</step>", ["</step>"], 15),
        ("</step>\n</step>a</step>", ["</step>"], 23),
        ("  </step> a\n", ["</step>", "\n"], 12),
        ("<</step>", ["</step>"], 8),
        ("</st</step>", ["</step>"], 11),
        ("</stepx</step>", ["</step>"], 14),
        ("好。", ["。"], 6),
        ("。好。", ["。"], 9),
        ("。\u3000。", ["。"], 9),  # an ideographic space is no ASCII white space
        ("a\nb\n\n", ["\n\n"], 5),
        ("a\n\n\n", ["\n\n"], 3),
        ("a\n\n", ["\n\n", "\n"], 2),  # a prefix of another ends first
        ("abc", ["bc", "c"], 3),
        ("bc", ["bc", "c"], None),  # the longest counts: its own "b" is no content
        (" xbc", ["abc", "bc"], 4),
        ("aab", ["ab"], 3),
        ("abab", ["ab"], None),
        ("aaaa", ["aa"], None),
        ("a aa", ["aa"], 4),
        ("a ba b", ["a b"], None),
        ("a bca b", ["a b"], 7),
        ("ababab c", ["abab"], None),
        ("a\nb", [], None),
    ],
)
def test_where_a_step_ends(text: str, stops: list[str], end: int | None) -> None:
    assert by_bytes(text, *stops) == end
    assert end_in_text(text.encode(), [stop.encode() for stop in stops]) == end


def test_tokens_may_part_a_stop_string_anywhere() -> None:
    vocabulary = Tokens(b"a", b"a</", b"step", b">", b"</step>", b"p>b", b"</ste", b" ", b"", b"x</step>\n\ny", b"<")
    table = StopTable(vocabulary, ["</step>"])
    for ids in ([1, 2, 3], [0, 4], [0, 6, 5], [9], [0, 8, 6, 8, 5], [7, 0, 7, 10, 0, 4]):
        assert states(table, ids)[-1] == FOUND
        assert FOUND not in states(table, ids)[:-1]
    for ids in ([4, 7], [6, 5], [1, 2], [7, 4, 8], [6, 8, 3]):
        assert FOUND not in states(table, ids)


def test_found_stays_and_empty_tokens_change_nothing() -> None:
    vocabulary = Tokens(b"", b"a", b"\n", b"a\nb", b"\n\n")
    table = StopTable(vocabulary, ["\n"])
    assert table.next_state.dtype == np.int32
    assert table.next_state.shape[1] == vocabulary.size
    assert (table.next_state[FOUND] == FOUND).all()
    assert table.next_state[:, 0].tolist() == list(range(len(table.next_state)))
    assert states(table, [4, 2, 0, 3, 1, 2]) == [0, 0, 0, FOUND, FOUND, FOUND]
    assert table.FOUND == FOUND


STOPS = [
    ("\n",),
    ("\n\n",),
    ("</step>",),
    ("。",),
    ("</step>", "。", "\n\n", "\n"),
    ("the", "he", "e d"),
    ("ab", "b", "aba"),
    (". ", "."),
    (),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stops", STOPS, ids=repr)
def test_random_tokens_end_where_their_text_does(kind: str, stops: tuple[str, ...]) -> None:
    tokenizer = tiny_tokenizer(kind)
    vocabulary = Vocabulary(tokenizer, len(tokenizer) + 3)
    stops = tuple(stop for stop in stops if can_make(vocabulary, stop))
    table = StopTable(vocabulary, stops)
    # Tokens that touch a stop string come often, the others now and then.
    letters = set("".join(stops).encode())
    near = [i for i, token in enumerate(vocabulary.token_bytes) if set(token) & letters] or [0]
    dice, ended = random.Random(len(kind)), 0
    for _ in range(400):
        ids = [dice.choice(near) if dice.random() < 0.7 else dice.randrange(vocabulary.size) for _ in range(12)]
        if stops and dice.random() < 0.5:
            at = dice.randrange(12)
            ids[at:at] = spelled(vocabulary, dice.choice(stops).encode()) or []
        ended += check(vocabulary, table, ids)
    assert ended > 20 or not stops


def spelled(vocabulary: Vocabulary, text: bytes) -> list[int] | None:
    """Ids whose bytes are `text`, the shortest tokens first; None without any."""
    if not text:
        return []
    for length in range(1, len(text) + 1):
        rest = spelled(vocabulary, text[length:]) if text[:length] in vocabulary.token_bytes else None
        if rest is not None:
            return [vocabulary.token_bytes.index(text[:length]), *rest]
    return None


def can_make(vocabulary: Vocabulary, stop: str) -> bool:
    try:
        StopTable(vocabulary, [stop])
    except ValueError:
        return False
    return True


pieces = st.lists(st.text("ab \n", min_size=1, max_size=4), min_size=1, max_size=8, unique=True)


@given(pieces, st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=4), st.data())
def test_any_tokens_and_any_stop_strings(tokens: list[str], stops: list[str], data: Any) -> None:
    vocabulary = Tokens(*(token.encode() for token in [*tokens, "a", "b", " ", "\n", ""]))
    table = StopTable(vocabulary, stops)
    check(vocabulary, table, data.draw(st.lists(st.integers(0, vocabulary.size - 1), max_size=15)))


# --- what cannot be a stop string


def made_by_search(stop: bytes, tokens: Sequence[bytes]) -> bool:
    """Whether some tokens in a row hold `stop`, by following every way to go on from every way to begin."""
    open_ends = {(token[at:])[: len(stop)] for token in tokens for at in range(len(token))}
    seen: set[bytes] = set()
    while open_ends:
        text = open_ends.pop()
        if text.startswith(stop):
            return True
        if text in seen or not stop.startswith(text):
            continue
        seen.add(text)
        open_ends.update(text + token for token in tokens if token)
    return False


@given(st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=5), st.text("abc", min_size=1, max_size=6))
def test_a_stop_string_that_no_tokens_make_is_refused(tokens: list[str], stop: str) -> None:
    vocabulary = Tokens(*(token.encode() for token in tokens))
    assert can_make(vocabulary, stop) == made_by_search(stop.encode(), vocabulary.token_bytes)


def test_the_refusal_names_what_can_be_chosen() -> None:
    vocabulary = Tokens(b"a", b".", b"x)", b"<")
    with pytest.raises(ValueError, match=r"^delimiter: .*'</step>'.* such as '\.' or '\)'$"):
        StopTable(vocabulary, ["a", "</step>"])
    with pytest.raises(ValueError, match=r"^delimiter: expected a non-empty str, got ''; .* such as '\.'"):
        StopTable(vocabulary, [""])
    with pytest.raises(ValueError, match=r"^delimiter: .*; choose another$"):
        StopTable(Tokens(b"a"), ["b"])
    with pytest.raises(ValueError, match=r"^delimiter: expected text that UTF-8 can hold, got '\\ud800'"):
        StopTable(vocabulary, ["\ud800"])


@pytest.mark.parametrize("stops", ["\n", [b"\n"], [None]])
def test_stops_are_a_sequence_of_str(stops: Any) -> None:
    with pytest.raises(TypeError, match=r"^delimiter: expected a sequence of str"):
        StopTable(BYTES, stops)


@pytest.mark.parametrize("kind", KINDS)
def test_a_control_token_is_no_stop_string(kind: str) -> None:
    """Its name can still be spelled, where there are tokens for its letters; sampling it ends nothing here."""
    tokenizer = tiny_tokenizer(kind)
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    table = StopTable(vocabulary, ())
    assert (table.next_state[:, tokenizer.eos_token_id] == np.arange(len(table.next_state))).all()
    if kind in ("slow_words", "words"):
        with pytest.raises(ValueError, match="control tokens make no text"):
            StopTable(vocabulary, [tokenizer.eos_token])


def test_each_stop_string_counts_once() -> None:
    table = StopTable(BYTES, ["\n", "\n", "b"])
    assert table.stops == ("\n", "b")
    assert (table.next_state == StopTable(BYTES, ["b", "\n"]).next_state).all()

"""Where a step ends: a byte automaton over tokens that finds the first of several stop strings.

A stop string may begin inside one token and end inside another, or be spread over many ("。" as three byte tokens).
The automaton of Aho and Corasick (1975) reads the step byte by byte; what it does over a token's bytes is worked out
once for each state and token, so that a decoding step is one look-up: ``state = next_state[state, token]``.

A step has to say something. A stop string with nothing but white space before it ends nothing: it is passed over, and
the step begins anew behind it. So blank lines before a step, or a lone "</step>", are part of the step that follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bavt_fast.generators.vocabulary import Vocabulary

__all__ = ["StopTable"]

BLANK = b" \t\n\r\v\f"
"""ASCII white space."""

_SUGGESTIONS = ("\n", "\n\n", ".", "。", ";", "</step>", ")")


class StopTable:
    """A byte automaton over tokens that finds the first of several stop strings, wherever its tokens part.

    A step begins in state 0. The first stop string to end with something other than ASCII white space before it in the
    step makes the state `FOUND`, which stays. Where several end at one byte, the longest counts. One with nothing but
    white space before it is passed over: the state is 0 again, and neither it nor the white space counts as content.
    What stands behind the stop string in the same token belongs to the token, and so to the step.

    Args:
        vocabulary: the tokens. Control tokens add no bytes, so they leave a state as it is.
        stops: the stop strings; none at all where only the end of the text ends a step.

    Attributes:
        stops: the stop strings, each once.
        next_state: int32 ``(states, size)``: the state after a token.

    Raises:
        TypeError: `stops` is not a sequence of str, or is one str.
        ValueError: a stop string is empty, or no sequence of tokens makes it.
    """

    FOUND: ClassVar[int] = 1
    """The state after a stop string was found."""

    def __init__(self, vocabulary: Vocabulary, stops: Sequence[str]) -> None:
        if isinstance(stops, str) or not all(isinstance(stop, str) for stop in stops):
            raise TypeError(f"delimiter: expected a sequence of str such as ('\\n',), got {stops!r}")
        self.stops = tuple(dict.fromkeys(stops))
        tokens = set(vocabulary.token_bytes) - {b""}
        for stop in self.stops:
            _check_can_be_made(stop, tokens)
        self.next_state = _over_tokens(_byte_automaton([_utf8(stop) for stop in self.stops]), vocabulary.token_bytes)


# --- the automaton over bytes


def _byte_automaton(stops: Sequence[bytes]) -> NDArray[np.int32]:
    """int32 ``(states, 256)``: the state after a byte. State 0 is a step's beginning, state 1 is `StopTable.FOUND`.

    Any other state is a pair: the end of the text that may yet become a stop string, and whether content stands before
    it. Bytes that are in no stop string act alike, except that some are blank.
    """
    prefixes = {b"", *(stop[:length] for stop in stops for length in range(len(stop)))}
    letters = sorted(set(b"".join(stops)))
    other = np.setdiff1d(np.arange(256), letters)
    blank = np.isin(other, list(BLANK))
    groups = [np.array([letter]) for letter in letters]
    groups += [group for group in (other[blank], other[~blank]) if group.size]

    numbers: dict[tuple[bytes, bool] | None, int] = {(b"", False): 0, None: StopTable.FOUND}
    rows = []
    for pair in (pairs := list(numbers)):  # grows while it is walked
        row = np.full(256, StopTable.FOUND, dtype=np.int32)
        if pair is not None:
            for group in groups:
                following = _after_byte(*pair, bytes([group[0]]), prefixes, stops)
                if following not in numbers:
                    numbers[following] = len(pairs)
                    pairs.append(following)
                row[group] = numbers[following]
        rows.append(row)
    return np.stack(rows)


def _after_byte(
    pending: bytes, written: bool, byte: bytes, prefixes: set[bytes], stops: Sequence[bytes]
) -> tuple[bytes, bool] | None:
    """The pair (pending, written) after a byte; None where a stop string was found.

    `pending` is the longest end of the text that begins a stop string, `written` whether content stands before it.
    """
    text = pending + byte
    ended = max((stop for stop in stops if text.endswith(stop)), key=len, default=None)
    if ended is not None:
        written = written or _has_content(text[: -len(ended)])
        return None if written else (b"", False)
    kept = next(text[start:] for start in range(len(text) + 1) if text[start:] in prefixes)
    return kept, written or _has_content(text[: len(text) - len(kept)])


def _has_content(text: bytes) -> bool:
    return bool(text.strip(BLANK))


# --- over tokens


def _over_tokens(after_byte: NDArray[np.int32], token_bytes: Sequence[bytes]) -> NDArray[np.int32]:
    """``(states, tokens)``: the state after all bytes of a token.

    The tokens are walked side by side, a byte at a time. Longest first, those that still have a byte are a slice.
    """
    lengths = np.array([len(token) for token in token_bytes])
    order = np.argsort(-lengths, kind="stable")
    joined = np.frombuffer(b"".join([token_bytes[i] for i in order]), dtype=np.uint8)
    starts = np.cumsum(lengths[order]) - lengths[order]
    going = [int((lengths > at).sum()) for at in range(int(lengths.max()))]
    columns = [joined[starts[:count] + at].astype(np.int32) for at, count in enumerate(going)]

    states, flat = len(after_byte), after_byte.ravel()
    table = np.empty((states, len(token_bytes)), dtype=np.int32)
    for state in range(states):
        row = np.full(len(token_bytes), state, dtype=np.int32)
        for column in columns:
            row[: column.size] = flat[row[: column.size] * 256 + column]
        table[state, order] = row
    return table


# --- what can be a stop string


def _check_can_be_made(stop: str, tokens: set[bytes]) -> None:
    """Raises a ValueError for a stop string that no sequence of tokens makes, or that is empty."""
    if stop and _can_be_made(_utf8(stop), tokens):
        return
    possible = [repr(text) for text in _SUGGESTIONS if _can_be_made(_utf8(text), tokens)][:3]
    remedy = f"choose text that the model can write, such as {' or '.join(possible)}" if possible else "choose another"
    if not stop:
        raise ValueError(f"delimiter: expected a non-empty str, got ''; {remedy}")
    reason = "no sequence of the tokenizer's tokens makes it (control tokens make no text)"
    raise ValueError(f"delimiter: expected a str that can be generated, got {stop!r}; {reason}; {remedy}")


def _utf8(stop: str) -> bytes:
    try:
        return stop.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"delimiter: expected text that UTF-8 can hold, got {stop!r}: {error.reason}") from None


def _can_be_made(stop: bytes, tokens: set[bytes]) -> bool:
    """Whether the bytes of some sequence of tokens hold `stop`."""
    return _is_spelled(stop, tokens) or any(stop in token for token in tokens) or _is_spelled_across(stop, tokens)


def _is_spelled(stop: bytes, tokens: set[bytes]) -> bool:
    """Whether whole tokens make `stop`: the usual case, and quick to see."""
    reached = {0}
    for start in range(len(stop)):
        if start in reached:
            reached.update(end for end in range(start + 1, len(stop) + 1) if stop[start:end] in tokens)
    return len(stop) in reached


def _is_spelled_across(stop: bytes, tokens: set[bytes]) -> bool:
    """Whether whole tokens make the middle of `stop`, between a token's end and another one's beginning."""
    positions = range(1, len(stop))
    firsts = [at for at in positions if any(token.endswith(stop[:at]) for token in tokens)]
    lasts = [at for at in (0, *positions) if any(token.startswith(stop[at:]) for token in tokens)]
    return any(
        first == last or (first < last and _is_spelled(stop[first:last], tokens))
        for first in (0, *firsts)
        for last in (*lasts, len(stop))
    )

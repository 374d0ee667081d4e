"""The journal of a run: what was answered to each ask, appended as it comes, so that a kill loses no answer.

Blocks of lines, each closed by its checksum. A kill may leave one without at the end, which is dropped. One with
another checksum was damaged: it is dropped with all that follows, whose answers are counted as lost:

    - s                   a life of the run begins
    12 b                  question 12 (its place among the good lines) is asked for the first time in this life
    12 a [...]            an ask of it was answered, see `Answer`
    12 f [...]            an ask of it failed, see `Failure`
    - l 3                 3 asks were in flight when a life of the run was killed
    - o [12,40]           a life has ended in order; the asks of these questions were in flight
    = 8c7f20aa            CRC-32 of the lines since the last of these

A question has one ask out at a time, so its lines, in their order, are the whole search: `bavt_fast.runs.replay` makes
it again from them. What is finished stands in the results, and its lines are left out when the journal is compacted.

A life writes its first lines before its first ask, and the line of a question before that question's first ask. So of a
life that was killed those questions may have had an ask in flight that have a line in it.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from json.encoder import encode_basestring as _quoted
from pathlib import Path
from typing import Any, NamedTuple

from bavt_fast._files import AppendedFile, replaced, whole_lines
from bavt_fast.checkpoint import dump_step, load_step
from bavt_fast.protocols import Description, Step

__all__ = ["Answer", "Failure", "History", "Journal", "JournalLines", "read_journal"]

COMPACT_BYTES = 64 * 2**20
"""Size from which a journal is compacted, where a quarter of it is enough for what is open."""


class Answer(NamedTuple):
    """An ask that was answered.

    Attributes:
        asked_s: the question's time when it was asked; None where no time limits it.
        told_s: the same when it was told.
        steps: what came.
        abouts: what the task said of the new states, in order.
        values: V of those that it did not refute.
        cost: the amounts that scoring them took; None for nothing.
    """

    asked_s: float | None
    told_s: float
    steps: Sequence[Step]
    abouts: Sequence[Description]
    values: Sequence[float]
    cost: Sequence[int] | None = None


class Failure(NamedTuple):
    """An ask that failed, and the amounts that it took all the same; None for nothing."""

    asked_s: float | None
    told_s: float
    spent: Sequence[Any] | None = None


class History(NamedTuple):
    """What a journal says.

    Attributes:
        events: of each question that has begun and is not done, by its number.
        lost_asks: asks whose answers were lost with lives before the last one.
        in_flight: of these questions those whose ask may have been in flight when the last life ended.
        end: where the last whole block ends, in bytes.
        dropped: bytes behind it.
        is_damaged: whether these are more than a kill leaves.
        cut_asks: asks whose answers are in what was damaged, or behind it, of questions that are not done.
    """

    events: dict[int, list[Answer | Failure]]
    lost_asks: int
    in_flight: set[int]
    end: int
    dropped: int
    is_damaged: bool
    cut_asks: int


class JournalLines:
    """Events as lines of a journal, which `take` hands over.

    Attributes:
        answers: how many asks were answered.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self.answers = 0

    def begun(self, number: int) -> None:
        self._lines.append(f"{number} b\n")

    def answered(self, number: int, answer: Answer) -> None:
        """Raises TypeError, and notes nothing, where a step cannot be written down."""
        asked_s, told_s, steps, abouts, values, cost = answer
        if len(steps) == 1 and cost is None and asked_s is None and _is_plain(steps[0]):  # as most are: by hand, faster
            step = steps[0]
            about = _about(abouts[0]) if abouts else ""
            value = repr(values[0]) if values else ""
            text = f"[null,{told_s!r},[[{_quoted(step.text)},{step.tokens}]],[{about}],[{value}]]"
        else:
            text = _json([asked_s, told_s, [_dumped(step) for step in steps], abouts, values, cost])
        self._lines.append(f"{number} a {text}\n")
        self.answers += 1

    def failed(self, number: int, failure: Failure) -> None:
        self._lines.append(f"{number} f {_json(failure)}\n")

    def take(self) -> list[str]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines


class Journal(JournalLines):
    """Appends events of a life to a run's journal. Nothing is written before `flush`; after an error nothing any more.

    Args:
        end: where the last whole block ends, in bytes.
        lost_asks: that were lost with the last life.
    """

    def __init__(self, path: Path, end: int = 0, lost_asks: int = 0) -> None:
        super().__init__()
        self.path = path
        self._file = AppendedFile(path, end)
        self.goes_on(lost_asks)
        self._compact_at = max(COMPACT_BYTES, 4 * end)
        self._failed = False
        self._is_replaced = False

    def add(self, lines: Sequence[str], answers: int) -> None:
        """Lines that were made elsewhere, and how many answers they tell of."""
        self._lines += lines
        self.answers += answers

    def goes_on(self, lost_asks: int) -> None:
        """A life begins; so many asks were lost with the last one."""
        if lost_asks:
            self.lost(lost_asks)
        self._lines.append("- s\n")

    def lost(self, asks: int) -> None:
        self._lines.append(f"- l {asks}\n")

    def ended(self, in_flight: Sequence[int]) -> None:
        self._lines.append(f"- o {_json(in_flight)}\n")

    def flush(self) -> None:
        """Gives what was noted to the system: a kill of this process loses none of it.

        Where Ctrl-C breaks in, what is not in the file yet is noted still.

        Raises:
            OSError: there is no room, or the disk fails. The file ends where it ended before.
        """
        if not self._lines or self._failed:
            return
        lines, file = self._lines, self._opened()
        end, block = file.end, "".join(lines).encode("utf-8", "surrogatepass")
        try:
            file.append(_closed(block))
        except OSError:
            self._failed = True
            raise
        finally:
            if self._failed or file.end > end:
                self._lines = []

    def sync(self) -> None:
        """What was flushed outlives the machine."""
        if not self._failed:
            self._opened().sync()

    @property
    def is_large(self) -> bool:
        """Whether it may be worth compacting."""
        return self._file.end > self._compact_at

    def compact(self, open_numbers: Container[int]) -> None:
        """Leaves out the events of questions that are not open. To be flushed before."""
        lost = 0
        life = b""  # the last line that says how a life stands: of two with nothing between them the second one holds
        self._is_replaced = True  # from here on, wherever Ctrl-C breaks in
        with replaced(self.path) as file:
            for block in _blocks(self.path):
                kept = []
                for line in block.lines:
                    name, kind, rest = _split(line)
                    if kind == "l":
                        lost += int(rest)
                    elif name == "-":
                        life = line + b"\n"
                    elif int(name) in open_numbers:
                        kept += [life, line + b"\n"]
                        life = b""
                if kept:
                    file.write(_closed(b"".join(kept)))
            told = (b"- l %d\n" % lost if lost else b"") + life
            if told:
                file.write(_closed(told))
        self._compact_at = max(COMPACT_BYTES, 4 * self._opened().end)

    def _opened(self) -> AppendedFile:
        """The file that stands under the path, opened again where it may be another one."""
        if self._is_replaced:
            old, self._file = self._file, AppendedFile(self.path)
            self._is_replaced = False
            old.close()
        return self._file

    def close(self) -> None:
        self._failed = True
        self._file.close()


def read_journal(path: Path, is_open: Callable[[int], bool]) -> History:
    """What a journal says of the questions that are open; of an empty one where there is no file.

    Raises:
        OSError: it cannot be read.
        ValueError: a block is whole and says what no journal does.
    """
    events: dict[int, list[Answer | Failure]] = {}
    lost, end = 0, 0
    asked = _Asked()
    for block in _blocks(path):
        end = block.end
        for line in block.lines:
            try:
                lost += _noted(line, events, asked, is_open)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{path}: expected a line of a journal, got {line!r:.60} ({error})") from error
    size = os.path.getsize(path) if path.exists() else 0
    is_damaged, cut_asks, seen = _behind(path, end, asked, is_open)
    return History(events, lost, asked.of({*events, *seen}), end, size - end, is_damaged, cut_asks)


def _noted(
    line: bytes, events: dict[int, list[Answer | Failure]], asked: _Asked, is_open: Callable[[int], bool]
) -> int:
    """Takes what a line says; how many asks were lost by it."""
    name, kind, rest = _split(line)
    asked.note(name, kind, rest)
    if kind == "l":
        return int(rest)
    if kind in ("b", "a", "f"):
        if is_open(number := int(name)):
            own = events.setdefault(number, [])
            if kind != "b":
                own.append(_answer(rest) if kind == "a" else Failure(*_loaded(rest)))
    elif kind not in ("s", "o"):
        raise ValueError(f"no line is of the kind {kind!r:.20}")
    return 0


def _behind(path: Path, end: int, asked: _Asked, is_open: Callable[[int], bool]) -> tuple[bool, int, set[int]]:
    """What can be read behind the last good block: whether it was damaged, the asks that it tells of, and whose."""
    lines = [line for _, line in whole_lines(path, end)]
    if not any(line.startswith(b"= ") for line in lines):
        return False, 0, set()
    asks = 0
    numbers = set()
    for line in lines:
        read = _READABLE.match(line)
        if read is None:
            continue
        name, kind, rest = _split(read[0])
        asked.note(name, kind, rest)
        if kind == "l":
            asks += int(rest)
        elif name != "-" and is_open(number := int(name)):
            numbers.add(number)
            asks += kind != "b"
    return True, asks, numbers


_READABLE = re.compile(rb"[0-9]{1,9} (?:b$|[af] )|- (?:s$|l [0-9]{1,9}$|o \[[0-9,]*\]$)")
"""A line of a journal, as far as is to be read of one that may be damaged."""


class _Asked:
    """Whose ask may have been in flight when the last life ended, by the lines so far."""

    def __init__(self) -> None:
        self._numbers: set[int] | None = None  # None for all: lives did not say once that they begin, and with what
        self._is_over = False

    def note(self, name: str, kind: str, rest: bytes) -> None:
        if kind in ("s", "o"):
            self._numbers = set(json.loads(rest)) if kind == "o" else set()
        elif self._is_over:  # a life that did not say that it begins
            self._numbers = None
        elif self._numbers is not None and name != "-":
            self._numbers.add(int(name))
        self._is_over = kind == "o"

    def of(self, numbers: Collection[int]) -> set[int]:
        return {*numbers} if self._numbers is None else self._numbers.intersection(numbers)


class _Block(NamedTuple):
    lines: list[bytes]
    end: int


def _blocks(path: Path) -> Iterator[_Block]:
    """The whole blocks of a file, up to the first that is not."""
    lines: list[bytes] = []
    crc = 0
    for end, line in whole_lines(path):
        if not line.startswith(b"= "):
            lines.append(line)
            crc = zlib.crc32(line + b"\n", crc)
            continue
        if line != b"= %08x" % crc:
            return
        yield _Block(lines, end)
        lines, crc = [], 0


def _closed(block: bytes) -> bytes:
    return block + b"= %08x\n" % zlib.crc32(block)


def _split(line: bytes) -> tuple[str, str, bytes]:
    name, _, rest = line.partition(b" ")
    kind, _, rest = rest.partition(b" ")
    return name.decode("ascii"), kind.decode("ascii"), rest


# ---- Events as text


def _json(value: Any) -> str:
    return _ENCODER.encode(value)


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), check_circular=False)


def _loaded(text: bytes) -> Any:
    return json.loads(text.decode("utf-8", "surrogatepass"))


def _answer(text: bytes) -> Answer:
    asked_s, told_s, steps, abouts, values, *cost = _loaded(text)
    made = [Step(*step) if len(step) == 2 else load_step(step) for step in steps]
    return Answer(asked_s, told_s, made, [Description(*about) for about in abouts], values, *cost)


def _dumped(step: Step) -> list[Any]:
    return [step.text, step.tokens] if _is_plain(step) else dump_step(step)


def _is_plain(step: Step) -> bool:
    """Whether a step says no more than its text and tokens."""
    return (
        step.finish_reason == "delimiter"
        and not step.prompt_tokens
        and step.tool_calls is None
        and step.cost is None
        and not step.seconds
        and step.token_ids.__class__ is tuple  # an array is neither true nor false
        and step.token_probabilities.__class__ is tuple
        and not step.token_ids
        and not step.token_probabilities
        and step.log_probability is None
        and not step.cached_tokens
    )


_last: tuple[Description | None, str] = (None, "")
"""A description, and its text: tasks may give the same one again and again. One object, for threads share it."""


def _about(about: Description) -> str:
    global _last
    last = _last
    if about is not last[0]:
        _last = last = (about, _json(about))
    return last[1]

"""The journal: whatever is cut off its end, what is left is what was written before."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from bavt_fast.protocols import Description, Step
from bavt_fast.runs import journal as journals
from bavt_fast.runs.journal import Answer, Failure, Journal, read_journal

STEPS = [
    Step("plain\n", 3),
    Step("", 1, "end"),
    Step('"quoted" \\ \x00 \u2028 \ud800 ü\n', 7),
    Step("\ud83d", 1),
    Step("priced\n", 2, "limit", 5, 1, 0.1, 0.25, None, (1, -5, 10**40), (0.5, 0.0, 1e-320), -1.5, 4),
    Step("= 00000000\n", 1),
    Step("never\n", 1, log_probability=-float("inf")),
]
ABOUTS = [
    Description(),
    Description(True, None, "an answer\n", None, 0),
    Description(False, None, None, "prompt \ud83d", 7),
    Description(True, False),
]


def event(rng: random.Random) -> Any:
    asked_s = rng.choice([None, 0.0, 1 / 3])
    if rng.random() < 0.2:
        return Failure(asked_s, rng.random(), rng.choice([None, [3, 0, 0.5, 0.1, 0]]))
    steps = [rng.choice(STEPS) for _ in range(rng.choice([0, 1, 1, 1, 3]))]
    abouts = [rng.choice(ABOUTS) for _ in steps][: rng.randint(0, len(steps))]
    return Answer(
        asked_s, rng.random(), steps, abouts, [rng.random() for _ in abouts], rng.choice([None, (3, 0, 0, 5)])
    )


def nothing(path: Path) -> Any:
    return read_journal(path, lambda number: True)


def listed(events: dict[int, list[Any]]) -> dict[int, list[Any]]:
    """Answers with their columns as lists, which is how they come back."""
    return {
        number: [
            event
            if isinstance(event, Failure)
            else Answer(event[0], event[1], *map(list, event[2:5]), None if event.cost is None else list(event.cost))
            for event in own
        ]
        for number, own in events.items()
    }


def write(path: Path, rng: random.Random, blocks: int) -> list[tuple[int, dict[int, list[Any]]]]:
    """(end in bytes, events by question) after each block."""
    journal = Journal(path)
    events: dict[int, list[Any]] = {}
    states: list[tuple[int, dict[int, list[Any]]]] = [(0, {})]
    for _ in range(blocks):
        for _ in range(rng.randint(1, 4)):
            number = rng.randrange(5)
            if number not in events:
                journal.begun(number)
                events[number] = []
            made = event(rng)
            events[number].append(made)
            (journal.answered if isinstance(made, Answer) else journal.failed)(number, made)
        journal.flush()
        states.append((path.stat().st_size, {number: [*own] for number, own in events.items()}))
    journal.close()
    return states


@pytest.mark.parametrize("seed", range(5))
def test_a_journal_cut_anywhere_says_what_its_whole_blocks_say(seed: int, tmp_path: Path) -> None:
    rng, path = random.Random(seed), tmp_path / "journal"
    states = write(path, rng, 6)
    whole = path.read_bytes()
    for end in range(len(whole) + 1):
        path.write_bytes(whole[:end])
        block_end, events = max(state for state in states if state[0] <= end)
        history = nothing(path)
        assert (history.end, history.dropped) == (block_end, end - block_end)
        assert listed(history.events) == listed(events)
        assert history.in_flight == set(events)
        if rng.random() < 0.02:  # what follows is appended behind the last whole block
            journal = Journal(path, history.end)
            journal.begun(9)
            journal.flush()
            journal.close()
            assert set(nothing(path).events) == {*events, 9}


def test_a_block_that_was_damaged_ends_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    states = write(path, random.Random(1), 6)
    whole = path.read_bytes()
    rng = random.Random(2)
    for _ in range(200):
        at = rng.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at + 1 :])
        before = max(state for state in states if state[0] <= at)
        history = nothing(path)
        assert (history.end, listed(history.events)) == (before[0], listed(before[1]))


def test_what_is_behind_damage_is_counted_and_a_block_that_a_kill_cut_is_not(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    answer = b" a [null,0,[],[],[]]\n"
    blocks = [b"- s\n1 b\n2 b\n9 b\n", b"1" + answer + b"2" + answer, b"9" + answer + b"3 b\n", b"3 f [null,0,null]\n"]
    whole = [*map(journals._closed, blocks)]

    def read(*parts: bytes) -> tuple[bool, int, set[int]]:
        path.write_bytes(b"".join(parts))
        history = read_journal(path, lambda number: number < 9)
        return history.is_damaged, history.cut_asks, history.in_flight

    assert read(*whole) == (False, 0, {1, 2, 3})
    assert read(*whole[:3], whole[3][:-3]) == (False, 0, {1, 2, 3})
    assert read(whole[0], whole[1].replace(b"null", b"nulk"), *whole[2:]) == (True, 3, {1, 2, 3})
    assert read(whole[0], whole[1].replace(b"1 a", b"1 q"), whole[2]) == (True, 1, {1, 2, 3})
    lives = [*map(journals._closed, [b"- l 2\n- s\n", b"2 b\n"])]
    assert read(*whole[:2], b"\xff" + whole[2], *whole[3:], *lives) == (True, 3, {2})
    assert read(*whole[:2], b"\xff" + whole[2], *lives, journals._closed(b"- o []\n")) == (True, 2, set())


def test_a_whole_block_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for line in (
        b"12 z what",
        b"",
        b"z b",
        b"\xff b",
        b"- l x",
        b"- o x",
        b"1 a what",
        b"1 a [1,2]",
        b"1 f []",
        b"1 f 3",
    ):
        path.write_bytes(journals._closed(line + b"\n"))
        with pytest.raises(ValueError, match="journal: expected a line of a journal, got b'"):
            nothing(path)


def test_lost_asks_are_those_in_flight_when_a_life_ended(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    lives: list[tuple[list[int], list[int] | None, int, int]] = [
        ([0, 1, 2], None, 3, 0),  # begun, in flight at the end (None: it was killed), lost then, lost before
        ([3], [0, 3], 2, 3),
        ([], [], 0, 5),
        ([1, 2], None, 2, 5),  # it went on with these before it was killed
        ([], None, 0, 7),  # and the next one with none
    ]
    for begun, in_flight, now, before in lives:
        before_now = nothing(path)
        journal = Journal(path, before_now.end, len(before_now.in_flight))
        for number in begun:
            journal.begun(number)
        if in_flight is not None:
            journal.ended(in_flight)
        journal.flush()
        journal.close()
        history = nothing(path)
        assert (len(history.in_flight), history.lost_asks) == (now, before)


def test_lives_that_did_not_say_that_they_begin_may_have_asked_for_all(tmp_path: Path) -> None:
    """Journals of before. A life that went on with what had begun wrote nothing before its first answer."""
    path = tmp_path / "journal"
    blocks = [b"0 b\n1 b\n2 b\n", b"- o [1]\n", b"- l 1\n", b"1 a [null,0,[],[],[]]\n", b"- o []\n"]
    for count, in_flight in enumerate([set(), {0, 1, 2}, {1}, {0, 1, 2}, {0, 1, 2}, set()]):
        path.write_bytes(b"".join(map(journals._closed, blocks[:count])))
        assert nothing(path).in_flight == in_flight
    journal = Journal(path, nothing(path).end)
    journal.begun(2)
    journal.flush()
    journal.close()
    assert nothing(path).in_flight == {2}


@pytest.mark.parametrize("end", [None, [4]])
def test_compacting_keeps_how_the_last_life_stands(end: list[int] | None, tmp_path: Path) -> None:
    path = tmp_path / "journal"
    for number in (1, 4, 7):
        journal = Journal(path, nothing(path).end)
        journal.begun(number)
        journal.begun(4)
        journal.flush()
    if end is not None:
        journal.ended(end)
        journal.flush()
    journal.compact({1, 4})
    assert nothing(path).in_flight == {4}
    journal.compact(set())
    journal.close()
    assert path.stat().st_size < 30


def test_compacting_leaves_out_what_is_finished_alone(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    events = write(path, random.Random(3), 40)[-1][1]
    history = nothing(path)
    journal = Journal(path, history.end, 5)
    journal.flush()
    journal.compact({1, 4})
    size = path.stat().st_size
    journal.begun(7)
    journal.flush()
    journal.close()
    again = nothing(path)
    assert listed(again.events) == listed({1: events[1], 4: events[4], 7: []})
    assert again.lost_asks == 5
    assert path.stat().st_size > size


@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize(("work", "call"), [("flush", "write"), ("compact", "fsync"), ("compact", "replace")])
def test_ctrl_c_while_the_disk_is_at_work_neither_loses_nor_doubles_a_line(
    work: str, call: str, is_done: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C breaks in before the system has done what it was asked for, or after it; of a write in the middle."""
    path, done = tmp_path / "journal", getattr(os, call)
    journal = Journal(path)
    journal.begun(1)
    journal.flush()
    journal.begun(2)
    if work == "compact":
        journal.flush()
    at_which = [2 if call == "fsync" else 1]  # the last one is that of the folder

    def pressed(*arguments: Any) -> Any:
        at_which[0] -= 1
        if at_which[0]:
            return done(*arguments)
        if is_done or call == "write":
            done(*arguments) if is_done else done(arguments[0], arguments[1][:5])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, call, pressed)
        with pytest.raises(KeyboardInterrupt):
            journal.flush() if work == "flush" else journal.compact({1, 2})
    journal.begun(3)
    journal.flush()
    journal.close()
    assert [line for line in path.read_bytes().splitlines() if line.endswith(b"b")] == [b"1 b", b"2 b", b"3 b"]
    assert {*nothing(path).events} == {1, 2, 3}


def test_two_runs_in_two_threads_do_not_mix_their_descriptions() -> None:
    """Between any two lines the other thread may write a description of its own."""
    mine, theirs = ABOUTS[1], Description(answer="theirs")
    code = journals._about.__code__

    def between(frame: Any, event: str, argument: Any) -> Any:
        if event == "line" and frame.f_locals.get("about") is mine:
            journals._about(theirs)
        return between if frame.f_code is code else None

    before = sys.gettrace()
    sys.settrace(between)
    try:
        texts = [journals._about(mine) for _ in range(2)]
    finally:
        sys.settrace(before)
    assert texts == [journals._json(mine)] * 2

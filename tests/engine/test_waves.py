"""The native loops of a wave against their readable twin, over random searches in which anything may go wrong."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest
from hostile import QUESTIONS, QUIETLY, run, seen
from scripted import ScriptedGenerator, TableCritic, World, WorldTask

import bavt_fast as bavt
from bavt_fast import async_drive, drive, drive_base, engine, waves
from bavt_fast.engine import Search
from bavt_fast.protocols import Step
from bavt_fast.reference import waves as twin
from bavt_fast.searcher import Searcher
from bavt_fast.tasks.text import TextTask

WORLDS = int(os.environ.get("BAVT_WAVE_WORLDS", "400"))
CHUNKS = 10
EVENTS = ("ask", "refusal", "tell", "node", "cancel", "stop")
LOOPS = ("admit", "ask", "describe", "grow", "requests_of", "rounds", "settle", "stream", "tell")


@QUIETLY
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_loops_do_what_their_twins_do(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = range(chunk * WORLDS // CHUNKS, (chunk + 1) * WORLDS // CHUNKS)
    native = [run(seed) for seed in seeds]
    for module in (drive, drive_base, async_drive, engine):
        for name in LOOPS:
            if hasattr(module, name):
                monkeypatch.setattr(module, name, getattr(twin, name))
    for seed, ours in zip(seeds, native, strict=True):
        theirs = run(seed)
        assert ours == theirs, f"seed {seed}"


@QUIETLY
def test_random_runs_reach_every_end_and_fault() -> None:
    runs = [run(seed) for seed in range(1_000, 1_100)]
    assert {search[0][5] for _, _, *searches in runs for search in searches} >= {
        "budget",
        "error",
        "solved",
        "deadline",
    }
    calls = {call[0] for made, *_ in runs for call in made}
    assert calls == {
        *("apply", "key", "describe", "describe_many", "propose", "score"),
        *("submit", "collect", "discard"),
    }
    assert {event[0] for _, events, *_ in runs for event in events if isinstance(event[0], str)} == set(EVENTS)
    refused = {reason for _, _, *searches in runs for search in searches for _, reason, *_ in search[3]}
    assert refused == {"duplicate", "invalid", "refuted", "limit"}


def test_the_drivers_have_no_other_loops() -> None:
    for module in (drive, drive_base, async_drive, engine):
        for name in LOOPS:
            assert getattr(module, name, getattr(waves, name)) is getattr(waves, name)


@pytest.mark.parametrize("call", ["ask", "requests_of", "settle", "admit", "describe", "grow", "tell", "rounds"])
def test_what_is_no_wave_is_refused(call: str) -> None:
    one = Search("q", task=TextTask(), budget=bavt.Budget(tokens=100))
    (ask,) = one.ask()
    native, slot = one._at_home()
    ticket = slot << 32 | ask.ticket
    step = Step("a\n", 3)
    before = one._native.to_bytes()
    known, wave = {0: one}, (native, {0: one}, [0], [0], [ticket])
    arguments: dict[str, list[tuple[Any, ...]]] = {
        "ask": [(native, {}), (None, {}, 1, 0.0), (native, [], 1, 0.0), (native, {}, -1, 0.0), (native, {}, "1", 0.0)],
        "requests_of": [({}, [0], [0], [1]), ({0: 3}, [0], [0], [1]), (known, [0], [9], [1]), (known, [0], [], [1])],
        "settle": [
            (*wave, [[step], [step]], 0.0),
            (*wave, [iter([step])], 0.0),
            (*wave, [[step]], "now"),
            (*wave, [["step"]], 0.0),
        ],
        "admit": [
            (*wave[:3], [5], [ticket], [[step]], 0.0),
            (*wave[:4], [ticket + 1], [[step]], 0.0),
            (*wave, [[step] * 2], 0.0),
        ],
        "describe": [(*wave, [[step]], ([0], [None])), (*wave, [[step]], None), (*wave, [[step]], ([0], [None], [0]))],
        "grow": [(native, known, None, [0.5], 0.0), (native, known, waves.Pending([0], [ticket], [0]), [0.5], 0.0)],
        "tell": [
            (*wave, [[step], [step]], list, time.monotonic, False),
            (*wave[:4], [ticket + 1], [[step]], list, time.monotonic, False),
            (*wave, [["step"]], list, time.monotonic, False),
            (*wave, [[step]], list, "clock", False),
            (*wave, [[step]], list, str, False),
        ],
        "rounds": [
            (native, [], list, list, 1, time.monotonic, False),
            (None, {}, list, list, 1, time.monotonic, False),
            (native, {}, list, list, -1, time.monotonic, False),
            (native, {}, list, list, 1, "clock", False),
        ],
    }
    for given in arguments[call]:
        with pytest.raises((TypeError, ValueError, KeyError, IndexError, waves.BadAnswer)):
            getattr(waves, call)(*given)
    assert one._native.to_bytes() == before
    assert len(one.nodes) == 1
    assert one.tell(ask, [step], [0.5]) == [1]


@pytest.mark.parametrize("wave", [1, 3])
def test_a_search_is_the_same_where_somebody_looks_on(wave: int) -> None:
    """`rounds` by itself, and a wave at a time."""
    world = World(seed=5, depth=4, goal_share=0.1)
    shown: list[Any] = []

    def found(**options: Any) -> list[Any]:
        many = Searcher(ScriptedGenerator(world), TableCritic(world), WorldTask(world), wave=wave, **options)
        searches = [many.start(question, budget=bavt.Budget(tokens=80), seed=3) for question in QUESTIONS]
        for _ in many.run(searches):
            pass
        return [seen(search)[:-1] for search in searches]

    assert found() == found(on_progress=shown.append)
    assert len(shown) > 10


def test_ctrl_c_in_a_round_ends_it() -> None:
    search = Search("q", task=TextTask(), budget=bavt.Budget(tokens=100))
    native, slot = search._at_home()

    def interrupted() -> float:
        signal.raise_signal(signal.SIGINT)
        return 0.0

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job is started deaf to Ctrl-C
    try:
        with pytest.raises(KeyboardInterrupt):
            waves.rounds(native, {slot: search}, lambda *asked: [[]], list, 1, interrupted, False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert search.stop_reason is None

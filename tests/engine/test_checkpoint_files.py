"""Files of searches: a save is whole or not at all, and what is read is trusted in nothing."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import random
import resource
import signal
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from saved_search import FreeTask, OtherTask, Scripted, in_child, written_search
from scripted import World, WorldTask

import bavt_fast as bavt
from bavt_fast import checkpoint
from bavt_fast._core import SnapshotError
from bavt_fast.engine import Search
from bavt_fast.tasks.text import TextTask

FORGERIES = int(os.environ.get("BAVT_CHECKPOINT_FORGERIES", "1500"))


@pytest.fixture
def written(tmp_path: Path) -> tuple[Search, Path, Path]:
    return written_search(tmp_path)


class KeyCalls(TextTask):
    """Calls a function whenever it is asked for a key."""

    def __init__(self) -> None:
        super().__init__()
        self.call: Any = None

    def key(self, state: Any) -> Any:
        if self.call is not None:
            self.call()
        return super().key(state)


def test_a_search_that_goes_on_while_it_is_saved_leaves_the_old_file(tmp_path: Path) -> None:
    """As where a run in another thread has it."""
    task, path = KeyCalls(), tmp_path / "search.bavt"
    search = bavt.Search("q", task=task, budget=bavt.Budget(tokens=50), max_step_tokens=5, record=True)
    search.tell(search.ask()[0], ["a"])
    search.save(path)
    old = path.read_bytes()
    asks = search.ask(4)

    def go_on() -> None:
        task.call = None
        search.tell(asks.pop(), ["b"])

    task.call = go_on
    with pytest.raises(ValueError, match="expected a search that stands still"):
        search.save(path)
    assert path.read_bytes() == old
    search.save(path)
    assert len(Search.load(path, task).nodes) == 3


@pytest.mark.parametrize("call", ["write", "fsync", "chmod", "replace"])
def test_a_process_that_ends_while_it_saves_leaves_the_old_file(
    call: str, written: tuple[Search, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    search, path, _ = written
    old = path.read_bytes()

    def save() -> None:
        search.stop()
        if call == "write":
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        else:
            monkeypatch.setattr(os, call, lambda *_: os._exit(9))
        search.save(path)

    assert in_child(save) == (-signal.SIGXFSZ if call == "write" else 9) or call == "write"
    assert path.read_bytes() == old
    assert Search.load(path, search.task).stop_reason == search.stop_reason


def test_a_full_disk_leaves_the_old_file_and_nothing_else(written: tuple[Search, Path, Path]) -> None:
    search, path, folder = written
    old = path.read_bytes()

    def save() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        with pytest.raises(OSError, match="too large"):
            search.save(path)

    assert in_child(save) == 0
    assert path.read_bytes() == old
    assert os.listdir(folder) == ["old"]


def test_a_killed_process_leaves_a_whole_file(written: tuple[Search, Path, Path]) -> None:
    search, path, _ = written
    for delay_s in (0.0, 0.003, 0.01, 0.02, 0.05):
        child = os.fork()
        if child == 0:
            while True:
                search.save(path)
        signal.sigtimedwait([], delay_s)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert Search.load(path, search.task)._native.to_bytes() == search._native.to_bytes()


@pytest.mark.parametrize("name", ["/dev/full", "/dev/null", "/proc/none/file", "missing/file", "old/file", "."])
def test_where_no_file_can_be(name: str, written: tuple[Search, Path, Path]) -> None:
    search, path, folder = written
    before = os.listdir("/dev")
    with pytest.raises(OSError, match=r"Errno"):
        search.save(folder / name)
    assert stat.S_ISCHR(os.stat("/dev/full").st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.listdir(folder) == ["old"]
    assert os.listdir("/dev") == before
    assert Search.load(path, search.task).id == search.id


def test_a_pipe_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="regular file"):
        Search.load(tmp_path / "pipe", FreeTask())


# ---- What is read is trusted in nothing


def parts(path: Path) -> tuple[dict[str, Any], bytes]:
    return checkpoint.read(path)


def forge(path: Path, text: bytes, native: bytes, version: int = checkpoint.VERSION) -> None:
    """A checkpoint whose digest is right."""
    whole = struct.pack("<8sIIQQ", b"BAVTSRCH", version, 0, len(text), len(native)) + text + native
    path.write_bytes(whole + hashlib.blake2b(whole, digest_size=16).digest())


def refused_or_usable(path: Path, scripted: Scripted) -> bool:
    """Whether a file is loaded; then everything can be done with it."""
    try:
        scripted.load(path)
    except SnapshotError:
        return False
    scripted.search.result()
    scripted.search.save(path)
    return True


def test_every_truncation_is_refused(written: tuple[Search, Path, Path]) -> None:
    search, path, _ = written
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(SnapshotError, match="checkpoint: "):
            Search.load(path, search.task)
    path.write_bytes(whole + b"\0")
    with pytest.raises(SnapshotError, match="bytes left over"):
        Search.load(path, search.task)


def test_every_flipped_bit_is_refused(written: tuple[Search, Path, Path]) -> None:
    search, path, _ = written
    whole = path.read_bytes()
    rng = random.Random(0)
    for _ in range(FORGERIES):
        bit = rng.randrange(8 * len(whole))
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(SnapshotError, match="checkpoint: "):
            Search.load(path, search.task)


def test_another_version_says_so(written: tuple[Search, Path, Path]) -> None:
    search, path, _ = written
    record, native = parts(path)
    forge(path, json.dumps(record).encode(), native, version=77)
    with pytest.raises(SnapshotError, match="expected version 1, got 77"):
        Search.load(path, search.task)


def test_another_task_says_so(written: tuple[Search, Path, Path], tmp_path: Path) -> None:
    _, path, _ = written
    with pytest.raises(SnapshotError, match="expected the task it was saved with, 'WorldTask', got 'FreeTask'"):
        Search.load(path, FreeTask())
    Search("q", task=FreeTask(), budget=bavt.Budget(tokens=5)).save(path)
    with pytest.raises(SnapshotError, match="got 'OtherTask'"):
        Search.load(path, OtherTask())


def test_a_task_of_other_states_is_refused(written: tuple[Search, Path, Path]) -> None:
    """By its name the same, but its keys are others."""
    search, path, _ = written
    assert len(search.nodes) > 2
    task = WorldTask(World(seed=3))
    task.key = lambda state: 0  # type: ignore[method-assign]
    with pytest.raises(SnapshotError, match="another task"):
        Search.load(path, task)
    task.key = lambda state: []  # type: ignore[method-assign]
    with pytest.raises(SnapshotError, match="TypeError"):
        Search.load(path, task)
    task.apply = lambda state, step: None  # type: ignore[method-assign]
    with pytest.raises(SnapshotError, match="takes no step"):
        Search.load(path, task)


def test_the_native_part_of_another_search_is_refused(written: tuple[Search, Path, Path], tmp_path: Path) -> None:
    search, path, _ = written
    record, native = parts(path)
    text = json.dumps(record).encode()
    other = Scripted(4)
    for each in (b"", native[:-1], native + b"\0", other.search._native.to_bytes(), search.tree.save, native[::-1]):
        forge(path, text, each if isinstance(each, bytes) else native[336:])
        with pytest.raises(SnapshotError):
            Search.load(path, search.task)


VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    1,
    2,
    5,
    2**31,
    2**70,
    10**400,
    0.5,
    -1e308,
    float("nan"),
    "",
    "x",
    "\ud800",
    [],
]
VALUES += [
    [[]],
    [1, 2, 3],
    {},
    {"a": 1},
    [["a", 1, "delimiter", 0, None, None, 0.0, [], [], None]],
    "power",
    [0] * 1000,
]


def places_of(item: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything in a record."""
    for key in list(item) if isinstance(item, dict) else range(len(item)):
        yield item, key
        if isinstance(item[key], (dict, list)):
            yield from places_of(item[key])


def test_forged_records_are_refused_or_make_a_search(written: tuple[Search, Path, Path]) -> None:
    _, path, _ = written
    whole = path.read_bytes()
    native = parts(path)[1]
    rng = random.Random(1)
    scripted = Scripted(3)
    usable = 0
    for _ in range(FORGERIES):
        path.write_bytes(whole)
        record = parts(path)[0]
        for _ in range(rng.choice([1, 1, 2, 4])):
            container, key = rng.choice(list(places_of(record)))
            action = rng.random()
            if action < 0.7:
                container[key] = copy.deepcopy(rng.choice(VALUES))
            elif action < 0.85:
                del container[key]
            elif isinstance(container, list):
                container.insert(key, copy.deepcopy(rng.choice(VALUES)))
        if isinstance(record, dict):
            try:
                text = json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")
            except ValueError:  # an int that Python does not write
                continue
            forge(path, text, native)
            usable += refused_or_usable(path, scripted)
    assert 0 < usable < FORGERIES / 2


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b"{", b"{}", b"\xff", b"[" * 100_000, b"1" * 100_000, b'{"id":1}']
)
def test_records_that_are_none(text: bytes, written: tuple[Search, Path, Path]) -> None:
    search, path, _ = written
    native = parts(path)[1]
    forge(path, text, native)
    with pytest.raises(SnapshotError):
        Search.load(path, search.task)


def test_sizes_in_the_header_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for sizes in ((2**63, 0), (0, 2**64 - 1), (2**64 - 1, 2**64 - 1)):
        path.write_bytes(struct.pack("<8sIIQQ", b"BAVTSRCH", checkpoint.VERSION, 0, *sizes) + bytes(64))
        with pytest.raises(SnapshotError):
            Search.load(path, FreeTask())


@pytest.mark.parametrize("name", ["clock", "on_event"])
def test_a_file_is_not_to_blame_for_what_comes_with_it(name: str, written: tuple[Search, Path, Path]) -> None:
    _, path, _ = written
    with pytest.raises(TypeError, match=f"^{name}: expected a function that"):
        Search.load(path, WorldTask(World()), **{name: 5})  # type: ignore[arg-type]


EVENTS: list[Any] = [
    "x",
    ["ask"],
    [[]],
    [["ask", 0.0, 0, 1.0, 0, "seed"]],
    [["ask", 0.0, 0, 1.0, 99, 1]],
    [["ask", "late", 0, 1.0, 0, 1]],
    [["grow", 0.0, 1, 0.5, 0, 1000]],
    [["stop", 0.0, 1, 0.5, ["why"]]],
    [["sleep", 0.0, 1, 0.5, 0]],
]


@pytest.mark.parametrize("events", EVENTS, ids=str)
def test_events_that_are_none_are_refused(events: Any, tmp_path: Path) -> None:
    task, path = TextTask(), tmp_path / "search.bavt"
    search = bavt.Search("q", task=task, budget=bavt.Budget(tokens=50), record=True)
    search.tell(search.ask()[0], ["a"])
    search.save(path)
    assert Search.load(path, task).events == search.events
    record, native = parts(path)
    checkpoint.write(path, {**record, "events": events}, native)
    with pytest.raises(SnapshotError):
        Search.load(path, task)

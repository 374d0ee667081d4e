"""Snapshots: what was saved comes back; whatever else is in a file gives an error and nothing worse."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import forged
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sanitizers import takes_the_address_space

from bavt_fast import _core

EXAMPLES = int(os.environ.get("BAVT_FUZZ_EXAMPLES", "1000"))
HEADER_BYTES = forged.TREE_HEADER.size


def grown(nodes: int = 30) -> _core.Tree:
    rng = np.random.default_rng(nodes)
    tree = _core.Tree(seed=7)
    while tree.num_nodes < nodes:
        node = max(tree.select(("uct", "power")[tree.num_nodes % 2]), 0)
        values = rng.random(2)
        tree.backup(tree.expand(node, values, terminal=values > 0.95, priors=values), values[0])
        tree.penalize(node)
    return tree


SAVED = grown().to_bytes()


@pytest.mark.parametrize("nodes", [1, 2, 30, 40_000])
def test_a_loaded_tree_goes_on_as_the_saved_one(tmp_path: Path, nodes: int) -> None:
    tree = grown(nodes)
    tree.save(tmp_path / "tree.bavt")
    copy = _core.Tree.load(str(tmp_path / "tree.bavt"))
    assert copy.to_bytes() == tree.to_bytes()
    for policy in ("power", "best_first", "ucb", "uct", "puct") * 4:
        node = tree.select(policy, 0.3)
        assert copy.select(policy, 0.3) == node
        assert copy.expand(node, [0.5, 0.25]) == tree.expand(node, [0.5, 0.25])
    assert copy.to_bytes() == tree.to_bytes()


def load_or_refuse(data: bytes) -> None:
    """A tree that can be worked with, or SnapshotError."""
    try:
        tree = _core.Tree.from_bytes(data)
    except _core.SnapshotError:
        return
    for policy in ("power", "best_first", "ucb", "uct", "puct"):
        node = tree.select(policy)
        if node >= 0 and tree.num_nodes < tree.max_nodes:
            tree.expand(node, [0.5])
    tree.best_path()
    tree.reroot(tree.num_nodes - 1)


def test_every_truncation_is_refused() -> None:
    for length in range(len(SAVED)):
        with pytest.raises(_core.SnapshotError, match=r"snapshot: .*; save it again"):
            _core.Tree.from_bytes(SAVED[:length])


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, len(SAVED) - 1), st.integers(1, 255))
def test_every_altered_byte_is_refused(at: int, change: int) -> None:
    data = bytearray(SAVED)
    data[at] ^= change
    with pytest.raises(_core.SnapshotError):
        _core.Tree.from_bytes(bytes(data))


def test_the_forger_knows_the_checksum() -> None:
    assert forged.sealed_anew(SAVED) == SAVED
    assert forged.one_node_tree() == _core.Tree(max_nodes=2**24).to_bytes()
    two = forged.forest([(0, forged.one_node_tree()), (2, b"")])
    assert _core.Forest.from_bytes(two).to_bytes() == two


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.tuples(st.integers(HEADER_BYTES, len(SAVED) - 9), st.integers(0, 255)), min_size=1, max_size=5))
def test_forged_contents_are_refused_or_harmless(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SAVED)
    for at, byte in changes:
        data[at] = byte
    load_or_refuse(forged.sealed_anew(bytes(data)))


def test_exchanged_pieces_are_refused() -> None:
    """The sums of the checksum's lanes are the same for these."""
    saved = grown(200).to_bytes()
    for size in (8, 64, 128):
        for at, other in ((0, 1), (1, 2), (3, 17), (0, 20)):
            first, second = 64 + 64 * at, 64 + 64 * other + (64 if size == 128 else 0)
            data = bytearray(saved)
            data[first : first + size], data[second : second + size] = (
                saved[second : second + size],
                saved[first : first + size],
            )
            assert data != saved
            with pytest.raises(_core.SnapshotError):
                _core.Tree.from_bytes(bytes(data))


def test_a_huge_count_allocates_nothing() -> None:
    data = bytearray(SAVED)
    struct.pack_into("<I", data, 12, 100_000_000)
    with pytest.raises(_core.SnapshotError, match=r"num_nodes|truncated"):
        _core.Tree.from_bytes(bytes(data))


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_refused(tail: bytes, with_magic: bool) -> None:
    with pytest.raises(_core.SnapshotError):
        _core.Tree.from_bytes((SAVED[:12] if with_magic else b"") + tail)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    tree = grown()
    with pytest.raises(FileNotFoundError):
        _core.Tree.load(tmp_path / "none")
    with pytest.raises(OSError, match=r"\[Errno"):
        _core.Tree.load(tmp_path)
    with pytest.raises(FileNotFoundError):
        tree.save(tmp_path / "no folder" / "tree")
    for path in (f"{tmp_path}/a\0b", os.fsencode(tmp_path) + b"/a\0b"):
        with pytest.raises(ValueError, match="path: expected a path without a null character"):
            tree.save(path)
        with pytest.raises(ValueError, match="path: expected a path without a null character"):
            _core.Tree.load(path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "empty").touch()
    with pytest.raises(_core.SnapshotError, match="shorter than its header"):
        _core.Tree.load(tmp_path / "empty")
    tree.save(tmp_path / "tree")
    with pytest.raises(_core.SnapshotError, match="not a snapshot of a bavt_fast forest"):
        _core.Forest.load(tmp_path / "tree")


def test_saving_replaces_a_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "tree"
    grown(5).save(path)
    grown(50).save(path)
    assert path.read_bytes() == grown(50).to_bytes()
    assert [entry.name for entry in tmp_path.iterdir()] == ["tree"]


def run_script(script: str, folder: Path) -> str:
    """What a script prints in a process of its own, in `folder`, for what would change this one."""
    preamble = "import os, resource\nfrom bavt_fast import _core\n"
    result = subprocess.run(
        [sys.executable, "-c", preamble + script], check=False, capture_output=True, text=True, cwd=folder
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_errors_of_files_name_them(tmp_path: Path) -> None:
    for action in (_core.Tree.load, _core.Forest.load, _core.Tree().save, _core.Forest(1).save):
        with pytest.raises(FileNotFoundError) as caught:
            action(tmp_path / "no folder" / "file")
        assert caught.value.filename == str(tmp_path / "no folder" / "file")
    for action in (_core.Tree().save, _core.Forest(1).save, _core.Tree.load, _core.Forest.load):
        with pytest.raises(IsADirectoryError):
            action(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_devices_and_pipes_stay_what_they_are(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (Path("/dev/full"), pipe):
        kind = stat.S_IFMT(path.stat().st_mode)
        with pytest.raises(OSError, match="Invalid argument"):
            _core.Tree().save(path)
        assert stat.S_IFMT(path.stat().st_mode) == kind
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for load in (_core.Tree.load, _core.Forest.load):
        with pytest.raises(_core.SnapshotError, match="expected a regular file"):
            load(tmp_path / "pipe")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    grown(5).save(tmp_path / "tree")
    script = """
import signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
tree = _core.Tree()
tree.expand(0, [0.5] * 1000)
try:
    tree.save("tree")
except OSError as error:
    print(type(error).__name__, error.errno, error.filename, os.listdir())
"""
    assert run_script(script, tmp_path) == "OSError 27 tree ['tree']"
    assert (tmp_path / "tree").read_bytes() == grown(5).to_bytes()


def test_the_mode_is_that_of_a_new_file(tmp_path: Path) -> None:
    script = """
os.umask(0o027)
_core.Tree().save("tree")
_core.Forest(1).save("forest")
os.umask(0o002)
_core.Tree().save("open")
print([oct(os.stat(name).st_mode & 0o777) for name in ("tree", "forest", "open")])
"""
    assert run_script(script, tmp_path) == "['0o640', '0o640', '0o664']"


def test_the_umask_is_left_alone() -> None:
    """It is that of the whole process: changing it for a moment would change the files of other threads."""
    symbols = Path(_core.__file__).read_bytes()
    assert b"\0open\0" in symbols or b"\0open64\0" in symbols
    assert b"\0umask\0" not in symbols


# ---- Forests


def small_forest() -> _core.Forest:
    forest = _core.Forest(3, seed=1)
    forest.expand([0, 1], [0, 0], np.full((2, 3), 0.5), priors=np.full((2, 3), 0.25))
    forest.drop(2)
    return forest


SAVED_FOREST = small_forest().to_bytes()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_forest_in_bytes_is_the_forest_in_a_file(tmp_path: Path, threads: int) -> None:
    rng = np.random.default_rng(1)
    forest = _core.Forest(700, threads=threads)
    for _ in range(6):
        trees, nodes = forest.select("power")
        forest.expand(trees, nodes, rng.random((len(trees), 10)))
    forest.drop(17)
    forest.finish(690)
    saved = forest.to_bytes()
    assert len(saved) > 2**20  # enough for the helpers to take part
    forest.save(tmp_path / "forest")
    assert (tmp_path / "forest").read_bytes() == saved
    for copy in (_core.Forest.load(tmp_path / "forest", threads=3), _core.Forest.from_bytes(saved, threads=threads)):
        assert copy.to_bytes() == saved
        assert copy.add() == 17
        assert copy.add() == 700


def test_every_truncation_of_a_forest_is_refused() -> None:
    for length in range(len(SAVED_FOREST)):
        with pytest.raises(_core.SnapshotError, match=r"snapshot: .*; save it again"):
            _core.Forest.from_bytes(SAVED_FOREST[:length])
    with pytest.raises(_core.SnapshotError, match="left over"):
        _core.Forest.from_bytes(SAVED_FOREST + b"\0")


def test_every_altered_byte_of_a_forest_is_refused() -> None:
    for at in range(len(SAVED_FOREST)):
        for change in (1, 0x80, 0xFF):
            data = bytearray(SAVED_FOREST)
            data[at] ^= change
            with pytest.raises(_core.SnapshotError):
                _core.Forest.from_bytes(bytes(data))


TREE = forged.one_node_tree()
BAD_FORESTS: list[tuple[dict[str, object], str]] = [
    ({"trees": [(3, TREE)]}, "a state is unknown"),
    ({"trees": [(2, TREE)]}, "a dropped tree is still there"),
    ({"trees": [(0, b"")]}, "shorter than its header"),
    ({"trees": [(0, TREE[:-1])]}, "truncated or with bytes left over"),
    ({"trees": [(0, TREE)], "max_nodes": 5}, "max_nodes of its forest"),
    ({"trees": [(0, TREE)], "decay": 0.5}, "decay of its forest"),
    ({"trees": [(0, TREE)], "max_nodes": 0}, "max_nodes is out of range"),
    ({"trees": [(0, TREE)], "decay": 0.0}, "decay is out of range"),
    ({"trees": [(0, TREE)], "turn": 1}, "turn is out of range"),
    ({"trees": [], "slots": 2**32 - 1}, "num_slots is out of range"),
    ({"trees": [], "slots": 1_000_000}, "truncated"),
]


@pytest.mark.parametrize(("options", "message"), BAD_FORESTS)
def test_forged_forests_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(_core.SnapshotError, match=message):
        _core.Forest.from_bytes(forged.forest(**options))  # type: ignore[arg-type]


def test_sizes_that_overflow_are_refused() -> None:
    """2^64 - 105 and the like, which would add up to the right total."""
    tree = forged.one_node_tree()
    entries = [(0, 2**64 - len(tree)), (0, 2 * len(tree))]
    header = forged.FOREST_HEADER.pack(b"BAVTFRST", forged.FOREST_VERSION, 2, 2**24, 0, 0, 2, 0, 0.85, 1.0)
    directory = b"".join(forged.ENTRY.pack(*entry) for entry in entries)
    with pytest.raises(_core.SnapshotError, match="truncated"):
        _core.Forest.from_bytes(forged.sealed(header + directory) + tree)


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def test_dropped_trees_take_no_address_space() -> None:
    """16 bytes in the file for each, which would stand for 3.9 GB."""
    before = address_space()
    forest = _core.Forest.from_bytes(forged.forest([(2, b"")] * 50_000, max_nodes=100_000_000), threads=1)
    assert address_space() - before < 100e6
    assert forest.num_nodes.tolist() == [0] * 50_000
    assert forest.add(root_value=0.5) == 0
    assert forest.values(0).tolist() == [0.5]


def test_trees_of_a_forest_take_memory_for_what_is_in_them() -> None:
    """Not for the 3.9 GB of address space that each would reserve for its max_nodes."""
    tree = forged.one_node_tree(max_nodes=100_000_000)
    before = address_space()
    forest = _core.Forest.from_bytes(forged.forest([(0, tree)] * 20_000, max_nodes=100_000_000), threads=1)
    assert address_space() - before < 200e6
    assert forest.num_nodes.tolist() == [1] * 20_000


@takes_the_address_space
def test_without_address_space_the_answer_is_an_error_of_the_snapshot(tmp_path: Path) -> None:
    (tmp_path / "tree").write_bytes(forged.one_node_tree(max_nodes=100_000_000))
    (tmp_path / "forest").write_bytes(forged.forest([(0, forged.one_node_tree())] * 10))
    script = """
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
try:
    _core.Tree.load("tree")
except _core.SnapshotError as error:
    print("not enough memory or address space" in str(error), end=" ")
print(len(_core.Forest.load("forest", 1).num_nodes))  # its trees reserve nothing until they are large
"""
    assert run_script(script, tmp_path) == "True 10"


@pytest.mark.parametrize(
    ("entry", "few"), [((2, b""), 30_000), ((0, forged.one_node_tree(max_nodes=8)), 500)], ids=["dropped", "live"]
)
def test_time_to_load_grows_with_the_number_of_trees_alone(entry: tuple[int, bytes], few: int) -> None:
    """Eight times the trees: 8 times the time, with room for noise, and not 64 times."""

    def seconds(trees: int) -> float:
        data, best = forged.forest([entry] * trees, max_nodes=8), float("inf")
        for _ in range(5):
            begin = time.process_time()
            assert len(_core.Forest.from_bytes(data, threads=1).num_nodes) == trees
            best = min(best, time.process_time() - begin)
        return best

    assert seconds(8 * few) < 30 * seconds(few)


@pytest.mark.parametrize("kind", [_core.Tree, _core.Forest])
@pytest.mark.parametrize("data", [bytearray(10**6), memoryview(b"BAVT"), "BAVT", None])
def test_what_is_no_bytes_is_said_to_be_none(kind: Any, data: Any) -> None:
    with pytest.raises(TypeError, match=r"^data: expected bytes, got ") as caught:
        kind.from_bytes(data)
    assert len(str(caught.value)) < 150

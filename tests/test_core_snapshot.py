"""Snapshots: what was saved comes back; whatever else is in a file gives an error and nothing worse."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bavt_fast import _core

EXAMPLES = int(os.environ.get("BAVT_FUZZ_EXAMPLES", "1000"))
HEADER_BYTES = 56


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
        with pytest.raises(_core.SnapshotError, match=r"snapshot: .*; save the tree again"):
            _core.Tree.from_bytes(SAVED[:length])


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.integers(0, len(SAVED) - 1), st.integers(1, 255))
def test_every_altered_byte_is_refused(at: int, change: int) -> None:
    data = bytearray(SAVED)
    data[at] ^= change
    with pytest.raises(_core.SnapshotError):
        _core.Tree.from_bytes(bytes(data))


def with_valid_checksum(data: bytes) -> bytes:
    """The same bytes as a forger would seal them. Mirrors csrc/snapshot.cpp."""
    mask = 2**64 - 1

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    def stir(lane: int, word: int) -> int:
        lane = (lane + word * 0x9E3779B97F4A7C15) & mask
        return ((((lane << 31) | (lane >> 33)) & mask) * 0xD1B54A32D192ED03) & mask

    def section_sum(section: bytes) -> int:
        lanes = [1, 2, 3, 4]
        whole = len(section) // 32 * 32
        for i, word in enumerate(struct.unpack(f"<{whole // 8}Q", section[:whole])):
            lanes[i % 4] = stir(lanes[i % 4], word)
        for byte in section[whole:]:
            lanes[0] = stir(lanes[0], byte)
        total = len(section)
        for lane in lanes:
            total = mix(total ^ lane)
        return total

    _, nodes, _, has_priors = struct.unpack_from("<4I", data, 8)
    blank = data[: HEADER_BYTES - 8] + bytes(8)
    sizes = [16, 8, 4, *([4] if has_priors else []), 1, 1]
    total, at = mix(section_sum(blank)), HEADER_BYTES
    for size in sizes:
        total = mix(total ^ section_sum(data[at : at + size * nodes]))
        at += size * nodes
    return blank[: HEADER_BYTES - 8] + struct.pack("<Q", total) + data[HEADER_BYTES:]


def test_the_forger_knows_the_checksum() -> None:
    assert with_valid_checksum(SAVED) == SAVED


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.lists(st.tuples(st.integers(HEADER_BYTES, len(SAVED) - 1), st.integers(0, 255)), min_size=1, max_size=5))
def test_forged_contents_are_refused_or_harmless(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SAVED)
    for at, byte in changes:
        data[at] = byte
    load_or_refuse(with_valid_checksum(bytes(data)))


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


@settings(max_examples=EXAMPLES // 4, deadline=None)
@given(data=st.data())
def test_damaged_forests_are_refused(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    forest = _core.Forest(3, seed=1)
    forest.expand([0, 1], [0, 0], np.full((2, 3), 0.5))
    forest.save(folder / "forest")
    saved = bytearray((folder / "forest").read_bytes())
    if data.draw(st.booleans()):
        saved[data.draw(st.integers(0, len(saved) - 1))] ^= data.draw(st.integers(1, 255))
    else:
        del saved[data.draw(st.integers(0, len(saved) - 1)) :]
    (folder / "damaged").write_bytes(saved)
    with pytest.raises(_core.SnapshotError):
        _core.Forest.load(folder / "damaged")

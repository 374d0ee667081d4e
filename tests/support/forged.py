"""Snapshots as a forger makes them: changed at will, with a checksum that is right again (memory/checksum.h)."""

from __future__ import annotations

import struct

import numpy as np

MASK = 2**64 - 1
KEYS = [
    0x243F6A8885A308D3,
    0x13198A2E03707344,
    0xA4093822299F31D0,
    0x082EFA98EC4E6C89,
    0x452821E638D01377,
    0xBE5466CF34E90C6C,
    0xC0AC29B7C97C50DD,
    0x3F84D5B5B5470917,
]
STEP = 0x9E3779B97F4A7C15
TREE_HEADER = struct.Struct(
    "<8s3I2H2Qd"
)  # magic, version, num_nodes, max_nodes, has_priors, has_weights, seed, drawn, decay
FOREST_HEADER = struct.Struct("<8s4I3Q2d")  # magic, version, slots, max_nodes, 0, seed, trees made, turn, decay, V
ENTRY = struct.Struct("<2Q")  # state, size
TREE_VERSION, FOREST_VERSION = 3, 2


def mix(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def checksum(data: bytes) -> int:
    words = np.frombuffer(data + bytes(-len(data) % 64), dtype="<u8").reshape(-1, 8)
    steps = np.arange(len(words), dtype=np.uint64)[:, None] * np.uint64(STEP)
    x = words ^ (np.array(KEYS, dtype=np.uint64) + steps)
    sums = words.sum(axis=0, dtype=np.uint64)
    products = ((x & np.uint64(0xFFFFFFFF)) * (x >> np.uint64(32))).sum(axis=0, dtype=np.uint64)
    value = len(data)
    for lane in range(8):
        value = mix(value ^ int(sums[lane]))
        value = mix(value ^ int(products[lane]))
    return value


def sealed(content: bytes) -> bytes:
    """`content` and its checksum."""
    return content + struct.pack("<Q", checksum(content))


def sealed_anew(data: bytes) -> bytes:
    """A tree's snapshot whose checksum is right again."""
    return sealed(data[:-8])


def forest(
    trees: list[tuple[int, bytes]], max_nodes: int = 2**24, decay: float = 0.85, turn: int = 0, slots: int | None = None
) -> bytes:
    """A forest's snapshot of (state, tree's snapshot) pairs; states are 0 live, 1 finished and 2 dropped."""
    count = len(trees) if slots is None else slots
    header = FOREST_HEADER.pack(b"BAVTFRST", FOREST_VERSION, count, max_nodes, 0, 0, count, turn, decay, 1.0)
    directory = b"".join(ENTRY.pack(state, len(tree)) for state, tree in trees)
    return sealed(header + directory) + b"".join(tree for _, tree in trees)


def one_node_tree(max_nodes: int = 2**24, decay: float = 0.85) -> bytes:
    header = TREE_HEADER.pack(b"BAVTTREE", TREE_VERSION, 1, max_nodes, 0, 0, 0, 0, decay)
    return sealed(header + struct.pack("<d2IdIBB", 0.0, 0, 0, 1.0, 2**32 - 1, 0, 0))

"""Writes `bavt_fast/kernels/critic_table.py`, so that a tuned table is a readable diff."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bavt_fast import kernels
from bavt_fast.kernels.critic_config import ANY, Entry

__all__ = ["TABLE_PATH", "render"]

TABLE_PATH = Path(kernels.__file__).parent / "critic_table.py"

_HEADER = '''\
"""The critic kernel's tilings by capability, kind, rows and H; the first entry that covers a call serves it.

Written by ``python -m tools.critic_kernel.tune``; do not edit by hand. An entry whose source is "predicted" was
chosen from the number of multiprocessors, the shared memory and the bytes in flight; no GPU has confirmed it.
"""

# fmt: off

from bavt_fast.kernels.critic_config import ANY, Config, Entry

__all__ = ["ENTRIES"]

# Columns of Entry:  capability, kind, max_rows, max_hidden, use_torch, config, source
# Columns of Config: kernel, block_rows, block_units, block_k, num_warps, num_stages, descriptors, overlap
ENTRIES: tuple[Entry, ...] = (
'''


def render(entries: Iterable[Entry]) -> str:
    """The source of `critic_table.py` for `entries`, in look-up order."""
    return _HEADER + "".join(_row(entry) for entry in sorted(entries, key=_order)) + ")\n"


def _order(entry: Entry) -> tuple[int, str, int, int]:
    return entry.capability, entry.kind, entry.max_rows, entry.max_hidden


def _row(entry: Entry) -> str:
    tile = entry.config
    config = (
        f'Config("{tile.kernel}", {tile.block_rows}, {tile.block_units}, {tile.block_k}, {tile.num_warps}, '
        f"{tile.num_stages}, {tile.descriptors}, {tile.overlap})"
    )
    return (
        f'    Entry({entry.capability}, "{entry.kind}", {_bound(entry.max_rows)}, '
        f'{_bound(entry.max_hidden)}, {entry.use_torch}, {config}, "{entry.source}"),\n'
    )


def _bound(value: int) -> str:
    return "ANY" if value == ANY else str(value)

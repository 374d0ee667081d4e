"""Which entry of the table serves a call."""

from __future__ import annotations

from functools import lru_cache

from bavt_fast.kernels.critic_config import Entry, Kind
from bavt_fast.kernels.critic_table import ENTRIES

__all__ = ["find_entry"]


@lru_cache(maxsize=4096)
def find_entry(capability: int, kind: Kind, rows: int, hidden_size: int) -> Entry:
    """The first entry of the table, in its order, that covers the call.

    Args:
        capability: compute capability of the GPU times ten, at least 80.
        kind: see `Kind`.
        rows: at least 1.
        hidden_size: H, at least 1.

    Raises:
        ValueError: the capability is below 80.
    """
    if capability < 80:
        raise ValueError(f"capability: expected at least 80 (Ampere), got {capability}; use impl='torch' there")
    # Desktop Blackwell (12.0) has the small shared memory that the tilings of Ampere are made for.
    family = 90 if 90 <= capability < 120 else 80
    for entry in ENTRIES:
        fits = rows <= entry.max_rows and hidden_size <= entry.max_hidden
        if fits and (entry.capability, entry.kind) == (family, kind):
            return entry
    raise LookupError(f"no entry covers capability {family}, {kind}, {rows} rows, H = {hidden_size}")

"""What it costs a search that somebody watches it."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.harness import Row


def watched(rounds: int) -> Iterator[Row]:
    """Filled in below."""
    yield from ()

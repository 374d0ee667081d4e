"""Servers in processes of their own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.harness import ROOT


@contextlib.contextmanager
def instant() -> Iterator[str]:
    """The url of a server that answers at once."""
    command = [sys.executable, "-m", "benchmarks.server.instant"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.terminate()

"""Kernel tests that need a process of their own, with triton in another mode or of another version.

BAVT_TRITON_PATHS lists folders, each holding an unpacked triton wheel, separated as in PATH.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests/kernels"
OTHER_TRITONS = [path for path in os.environ.get("BAVT_TRITON_PATHS", "").split(os.pathsep) if path]
MARKS = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("torch", "triton")),
        reason="needs torch and triton",
    ),
]


def run_file(name: str, triton_path: str, timeout_s: int, marked: str = "", **environment: str) -> str:
    """What pytest prints for a file of tests/kernels; fails where a test of it does.

    Args:
        triton_path: a folder with the triton to use, "" for the one that is installed.
        marked: the marks of the tests that run, as pytest's -m takes them; all run where it is "".
        environment: variables beside this process's own, of which TRITON_INTERPRET is left out.
    """
    paths = [triton_path, str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    inherited = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    variables = inherited | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)} | environment
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:logging", "-m", marked, name]
    result = subprocess.run(
        command, cwd=FOLDER, env=variables, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
    return result.stdout

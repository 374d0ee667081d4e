"""Runs `kernels_interpreted.py`: every kernel on CPU tensors, in triton's interpreter.

Another triton can be checked too: BAVT_TRITON_PATHS lists folders, each holding an unpacked triton wheel,
separated as in PATH.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
OTHER_TRITONS = [path for path in os.environ.get("BAVT_TRITON_PATHS", "").split(os.pathsep) if path]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(importlib.util.find_spec(name) is None for name in ("torch", "triton")),
        reason="needs torch and triton",
    ),
]


@pytest.mark.parametrize("triton_path", ["", *OTHER_TRITONS])
def test_the_kernels_in_the_interpreter(triton_path: str) -> None:
    paths = [triton_path, str(TESTS.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {
        "TRITON_INTERPRET": "1",
        # The interpreter multiplies tiny matrices, on which threads only wait for each other.
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:logging", "kernels_interpreted.py"]
    result = subprocess.run(
        command, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
    assert " skipped" not in result.stdout

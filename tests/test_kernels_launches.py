"""Runs `kernels_launched.py`: triton's real launch path up to the driver, which records instead of launching."""

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
def test_what_the_op_launches(triton_path: str) -> None:
    paths = [triton_path, str(TESTS.parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:logging", "kernels_launched.py"]
    result = subprocess.run(
        command, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert " passed" in result.stdout
    assert " skipped" not in result.stdout

"""Runs `kernels_interpreted.py` and `draw_interpreted.py`: every kernel on CPU tensors, in triton's interpreter.

What is slow there runs with the other versions of triton alone (`make test-triton`).
"""

from __future__ import annotations

import pytest
from kernel_processes import MARKS, OTHER_TRITONS, run_file

pytestmark = MARKS


@pytest.mark.parametrize("name", ["kernels_interpreted.py", "draw_interpreted.py"])
@pytest.mark.parametrize("triton_path", ["", *OTHER_TRITONS])
def test_the_kernels_in_the_interpreter(triton_path: str, name: str) -> None:
    # The interpreter multiplies tiny matrices, on which threads only wait for each other.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    chosen = "" if triton_path else "not slow"
    printed = run_file(name, triton_path, timeout_s=1800, marked=chosen, TRITON_INTERPRET="1", **threads)
    assert " skipped" not in printed

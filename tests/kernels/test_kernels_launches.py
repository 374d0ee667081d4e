"""Runs `kernels_launched.py`: triton's real launch path up to the driver, which records instead of launching."""

from __future__ import annotations

import pytest
from kernel_processes import MARKS, OTHER_TRITONS, run_file

pytestmark = MARKS


@pytest.mark.parametrize("triton_path", ["", *OTHER_TRITONS])
def test_what_is_launched(triton_path: str) -> None:
    assert " skipped" not in run_file("kernels_launched.py", triton_path, timeout_s=900)

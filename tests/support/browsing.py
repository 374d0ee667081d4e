"""Waiting for a page."""

from __future__ import annotations

import time
from typing import Any


def until(tab: Any, condition: str) -> None:
    """Waits for a condition. Playwright's own way evaluates texts in the page, which its policy forbids."""
    end_s = time.monotonic() + 30
    while not tab.evaluate(condition):
        assert time.monotonic() < end_s, condition
        tab.wait_for_timeout(20)

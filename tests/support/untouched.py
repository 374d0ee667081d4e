"""A generator that nobody may ask."""

from __future__ import annotations

from typing import Any


class Untouched:
    """Of which nothing may be asked."""

    def propose(self, *_: Any) -> Any:
        raise AssertionError("it was asked")

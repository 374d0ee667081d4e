"""The version, for the package and for its build."""

from __future__ import annotations

__version__ = "0.1.0"

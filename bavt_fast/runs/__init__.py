"""Runs: files of questions, for hours, with nothing lost where they are killed. See `bavt_fast.runs.run.Run`."""

from __future__ import annotations

from bavt_fast.runs.folder import RunError, read_run
from bavt_fast.runs.run import Run, RunProgress, RunSummary

__all__ = ["Run", "RunError", "RunProgress", "RunSummary", "read_run"]

"""Questions that a task cannot begin with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bavt_fast as bavt
from bavt_fast.runs import Run
from bavt_fast.tasks.text import TextTask


class Stumbles(TextTask):
    """Knows one question, and says of no other what is wrong with it."""

    def initial_state(self, question: str) -> Any:
        return super().initial_state({"fine": "fine"}[question])


def test_a_question_on_which_the_task_stumbles_is_a_broken_line(tmp_path: Path) -> None:
    rows = [{"id": "a", "question": "unknown"}, {"id": "b", "question": "fine"}]
    searcher = bavt.Searcher(lambda text, count: ["Answer: 7"], task=Stumbles())
    summary = Run(tmp_path / "out", searcher, rows, budget=bavt.Budget(tokens=5)).complete()
    assert (summary.finished, summary.questions) == (1, 1)
    assert [str(broken) for broken in summary.broken] == ["line 1: KeyError: 'unknown'"]

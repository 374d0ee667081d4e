"""What the engine is meant to reach, against what a run measured."""

from __future__ import annotations

from benchmarks.engine import rows
from benchmarks.harness import Results, Target


def targets_of(results: Results) -> list[Target]:
    def step_us(questions: int, wave: int) -> float | None:
        found = results.of(rows.STEP, rows.OURS, task="TextTask", questions=questions, wave=wave)
        return found[-1].median if found else None  # the larger budget where there are two

    def worst(what: str, **at: int | str) -> float | None:
        return max((row.median for row in results.of(what, rows.OURS, **at)), default=None)

    treequest = results.of(rows.TIMES_OURS, rows.TREEQUEST)
    return [
        Target("4,096 questions side by side, TextTask", step_us(4_096, 4_096), 5, "us"),
        Target("256 questions side by side, TextTask", step_us(256, 256), 5, "us"),
        Target("16 questions side by side, TextTask", step_us(16, 16), 6, "us"),
        Target("one question with wave=16, TextTask", step_us(1, 16), 6, "us"),
        Target("one question, one ask at a time, TextTask", step_us(1, 1), 9, "us"),
        Target("asearch_many, 256 questions", worst(rows.ASYNC_STEP, questions=256), 25, "us"),
        Target("treequest / one ask at a time", treequest[-1].median if treequest else None, 30, "x", at_least=True),
        Target("outside the embedded model, 16 questions", worst(rows.EMBEDDED_STEP, questions=16, wave=16), 16, "us"),
        Target("asking whether anybody listens to a step", worst(rows.HOOKS), 0.1, "us"),
        Target("bytes per node", worst(rows.NODE_BYTES), 400, "bytes"),
        Target("verify calls per terminal state", worst(rows.VERIFY_CALLS), 1, "calls"),
    ]

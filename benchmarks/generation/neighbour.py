"""A search by the embedded model beside neighbours that never wait, one per core: what shared cores cost.

    python -m benchmarks.generation.neighbour [QUESTIONS]

The search runs in a process of its own with the package's own choice of threads, and prints its seconds, loading not
counted. Alone and with neighbours take turns.
"""

from __future__ import annotations

import contextlib
import functools
import os
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.generation import rows
from benchmarks.harness import ROOT, Limits, Row, ratios, rounds_of, row_of

QUESTIONS, BUDGET_TOKENS = 8, 125


def search_seconds(questions: int) -> float:
    """Seconds that the embedded model takes for so many questions side by side, in this process."""
    from bavt_fast import Budget, Searcher
    from bavt_fast.model_folder import load_folder
    from benchmarks.budget.problems import game24_questions
    from benchmarks.harness import elapsed_s

    folder = load_folder()
    searcher = Searcher(folder.generator, folder.critic, folder.task, **folder.settings.search)
    asked = game24_questions()[:questions]
    searcher.search_many(asked[:1], budget=Budget(tokens=40))  # warm up
    return elapsed_s(lambda: searcher.search_many(asked, budget=Budget(tokens=BUDGET_TOKENS)))


def beside_neighbours(limits: Limits, questions: int = QUESTIONS) -> Iterator[Row]:
    cores = os.cpu_count() or 1

    def round_with(neighbours: int) -> float:
        with busy(neighbours):
            command = [sys.executable, "-m", __name__, str(questions)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=own_threads())
        return float(done.stdout)

    found = rounds_of({str(n): functools.partial(round_with, n) for n in (0, cores)}, limits)
    at: dict[str, int | str] = {"model": "embedded", "device": "cpu", "questions": questions, "tokens": BUDGET_TOKENS}
    for neighbours, seconds in found.items():
        yield row_of(rows.SEARCH_SECONDS, rows.OURS, "s", seconds, {**at, "neighbours": int(neighbours)})
    over = ratios(found[str(cores)], found["0"])
    yield row_of(rows.BUSY, rows.OURS, "x", over, {**at, "neighbours": cores})


@contextlib.contextmanager
def busy(processes: int) -> Iterator[None]:
    """So many processes that never wait, for as long as the block lasts."""
    started = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def own_threads() -> dict[str, str]:
    """The environment without what the caller says of threads: the package is to choose."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "MKL_", "KMP_", "GOMP_"))}


if __name__ == "__main__":
    print(search_seconds(int(sys.argv[1]) if len(sys.argv) > 1 else QUESTIONS))

"""The share of a search's wall time that is spent outside the model, with the embedded model running.

    python -m benchmarks.engine.overhead [--model DIR] [--questions N] [--out benchmarks/results/overhead.json]

"Model" is the time inside ``generator.propose`` and ``critic.score``: tokenizer, forward passes, sampling, value head.
Everything else is the search: selection, ledger, the task's parsing and checking, expansion, backup.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bavt_fast import Budget, Searcher
from bavt_fast.model_folder import load_folder
from bavt_fast.tasks.countdown.task import Countdown
from benchmarks.budget.problems import game24_questions
from benchmarks.harness import ROOT, describe_machine

BUDGET_TOKENS = 250
WAVES = (1, 16)


class Stopwatch:
    """Adds up the seconds of one method's calls."""

    def __init__(self, owner: Any, method: str) -> None:
        self.seconds = 0.0
        self._call: Callable[..., Any] = getattr(owner, method)
        setattr(owner, method, self._timed)

    def _timed(self, *arguments: Any) -> Any:
        start_s = time.perf_counter()
        try:
            return self._call(*arguments)
        finally:
            self.seconds += time.perf_counter() - start_s


def measure(model: Path | None, questions: list[str], wave: int) -> dict[str, float]:
    """Median over repeats of the share outside the model, and the microseconds outside it per node."""
    generator, critic = load_folder(model)
    clocks = [Stopwatch(generator, "propose"), Stopwatch(critic, "score")]
    searcher = Searcher(generator, critic, Countdown(), wave=wave)
    searcher.search_many(questions[:2], budget=Budget(tokens=60))  # warm up
    shares, per_node_us = [], []
    for repeat in range(5):
        before = sum(clock.seconds for clock in clocks)
        start_s = time.perf_counter()
        results = searcher.search_many(questions, budget=Budget(tokens=BUDGET_TOKENS), seed=repeat)
        total_s = time.perf_counter() - start_s
        outside_s = total_s - (sum(clock.seconds for clock in clocks) - before)
        shares.append(outside_s / total_s)
        per_node_us.append(1e6 * outside_s / sum(result.tree.num_nodes for result in results))
    return {
        "wave": wave,
        "outside_model_share": statistics.median(shares),
        "outside_model_us_per_node": statistics.median(per_node_us),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a model folder; the embedded model without it")
    parser.add_argument("--questions", type=int, default=16)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "overhead.json")
    arguments = parser.parse_args()
    questions = game24_questions()[: arguments.questions]
    rows = [measure(arguments.model, questions, wave) for wave in WAVES]
    print("| questions side by side | outside the model | us outside the model per node |\n|---|---|---|")
    for row in rows:
        print(f"| {row['wave']} | {row['outside_model_share']:.2%} | {row['outside_model_us_per_node']:.0f} |")
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    results = {"machine": describe_machine("torch", "transformers"), "budget_tokens": BUDGET_TOKENS, "rows": rows}
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

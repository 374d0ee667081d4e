"""What of a search by the embedded model is spent outside it: selection, ledger, the task, expansion, backup.

The model is the time inside the generator (``submit``, ``collect``) and ``critic.score``: tokenizer, forward passes,
sampling, value head. On one thread, which is how a model this small is fastest where cores are shared.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from bavt_fast import Budget, Searcher
from benchmarks.engine import contract, rows
from benchmarks.harness import Case, LeftOut, Row, row_of

BUDGET_TOKENS = 250
WAVES = (1, 16)


def with_the_embedded_model(questions: int, rounds: int) -> Iterator[Row]:
    try:
        import torch

        from bavt_fast.model_folder import load_folder
    except ImportError as error:
        raise LeftOut(f"the embedded model (does not import: {error})") from error
    from benchmarks.budget.problems import game24_questions

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        asked = game24_questions()[:questions]
        for wave in WAVES:
            yield from _measured(load_folder(), asked, wave, rounds)
    finally:
        torch.set_num_threads(threads)


def _measured(model: Any, questions: list[str], wave: int, rounds: int) -> Iterator[Row]:
    watched = contract.Watched(model.generator, model.critic)
    searcher = Searcher(model.generator, model.critic, model.task, wave=wave)
    searcher.search_many(questions[:2], budget=Budget(tokens=60))  # warm up
    budget = Budget(tokens=BUDGET_TOKENS)
    shares, seconds = [], []
    for seed in range(rounds):
        search = functools.partial(searcher.search_many, questions, budget=budget, seed=seed)
        total_s, outside_s, steps = watched.run(search)
        shares.append(outside_s / total_s)
        seconds.append(outside_s / steps)
    where: dict[str, int | str] = {"task": "Countdown", "questions": len(questions), "wave": wave}
    yield Case(rows.EMBEDDED_STEP, rows.OURS, items=1, at=where).row(seconds)
    yield row_of(rows.EMBEDDED_SHARE, rows.OURS, "of 1", shares, where)

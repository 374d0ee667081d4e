"""What of a search by the embedded model is spent outside it: selection, ledger, the task, expansion, backup.

The model is the time inside the generator (``submit``, ``collect``) and ``critic.score``: tokenizer, forward passes,
sampling, value head. On one thread, which is how a model this small is fastest where cores are shared.

A forward pass reads all weights, so that afterwards nothing of the search is in the caches. To tell this from the work
itself, each search runs again by the answers of the model without it.
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
REPLAYS = 9  # of each round


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
    recorded = contract.Recorded(model.generator, model.critic)
    watched = contract.Watched(model.generator, model.critic)  # around the recording, which counts as the model's
    searcher = Searcher(model.generator, model.critic, model.task, wave=wave)
    searcher.search_many(questions[:2], budget=Budget(tokens=60))  # warm up
    budget = Budget(tokens=BUDGET_TOKENS)
    shares, seconds, replayed, of_a_question, told = [], [], [], [], []
    for seed in range(rounds):
        recorded.clear()
        search = functools.partial(searcher.search_many, questions, budget=budget, seed=seed)
        total_s, outside_s, steps = watched.run(search)
        shares.append(outside_s / total_s)
        seconds.append(outside_s / steps)
        of_a_question.append(steps / len(questions))
        told.append(steps / len(recorded.told))
        for _ in range(REPLAYS):
            replayed.append(_replayed_s(recorded, model.task, questions, wave, budget, seed))
    where: dict[str, int | str] = {"task": "Countdown", "questions": len(questions), "wave": wave}
    yield Case(rows.EMBEDDED_STEP, rows.OURS, items=1, at=where).row(seconds)
    yield Case(rows.EMBEDDED_REPLAYED, rows.OURS, items=1, at=where).row(replayed)
    yield row_of(rows.EMBEDDED_QUESTION, rows.OURS, "steps", of_a_question, where)
    yield row_of(rows.EMBEDDED_TOLD, rows.OURS, "steps", told, where)
    yield row_of(rows.EMBEDDED_SHARE, rows.OURS, "of 1", shares, where)


def _replayed_s(
    recorded: contract.Recorded, task: Any, questions: list[str], wave: int, budget: Budget, seed: int
) -> float:
    """Seconds a step of the same search once more, by what was recorded of generator and critic."""
    playback = contract.Playback(recorded)
    watched = contract.Watched(playback, playback)
    searcher = Searcher(playback, playback, task, wave=wave)
    _, outside_s, steps = watched.run(lambda: searcher.search_many(questions, budget=budget, seed=seed))
    return outside_s / steps

"""Searches made again from their journals: the same asks, answers and values, without generator, verifier and critic.

What is drawn depends on the question's seed and on what was told before, so the search goes on as it would have. Its
clock shows what it showed, and runs again from its next ask: until then it waits for its turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from bavt_fast._core import Engine, Question
from bavt_fast.budget import Spent
from bavt_fast.engine import Search
from bavt_fast.events import note_asks
from bavt_fast.protocols import Step
from bavt_fast.runs.journal import Answer, Failure
from bavt_fast.waves import cancel, describe, grow, settle

__all__ = ["replay"]


def replay(search: Search, events: Sequence[Answer | Failure]) -> None:
    """Brings a search that has not begun to where its journal ends. Its listener hears nothing of it.

    Raises:
        ValueError: the journal is of another search, such as of another version of the task.
    """
    with nullcontext() if search.observer is None else search.observer.unheard(search):
        _made_again(search, events)
    search._native = Question.from_bytes(search._native.to_bytes())  # time passes from the next reading on


def _made_again(search: Search, events: Sequence[Answer | Failure]) -> None:
    engine = Engine(1)
    slot = search.move_to(engine)
    searches = {slot: search}
    now_s = extra_s = 0.0  # the time of the search; what of it steps say took place elsewhere, which the account adds
    for place, event in enumerate(events, start=1):
        try:
            now_s = now_s if event.asked_s is None else event.asked_s
            slots, nodes, counts, tickets, limits, seeds, _ = engine.ask(1, now_s - extra_s)
            if not tickets:
                raise ValueError(f"expected one more ask, got a search that has stopped ({search.stop_reason})")
            if search.observer is not None:
                note_asks(searches, slots, nodes, counts, tickets, limits, seeds)
            extra_s += _seconds_elsewhere(event)  # it is in the time at which it was told
            if isinstance(event, Failure):
                search._native.set_time(event.told_s - extra_s)
                spent = None if event.spent is None else Spent(*event.spent)  # as it was charged, prices and all
                cancel(engine, search, tickets[0], spent, amounts=None if spent is None else spent.amounts())
            else:
                _tell(engine, searches, slots, nodes, tickets, event, event.told_s - extra_s)
            now_s = event.told_s
            if search.error is not None:
                raise search.error
        except Exception as error:
            search.leave()
            raise ValueError(
                f"journal: answer {place} of {search.question!r:.60} does not fit ({type(error).__name__}: {error}); "
                "was it begun with another version of the task? begin a new run"
            ) from error
    search.leave()


def _seconds_elsewhere(event: Answer | Failure) -> float:
    if isinstance(event, Answer):
        return sum(step.seconds for step in event.steps)
    return 0.0 if event.spent is None else Spent(*event.spent).seconds


def _tell(
    engine: Engine,
    searches: dict[int, Search],
    slots: list[int],
    nodes: list[int],
    tickets: list[int],
    answer: Answer,
    now_s: float,
) -> None:
    steps: list[Sequence[Step]] = [answer.steps]
    settled = settle(engine, searches, slots, nodes, tickets, steps, now_s)
    new = [at for at, is_new in enumerate(settled[2]) if is_new]
    if len(new) != len(answer.abouts):
        raise ValueError(f"expected {len(answer.abouts)} new states, got {len(new)}")
    described = dict(zip(new, answer.abouts, strict=True))
    pending = describe(engine, searches, slots, nodes, tickets, steps, settled, described)
    if len(pending.nodes) != len(answer.values):
        raise ValueError(f"expected {len(answer.values)} nodes, got {len(pending.nodes)}")
    if pending.tickets:
        costs: list[Any] | None = None if answer.cost is None else [tuple(answer.cost)]
        grow(engine, searches, pending, answer.values, now_s, False, None, costs)

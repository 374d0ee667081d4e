"""What happens in a search, one record after the other, for those who want to hear it.

`Searcher(..., on_event=listener)` and `Search(..., on_event=listener)` call it with an `Event`; `bavt_fast.traces` has
listeners. `Settings.record` keeps the order of events with the search instead (`Search.events`). Where nobody wants
either a search has no `Observer`, and all that its loops do is to see that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from bavt_fast._checks import require_function
from bavt_fast.budget import Spent
from bavt_fast.protocols import Description, Node, Step, without_hidden

__all__ = [
    "Event",
    "Listener",
    "Observer",
    "checked_listener",
    "kept_events",
    "note_asks",
    "note_growth",
    "observer_of",
]

_NUMBER = 2**32 - 1  # the part of a ticket that numbers the asks of one question

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened in a search.

    Attributes:
        kind: "ask" (handed out), "refusal" (a step was paid for and dropped; before the tell that brought it), "tell"
            (an answer came and is paid for), "node" (a state was scored and is in the tree), "cancel" (nobody answers
            the ask, or its states got no value) or "stop" (the search has stopped; it may go on with more budget).
        search: the id of the search (`Search.id`).
        question: the question.
        at_s: seconds since the first ask, by the search's clock.
        tokens: generated tokens that the search has spent by now.
        remaining_ratio: r, the share of the budget that is left.
        node: of an ask, a tell or a refusal the node to expand; of "node" the new one; else None.
        parent: of "node", the node that it was expanded from.
        ticket: names the ask in its search; None of "stop".
        count: of an ask, the steps wanted at most; of a tell, how many of its steps are new and not refuted.
        limit: of an ask, the most tokens of one step.
        seed: of an ask, what seeds its draws.
        steps: the steps of a tell; the one of a refusal or of a node.
        value: of a node, its V.
        reason: of a refusal, see `Refusal`; of a stop, see `SearchResult.stop_reason`.
        error: of a cancel or a stop, what failed.
        after_stop: whether it tells of an ask that was out when the search stopped, and was told or cancelled later.
    """

    kind: Literal["ask", "refusal", "tell", "node", "cancel", "stop"]
    search: str
    question: str
    at_s: float
    tokens: int
    remaining_ratio: float
    node: int | None = None
    parent: int | None = None
    ticket: int | None = None
    count: int = 0
    limit: int = 0
    seed: int | None = None
    steps: tuple[Step, ...] = ()
    value: float | None = None
    reason: str | None = None
    error: Exception | None = None
    after_stop: bool = False


Listener = Callable[[Event], Any]


class Observer:
    """Sees what happens in one search: keeps the record, where there is one, and tells the listener, if any.

    What a listener raises is logged, once for a search, and harms nothing.
    """

    __slots__ = ("_failed", "_listener", "_record", "_refusals", "_told_stop")

    may_extend = True  # whether the search may get a larger budget

    def __init__(self, search: Any, listener: Listener | None) -> None:
        self._record: list[tuple[Any, ...]] | None = search.events
        self._listener = listener
        self._refusals = len(search.refused)  # of those that the listener knows
        self._told_stop: str | None = None
        self._failed = False

    def loaded(self, search: Any) -> None:
        """The search is one that was saved: where it had stopped, that was told then."""
        self._told_stop = search.stop_reason

    def asked(self, search: Any, node: int, ticket: int, count: int, limit: int, seed: int) -> None:
        self._keep(search, "ask", node, seed)
        if self._listener is not None:
            self._tell(search, "ask", node=node, ticket=ticket & _NUMBER, count=count, limit=limit, seed=seed)

    def admitted(
        self, search: Any, node: int, ticket: int, steps: Sequence[Step], found: int, abouts: Sequence[Description]
    ) -> None:
        """An answer has come; so many of its steps are new and not refuted; what the task says of the new states."""
        self._keep(search, "admit", node, len(steps), found)
        if self._listener is None:
            return
        for at, reason, step, _ in search.refused[self._refusals :]:
            self._tell(search, "refusal", node=at, ticket=ticket & _NUMBER, steps=(step,), reason=reason)
        self._refusals = len(search.refused)
        slim = tuple([without_hidden(step) for step in steps])
        self._tell(search, "tell", node=node, ticket=ticket & _NUMBER, count=found, steps=slim)

    def grew(
        self, search: Any, parent: int, ticket: int, first: int, nodes: Sequence[Node], cost: Sequence[int] | None
    ) -> None:
        """The states of an ask are nodes, with ids from `first` on; the amounts that scoring them took, if any."""
        self._keep(search, "grow", parent, len(nodes))
        if self._listener is not None:
            for number, node in enumerate(nodes, first):
                steps = () if node.step is None else (node.step,)
                about = {"parent": parent, "ticket": ticket & _NUMBER, "steps": steps, "value": node.value}
                self._tell(search, "node", node=number, **about)

    def cancelled(self, search: Any, ticket: int, error: Exception | None = None, spent: Spent | None = None) -> None:
        """Nobody answers the ask, which took so much all the same."""
        self._keep(search, "cancel", ticket & _NUMBER)
        if self._listener is not None:
            self._tell(search, "cancel", ticket=ticket & _NUMBER, error=error)

    def stopped(self, search: Any) -> None:
        """To be called wherever the search may have stopped, or go on after it had."""
        before, reason = self._told_stop, search.stop_reason
        self._told_stop = reason
        if reason is None or before is not None:
            return
        self._keep(search, "stop", reason)
        if self._listener is not None:
            self._tell(search, "stop", reason=reason, error=search._failure)

    @contextmanager
    def unheard(self, search: Any) -> Iterator[None]:
        """What happens meanwhile is kept in the record, where there is one; the listener has heard it before."""
        listener, self._listener = self._listener, None
        try:
            yield
        finally:
            self._listener = listener
            self._refusals = len(search.refused)

    def _keep(self, search: Any, kind: str, *about: Any) -> None:
        if self._record is not None:
            account = search._native.account
            self._record.append((kind, account.elapsed_s, account.spent[0], account.remaining_ratio, *about))

    def _tell(self, search: Any, kind: Any, **about: Any) -> None:
        assert self._listener is not None
        account = search._native.account
        now = account.elapsed_s, account.spent[0], account.remaining_ratio
        after_stop = kind != "stop" and self._told_stop is not None
        try:
            self._listener(Event(kind, search.id, search.question, *now, **about, after_stop=after_stop))
        except Exception:
            if not self._failed:
                self._failed = True
                _log.exception("on_event: the listener failed; the search %s goes on", search.id)


def kept_events(search: Any) -> list[tuple[Any, ...]] | None:
    """The record of a search, where there is one, with its stop: also where that is about to be noted."""
    events: list[tuple[Any, ...]] | None = search.events
    if events is None or search.stop_reason is None:
        return events
    last = next((event[0] for event in reversed(events) if event[0] in ("ask", "stop")), None)
    if last == "stop":
        return events
    account = search._native.account
    return [*events, ("stop", account.elapsed_s, account.spent[0], account.remaining_ratio, search.stop_reason)]


def checked_listener(listener: Listener | None) -> Listener | None:
    """Raises a TypeError where a listener cannot be called, or would have to be awaited."""
    require_function("on_event", listener, wanted="a function that takes an Event")
    return listener


def observer_of(search: Any, listener: Listener | None) -> Observer | None:
    """None where nobody wants to know what happens in the search."""
    if checked_listener(listener) is None and search.events is None:
        return None
    return Observer(search, listener)


def note_asks(
    searches: Mapping[int, Any],
    slots: Sequence[int],
    nodes: Sequence[int],
    counts: Sequence[int],
    tickets: Sequence[int],
    limits: Sequence[int],
    seeds: Sequence[int],
) -> None:
    """Asks were handed out."""
    for slot, node, count, ticket, limit, seed in zip(slots, nodes, counts, tickets, limits, seeds, strict=True):
        search = searches[slot]
        if search.observer is not None:
            search.observer.asked(search, node, ticket, count, limit, seed)


def note_growth(searches: Mapping[int, Any], pending: Any, costs: Sequence[Any] | None = None) -> None:
    """Admitted states (`waves.Pending`) have become nodes, the last that their searches have; the costs by ask."""
    firsts = {slot: len(searches[slot].nodes) for slot in pending.slots}
    for slot, count in zip(pending.slots, pending.counts, strict=True):
        firsts[slot] -= count
    at = 0
    columns = pending.slots, pending.tickets, pending.parents, pending.counts
    for i, (slot, ticket, parent, count) in enumerate(zip(*columns, strict=True)):
        search = searches[slot]
        if search.observer is not None:
            cost = None if costs is None else costs[i]
            search.observer.grew(search, parent, ticket, firsts[slot], pending.nodes[at : at + count], cost)
        firsts[slot] += count
        at += count

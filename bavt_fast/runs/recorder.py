"""What hears a search for the journal of its run."""

from __future__ import annotations

from collections.abc import Sequence
from operator import sub
from typing import Any

from bavt_fast.budget import Spent
from bavt_fast.engine import Search
from bavt_fast.events import Observer
from bavt_fast.protocols import Description, Node, Step
from bavt_fast.runs.journal import Answer, Failure, JournalLines
from bavt_fast.runs.questions import Row

__all__ = ["Recorder"]


class Recorder(Observer):
    """Writes what happens in one search to the journal of its run; stands in the place of an `Observer`, and before it.

    Args:
        number, row, search: the question; its search, whose own observer is told too.

    Attributes:
        is_asked: whether an ask is out.
        is_unwritten: whether there is an ask whose answer is not in the journal: it is out, or is being scored.
    """

    __slots__ = (
        "_abouts",
        "_asked_s",
        "_before",
        "_has_begun",
        "_journal",
        "_observer",
        "_steps",
        "is_asked",
        "is_unwritten",
        "number",
        "row",
        "search",
    )

    def __init__(self, journal: JournalLines, number: int, row: Row, search: Search) -> None:
        self._journal = journal
        self.number, self.row, self.search = number, row, search
        self._observer: Observer | None = search.observer
        self._asked_s: float | None = None
        self._before = (0, 0, 0, 0)  # what the search had spent when its ask was handed out
        self._steps: Sequence[Step] = ()
        self._abouts: Sequence[Description] = ()
        self._has_begun = self.is_asked = self.is_unwritten = False

    # ---- as an Observer

    may_extend = False  # a later life makes the search again, by the run's budget

    def asked(self, search: Search, node: int, ticket: int, count: int, limit: int, seed: int) -> None:
        if not search.untimed:
            self._asked_s = search._native.account.elapsed_s
        self._before = search._native.account.spent
        self.is_asked = self.is_unwritten = True
        if not self._has_begun:
            self._has_begun = True
            self._journal.begun(self.number)
        if self._observer is not None:
            self._observer.asked(search, node, ticket, count, limit, seed)

    def admitted(
        self, search: Search, node: int, ticket: int, steps: Sequence[Step], found: int, abouts: Sequence[Description]
    ) -> None:
        self.is_asked = False
        if abouts:  # it grows, if only to say that all of them were refuted
            self._steps, self._abouts = steps, abouts
        else:
            self._answered(search, steps, abouts, (), None)
        if self._observer is not None:
            self._observer.admitted(search, node, ticket, steps, found, abouts)

    def grew(
        self, search: Search, parent: int, ticket: int, first: int, nodes: Sequence[Node], cost: Sequence[int] | None
    ) -> None:
        self._answered(search, self._steps, self._abouts, [node.value for node in nodes], cost)
        self._steps = self._abouts = ()
        if self._observer is not None:
            self._observer.grew(search, parent, ticket, first, nodes, cost)

    def cancelled(
        self, search: Search, ticket: int, error: Exception | None = None, spent: Spent | None = None
    ) -> None:
        # What nobody waits for as the life ends is asked again in the next one, and counts as lost: it has not failed.
        is_given_up = error is None and search.stop_reason in (None, "interrupted")
        if not is_given_up:
            self._not_answered(search, spent)
        self._steps = self._abouts = ()
        if self._observer is not None:
            self._observer.cancelled(search, ticket, error, spent)

    def stopped(self, search: Search) -> None:
        if self._observer is not None:
            self._observer.stopped(search)

    def _not_answered(self, search: Search, spent: Spent | None) -> None:
        """Also where an answer has come, and is paid for, and its states got no verdicts or no values."""
        self.is_asked = self.is_unwritten = False
        account = search._native.account
        seconds = sum(step.seconds for step in self._steps) + (0.0 if spent is None else spent.seconds)
        paid = Spent.of(_difference(account.spent, self._before), seconds)
        took = [paid.tokens, paid.tool_calls, paid.seconds, paid.cost, paid.prompt_tokens]
        self._journal.failed(self.number, Failure(self._asked_s, account.elapsed_s, took if any(took) else None))

    def _answered(
        self,
        search: Search,
        steps: Sequence[Step],
        abouts: Sequence[Description],
        values: Sequence[Any],
        cost: Sequence[int] | None,
    ) -> None:
        told_s = search._native.account.elapsed_s
        try:
            self._journal.answered(self.number, Answer(self._asked_s, told_s, steps, abouts, values, cost))
            self.is_unwritten = False
        except (TypeError, ValueError) as error:  # what a step says and no search reads, as its tokens' ids
            self._not_answered(search, None)
            if search.error is None:
                search.error = error
            search.stop("error")


def _difference(now: Sequence[int], before: Sequence[int]) -> tuple[int, int, int, int]:
    tokens, prompt_tokens, tool_calls, units = map(sub, now, before)
    return tokens, prompt_tokens, tool_calls, units

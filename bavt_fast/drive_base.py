"""What the drivers share: the questions in their engine, and what becomes of answers and of scores."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from operator import sub
from typing import Any, NamedTuple, Protocol

from bavt_fast._checks import message_of
from bavt_fast._core import Engine, TicketError
from bavt_fast.answer_checks import flat, is_whole, not_whole, per_ask, problem_of, score_problem, taken
from bavt_fast.budget import Spent
from bavt_fast.engine import Search
from bavt_fast.events import note_asks
from bavt_fast.protocols import DeadlinePassed, GenerationStatistics, Scores, StepRequest
from bavt_fast.result import ManyProgress
from bavt_fast.waves import Pending, ask, cancel, fail, grow, named, requests_of

__all__ = ["LATE_S", "Asked", "Base", "Host"]

LATE_S = 0.5
"""After a deadline, for generators that know of it: they say themselves what they took by then."""


_NO_MORE = object()
_NUMBER = 2**32 - 1  # the part of a ticket that numbers the asks of one question

_log = logging.getLogger("bavt_fast")


class Asked(NamedTuple):
    """Asks of a wave, in columns. Once they are answered nobody needs their limits and requests."""

    slots: Sequence[int]
    nodes: Sequence[int]
    counts: Sequence[int]
    tickets: Sequence[int]
    limits: Sequence[int] = ()
    requests: Sequence[StepRequest] = ()

    def take(self, places: Sequence[int]) -> Asked:
        """Some of them."""
        columns: list[Any] = [[column[i] for i in places] if column else () for column in self]
        return Asked(*columns)


class Host(Protocol):
    """Who lets a driver run, and keeps what it does (`bavt_fast.runs`)."""

    def driven(self, wake: Callable[[], Any] | None) -> None:
        """Called by a loop that can be woken, from any thread, when there is more room; with None at its end."""
        ...

    def room(self, wanted: int, out: int) -> int:
        """How many of the `wanted` asks may be handed out while `out` of them are out."""
        ...

    def before_wait(self) -> None:
        """Called before the driver gives asks away and waits: all that was told until then is in the trees."""
        ...


class Base:
    """What both loops share: the questions in the engine, and what becomes of answers and of scores."""

    def __init__(self, searcher: Any, wave: int, leaves: int, one: bool, host: Host | None = None) -> None:
        self.generator, self.critic = searcher.generator, searcher.critic
        self.on_progress, self.clock, self.retries = searcher.on_progress, searcher.clock, searcher.retries
        self.wave, self.one, self.host = wave, one, host
        self.engine = Engine(min(leaves, _NUMBER))  # no tree has more out
        self.searches: dict[int, Search] = {}  # by slot
        self.indexes: dict[int, int] = {}  # of slots: the search's place among those given
        self.failures: dict[int, int] = {}
        self.extended: deque[tuple[int, Search]] = deque()  # given more budget after they had stopped
        self.reopened: list[Asked] = []  # asks that were out when their search came here
        self.coming: tuple[int, Search] | None = None  # on its way into the engine, with its place
        self.more = True  # questions to take, as far as is known
        self.observed = False  # whether a question that came here has an observer
        self.timed = False  # or a deadline
        self.over: dict[int, float] = {}  # by slot, when a deadline was found to be past with asks out
        self.taken = self.done = self.solved = 0
        self.residual = searcher.critic.predicts == "residual"
        self.warned = self.warned_of_overrun = self.said_apart = False
        self.statistics = getattr(searcher.generator, "statistics", None)
        # What is stored is told as it is, and all else as what came in this run.
        self.at_first = None if self.statistics is None else self.statistics()._replace(store_bytes=0)
        self.at_stop: dict[int, GenerationStatistics] = {}  # of slots that are handed over later

    # ---- questions in and out

    def fill(self, waiting: Iterator[Search]) -> None:
        """Takes questions while there is room for them."""
        while len(self.searches) < self.wave:
            if self.extended:
                self.coming = self.extended.popleft()
            else:
                new: Any = next(waiting, _NO_MORE)
                if new is _NO_MORE:
                    self.more = False
                    return
                if not isinstance(new, Search):
                    raise TypeError(f"searches: expected what start() or Search.load() gives, got {new!r:.80}")
                self.coming = self.taken, new
                self.taken += 1
            place, search = self.coming
            try:
                slot = search.move_to(self.engine)
            except ValueError:
                self.coming = None  # it is left as it was
                raise
            self.searches[slot], self.indexes[slot] = search, place
            self.coming = None
            search.time_by(self.clock)
            self.observed = self.observed or search.observer is not None
            self.timed = self.timed or not search.untimed
            out = search._native.open_asks()
            if out and search.stop_reason is None:
                numbers, nodes, counts, limits, seeds, tries = zip(*out, strict=True)
                slots = [slot] * len(out)
                requests = requests_of(self.searches, slots, nodes, seeds, tries)
                tickets = [slot << 32 | number for number in numbers]
                self.reopened.append(Asked(slots, nodes, counts, tickets, limits, requests))

    def ask(self, room: int) -> tuple[Asked, list[int]]:
        """Up to ``room`` asks, and the slots that have stopped."""
        out, room = self.wave - room, max(0, room)  # searches may have come with more asks out than the wave has
        if self.host is not None:
            room = self.host.room(room, out)
        slots, nodes, counts, tickets, limits, seeds, requests, stopped = ask(
            self.engine, self.searches, room, self.clock()
        )
        if self.observed:
            note_asks(self.searches, slots, nodes, counts, tickets, limits, seeds)
        return Asked(slots, nodes, counts, tickets, limits, requests), stopped

    def finish(self, slot: int) -> tuple[int, Search]:
        """Takes a question that has stopped out of the engine. Where Ctrl-C breaks in, it can be called again."""
        search = self.searches[slot]
        if search.is_in(self.engine):
            if search.observer is not None:  # it hears of each
                for number, _ in search._native.claims():
                    cancel(self.engine, search, slot << 32 | number, None, search.error)
            self.engine.cancel_all(slot)
            self.reopened = [asked for asked in self.reopened if asked.slots[0] != slot]
            if not self.warned_of_overrun and search._native.has_overrun:
                self.warn_of_overrun(search)
            search.leave()
        if self.statistics is not None and self.at_first is not None:
            now = self.at_stop.get(slot) or self.statistics()
            search.generation = GenerationStatistics._make(map(sub, now, self.at_first))
        del self.searches[slot]
        self.at_stop.pop(slot, None)
        self.done += 1
        self.solved += search.stop_reason == "solved"
        self.failures.pop(slot, None)
        if search.observer is not None:
            search.observer.stopped(search)
        return self.indexes[slot], search

    def stop_late(self) -> None:
        """Stops what has asks out that go on well after its deadline."""
        if not self.timed:
            return
        now_s = self.clock()
        for slot, search in self.searches.items():
            if search.untimed:
                continue
            if search._native.in_flight:
                search._native.set_time(now_s)
            if not search._native.in_flight or search.seconds_left():
                self.over.pop(slot, None)  # its answers came, or it was given more time
            elif now_s - self.over.setdefault(slot, now_s) >= LATE_S:
                self.engine.stop(slot, "deadline")

    def charge_late(self, slot: int) -> None:
        """Asks that were given up at a deadline: what they took is not known, so all that they may take is charged."""
        if self.over.pop(slot, None) is None:
            return
        search = self.searches[slot]
        for number, amounts in search._native.claims():
            cancel(self.engine, search, slot << 32 | number, amounts=amounts)

    def warn_of_overrun(self, search: Search) -> None:
        """Once: a search that stops early for this looks like a small budget."""
        self.warned_of_overrun = True
        with contextlib.suppress(Warning):  # where warnings are errors; the result shows the overrun
            warnings.warn(
                f"generator or critic: took {Spent.of(search._native.account.overrun)} above what was reserved, and "
                f"nothing more is asked of that budget; keep to the limits that are given (a function gets one as a "
                f"third parameter, `limit`), or raise max_step_tokens ({search.settings.max_step_tokens}), "
                "max_prompt_tokens, step_tool_calls, max_step_cost or max_score",
                stacklevel=2,
            )

    def hand_over(self, slot: int) -> Iterator[tuple[int, Search]]:
        """A question that has stopped, to the caller, who may give it more budget meanwhile."""
        place, search = self.finish(slot)
        yield place, search
        if search.stop_reason is None:
            self.extended.append((place, search))
            self.more = True

    def break_off(self) -> list[tuple[int, Search]]:
        """Ends every question where it stands: nothing stays in flight, even if Ctrl-C breaks in here too."""
        try:
            return self.end_all()
        except BaseException:
            self.end_all()
            raise

    def end_all(self) -> list[tuple[int, Search]]:
        """Of `break_off`, what can be called again where it was broken off."""
        finished = []
        place, coming = self.coming or (0, None)
        if coming is not None and coming not in self.searches.values() and not coming.in_other_run(self.engine):
            if coming.is_in(self.engine):
                coming.leave()
            coming.stop("interrupted")
            finished.append((place, coming))
            self.taken = max(self.taken, place + 1)
        self.coming = None
        for slot, search in list(self.searches.items()):
            search.mend()
            search.stop("interrupted")
            finished.append(self.finish(slot))
        return finished

    def progress(self) -> None:
        """Shows the caller how far it is. What their code raises ends what is under way: its results are kept."""
        if self.on_progress is None:
            return
        try:
            self.show()
        except Exception as error:
            for slot in self.searches:
                fail(self.engine, self.searches, slot, named(error, "callback on_progress"))

    def show(self) -> None:
        assert self.on_progress is not None
        if self.one:
            for search in self.searches.values():
                self.on_progress(search.progress())
        else:
            active = len(self.searches)
            asks = sum(search._native.asks for search in self.searches.values())
            self.on_progress(ManyProgress(self.done, self.solved, active, asks))

    # ---- answers

    def propose(self, asked: Asked) -> Sequence[Any]:
        """The answers of a generator that blocks, one per ask."""
        try:
            requests, counts, limits = asked.requests, asked.counts, asked.limits
            answers = self.generator.propose(list(requests), list(counts), list(limits))  # it may change what it gets
        except Exception as error:
            answers = error
        return self.whole(asked, answers)

    def whole(self, asked: Asked, answers: Any) -> Sequence[Any]:
        """One answer per ask, of what a generator gave or raised."""
        try:
            if is_whole(answers, len(asked.tickets)):
                return answers
        except Exception as error:  # of a sequence of the user's
            answers = error
        return self.propose_apart(asked, answers)

    def propose_apart(self, asked: Asked, failure: Any) -> Sequence[Any]:
        """Answers to a batch that failed: asked again one by one, to find whose fault it is."""
        size = len(asked.tickets)
        if size > 1 and not self.said_apart:
            self.said_apart = True
            problem = failure if isinstance(failure, Exception) else not_whole(failure, size)
            _log.warning(
                "generator: %d asks at once failed (%s: %.200s); they are asked again one by one, and what was taken "
                "for them at first is not charged",
                size,
                type(problem).__name__,
                message_of(problem),
            )
        if size > 1:
            return [self.propose(asked.take([i]))[0] for i in range(size)]
        if isinstance(failure, Exception):
            return [named(failure, "generator")]
        return [not_whole(failure, size)]

    def good(self, asked: Asked, answers: Sequence[Any]) -> tuple[Asked, Sequence[Any]]:
        """The answers that can be used, and their asks; the others fail their ask alone."""
        problems = [
            problem_of(steps, count, self.searches[slot].rules.counts_tried)
            for steps, count, slot in zip(answers, asked.counts, asked.slots, strict=True)
        ]
        for i, problem in enumerate(problems):
            if problem is not None:
                self.ask_failed(asked.slots[i], asked.tickets[i], problem, answers[i])
        places = [i for i, problem in enumerate(problems) if problem is None]
        return asked.take(places), [list(answers[i]) for i in places]

    def ask_failed(self, slot: int, ticket: int, error: Exception, steps: Any = ()) -> None:
        """What the ask took is charged; the question is tried again, or ends with the error."""
        search = self.searches[slot]
        search._native.set_time(self.clock())
        spent, amounts, error = taken(error, steps, search.settings)
        if isinstance(error, DeadlinePassed) and not search.untimed:
            if not error.is_known:
                spent, amounts = None, dict(search._native.claims())[ticket & _NUMBER]
            self.engine.stop(slot, "deadline")
            cancel(self.engine, search, ticket, spent, amounts=amounts)
            return
        cancel(self.engine, search, ticket, spent, named(error, "generator"), amounts)
        self.failures[slot] = self.failures.get(slot, 0) + 1
        if self.failures[slot] > self.retries:
            fail(self.engine, self.searches, slot, error)

    # ---- values

    def grow(self, pending: Pending, outputs: Any) -> None:
        """The critic's numbers into the trees. A question for which it gave none that is good ends with an error."""
        values, charged = outputs, None
        if outputs.__class__ is not list:
            if isinstance(outputs, Scores):
                outputs, charged = outputs.values, per_ask(pending, outputs.spent)
            values = flat(outputs)
        if len(values) != len(pending.nodes):
            raise ValueError(f"critic: expected {len(pending.nodes)} scores, one per node, got {len(values)}")
        try:
            clipped = grow(self.engine, self.searches, pending, values, self.clock(), self.residual, None, charged)
        except (TypeError, ValueError, OverflowError):
            self.grow_what_can(pending, values, charged)
        else:
            if clipped and not self.warned:
                self.warn_of_scale(pending, values)

    def grow_what_can(self, pending: Pending, values: Sequence[Any], charged: list[Any] | None) -> None:
        """Some score is not a finite number: its question fails, the others grow."""
        at = 0
        for i, part in enumerate(pending.by_ask()):
            own = values[at : at + len(part.nodes)]
            at += len(own)
            costs = None if charged is None else charged[i : i + 1]
            problem = next(filter(None, map(score_problem, own, part.nodes)), None)
            if problem is not None:
                self.state_failed(part, named(problem, "critic"), costs)
                continue
            try:
                grow(self.engine, self.searches, part, own, self.clock(), self.residual, None, costs)
            except (TypeError, ValueError) as error:
                self.state_failed(part, error)

    def warn_of_scale(self, pending: Pending, values: Sequence[float]) -> None:
        """Once. Where the caller made warnings errors, it ends the questions of this wave; their results are kept."""
        self.warned = True
        numbers = [float(value) for value in values]
        try:
            warnings.warn(
                f"critic: expected values from 0 to 1, got {min(numbers):.3g} to {max(numbers):.3g}; they are clipped. "
                "Scale them, such as score / 10 for scores from 0 to 10, or use a critic with predicts = 'residual'",
                stacklevel=2,
            )
        except Warning as error:
            for slot in pending.slots:
                fail(self.engine, self.searches, slot, named(error, "critic"))

    def state_failed(self, pending: Pending, error: Exception, charged: Sequence[Any] | None = None) -> None:
        """Ends the question of this ask, but for one that is solved. What the critic took for it is charged."""
        if any(pending.verified) and self.grew_solved(pending, charged):
            _log.warning("critic: failed for an answer that the task has verified (%.200s)", message_of(error))
            return
        for i, (slot, ticket) in enumerate(zip(pending.slots, pending.tickets, strict=True)):
            search = self.searches[slot]
            search._native.set_time(self.clock())
            with contextlib.suppress(TicketError):  # it may have grown before the error came
                cancel(self.engine, search, ticket, None, error, None if charged is None else charged[i])
            fail(self.engine, self.searches, slot, error)

    def grew_solved(self, pending: Pending, charged: Sequence[Any] | None) -> bool:
        """Whether an ask grew without its scores: V of a verified state is 1 whatever they are, and the search is over.

        States beside it get V of their parent.
        """
        values = [0.0 if self.residual else node.parent_value for node in pending.nodes]
        try:
            grow(self.engine, self.searches, pending, values, self.clock(), self.residual, None, charged)
        except (TypeError, ValueError):  # it may have grown before the error came
            return False
        return True

"""The loop for generators that block: asks out to the generator, answers back into the trees.

It asks for a wave, waits for all of it (or, of a streaming generator, for what is done) and goes on, until every
question has stopped. `bavt_fast.async_drive` is for coroutines.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from operator import index
from typing import Any

from bavt_fast._checks import as_iterator, message_of
from bavt_fast.budget import Spent
from bavt_fast.drive_base import Asked, Base
from bavt_fast.engine import Search
from bavt_fast.events import note_asks
from bavt_fast.protocols import DeadlinePassed, GenerationError
from bavt_fast.waves import Pending, ask, cancel, named, rounds, stream, tell

__all__ = ["Drive"]

Out = dict[int, tuple[int, int, int]]
"""Slot, node and count of the asks that a generator has, by ticket."""


_STREAMING: dict[int, Callable[[], Any]] = {}
"""The generators that stream to a run, by id. Another run beside it has its answers in whole waves."""
_LOCK = threading.Lock()


def _held(generator: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(generator)
    except TypeError:  # of a class with __slots__
        return lambda: generator


def _charged(error: Exception, spent: Spent) -> GenerationError:
    """The error of an ask that took something; a deadline stays one."""
    kind = DeadlinePassed if isinstance(error, DeadlinePassed) else GenerationError
    failure = kind(message_of(error), spent)
    failure.__cause__ = error
    return failure


def _pairs(done: Any) -> list[tuple[int, Any]]:
    """What `collect` gave: tickets, each with its answer."""
    wanted = "pairs of a ticket and its answer from collect"
    pairs = []
    for pair in as_iterator("generator", done, wanted):
        try:
            ticket, answer = pair
            pairs.append((index(ticket), answer))
        except (TypeError, ValueError):
            raise TypeError(f"generator: expected {wanted}, got {pair!r:.80} among them") from None
    return pairs


def _wrong_ticket(tickets: list[int], told: Mapping[int, Any]) -> ValueError:
    """Of answers some of which are to no ticket that is out, or to one that was answered before."""
    for ticket in tickets:
        if ticket not in told:
            return ValueError(f"generator: expected answers to tickets that are out, got {ticket}")
    twice = next(ticket for ticket in tickets if tickets.count(ticket) > 1)
    return ValueError(f"generator: expected one answer to each ticket, got several to {twice}")


class Drive(Base):
    """The loop for generators that block.

    Attributes:
        together: how many searches there are, where the caller waits for the last of them; else None.
    """

    together: int | None = None

    def run(self, searches: Iterable[Search]) -> Generator[tuple[int, Search]]:
        """(place, search) of each search as it stops. Ctrl-C stops all that have begun, and all of a list."""
        waiting = as_iterator("searches", searches, "a list of Search")
        streams = self.begin_streaming()
        try:
            yield from self.stream(waiting) if streams else self.batches(waiting)
        except KeyboardInterrupt:
            yield from self.break_off()
            # One that Ctrl-C met between the list and us is there still; those of an iterator may be endless.
            for search in searches[self.taken :] if isinstance(searches, list) else ():
                search.stop("interrupted")
                yield self.taken, search
                self.taken += 1
        finally:
            try:
                self.break_off()
            finally:
                if streams:
                    _STREAMING.pop(id(self.generator), None)

    def batches(self, waiting: Iterator[Search]) -> Iterator[tuple[int, Search]]:
        """A wave at a time. Where nobody looks on between waves, `rounds` makes one after the other by itself."""
        engine, searches, clock, host, wave = self.engine, self.searches, self.clock, self.host, self.wave
        alone = host is None and self.on_progress is None
        while True:
            if (self.more or host is not None) and len(searches) < self.wave:  # a host may have more later
                self.fill(waiting)
            while self.reopened:
                asked = self.reopened.pop()
                self.tell(asked.slots, asked.nodes, asked.counts, asked.tickets, self.propose(asked))
            if host is not None:
                wave = host.room(self.wave, 0)
            answers, left = (), None
            if alone and not self.observed:
                propose, score = self.generator.propose, self.critic.score
                columns, answers, left = rounds(engine, searches, propose, score, wave, clock, self.residual)
            else:
                columns = ask(engine, searches, wave, clock())
            slots, nodes, counts, tickets, limits, seeds, requests, stopped = columns
            asked = Asked(slots, nodes, counts, tickets, limits, requests)
            if self.observed:
                note_asks(searches, slots, nodes, counts, tickets, limits, seeds)
            if left is not None:
                self.finish_scoring(*left)
                continue
            if stopped:
                asked = yield from self.replace(asked, stopped, waiting)
            if asked.tickets:
                self.answer(asked, answers)
            elif not self.reopened:
                return

    def answer(self, asked: Asked, answers: tuple[Any, ...]) -> None:
        """A wave into the trees. `answers`: its answers, where they are here already, in a tuple."""
        if self.host is not None:
            self.host.before_wait()
        told = self.whole(asked, *answers) if answers else self.propose(asked)
        self.tell(asked.slots, asked.nodes, asked.counts, asked.tickets, told)
        if self.on_progress is not None:
            self.progress()

    def replace(
        self, asked: Asked, stopped: Sequence[int], waiting: Iterator[Search]
    ) -> Generator[tuple[int, Search], None, Asked]:
        """Hands over those that have stopped; their places in the wave go to the next questions."""
        while stopped:
            for slot in stopped:
                if self.searches[slot].stop_reason is not None:
                    yield from self.hand_over(slot)
            still = [i for i, slot in enumerate(asked.slots) if slot in self.searches]
            if len(still) < len(asked.slots):  # the caller stopped one that has asks in this wave
                asked = asked.take(still)
            self.fill(waiting)
            more, stopped = self.ask(self.wave - len(asked.tickets))
            columns: list[Any] = [[*own, *new] for own, new in zip(asked, more, strict=True)]
            asked = Asked(*columns)
        return asked

    def tell(
        self,
        slots: Sequence[int],
        nodes: Sequence[int],
        counts: Sequence[int],
        tickets: Sequence[int],
        answers: Sequence[Any],
    ) -> None:
        """Answers into the trees, and values. An answer that is none fails its ask alone."""
        wave, by = (slots, nodes, tickets), (self.critic.score, self.clock, self.residual)
        try:
            left = tell(self.engine, self.searches, *wave, answers, *by)
        except Exception:  # the tasks' are not among them
            asked, answers = self.good(Asked(slots, nodes, counts, tickets), answers)
            left = tell(self.engine, self.searches, asked.slots, asked.nodes, asked.tickets, answers, *by)
        if left is not None:
            self.finish_scoring(*left)

    def finish_scoring(self, pending: Pending, outputs: Any, error: Exception | None, clipped: bool) -> None:
        """What a critic gave or raised that is not simply a list of values from 0 to 1."""
        if clipped:
            if not self.warned:
                self.warn_of_scale(pending, outputs)
        elif error is not None:
            self.scoring_failed(pending, error)
        else:
            try:
                self.grow(pending, outputs)
            except Exception as bad:
                self.scoring_failed(pending, bad)

    def scoring_failed(self, pending: Pending, error: Exception) -> None:
        """The critic is asked again for each ask by itself, to find whose fault it is."""
        if len(pending.tickets) == 1:
            self.state_failed(pending, named(error, "critic"))
            return
        for part in pending.by_ask():
            try:
                self.grow(part, self.critic.score(part.nodes) if part.nodes else [])
            except Exception as bad:
                self.scoring_failed(part, bad)

    def begin_streaming(self) -> bool:
        """Whether the generator streams, and to nobody else: each run numbers its tickets by itself.

        Raises:
            ValueError: another run has it, and it does nothing but stream.
        """
        if not hasattr(self.generator, "submit"):
            return False
        with _LOCK:
            held = _STREAMING.get(id(self.generator))
            if held is None or held() is not self.generator:  # else another one that is gone
                _STREAMING[id(self.generator)] = _held(self.generator)
                return True
        if hasattr(self.generator, "propose"):
            return False
        raise ValueError(
            f"generator: expected one that no other run has, got {self.generator!r:.80}, which can only stream; wait "
            "for the end of that run, or close its iterator"
        )

    def stream(self, waiting: Iterator[Search]) -> Iterator[tuple[int, Search]]:
        """Refills one by one: no question waits for the slowest step of a wave."""
        out: Out = {}
        try:
            yield from self.refill(waiting, out)
        finally:
            for search in self.searches.values() if out else ():  # broken off
                search.stop("interrupted")
            self.give_up(list(out), out)

    def refill(self, waiting: Iterator[Search], out: Out) -> Iterator[tuple[int, Search]]:
        """Where nobody looks on meanwhile, `stream` in native code asks and tells by itself."""
        alone = self.host is None and self.on_progress is None
        while True:
            self.fill(waiting)
            for again in self.reopened:
                self.submit(again, out)
            self.reopened.clear()
            asked, stopped = self.unusual(out) if alone and not self.observed else self.ask(self.wave - len(out))
            if self.host is not None:
                self.host.before_wait()
            self.submit(asked, out)
            for slot in stopped:
                if self.searches[slot].stop_reason is None:
                    continue
                left = [ticket for ticket in out if ticket >> 32 == slot]
                if left:
                    self.give_up(left, out)
                self.charge_late(slot)
                yield from self.hand_over(slot)
            if stopped or (asked.tickets and not out):
                continue  # their places are free, or the generator took none of what was asked
            if not out:
                return
            self.collect(out)
            self.progress()

    def unusual(self, out: Out) -> tuple[Asked, list[int]]:
        """Asks and tells until questions have stopped that cannot wait, or nothing is out: what was asked last, and all
        that have stopped by then."""
        submit, collect = self.generator.submit, self.generator.collect
        by = (self.critic.score, self.wave, self.clock, self.residual)
        waiting: list[int] = []  # those that have stopped
        while True:
            columns, error, done, left = stream(self.engine, self.searches, out, submit, collect, *by)
            if columns is not None:
                slots, nodes, counts, tickets, limits, _, requests, stopped = columns
                if error is None:
                    asked, waiting = Asked(slots, nodes, counts, tickets, limits, requests), waiting + stopped
                    if not (tickets or out) or not self.can_wait(stopped):
                        return asked, waiting
                    self.submit(asked, out)
                    if self.statistics is not None:
                        self.at_stop |= dict.fromkeys(stopped, self.statistics())
                else:
                    self.submitting_failed(slots, tickets, error)
            elif error is not None:
                self.collecting_failed(error, out)
            elif left is not None:
                self.finish_scoring(*left)
            else:
                self.tell_done(done, out)

    def can_wait(self, stopped: Sequence[int]) -> bool:
        """Whether questions that have stopped can be handed over with the last one.

        Each by itself, between two passes of the model, would find nothing in the caches of what ends a question.
        """
        return self.taken == self.together and not any(self.searches[slot]._native.in_flight for slot in stopped)

    def give_up(self, tickets: Sequence[int], out: Out) -> None:
        """Asks that nobody waits for any more; what they took by now is charged."""
        took = self.discarded(tickets)
        for ticket in tickets:
            slot, _, _ = out.pop(ticket)
            if ticket in took:
                cancel(self.engine, self.searches[slot], ticket, took[ticket])

    def submit(self, asked: Asked, out: Out) -> None:
        if not asked.tickets:
            return
        for ticket, slot, node, count in zip(asked.tickets, asked.slots, asked.nodes, asked.counts, strict=True):
            out[ticket] = slot, node, count
        try:
            self.generator.submit(list(asked.tickets), asked.requests, asked.counts, asked.limits)
        except Exception as error:
            for ticket in asked.tickets:
                del out[ticket]
            self.submitting_failed(asked.slots, asked.tickets, error)

    def submitting_failed(self, slots: Sequence[int], tickets: Sequence[int], error: Exception) -> None:
        """Asks that a generator did not take, or not all of them."""
        took = self.discarded(tickets)
        for slot, ticket in zip(slots, tickets, strict=True):
            self.ask_failed(slot, ticket, _charged(error, took[ticket]) if ticket in took else error)

    def discarded(self, tickets: Sequence[int]) -> dict[int, Spent]:
        """What asks took that the generator gives up, as far as it says."""
        try:
            took = dict(self.generator.discard(list(tickets)) or {})
        except Exception:  # what it took is not known, and the asks are given up all the same
            return {}
        return {ticket: spent for ticket, spent in took.items() if isinstance(spent, Spent)}

    def collect(self, out: Out) -> None:
        """Waits for what is done, and tells it."""
        try:
            done = self.generator.collect()
        except Exception as error:
            self.collecting_failed(error, out)
        else:
            self.tell_done(done, out)

    def tell_done(self, done: Any, out: Out) -> None:
        """What a generator has done, told in the order of the tickets."""
        told: dict[int, Any] = {}
        try:
            done = sorted(_pairs(done), key=lambda item: item[0])
            told = {ticket: answer for ticket, answer in done if ticket in out}
            if len(told) < len(done):
                raise _wrong_ticket([ticket for ticket, _ in done], told)
        except Exception as error:
            self.collecting_failed(error, out, told)
            return
        asks = [(*out.pop(ticket), ticket) for ticket in told]
        if asks:
            slots, nodes, counts, tickets = zip(*asks, strict=True)
            self.tell(slots, nodes, counts, tickets, list(told.values()))
        else:
            self.stop_late()  # it need not know of deadlines, or be in time

    def collecting_failed(self, error: Exception, out: Out, told: Mapping[int, Any] | None = None) -> None:
        """All asks that are out have failed. What answers took that came all the same is charged."""
        took = self.discarded(list(out))
        for ticket, (slot, _, _) in out.items():
            failure = _charged(error, took[ticket]) if ticket in took else error
            self.ask_failed(slot, ticket, named(failure, "generator"), (told or {}).get(ticket, ()))
        out.clear()

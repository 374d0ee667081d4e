"""The loop for generators that block: asks out to the generator, answers back into the trees.

It asks for a wave, waits for all of it (or, of a streaming generator, for what is done) and goes on, until every
question has stopped. `bavt_fast.async_drive` is for coroutines.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

from bavt_fast.drive_base import Asked, Base, is_whole, named
from bavt_fast.engine import Search
from bavt_fast.events import note_asks
from bavt_fast.protocols import GenerationError
from bavt_fast.step_checks import BadAnswer
from bavt_fast.waves import Pending, admit, ask, cancel

__all__ = ["Drive"]


class Drive(Base):
    """The loop for generators that block."""

    def run(self, searches: Iterable[Search]) -> Iterator[tuple[int, Search]]:
        """(place, search) of each search as it stops. Ctrl-C stops all that have begun, and all of a list."""
        waiting = iter(searches)
        loop = self.stream if hasattr(self.generator, "submit") else self.batches
        try:
            yield from loop(waiting)
        except KeyboardInterrupt:
            yield from self.break_off()
            for search in waiting if isinstance(searches, list) else ():  # others are not made yet, and may be endless
                search.stop("interrupted")
                yield self.taken, search
                self.taken += 1
        finally:
            self.break_off()

    def batches(self, waiting: Iterator[Search]) -> Iterator[tuple[int, Search]]:
        """A wave at a time. The calls here are what a step costs beside tree, task and models: as few as can be."""
        engine, searches, clock, generator = self.engine, self.searches, self.clock, self.generator
        host, wave = self.host, self.wave
        while True:
            if (self.more or host is not None) and len(searches) < self.wave:  # a host may have more later
                self.fill(waiting)
            while self.reopened:
                asked = self.reopened.pop()
                self.tell(asked.slots, asked.nodes, asked.counts, asked.tickets, self.propose(asked))
            if host is not None:
                wave = host.room(self.wave, 0)
            slots, nodes, counts, tickets, limits, seeds, requests, stopped = ask(engine, searches, wave, clock())
            if self.observed:
                note_asks(searches, slots, nodes, counts, tickets, limits, seeds)
            if stopped:
                asked = yield from self.replace(
                    Asked(slots, nodes, counts, tickets, limits, requests), stopped, waiting
                )
                slots, nodes, counts, tickets, limits, requests = map(list, asked)  # type: ignore[assignment]
            if tickets:
                if host is not None:
                    host.before_wait()
                try:
                    answers = generator.propose(requests, counts, limits)
                    is_list = answers.__class__ is list
                    whole = len(answers) == len(tickets) if is_list else is_whole(answers, len(tickets))
                except Exception as error:
                    answers, whole = error, False
                if not whole:
                    answers = self.propose_apart(Asked(slots, nodes, counts, tickets, limits, requests), answers)
                self.tell(slots, nodes, counts, tickets, answers)
                if self.on_progress is not None:
                    self.progress()
            elif not self.reopened:
                return

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
        """Answers into the trees. One that is none fails its ask alone."""
        try:
            pending = admit(self.engine, self.searches, slots, nodes, tickets, answers, self.clock())
        except (BadAnswer, AttributeError, TypeError, ValueError):
            asked, answers = self.good(Asked(slots, nodes, counts, tickets), answers)
            columns = asked.slots, asked.nodes, asked.tickets
            pending = admit(self.engine, self.searches, *columns, answers, self.clock())
        if pending.tickets:
            self.score(pending)

    def score(self, pending: Pending) -> None:
        """One call of the critic for all; where it fails, one for each ask, to find whose it is."""
        try:
            self.grow(pending, self.critic.score(pending.nodes) if pending.nodes else [])
        except Exception as error:
            if len(pending.tickets) == 1:
                self.state_failed(pending, named(error, "critic"))
                return
            for part in pending.by_ask():
                self.score(part)

    def stream(self, waiting: Iterator[Search]) -> Iterator[tuple[int, Search]]:
        """Refills one by one: no question waits for the slowest step of a wave."""
        out: dict[int, tuple[int, int, int]] = {}  # ticket: slot, node, count
        try:
            yield from self.refill(waiting, out)
        finally:
            if out:  # broken off: another run numbers its tickets anew
                self.give_up(list(out), out)

    def refill(self, waiting: Iterator[Search], out: dict[int, tuple[int, int, int]]) -> Iterator[tuple[int, Search]]:
        while True:
            self.fill(waiting)
            asked, stopped = self.ask(self.wave - len(out))
            if self.host is not None:
                self.host.before_wait()
            for again in self.reopened:
                self.submit(again, out)
            self.reopened.clear()
            self.submit(asked, out)
            for slot in stopped:
                if self.searches[slot].stop_reason is None:
                    continue
                left = [ticket for ticket in out if ticket >> 32 == slot]
                if left:
                    self.give_up(left, out)
                yield from self.hand_over(slot)
            if stopped:
                continue  # their places are free
            if not out:
                return
            self.collect(out)
            self.progress()

    def give_up(self, tickets: Sequence[int], out: dict[int, tuple[int, int, int]]) -> None:
        """Asks that nobody waits for any more; what they took by now is charged."""
        took = self.generator.discard(tickets) or {}
        for ticket in tickets:
            slot, _, _ = out.pop(ticket)
            if ticket in took:
                cancel(self.engine, self.searches[slot], ticket, took[ticket])

    def submit(self, asked: Asked, out: dict[int, tuple[int, int, int]]) -> None:
        if not asked.tickets:
            return
        for ticket, slot, node, count in zip(asked.tickets, asked.slots, asked.nodes, asked.counts, strict=True):
            out[ticket] = slot, node, count
        try:
            self.generator.submit(asked.tickets, asked.requests, asked.counts, asked.limits)
        except Exception as error:
            for ticket in asked.tickets:
                slot, _, _ = out.pop(ticket)
                self.ask_failed(slot, ticket, error)

    def collect(self, out: dict[int, tuple[int, int, int]]) -> None:
        """What is done, told in the order of the tickets."""
        try:
            done = sorted(self.generator.collect(), key=lambda item: item[0])
            unknown = [ticket for ticket, _ in done if ticket not in out]
            if unknown:
                raise ValueError(f"generator: expected answers to tickets that are out, got {unknown[0]}")
        except Exception as error:
            took = self.generator.discard(list(out)) or {}
            for ticket, (slot, _, _) in out.items():
                failure = GenerationError(str(error), took[ticket]) if ticket in took else error
                self.ask_failed(slot, ticket, named(failure, "generator"))
            out.clear()
            return
        columns = [(*out.pop(ticket), ticket) for ticket, _ in done]
        if columns:
            slots, nodes, counts, tickets = zip(*columns, strict=True)
            self.tell(slots, nodes, counts, tickets, [answer for _, answer in done])

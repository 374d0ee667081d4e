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
from bavt_fast.protocols import GenerationError, Node, Step
from bavt_fast.step_checks import MOST, BadAnswer, checked_description, probability_of
from bavt_fast.waves import (
    Pending,
    admit,
    cancel,
    describe,
    requests_of,
)

__all__ = ["Drive"]


_ONE, _NO = [1], [False]


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
                self.tell(asked, self.propose(asked))
            if host is not None:
                wave = host.room(self.wave, 0)
            slots, nodes, counts, tickets, limits, seeds, stopped = engine.ask(wave, clock())
            requests = requests_of(searches, slots, nodes, seeds)
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
                    whole = is_whole(answers, len(tickets))
                except Exception as error:
                    answers, whole = error, False
                if not whole:
                    answers = self.propose_apart(Asked(slots, nodes, counts, tickets, limits, requests), answers)
                if len(tickets) == 1 and is_plain(answers[0], searches[slots[0]]):
                    self.tell_one(slots, nodes, tickets, answers[0])
                else:
                    self.tell(Asked(slots, nodes, counts, tickets), answers)
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

    def tell(self, asked: Asked, answers: Sequence[Any]) -> None:
        """Answers into the trees. One that is none fails its ask alone."""
        try:
            pending = self.admit(asked, answers)
        except (BadAnswer, AttributeError, TypeError, ValueError):
            pending = self.admit(*self.good(asked, answers))
        if pending.tickets:
            self.score(pending)

    def admit(self, asked: Asked, answers: Sequence[Any]) -> Pending:
        return admit(self.engine, self.searches, asked.slots, asked.nodes, asked.tickets, answers, self.clock())

    def tell_one(
        self, slots: Sequence[int], nodes: Sequence[int], tickets: Sequence[int], steps: Sequence[Step]
    ) -> None:
        """`tell` for the only ask of a wave and its plain answer: one question at a time takes two thirds of the time.

        Whatever is unusual goes the way of all.
        """
        search, number, step = self.searches[slots[0]], nodes[0], steps[0]
        parent, known = search.nodes[number], search.keys
        try:
            state = search.apply(parent.state, step)
            key = -1 if state is None else known.setdefault(search.key(state), len(known))
            probabilities = [probability_of(step)] if search.counts_tried else None
        except Exception:  # `apply` is pure: it fails there too
            self.tell(Asked(slots, nodes, _ONE, tickets), [steps])
            return
        is_new = self.engine.admit(self.clock(), tickets, _ONE, [step.tokens], [key], None, probabilities)
        if not is_new[0]:
            parent.add_try(step)
            search.refuse(number, step, key)
            return
        assert search.describe is not None, "or the answer is not plain"
        about: Any
        try:
            about = checked_description(search.describe(state))
        except Exception as error:
            about = error
        if isinstance(about, Exception) or about.terminal:
            settled = [key], [state], is_new
            pending = describe(self.engine, self.searches, slots, nodes, tickets, [steps], settled, {0: about})
            if pending.tickets:
                self.score(pending)
            return
        parent.add_try(step)
        node = Node(state, about.prompt, parent, step)
        try:
            outputs = self.critic.score([node])
        except Exception as error:
            outputs = error
        if outputs.__class__ is list and len(outputs) == 1 and outputs[0].__class__ is float and 0 <= outputs[0] <= 1:
            search.nodes.append(node)  # before the tree grows, as in `waves.grow`
            least = [about.min_tokens]
            columns = outputs, _NO, _NO, least, None, self.residual
            _, grown, _ = self.engine.grow(self.clock(), tickets, _ONE, *columns)
            node.value = grown[0]
        else:
            self.take(Pending.of_one(slots, tickets, nodes, node, about.min_tokens), outputs)

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

    def take(self, pending: Pending, outputs: Any) -> None:
        """What the critic gave, or raised, for one ask."""
        try:
            if isinstance(outputs, Exception):
                raise outputs
            self.grow(pending, outputs)
        except Exception as error:
            self.state_failed(pending, named(error, "critic"))

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
            self.tell(Asked(slots, nodes, counts, tickets), [answer for _, answer in done])


def is_plain(steps: Any, search: Search) -> bool:
    """Whether an answer is one whole step that says no more than its text and tokens, and is not observed."""
    if steps.__class__ is not list or len(steps) != 1 or search.observer is not None or search.describe is None:
        return False
    step = steps[0]
    return (
        step.__class__ is Step
        and step.tokens.__class__ is int
        and 0 < step.tokens <= MOST
        and step.text.__class__ is str
        and step.finish_reason == "delimiter"
        and step.hidden is None
        and step.cost is None
        and step.tool_calls is None
        and not step.prompt_tokens
        and not step.seconds
    )

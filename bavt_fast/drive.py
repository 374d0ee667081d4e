"""The loops: asks out to a generator, answers back into the trees, until every question has stopped.

`Drive` is for generators that block: it asks for a wave, waits for all of it (or, of a streaming generator, for what is
done) and goes on. `bavt_fast.async_drive` is for coroutines.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from bavt_fast._core import Engine, TicketError
from bavt_fast.budget import Spent
from bavt_fast.engine import Search
from bavt_fast.protocols import GenerationError, Node, Scores, Step, StepRequest
from bavt_fast.result import ManyProgress
from bavt_fast.waves import (
    MOST,
    BadAnswer,
    Pending,
    admit,
    cancel,
    checked_description,
    checked_step,
    describe,
    fail,
    grow,
    requests_of,
)

__all__ = ["Asked", "Base", "Drive"]


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


class Base:
    """What both loops share: the questions in the engine, and what becomes of answers and of scores."""

    def __init__(self, searcher: Any, wave: int, leaves: int, one: bool) -> None:
        self.generator, self.critic = searcher.generator, searcher.critic
        self.on_progress, self.clock, self.retries = searcher.on_progress, searcher.clock, searcher.retries
        self.wave, self.one = wave, one
        self.engine = Engine(leaves)
        self.searches: dict[int, Search] = {}  # by slot
        self.indexes: dict[int, int] = {}  # of slots: the search's place among those given
        self.failures: dict[int, int] = {}
        self.extended: deque[tuple[int, Search]] = deque()  # given more budget after they had stopped
        self.reopened: list[Asked] = []  # asks that were out when their search came here
        self.more = True  # questions to take, as far as is known
        self.taken = self.done = self.solved = 0
        self.residual = searcher.critic.predicts == "residual"
        self.warned = self.warned_of_overrun = False

    # ---- questions in and out

    def fill(self, waiting: Iterator[Search]) -> None:
        """Takes questions while there is room for them."""
        while len(self.searches) < self.wave:
            if self.extended:
                place, search = self.extended.popleft()
            else:
                new = next(waiting, None)
                if new is None:
                    self.more = False
                    return
                place, search = self.taken, new
                self.taken += 1
            slot = search.move_to(self.engine)
            self.searches[slot], self.indexes[slot] = search, place
            out = search._native.open_asks()
            if out:
                numbers, nodes, counts, limits, seeds, tries = zip(*out, strict=True)
                slots = [slot] * len(out)
                requests = requests_of(self.searches, slots, nodes, seeds, tries)
                tickets = [slot << 32 | number for number in numbers]
                self.reopened.append(Asked(slots, nodes, counts, tickets, limits, requests))

    def ask(self, room: int) -> tuple[Asked, list[int]]:
        """Up to ``room`` asks, and the slots that have stopped."""
        slots, nodes, counts, tickets, limits, seeds, stopped = self.engine.ask(room, self.clock())
        requests = requests_of(self.searches, slots, nodes, seeds)
        return Asked(slots, nodes, counts, tickets, limits, requests), stopped

    def finish(self, slot: int) -> tuple[int, Search]:
        """Takes a question that has stopped out of the engine."""
        search = self.searches.pop(slot)
        self.engine.cancel_all(slot)
        if not self.warned_of_overrun and any(search._native.account.overrun):
            self.warn_of_overrun(search)
        search.leave()
        self.done += 1
        self.solved += search.stop_reason == "solved"
        self.failures.pop(slot, None)
        if search.events is not None:
            search.note("stop", search.stop_reason)
        return self.indexes.pop(slot), search

    def warn_of_overrun(self, search: Search) -> None:
        """Once: a search that stops early for this looks like a small budget."""
        self.warned_of_overrun = True
        with contextlib.suppress(Warning):  # where warnings are errors; the result shows the overrun
            warnings.warn(
                f"generator or critic: took {Spent.of(search._native.account.overrun)} above what was reserved, and "
                f"nothing more is asked of that budget; keep to the limits that are given, or raise max_step_tokens "
                f"({search.settings.max_step_tokens}), max_step_cost or max_score",
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
        """Ends every question where it stands: nothing stays in flight."""
        finished = []
        for slot, search in list(self.searches.items()):
            search.mend()
            self.engine.stop(slot, "interrupted")
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
                fail(self.engine, self.searches, slot, error)

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

    def good(self, asked: Asked, answers: Sequence[Any]) -> tuple[Asked, Sequence[Any]]:
        """The answers that can be used, and their asks; the others fail their ask alone."""
        problems = [_problem_of(steps, count) for steps, count in zip(answers, asked.counts, strict=True)]
        for i, problem in enumerate(problems):
            if problem is not None:
                self.ask_failed(asked.slots[i], asked.tickets[i], problem, answers[i])
        places = [i for i, problem in enumerate(problems) if problem is None]
        return asked.take(places), [list(answers[i]) for i in places]

    def ask_failed(self, slot: int, ticket: int, error: Exception, steps: Any = ()) -> None:
        """What the ask took is charged; the question is tried again, or ends with the error."""
        spent = error.spent if isinstance(error, GenerationError) else _spent_on(steps)
        cancel(self.engine, self.searches, slot, ticket, spent)
        self.failures[slot] = self.failures.get(slot, 0) + 1
        if self.failures[slot] > self.retries:
            fail(self.engine, self.searches, slot, error)

    # ---- values

    def grow(self, pending: Pending, outputs: Any) -> None:
        """The critic's numbers into the trees. A question for which it gave none that is good ends with an error."""
        values, charged = outputs, None
        if outputs.__class__ is not list:
            if isinstance(outputs, Scores):
                outputs, charged = outputs.values, _per_ask(pending, outputs.spent)
            values = _flat(outputs)
        if len(values) != len(pending.nodes):
            raise ValueError(f"critic: expected {len(pending.nodes)} scores, one per node, got {len(values)}")
        try:
            clipped = grow(self.engine, self.searches, pending, values, self.clock(), self.residual, None, charged)
        except (TypeError, ValueError):
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
            problem = next(filter(None, map(_score_problem, own, part.nodes)), None)
            if problem is not None:
                self.state_failed(part, problem)
                continue
            costs = None if charged is None else charged[i : i + 1]
            try:
                grow(self.engine, self.searches, part, own, self.clock(), self.residual, None, costs)
            except (TypeError, ValueError) as error:
                self.state_failed(part, error)

    def warn_of_scale(self, pending: Pending, values: Sequence[float]) -> None:
        """Once. Where the caller made warnings errors, it ends the questions of this wave; their results are kept."""
        self.warned = True
        try:
            warnings.warn(
                f"critic: expected values from 0 to 1, got {min(values):.3g} to {max(values):.3g}; they are clipped. "
                "Scale them, such as score / 10, or use a critic with predicts = 'residual'",
                stacklevel=2,
            )
        except Warning as error:
            for slot in pending.slots:
                fail(self.engine, self.searches, slot, error)

    def state_failed(self, pending: Pending, error: Exception) -> None:
        for slot, ticket in zip(pending.slots, pending.tickets, strict=True):
            with contextlib.suppress(TicketError):  # it may have grown before the error came
                self.engine.cancel(ticket)
            fail(self.engine, self.searches, slot, error)


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
        while True:
            if self.more and len(searches) < self.wave:
                self.fill(waiting)
            while self.reopened:
                asked = self.reopened.pop()
                self.tell(asked, self.propose(asked))
            slots, nodes, counts, tickets, limits, seeds, stopped = engine.ask(self.wave, clock())
            requests = requests_of(searches, slots, nodes, seeds)
            if stopped:
                asked = yield from self.replace(
                    Asked(slots, nodes, counts, tickets, limits, requests), stopped, waiting
                )
                slots, nodes, counts, tickets, limits, requests = map(list, asked)  # type: ignore[assignment]
            if tickets:
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

    def propose(self, asked: Asked) -> Sequence[Any]:
        """The generator's answers, one per ask."""
        try:
            answers = self.generator.propose(asked.requests, asked.counts, asked.limits)
            return answers if is_whole(answers, len(asked.tickets)) else self.propose_apart(asked, answers)
        except Exception as error:
            return self.propose_apart(asked, error)

    def propose_apart(self, asked: Asked, failure: Any) -> Sequence[Any]:
        """Answers to a batch that failed: asked again one by one, to find whose fault it is."""
        size = len(asked.tickets)
        if size > 1:
            return [self.propose(asked.take([i]))[0] for i in range(size)]
        if isinstance(failure, Exception):
            return [named(failure, "generator")]
        return [not_whole(failure, size)]

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
        except Exception:  # `apply` is pure: it fails there too
            self.tell(Asked(slots, nodes, _ONE, tickets), [steps])
            return
        is_new = self.engine.admit(self.clock(), tickets, _ONE, [step.tokens], [key])
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
                self.generator.discard(list(out))

    def refill(self, waiting: Iterator[Search], out: dict[int, tuple[int, int, int]]) -> Iterator[tuple[int, Search]]:
        while True:
            self.fill(waiting)
            asked, stopped = self.ask(self.wave - len(out))
            for again in self.reopened:
                self.submit(again, out)
            self.reopened.clear()
            self.submit(asked, out)
            for slot in stopped:
                if self.searches[slot].stop_reason is None:
                    continue
                left = [ticket for ticket in out if ticket >> 32 == slot]
                if left:
                    self.generator.discard(left)
                for ticket in left:
                    del out[ticket]
                yield from self.hand_over(slot)
            if stopped:
                continue  # their places are free
            if not out:
                return
            self.collect(out)
            self.progress()

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
            given_up = list(out)
            for ticket, (slot, _, _) in out.items():
                self.ask_failed(slot, ticket, named(error, "generator"))
            out.clear()
            self.generator.discard(given_up)
            return
        columns = [(*out.pop(ticket), ticket) for ticket, _ in done]
        if columns:
            slots, nodes, counts, tickets = zip(*columns, strict=True)
            self.tell(Asked(slots, nodes, counts, tickets), [answer for _, answer in done])


_ONE, _NO = [1], [False]


# ---- Checks


def is_plain(steps: Any, search: Search) -> bool:
    """Whether an answer is one whole step that says no more than its text and tokens, and nothing is to be recorded."""
    if steps.__class__ is not list or len(steps) != 1 or search.events is not None or search.describe is None:
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


def is_whole(answers: Any, size: int) -> bool:
    """Whether there is one answer per ask."""
    is_list = answers.__class__ is list or (isinstance(answers, Sequence) and not isinstance(answers, (str, bytes)))
    return is_list and len(answers) == size


def not_whole(answers: Any, size: int) -> Exception:
    got = f"{len(answers)}" if isinstance(answers, (list, tuple)) else f"{answers!r:.80}"
    return ValueError(f"generator: expected {size} lists of steps, one per state, got {got}")


def _problem_of(steps: Any, count: int) -> Exception | None:
    """What is wrong with an answer; None where nothing is."""
    if isinstance(steps, Exception):
        return steps
    if not isinstance(steps, Sequence) or isinstance(steps, (str, bytes)):
        return TypeError(f"generator: expected a list of Step for each state, got {steps!r:.80}")
    if len(steps) > count:
        return ValueError(f"generator: expected at most {count} steps, got {len(steps)}; respect counts")
    try:
        for step in steps:
            checked_step(step)
    except (TypeError, ValueError) as error:
        return error
    return None


def _spent_on(steps: Any) -> Spent | None:
    """What an answer that cannot be used took, as far as it says."""
    tokens = [step.tokens for step in steps if isinstance(step, Step)] if isinstance(steps, (list, tuple)) else []
    good = [count for count in tokens if isinstance(count, int) and count > 0]
    return Spent(sum(good)) if good else None


def _flat(outputs: Any) -> list[Any]:
    """A critic's numbers as a list: also of an array or tensor, and of shape (n, 1)."""
    values = outputs.tolist() if hasattr(outputs, "tolist") else outputs
    if not isinstance(values, (list, tuple)):
        raise TypeError(f"critic: expected a list of numbers, one per node, got {outputs!r:.80}")
    if values and all(isinstance(value, list) and len(value) == 1 for value in values):
        return [value[0] for value in values]
    return list(values)


def _score_problem(score: Any, node: Node) -> Exception | None:
    if isinstance(score, (bool, str, bytes)) or not hasattr(score, "__float__"):
        return TypeError(f"critic: expected a number for each state, got {score!r:.80} for {node.text[-60:]!r}")
    try:
        output = float(score)
    except (TypeError, ValueError) as error:
        return TypeError(f"critic: expected a number for each state, got {score!r:.80} ({error})")
    if not math.isfinite(output):
        return ValueError(f"critic: expected finite scores, got {output} for {node.text[-60:]!r}")
    return None


def _per_ask(pending: Pending, costs: Sequence[Any]) -> list[Any]:
    """The critic's `Spent` per node as the engine's amounts per ask."""
    whole = isinstance(costs, Sequence) and len(costs) == len(pending.nodes)
    if not whole or not all(isinstance(cost, Spent) for cost in costs):
        raise TypeError(f"critic: expected {len(pending.nodes)} Spent, one per node, got {costs!r:.80}")
    amounts, at = [], 0
    for count in pending.counts:
        rows = [cost.amounts() for cost in costs[at : at + count]] or [(0, 0, 0, 0)]
        amounts.append(tuple(map(sum, zip(*rows, strict=True))))
        at += count
    return amounts


def named(error: Exception, who: str) -> Exception:
    """The error, with a note on who raised it, where Python keeps notes."""
    if hasattr(error, "add_note"):
        error.add_note(f"raised by the {who}")
    return error

"""The loops of `bavt_fast.waves` in Python alone: what the native ones do, for reading. The oracle of their tests.

The arguments are those of the native functions. `searches` gives the `bavt_fast.engine.Search` of each slot.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bavt_fast._core import Engine
from bavt_fast.events import note_growth
from bavt_fast.protocols import Description, Node, Step, StepRequest, without_hidden
from bavt_fast.step_checks import FINISH_REASONS, MOST, checked_description, probability_of
from bavt_fast.waves import Pending, Settled, _check, _of_task, _other_costs, described_many, fail

__all__ = ["admit", "ask", "describe", "grow", "requests_of", "rounds", "settle", "stream", "tell"]


def ask(engine: Engine, searches: Mapping[int, Any], limit: int, now_s: float) -> tuple[list[Any], ...]:
    """Up to `limit` asks: slots, nodes, counts, tickets, limits, seeds and requests; and slots that have stopped."""
    *columns, stopped = engine.ask(limit, now_s)
    slots, nodes, _, _, _, seeds = columns
    return (*columns, requests_of(searches, slots, nodes, seeds), stopped)


def requests_of(
    searches: Mapping[int, Any],
    slots: Sequence[int],
    nodes: Sequence[int],
    seeds: Sequence[int],
    tries: Sequence[int] | None = None,
) -> list[StepRequest]:
    """The requests of asks.

    Args:
        tries: of asks that were out before, how many of the steps from their node each knows.
    """
    requests = []
    for i, (slot, number, seed) in enumerate(zip(slots, nodes, seeds, strict=True)):
        search = searches[slot]
        node = search.nodes[number]
        tried = node.tried if tries is None else node.tried[: tries[i]]
        requests.append(StepRequest(node, seed, tried, search.rules.sampling, search.seconds_left()))
    return requests


def admit(
    engine: Engine,
    searches: Mapping[int, Any],
    slots: Sequence[int],
    nodes: Sequence[int],
    tickets: Sequence[int],
    answers: Sequence[Sequence[Step]],
    now_s: float,
) -> Pending:
    """Settles answers and finds what is new in them and not refuted.

    Raises:
        BadAnswer: a step is not one. Nothing has changed.
    """
    settled = settle(engine, searches, slots, nodes, tickets, answers, now_s)
    return describe(engine, searches, slots, nodes, tickets, answers, settled)


def settle(
    engine: Engine,
    searches: Mapping[int, Any],
    slots: Sequence[int],
    nodes: Sequence[int],
    tickets: Sequence[int],
    answers: Sequence[Sequence[Step]],
    now_s: float,
) -> Settled:
    """The first half of `admit`."""
    tokens: list[int] = []
    others: list[Any] = []
    probabilities: list[float] = []
    for place, (slot, steps) in enumerate(zip(slots, answers, strict=True)):
        search = searches[slot]
        for step in steps:
            others.append(_costs(step, search, place))
            tokens.append(step.tokens)
            probabilities.append(probability_of(step, place) if search.rules.counts_tried else 0.0)
    keys: list[int] = []
    states: list[Any] = []
    failed: list[tuple[int, Exception]] = []
    for slot, number, steps in zip(slots, nodes, answers, strict=True):
        try:
            after = [_after(searches[slot], number, step) for step in steps]
        except Exception as error:  # its steps are charged all the same, and lead nowhere
            failed.append((slot, _of_task(error)))
            after = [(-1, None)] * len(steps)
        keys += [key for key, _ in after]
        states += [state for _, state in after]
    counts = [len(steps) for steps in answers]
    is_new = engine.admit(now_s, tickets, counts, tokens, keys, others, probabilities)
    for slot, failure in failed:
        fail(engine, searches, slot, failure)
    return keys, states, is_new


def _costs(step: Step, search: Any, place: int) -> tuple[int, int | None, int | None, float] | None:
    """What a step cost beside its tokens, if anything. Raises where it is none."""
    plain = type(step) is Step and type(step.tokens) is int and type(step.text) is str
    if not plain or not 0 < step.tokens <= MOST or step.finish_reason not in FINISH_REASONS:
        _check(step, place)
    if step.prompt_tokens or step.cost is not None or step.tool_calls is not None or step.seconds:
        return _other_costs(step, search.settings, place)
    return None


def _after(search: Any, number: int, step: Step) -> tuple[int, Any]:
    """The number of the state's key that a step leads to, and the state; -1 and None where it leads nowhere."""
    after = None if step.is_cut else search.rules.apply(search.nodes[number].state, step)
    return (-1, None) if after is None else (search.keys.setdefault(search.rules.key(after), len(search.keys)), after)


def describe(
    engine: Engine,
    searches: Mapping[int, Any],
    slots: Sequence[int],
    nodes: Sequence[int],
    tickets: Sequence[int],
    answers: Sequence[Sequence[Step]],
    settled: Settled,
    described: Mapping[int, Any] | None = None,
) -> Pending:
    """The second half of `admit`: asks the tasks about new states, and drops what they refute.

    Args:
        described: what is known already, by step; None for nothing. An exception in it fails its question.
    """
    keys, states, is_new = settled
    asks: list[tuple[int, int, int]] = []  # slot, ticket and node of those that brought something new
    counts: list[int] = []
    made: list[tuple[Node, Step, Description]] = []
    end = 0
    for slot, number, ticket, steps in zip(slots, nodes, tickets, answers, strict=True):
        begin, end = end, end + len(steps)
        search, first = searches[slot], len(made)
        abouts: list[Description] = []
        try:
            for at, step in enumerate(steps, begin):
                kept = without_hidden(step)
                search.nodes[number].add_try(kept)
                if not is_new[at]:
                    reason = "duplicate" if keys[at] >= 0 else step.finish_reason if step.is_cut else "invalid"
                    search.refused.append((number, reason, kept, -1))
                    continue
                if described is None and search.rules.describe is None:
                    described = described_many(searches, slots, answers, settled)
                about = search.rules.describe(states[at]) if described is None else _known(described, at)
                abouts.append(checked_description(about))
                if about.verdict is False:
                    search.refused.append((number, "refuted", kept, keys[at]))
                    continue
                node = Node(states[at], about.prompt, search.nodes[number], step)
                node.answer = about.answer or None if about.terminal else None
                made.append((node, kept, about))
        except Exception as error:
            del made[first:]
            engine.cancel(ticket)
            if search.observer is not None:
                search.observer.cancelled(search, ticket, error)
            fail(engine, searches, slot, _of_task(error))
            continue
        if search.observer is not None:
            search.observer.admitted(search, number, ticket, steps, len(made) - first, abouts)
        if any(is_new[begin:end]):
            asks.append((slot, ticket, number))
            counts.append(len(made) - first)
    pending = Pending([slot for slot, _, _ in asks], [ticket for _, ticket, _ in asks], [node for _, _, node in asks])
    pending.counts = counts
    pending.nodes = [node for node, _, _ in made]
    pending.terminal = [about.terminal for _, _, about in made]
    pending.verified = [about.verdict is True for _, _, about in made]
    pending.least = [about.min_tokens for _, _, about in made]
    pending.slim = {node: kept for node, kept, _ in made if kept is not node.step} or None
    return pending


def _known(described: Mapping[int, Any], at: int) -> Any:
    about = described[at]
    if isinstance(about, Exception):
        raise about
    return about


def grow(
    engine: Engine,
    searches: Mapping[int, Any],
    pending: Pending,
    values: Sequence[float],
    now_s: float,
    residual: bool = False,
    weights: Sequence[float] | None = None,
    score_costs: Sequence[Any] | None = None,
) -> bool:
    """Turns admitted states into nodes of their trees. Returns whether a value was outside of [0, 1], and clipped.

    Raises:
        TypeError, ValueError: a value is not a finite number. Nothing has changed.
    """
    nodes = iter(pending.nodes)
    for slot, count in zip(pending.slots, pending.counts, strict=True):
        # Before the trees grow: wherever Ctrl-C breaks in, each node of a tree has its entry (`Search.mend`).
        searches[slot].nodes += itertools.islice(nodes, count)
    try:
        _, grown, clipped = engine.grow(
            now_s,
            pending.tickets,
            pending.counts,
            values,
            pending.terminal,
            pending.verified,
            pending.least,
            weights,
            residual,
            score_costs,
        )
    except BaseException:
        for slot in pending.slots:
            searches[slot].mend()
        raise
    for node, value in zip(pending.nodes, grown, strict=True):
        node.value = value
        node.step = (pending.slim or {}).get(node, node.step)
    if any(searches[slot].observer is not None for slot in pending.slots):
        note_growth(searches, pending, score_costs)
    return clipped


Left = tuple[Pending, Any, Exception | None, bool]
"""What of a wave the caller has to look at: what was admitted, what the critic gave, what it raised, and whether the
trees grew with values that were clipped."""


def tell(
    engine: Engine,
    searches: Mapping[int, Any],
    slots: Sequence[int],
    nodes: Sequence[int],
    tickets: Sequence[int],
    answers: Sequence[Sequence[Step]],
    score: Callable[[list[Node]], Any],
    clock: Callable[[], float],
    residual: bool,
) -> Left | None:
    """`admit`, the critic, and `grow`. Returns None where the critic gave a list of values, and all is done.

    Raises:
        BadAnswer: a step is not one. Nothing has changed.
    """
    pending = admit(engine, searches, slots, nodes, tickets, answers, clock())
    if not pending.tickets:
        return None
    try:
        outputs = score(list(pending.nodes)) if pending.nodes else []
    except Exception as error:
        return pending, None, error, False
    if type(outputs) is not list or len(outputs) != len(pending.nodes):
        return pending, outputs, None, False
    try:
        clipped = grow(engine, searches, pending, outputs, clock(), residual)
    except Exception:
        return pending, outputs, None, False
    return (pending, outputs, None, True) if clipped else None


class _Clock:
    """A clock that keeps its last reading."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self.last_s = clock, clock()

    def __call__(self) -> float:
        self.last_s = self._clock()
        return self.last_s


def rounds(
    engine: Engine,
    searches: Mapping[int, Any],
    propose: Callable[[list[StepRequest], list[int], list[int]], Any],
    score: Callable[[list[Node]], Any],
    wave: int,
    clock: Callable[[], float],
    residual: bool,
) -> tuple[tuple[list[Any], ...], tuple[Any, ...], Left | None]:
    """`ask`, the generator, and `tell`, round after round, until something is unusual: then its last wave.

    That is what `ask` gave; the answers in a tuple, which is empty where nobody was asked (questions have stopped, or
    nothing is left to ask for); and what `tell` left. Where it left nothing, the answers were not told: they are what
    the generator raised, or not one list for each ask, or have something in them that is no step.

    What grew is asked for more at the time at which it grew: the native loop does it as it grows.
    """
    clock = _Clock(clock)
    while True:
        asked = ask(engine, searches, wave, clock.last_s)
        slots, nodes, counts, tickets, limits, _, requests, stopped = asked
        if stopped or not tickets:
            return asked, (), None
        try:
            answers = propose(requests, counts, limits)
        except Exception as error:
            return asked, (error,), None
        if type(answers) is not list or len(answers) != len(tickets):
            return asked, (answers,), None
        try:
            left = tell(engine, searches, slots, nodes, tickets, answers, score, clock, residual)
        except Exception:
            return asked, (answers,), None
        if left is not None:
            return asked, (answers,), left


Out = dict[int, tuple[int, int, int]]
"""Slot, node and count of the asks that are out, by ticket."""


def stream(
    engine: Engine,
    searches: Mapping[int, Any],
    out: Out,
    submit: Callable[[list[int], list[StepRequest], list[int], list[int]], Any],
    collect: Callable[[], Any],
    score: Callable[[list[Node]], Any],
    wave: int,
    clock: Callable[[], float],
    residual: bool,
) -> tuple[tuple[list[Any], ...] | None, Exception | None, Any, Left | None]:
    """`ask`, the generator, and `tell`, until something is unusual, with a generator that tells each answer when it is
    done. What it returns is said of `wave_stream` in `bavt_fast._core`."""
    clock = _Clock(clock)
    while True:
        asked = ask(engine, searches, max(0, wave - len(out)), clock.last_s)
        slots, nodes, counts, tickets, limits, _, requests, stopped = asked
        if stopped or not (tickets or out):
            return asked, None, None, None
        if tickets:
            new = dict(zip(tickets, zip(slots, nodes, counts, strict=True), strict=True))
            try:
                submit(list(tickets), requests, counts, limits)
            except Exception as error:
                return asked, error, None, None
            out |= new
        try:
            done = collect()
        except Exception as error:
            return None, error, None, None
        if not (_is_of(out, done) and done):
            return None, None, done, None
        told = sorted(done, key=lambda pair: pair[0])
        asks = [out[ticket] for ticket, _ in told]
        tickets = [ticket for ticket, _ in told]
        wave_of = [slot for slot, _, _ in asks], [node for _, node, _ in asks], tickets, [steps for _, steps in told]
        try:
            left = tell(engine, searches, *wave_of, score, clock, residual)
        except Exception:
            return None, None, done, None
        for ticket in tickets:
            del out[ticket]
        if left is not None:
            return None, None, None, left


def _is_of(out: Out, done: Any) -> bool:
    """Whether a generator gave a list of (ticket, answer), each ticket out and there once."""
    if type(done) is not list or not all(type(pair) is tuple and len(pair) == 2 for pair in done):
        return False
    tickets = [ticket for ticket, _ in done if type(ticket) is int and ticket in out]
    return len(set(tickets)) == len(done)

"""A wave of answers on its way into the trees, the same for one question and for many.

    admit   steps -> states (task.apply) -> keys (task.key) -> settled, duplicates dropped -> task.describe
    grow    values -> nodes
    tell    admit, the critic, grow
    rounds  ask, the generator, tell, and again
    stream  the same with a generator that tells each answer when it is done

`searches` gives the `bavt_fast.engine.Search` of each slot of the engine. Where a question's task fails, that question
stops with the error, and the others go on. The loops are what a search costs beside its tree, its task and its models:
they are native (csrc/python/waves.cpp), and here is what they leave to Python, which is what is unusual.
`bavt_fast.reference.waves` says the same in Python alone.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from bavt_fast._checks import as_amount, message_of
from bavt_fast._core import Engine, read_wave_objects
from bavt_fast._core import wave_admit as admit
from bavt_fast._core import wave_ask as ask
from bavt_fast._core import wave_describe as describe
from bavt_fast._core import wave_grow as grow
from bavt_fast._core import wave_requests as requests_of
from bavt_fast._core import wave_rounds as rounds
from bavt_fast._core import wave_settle as settle
from bavt_fast._core import wave_stream as stream
from bavt_fast._core import wave_tell as tell
from bavt_fast.budget import Spent, cost_units, exact, priced
from bavt_fast.events import Observer, note_growth
from bavt_fast.protocols import Description, Node, Sampling, Step, StepRequest, without_hidden
from bavt_fast.settings import Settings
from bavt_fast.step_checks import MOST, BadAnswer, checked_description, checked_step, probability_of

__all__ = [
    "Beside",
    "Pending",
    "Rules",
    "Settled",
    "admit",
    "ask",
    "call_describe",
    "cancel",
    "describe",
    "described_many",
    "fail",
    "grow",
    "named",
    "new_states",
    "price_of",
    "requests_of",
    "rounds",
    "settle",
    "stream",
    "tell",
    "whose",
]


class Rules:
    """What the loops read of a task and of settings, once for all searches that share them.

    Attributes:
        apply, key: the task's.
        describe: the task's; None where many are described at once (`described_many`).
        sampling: of requests.
        counts_tried: whether the probabilities of steps are read.
        prices_cached: whether prompt tokens out of a cache have a price of their own.
    """

    __slots__ = ("apply", "counts_tried", "describe", "key", "prices_cached", "sampling")

    def __init__(self, task: Any, settings: Settings) -> None:
        self.apply: Callable[[Any, Step], Any] = task.apply
        self.key: Callable[[Any], Hashable] = task.key
        many = hasattr(task, "describe_many")
        self.describe: Callable[[Any], Description] | None = None if many else task.describe
        self.sampling: Sampling = settings.sampling
        self.counts_tried = settings.tried_exponent > 0.0
        self.prices_cached = settings.cached_token_cost is not None


class Beside:
    """What the loops read of a search, beside its native question.

    Attributes:
        nodes: by number.
        keys: the numbers of the keys of its states.
        refused: node, reason, step, number of its key or -1, of each step that became no node.
        rules: of its task and its settings.
        untimed: whether it has no deadline.
        observer: hears what happens; None where nobody wants to.
    """

    __slots__ = ("keys", "nodes", "observer", "refused", "rules", "untimed")

    nodes: list[Node]
    keys: dict[Hashable, int]
    refused: list[tuple[int, str, Step, int]]
    rules: Rules
    untimed: bool
    observer: Observer | None


class Pending:
    """Admitted states on their way into their trees: new, described and not refuted. In columns.

    Attributes:
        slots, tickets, parents, counts: by ask: its question, its ticket, the node's id, and its states.
        nodes: the nodes to be, of all asks one after the other. They want a value each.
        terminal, verified, least: what the task says of them.
        slim: the step without its hidden state, of nodes whose critic reads one.
    """

    __slots__ = ("counts", "least", "nodes", "parents", "search", "slim", "slots", "terminal", "tickets", "verified")

    def __init__(self, slots: Sequence[int], tickets: Sequence[int], parents: Sequence[int]) -> None:
        self.slots = slots
        self.tickets = tickets
        self.parents = parents
        self.counts: list[int] = []
        self.nodes: list[Node] = []
        self.terminal: list[bool] = []
        self.verified: list[bool] = []
        self.least: list[int] = []
        self.slim: dict[Node, Step] | None = None
        self.search: str | None = None  # of which it is, where a caller has it

    def by_ask(self) -> list[Pending]:
        """The same, each ask by itself."""
        parts, at = [], 0
        for i, count in enumerate(self.counts):
            ask, states = slice(i, i + 1), slice(at, at + count)
            part = Pending(self.slots[ask], self.tickets[ask], self.parents[ask])
            part.counts, part.slim = self.counts[ask], self.slim
            part.nodes, part.terminal = self.nodes[states], self.terminal[states]
            part.verified, part.least = self.verified[states], self.least[states]
            parts.append(part)
            at += count
        return parts


_RAISED_BY = "raised by the "

_log = logging.getLogger("bavt_fast")

Settled = tuple[list[int], list[Any], list[bool]]
"""Of steps whose cost is settled: the numbers of their states' keys, the states, and whether each is new."""


def _check(step: Any, place: int) -> None:
    try:
        checked_step(step)
    except (TypeError, ValueError) as error:
        raise BadAnswer(place, error) from error


def new_states(
    searches: Mapping[int, Any],
    slots: Sequence[int],
    answers: Sequence[Sequence[Step]],
    settled: Settled,
    offers: str,
) -> dict[int, list[tuple[int, Any]]]:
    """(step, state) of what is new, by slot, of the questions whose task offers a method of that name."""
    _, states, is_new = settled
    found: dict[int, list[tuple[int, Any]]] = {}
    end = 0
    for slot, steps in zip(slots, answers, strict=True):
        begin, end = end, end + len(steps)
        new = [(at, states[at]) for at in range(begin, end) if is_new[at]]
        if new and hasattr(searches[slot].task, offers):
            found.setdefault(slot, []).extend(new)
    return found


def described_many(
    searches: Mapping[int, Any], slots: Sequence[int], answers: Sequence[Sequence[Step]], settled: Settled
) -> dict[int, Any]:
    """Descriptions of all new states from tasks that take many at once: one call for each task.

    A call that fails is made again for each question, to find whose it is.
    """
    described: dict[int, Any] = {}
    by_task: dict[int, list[tuple[int, Any]]] = {}
    by_slot = new_states(searches, slots, answers, settled, "describe_many")
    for slot, new in by_slot.items():
        by_task.setdefault(id(searches[slot].task), []).extend(new)
    for slot, new in by_slot.items():
        task = searches[slot].task
        whole = by_task.pop(id(task), None)
        if whole is not None:
            described |= _call_many(task, whole)
        if any(isinstance(described.get(at), Exception) for at, _ in new):
            described |= _call_many(task, new)
    for slot, new in new_states(searches, slots, answers, settled, "describe").items():
        described |= {at: call_describe(searches[slot].task, state) for at, state in new if at not in described}
    return described


def _call_many(task: Any, new: Sequence[tuple[int, Any]]) -> dict[int, Any]:
    try:
        told = task.describe_many([state for _, state in new])
        if not isinstance(told, Iterable):
            raise TypeError(f"describe_many: expected {len(new)} descriptions, one per state, got {told!r:.80}")
        abouts = list(told)
        if len(abouts) != len(new):
            raise ValueError(f"describe_many: expected {len(new)} descriptions, one per state, got {len(abouts)}")
    except Exception as error:
        return {at: error for at, _ in new}
    return {at: about for (at, _), about in zip(new, abouts, strict=True)}


def named(error: Exception, who: str) -> Exception:
    """The error, with a note on who raised it, where Python and its class keep notes."""
    with contextlib.suppress(Exception):  # of a frozen dataclass, or a class that has its own idea of notes
        if hasattr(error, "add_note") and not whose(error):
            error.add_note(_RAISED_BY + who)
    return error


def whose(error: Exception) -> str | None:
    """Who raised it, as far as it was `named`."""
    notes = [note for note in getattr(error, "__notes__", ()) if str(note).startswith(_RAISED_BY)]
    return notes[0].removeprefix(_RAISED_BY) if notes else None


def _of_task(error: Exception) -> Exception:
    """What a task raised; says whose fault a key is that no dictionary takes."""
    if isinstance(error, TypeError) and message_of(error).startswith("unhashable type"):
        error = TypeError(f"key: expected something that can be hashed, got an {error}")
    return named(error, "task")


def call_describe(task: Any, state: Any) -> Any:
    """What a task, or its search, says of a state; or what it raises."""
    try:
        return task.describe(state)
    except Exception as error:
        return error


def cancel(
    engine: Engine,
    search: Any,
    ticket: int,
    spent: Spent | None = None,
    error: Any = None,
    amounts: tuple[int, int, int, int] | None = None,
) -> None:
    """An ask that nobody answers, what it took all the same, and what failed, where something did.

    Args:
        amounts: what it took as the account counts it, and nothing of it is priced: all of `spent` but its seconds.
    """
    if amounts is not None:
        tokens, prompt_tokens, tool_calls, units = amounts
        seconds = 0.0 if spent is None else spent.seconds
        engine.cancel(ticket, [tokens], [(prompt_tokens, tool_calls, units, seconds)])
        spent = Spent.of(amounts, seconds)
    elif spent is None:
        engine.cancel(ticket)
    else:
        tokens, prompt_tokens, tool_calls, units = spent.amounts()
        engine.cancel(ticket, [tokens], [(prompt_tokens, tool_calls, units or None, spent.seconds)])
    if search.observer is not None:
        search.observer.cancelled(search, ticket, error, spent)


def fail(engine: Engine, searches: Mapping[int, Any], slot: int, error: Exception) -> None:
    """Stops one question for an error; the others go on. One that had stopped before, as it was solved, stays so."""
    search = searches[slot]
    if search.error is None:
        search.error = error
    engine.stop(slot, "error")
    if search.stop_reason != "error":
        _log.warning(
            "search %s: it had stopped (%s) when something failed (%s: %.200s), which changes nothing",
            search.id,
            search.stop_reason,
            type(error).__name__,
            message_of(error),
        )


def price_of(settings: Settings, tokens: int, read: int, cached: int) -> Decimal:
    """What tokens cost that were generated, and those that were read, so many of them out of a cache."""
    price = exact(settings.prompt_token_cost)
    of_cached = price if settings.cached_token_cost is None else exact(settings.cached_token_cost)
    return priced((tokens, exact(settings.token_cost)), (read - cached, price), (cached, of_cached))


def _other_costs(step: Step, settings: Settings, place: int) -> tuple[int, int | None, int | None, float]:
    """What a step cost beside its tokens, as the engine takes it; None for what the engine prices itself."""
    read = step.prompt_tokens
    only_read = step.cost is None and step.tool_calls is None and not step.seconds and not step.cached_tokens
    if only_read and read.__class__ is int and 0 < read <= MOST:
        return read, None, None, 0.0
    _check(step, place)
    cost = None if step.cost is None else cost_units(as_amount("Step.cost", step.cost, allow_zero=True))
    if cost is None and step.cached_tokens and settings.cached_token_cost is not None:
        cost = cost_units(price_of(settings, step.tokens, step.prompt_tokens, step.cached_tokens))
    return step.prompt_tokens, step.tool_calls, cost, step.seconds


_MET = (Beside, Description, Engine, Node, Pending, Rules, Step, StepRequest)
_CALLED = (_of_task, _check, _other_costs, checked_description, described_many, fail, note_growth, probability_of)
read_wave_objects({met.__name__: met for met in (*_MET, *_CALLED, without_hidden)})  # what the loops know of Python

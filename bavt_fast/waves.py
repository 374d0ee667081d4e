"""A wave of answers on its way into the trees, the same for one question and for many.

    admit   steps -> states (task.apply) -> keys (task.key) -> settled, duplicates dropped -> task.describe
    grow    values -> nodes

`searches` gives the `bavt_fast.engine.Search` of each slot of the engine. Where a question's task fails, that question
stops with the error, and the others go on. The loops here are what a search costs beside its tree, its task and its
models: they are written for speed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bavt_fast._checks import as_amount
from bavt_fast._core import Engine
from bavt_fast.budget import Spent, cost_units, exact
from bavt_fast.events import note_growth
from bavt_fast.protocols import CUT, Description, Node, Step, StepRequest, without_hidden
from bavt_fast.settings import Settings
from bavt_fast.step_checks import FINISH_REASONS, MOST, BadAnswer, checked_description, checked_step, probability_of

__all__ = [
    "Pending",
    "Settled",
    "admit",
    "call_describe",
    "cancel",
    "describe",
    "described_many",
    "fail",
    "grow",
    "new_states",
    "requests_of",
    "settle",
]


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

    @classmethod
    def of_one(
        cls, slots: Sequence[int], tickets: Sequence[int], parents: Sequence[int], node: Node, least: int
    ) -> Pending:
        """One node that is not terminal, of one ask."""
        pending = cls(slots, tickets, parents)
        pending.counts, pending.nodes, pending.least = [1], [node], [least]
        pending.terminal, pending.verified = [False], [False]
        return pending

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

    def keep(self, asks: Sequence[bool]) -> None:
        """Drops the asks that brought nothing, or failed."""
        self.slots = [slot for slot, kept in zip(self.slots, asks, strict=True) if kept]
        self.tickets = [ticket for ticket, kept in zip(self.tickets, asks, strict=True) if kept]
        self.parents = [parent for parent, kept in zip(self.parents, asks, strict=True) if kept]

    def drop_states(self, begin: int) -> None:
        """Takes back all states from the given one on."""
        del self.nodes[begin:], self.terminal[begin:], self.verified[begin:], self.least[begin:]


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
    new = tuple.__new__  # past the checks of a constructor that takes texts too
    for slot, number, seed in zip(slots, nodes, seeds, strict=True):
        search = searches[slot]
        node = search.nodes[number]
        tried = () if node._tried is None else node.tried
        left_s = None if search.untimed else search.seconds_left()
        requests.append(new(StepRequest, (node, seed, tried, search.sampling, left_s)))
    if tries is not None:
        return [request._replace(tried=request.tried[:known]) for request, known in zip(requests, tries, strict=True)]
    return requests


Settled = tuple[list[int], list[Any], list[bool]]
"""Of steps whose cost is settled: the numbers of their states' keys, the states, and whether each is new."""


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
    keys: list[int] = []
    states: list[Any] = []
    counts: list[int] = []
    others: list[Any] | None = None
    probabilities: list[float] | None = None
    failed: list[tuple[int, Exception]] = []
    for slot, number, steps in zip(slots, nodes, answers, strict=True):
        search = searches[slot]
        state, apply, known = search.nodes[number].state, search.apply, search.keys
        begin = len(keys)
        counts.append(len(steps))
        for step in steps:
            if step.__class__ is not Step or step.tokens.__class__ is not int or step.text.__class__ is not str:
                _check(step, len(counts) - 1)
            if not 0 < step.tokens <= MOST or step.finish_reason not in FINISH_REASONS:
                _check(step, len(counts) - 1)
            tokens.append(step.tokens)
            if step.prompt_tokens or step.cost is not None or step.tool_calls is not None or step.seconds:
                others = [] if others is None else others
                others += [None] * (len(tokens) - 1 - len(others))
                others.append(_other_costs(step, search.settings, len(counts) - 1))
        if search.counts_tried:
            probabilities = [] if probabilities is None else probabilities
            probabilities += [0.0] * (begin - len(probabilities))
            probabilities += [probability_of(step, len(counts) - 1) for step in steps]
        try:
            for step in steps:
                after = None if step.finish_reason in CUT else apply(state, step)
                states.append(after)
                keys.append(-1 if after is None else known.setdefault(search.key(after), len(known)))
        except Exception as error:  # its steps are charged all the same, and lead nowhere
            failed.append((slot, _about_keys(error)))
            states[begin:] = [None] * len(steps)
            keys[begin:] = [-1] * len(steps)
    if others is not None:
        others += [None] * (len(tokens) - len(others))
    if probabilities is not None:
        probabilities += [0.0] * (len(tokens) - len(probabilities))
    is_new = engine.admit(now_s, tickets, counts, tokens, keys, others, probabilities)
    for slot, failure in failed:
        fail(engine, searches, slot, failure)
    return keys, states, is_new


def _check(step: Any, place: int) -> None:
    try:
        checked_step(step)
    except (TypeError, ValueError) as error:
        raise BadAnswer(place, error) from error


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
    pending = Pending(slots, tickets, nodes)
    kept_asks: list[bool] = []
    known: Any = None  # a description that was checked: tasks may give the same one again and again
    end = 0
    for slot, number, ticket, steps in zip(slots, nodes, tickets, answers, strict=True):
        search = searches[slot]
        parent = search.nodes[number]
        begin, end = end, end + len(steps)
        first = len(pending.nodes)
        found = False
        abouts: list[Description] | None = None if search.observer is None else []
        try:
            for at, step in enumerate(steps, begin):
                kept = step if step.hidden is None else without_hidden(step)
                if parent._tried is None:
                    parent._tried = kept
                else:
                    parent.add_try(kept)
                if not is_new[at]:
                    search.refuse(number, kept, keys[at])
                    continue
                found = True
                if described is None and search.describe is None:
                    described = described_many(searches, slots, answers, settled)
                about = search.describe(states[at]) if described is None else _known(described, at)
                if about is not known:
                    known = checked_description(about)
                if abouts is not None:
                    abouts.append(about)
                terminal, verdict, answer, prompt, least = about
                if verdict is False:
                    search.refused.append((number, "refuted", kept, keys[at]))
                    continue
                node = Node(states[at], prompt, parent, step)
                if terminal:
                    node.answer = answer or None
                if kept is not step:
                    pending.slim = {} if pending.slim is None else pending.slim
                    pending.slim[node] = kept
                pending.nodes.append(node)
                pending.terminal.append(terminal)
                pending.verified.append(verdict is True)
                pending.least.append(least)
        except Exception as error:
            pending.drop_states(first)
            kept_asks.append(False)
            engine.cancel(ticket)
            fail(engine, searches, slot, error)
            continue
        if abouts is not None:
            search.observer.admitted(search, number, ticket, steps, len(pending.nodes) - first, abouts)
        kept_asks.append(found)
        if found:
            pending.counts.append(len(pending.nodes) - first)
    if len(pending.counts) < len(kept_asks):
        pending.keep(kept_asks)
    return pending


def _known(described: Mapping[int, Any], at: int) -> Any:
    about = described[at]
    if isinstance(about, Exception):
        raise about
    return about


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
        abouts = list(task.describe_many([state for _, state in new]))
        if len(abouts) != len(new):
            raise ValueError(f"describe_many: expected {len(new)} descriptions, one per state, got {len(abouts)}")
    except Exception as error:
        return {at: error for at, _ in new}
    return {at: about for (at, _), about in zip(new, abouts, strict=True)}


def _about_keys(error: Exception) -> Exception:
    """Says whose fault a key is that no dictionary takes."""
    if isinstance(error, TypeError) and str(error).startswith("unhashable type"):
        return TypeError(f"key: expected something that can be hashed, got an {error}")
    return error


def call_describe(task: Any, state: Any) -> Any:
    """What a task, or its search, says of a state; or what it raises."""
    try:
        return task.describe(state)
    except Exception as error:
        return error


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
    nodes = pending.nodes
    at = 0
    for slot, count in zip(pending.slots, pending.counts, strict=True):
        # Before the trees grow: wherever Ctrl-C breaks in, each node of a tree has its entry (`Search.mend`).
        if count == 1:
            searches[slot].nodes.append(nodes[at])
        else:
            searches[slot].nodes += nodes[at : at + count]
        at += count
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
    for node, value in zip(nodes, grown, strict=True):
        node.value = value
    if pending.slim is not None:
        for node in nodes:
            node.step = pending.slim.get(node, node.step)
    for slot in pending.slots:
        if searches[slot].observer is not None:
            note_growth(searches, pending, score_costs)
            break
    return clipped


def cancel(engine: Engine, search: Any, ticket: int, spent: Spent | None = None, error: Any = None) -> None:
    """An ask that nobody answers, what it took all the same, and what failed, where something did."""
    if spent is None:
        engine.cancel(ticket)
    else:
        tokens, prompt_tokens, tool_calls, units = spent.amounts()
        engine.cancel(ticket, [tokens], [(prompt_tokens, tool_calls, units or None, spent.seconds)])
    if search.observer is not None:
        search.observer.cancelled(search, ticket, error, spent)


def fail(engine: Engine, searches: Mapping[int, Any], slot: int, error: Exception) -> None:
    """Stops one question for an error; the others go on."""
    search = searches[slot]
    if search.error is None:
        search.error = error
    engine.stop(slot, "error")


def _other_costs(step: Step, settings: Settings, place: int) -> tuple[int, int | None, int | None, float]:
    """What a step cost beside its tokens, as the engine takes it; None for what the engine prices itself."""
    read = step.prompt_tokens
    only_read = step.cost is None and step.tool_calls is None and not step.seconds and not step.cached_tokens
    if only_read and read.__class__ is int and 0 < read <= MOST:
        return read, None, None, 0.0
    _check(step, place)
    cost = None if step.cost is None else cost_units(as_amount("Step.cost", step.cost, allow_zero=True))
    if cost is None and step.cached_tokens and settings.cached_token_cost is not None:
        cost = cost_units(
            step.tokens * exact(settings.token_cost)
            + (step.prompt_tokens - step.cached_tokens) * exact(settings.prompt_token_cost)
            + step.cached_tokens * exact(settings.cached_token_cost)
        )
    return step.prompt_tokens, step.tool_calls, cost, step.seconds

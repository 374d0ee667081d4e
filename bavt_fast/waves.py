"""A wave of answers on its way into the trees, the same for one question and for many.

    admit   steps -> states (task.apply) -> keys (task.key) -> settled, duplicates dropped -> task.describe
    grow    values -> nodes

`searches` gives the `bavt_fast.engine.Search` of each slot of the engine. Where a question's task fails, that question
stops with the error, and the others go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bavt_fast._checks import as_amount, as_count
from bavt_fast._core import Engine
from bavt_fast.budget import Spent, cost_units
from bavt_fast.protocols import Description, Node, Step, StepRequest, without_hidden

__all__ = ["Pending", "admit", "cancel", "checked_description", "checked_step", "fail", "grow", "requests_of"]

_NUMBER = 2**32 - 1  # the part of a ticket that numbers the asks of one question


class Pending:
    """Admitted states on their way into their trees: new, described and not refuted.

    Attributes:
        nodes: the nodes to be, of all tickets one after the other. They want a value each.
        kept: the step of each as its parent keeps it, without the hidden state that the critic reads.
    """

    __slots__ = ("counts", "kept", "least", "nodes", "parents", "slots", "terminal", "tickets", "verified")

    def __init__(self) -> None:
        self.slots: list[int] = []
        self.tickets: list[int] = []
        self.parents: list[int] = []
        self.counts: list[int] = []
        self.nodes: list[Node] = []
        self.kept: list[Step] = []
        self.terminal: list[bool] = []
        self.verified: list[bool] = []
        self.least: list[int] = []

    def part(self, tickets: slice, nodes: slice) -> Pending:
        """Some of the tickets and what is theirs."""
        part = Pending()
        part.slots, part.tickets = self.slots[tickets], self.tickets[tickets]
        part.parents, part.counts = self.parents[tickets], self.counts[tickets]
        part.nodes, part.kept = self.nodes[nodes], self.kept[nodes]
        part.terminal, part.verified, part.least = self.terminal[nodes], self.verified[nodes], self.least[nodes]
        return part


def requests_of(
    searches: Mapping[int, Any], slots: Sequence[int], nodes: Sequence[int], seeds: Sequence[int]
) -> list[StepRequest]:
    """The requests of asks."""
    requests = []
    for slot, number, seed in zip(slots, nodes, seeds, strict=True):
        search = searches[slot]
        node, settings = search.nodes[number], search.settings
        limit_s = search.budget.seconds
        left_s = None if limit_s is None else max(0.0, limit_s - search._native.account.elapsed_s)
        requests.append(StepRequest(node, seed, tuple(node.tried), settings.sampling, left_s))
        if search.events is not None:
            search.note("ask", number, seed)
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
    """Settles answers and finds what is new in them. A question whose task fails stops with that error."""
    tokens: list[int] = []
    keys: list[int] = []
    states: list[Any] = []
    others: list[Any] = []
    priced = False
    failed: list[tuple[int, Exception]] = []
    for i, steps in enumerate(answers):
        search = searches[slots[i]]
        state, apply, key_of, known = search.nodes[nodes[i]].state, search.task.apply, search.task.key, search._keys
        start = len(tokens)
        for step in steps:
            tokens.append(step.tokens)
            other = None
            if step.cost is not None or step.tool_calls is not None or step.prompt_tokens or step.seconds:
                other = _other_costs(step)
                priced = True
            others.append(other)
        try:
            for step in steps:
                after = None if step.finish_reason == "limit" else apply(state, step)
                states.append(after)
                keys.append(-1 if after is None else known.setdefault(key_of(after), len(known)))
        except Exception as error:
            failed.append((i, error))
            del keys[start:], states[start:]
            keys += [-1] * len(steps)
            states += [None] * len(steps)
    is_new = engine.admit(now_s, tickets, [len(steps) for steps in answers], tokens, keys, others if priced else None)
    for i, error in failed:
        fail(engine, searches, slots[i], error)
    pending = Pending()
    at = 0
    fresh: list[Any] = []
    for slot, number, ticket, steps in zip(slots, nodes, tickets, answers, strict=True):
        search = searches[slot]
        parent = search.nodes[number]
        count = 0
        for step in steps:
            kept = step if step.hidden is None else without_hidden(step)
            if parent.tried:
                parent.tried.append(kept)  # type: ignore[union-attr]
            else:
                parent.tried = [kept]
            if is_new[at]:
                fresh.append(states[at])
                pending.nodes.append(Node(states[at], None, parent, step))
                pending.kept.append(kept)
                count += 1
            else:
                reason = "limit" if step.finish_reason == "limit" else "invalid" if keys[at] < 0 else "duplicate"
                search.refused.append((number, reason, kept, -1))
            at += 1
        if search.events is not None:
            search.note("admit", number, len(steps), count)
        if count:
            pending.slots.append(slot)
            pending.tickets.append(ticket)
            pending.parents.append(number)
            pending.counts.append(count)
    return _describe(engine, searches, pending, fresh) if fresh else pending


def _describe(engine: Engine, searches: Mapping[int, Any], pending: Pending, states: list[Any]) -> Pending:
    """Asks the tasks about new states, and drops what they refute."""
    kept = Pending()
    at = 0
    for slot, ticket, number, count in zip(
        pending.slots, pending.tickets, pending.parents, pending.counts, strict=True
    ):
        search = searches[slot]
        here = slice(at, at + count)
        at += count
        try:
            described = _descriptions(search.task, states[here])
        except Exception as error:
            engine.cancel(ticket)
            fail(engine, searches, slot, error)
            continue
        remaining = 0
        for node, step, about in zip(pending.nodes[here], pending.kept[here], described, strict=True):
            terminal, verdict, answer, node.prompt, least = about
            if terminal:
                if verdict is False:  # known from now on, and no node
                    search.refused.append((number, "refuted", step, search._keys[search.task.key(node.state)]))
                    continue
                node.answer = answer or None
            kept.nodes.append(node)
            kept.kept.append(step)
            kept.terminal.append(terminal)
            kept.verified.append(verdict is True)
            kept.least.append(least)
            remaining += 1
        kept.slots.append(slot)
        kept.tickets.append(ticket)
        kept.parents.append(number)
        kept.counts.append(remaining)
    return kept


def _descriptions(task: Any, states: list[Any]) -> list[Description]:
    many = getattr(task, "describe_many", None)
    if many is None:
        return [checked_description(task.describe(state)) for state in states]
    described = list(many(states))
    if len(described) != len(states):
        raise ValueError(f"describe_many: expected {len(states)} descriptions, one per state, got {len(described)}")
    return [checked_description(about) for about in described]


def grow(
    engine: Engine,
    searches: Mapping[int, Any],
    pending: Pending,
    values: Sequence[float],
    now_s: float,
    residual: bool = False,
    weights: Sequence[float] | None = None,
    score_costs: Sequence[Any] | None = None,
) -> None:
    """Turns admitted states into nodes of their trees. Raises for values that are not finite; nothing has changed."""
    at = 0
    for slot, count in zip(pending.slots, pending.counts, strict=True):
        # Before the trees grow: wherever Ctrl-C breaks in, each node of a tree has its entry (`Search.mend`).
        searches[slot].nodes += pending.nodes[at : at + count]
        at += count
    try:
        _, valued = engine.grow(
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
    for node, step, value in zip(pending.nodes, pending.kept, valued, strict=True):
        node.value = value
        node.step = step
    for slot, number, count in zip(pending.slots, pending.parents, pending.counts, strict=True):
        search = searches[slot]
        if search.events is not None:
            search.note("grow", number, count)


def cancel(engine: Engine, searches: Mapping[int, Any], slot: int, ticket: int, spent: Spent | None = None) -> None:
    """An ask that nobody answers, and what it took all the same."""
    if spent is None:
        engine.cancel(ticket)
    else:
        tokens, prompt_tokens, tool_calls, units = spent.amounts()
        engine.cancel(ticket, [tokens], [(prompt_tokens, tool_calls, units or None, spent.seconds)])
    search = searches[slot]
    if search.events is not None:
        search.note("cancel", ticket & _NUMBER)


def fail(engine: Engine, searches: Mapping[int, Any], slot: int, error: Exception, reason: str = "error") -> None:
    """Stops one question for an error; the others go on."""
    search = searches[slot]
    if search.error is None:
        search.error = error
    engine.stop(slot, reason)


def _other_costs(step: Step) -> tuple[int, int | None, int | None, float]:
    cost = None if step.cost is None else cost_units(as_amount("Step.cost", step.cost, allow_zero=True))
    return step.prompt_tokens, step.tool_calls, cost, step.seconds


def checked_step(step: Any) -> Step:
    """A `Step` of a generator, checked; NumPy integers become Python's."""
    if not isinstance(step, Step):
        raise TypeError(f"generator: expected Step objects, got {type(step).__name__}")
    if not isinstance(step.text, str):
        raise TypeError(f"generator: expected a str as Step.text, got {type(step.text).__name__}")
    if step.finish_reason not in ("delimiter", "end", "limit"):
        raise ValueError(
            f"generator: expected 'delimiter', 'end' or 'limit' as Step.finish_reason, got {step.finish_reason!r}"
        )
    if type(step.tokens) is not int:
        step.tokens = as_count("Step.tokens", step.tokens)
    if step.tokens < 1:
        raise ValueError(f"generator: expected at least 1 token in a step, got {step.tokens}")
    if step.prompt_tokens or step.tool_calls is not None or step.seconds:
        step.prompt_tokens = as_count("Step.prompt_tokens", step.prompt_tokens)
        step.tool_calls = None if step.tool_calls is None else as_count("Step.tool_calls", step.tool_calls)
        step.seconds = as_amount("Step.seconds", step.seconds, allow_zero=True)
    return step


def checked_description(about: Any) -> Description:
    if type(about) is not Description:
        raise TypeError(f"describe: expected a Description, got {about!r:.80}")
    terminal, verdict, answer, prompt, least = about
    if type(terminal) is not bool or (verdict is not None and type(verdict) is not bool):
        raise TypeError(f"describe: expected bools as terminal and verdict, got {terminal!r:.40} and {verdict!r:.40}")
    if verdict is not None and not terminal:
        raise ValueError(f"describe: expected a verdict of None for a state that is not terminal, got {verdict}")
    if prompt is not None and not isinstance(prompt, str):
        raise TypeError(f"describe: expected a str or None as prompt, got {prompt!r:.80}")
    if answer is not None and not isinstance(answer, str):
        raise TypeError(f"describe: expected a str or None as answer, got {answer!r:.80}")
    if type(least) is not int or least < 0:
        raise ValueError(f"describe: expected an int >= 0 as min_tokens, got {least!r:.80}")
    return about

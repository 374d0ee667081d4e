"""The readable twin of the native engine (`csrc/engine`): one question's account and search, and many questions' waves.

    ask    -> a node to expand: selected, paid for in advance, counted as a try
    admit  -> what the steps cost is settled; which of the states they led to are new
    grow   -> the new states become children
    cancel -> an ask that nobody will answer

Amounts are as in `account.py`. Prices are in units of 1e-18 a token. See the header essays of ``question.h`` and
``engine.h`` for why things are as they are.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bavt_fast.reference.account import COST, TOKENS, Account, Amounts, plus, times
from bavt_fast.reference.tree import MAX_TRIES, Node, Tree

__all__ = ["Engine", "Question", "Ticket"]

MIN_VALUE = 1e-6
LEAST_UNTRIED = 1e-3
_MASK = 2**64 - 1
_PRICE_UNITS = 10**6


@dataclass
class Info:
    """What the search knows of a node beside the tree."""

    min_tokens: int
    tried: float = 0.0
    asked: int = 0
    told: int = 0
    in_flight: int = 0
    fruitless: int = 0
    unaffordable: bool = False


@dataclass
class Ticket:
    node: int
    count: int
    limit: int
    seed: int
    claim: Amounts
    score_claim: Amounts
    counted_try: bool
    tried: int
    admitted: bool = False
    keys: list[int] = field(default_factory=list)


class Question:
    """One question under search. ``options`` has the fields of the native SearchOptions."""

    def __init__(
        self,
        seed: int,
        limits: Sequence[int | None],
        seconds: float | None,
        options: Any,
        root_value: float = 1.0,
        min_tokens: int = 0,
        terminal: bool = False,
        verified: bool = False,
    ) -> None:
        self.seed, self.options = seed, options
        self.account = Account(limits, seconds)
        value = 1.0 if verified else min(1.0, max(MIN_VALUE, root_value))
        self.tree = Tree(seed=seed, max_nodes=options.max_nodes, root_value=value, decay=options.decay)
        if options.discount < 1.0 or options.tried_exponent > 0.0:
            self.tree.nodes[0].weight = self._weight_of(value, min_tokens)
        self.info = [Info(min_tokens)]
        self.seen: set[int] = set()
        self.tickets: dict[int, Ticket] = {}
        self.next_ticket = 0
        self.invalid = self.duplicate = self.refuted = 0
        self.solved_node: int | None = None
        self.stop_reason: str | None = None
        self.unaffordable = False
        self.waiting = False  # until something changes: asked again, it would draw again
        self.start_s: float | None = None
        self.extra_s = 0.0
        if terminal:
            self.tree.mark_terminal(0)
        if verified:
            self.solved_node, self.stop_reason = 0, "solved"

    def _weight_of(self, value: float, min_tokens: int) -> float:
        return max(MIN_VALUE, value * self.options.discount**min_tokens)

    def set_time(self, now_s: float) -> None:
        if self.start_s is None:
            self.start_s, self.extra_s = now_s - self.account.elapsed_s, 0.0
        self.account.set_elapsed(now_s - self.start_s + self.extra_s)

    def change_clock(self) -> None:
        self.start_s = None

    # ---- ask

    def ask(self) -> tuple[int, Ticket] | str:
        """The number and the ticket of the next ask; "wait", or "stopped"."""
        while self.stop_reason is None:
            if self.waiting:
                return "wait"
            waits = bool(self.tickets)
            room = self.options.max_nodes - self.tree.num_nodes - sum(t.count for t in self.tickets.values())
            node = self._select() if room > 0 else -1
            if node < 0:
                if waits:
                    self.waiting = True
                    continue
                self.stop_reason = self._lack() if room > 0 else "max_nodes"
                break
            fitting = self._fit(node)
            if waits and (fitting is None or fitting[1] < self.options.max_step_tokens):
                self.waiting = True
                continue
            if fitting is not None:
                return self._hand_out(node, min(fitting[0], room), fitting[1])
            self.info[node].unaffordable = self.unaffordable = True
            self._close(node)
        return "stopped"

    def _select(self) -> int:
        ratio = self.account.remaining_ratio
        if ratio <= 0.0:
            return -1
        options = self.options
        if options.policy in ("power", "best_first"):
            return self.tree.select(options.policy, remaining=ratio, total=1.0)
        score = self.tree.score_rule(options.policy, ratio, 1.0, options.exploration)
        return self._descend(score)

    def _descend(self, score: Callable[[Node, Node], float]) -> int:
        """Down to the child of the highest score; stop at an open node that may widen, or with nothing open below."""
        if not self._alive(0):
            return -1
        node = 0
        while True:
            stats = self.tree.nodes[node]
            alive = [child for child in stats.children if self._alive(child)]
            room = self.options.widening_scale * stats.visits**self.options.widening_exponent
            in_use = len(stats.children) + self.info[node].in_flight
            if stats.flags == 0 and (not alive or in_use < room):
                return node
            best, best_score = alive[0], -math.inf
            for child in alive:
                s = score(stats, self.tree.nodes[child])
                if s > best_score:
                    best, best_score = child, s
            node = best

    def _alive(self, node: int) -> bool:
        """Whether something is open at the node or below."""
        stats = self.tree.nodes[node]
        return stats.flags == 0 or any(self._alive(child) for child in stats.children)

    def _price(self, tokens: int, price: int) -> int:
        return -(-tokens * price // _PRICE_UNITS)

    def _step_claim(self, limit: int) -> Amounts:
        """The most that a step of so many tokens may take."""
        o = self.options
        cost = self._price(limit, o.token_price) + self._price(o.max_step_prompt_tokens, o.prompt_token_price)
        return [limit, o.max_step_prompt_tokens, o.step_tool_calls, cost + o.max_step_cost]

    def _fit(self, node: int) -> tuple[int, int] | None:
        """(steps, tokens a step) to reserve; None where not one step fits, or the node's cheapest finish does not."""
        o, left = self.options, self.account.left
        if left(TOKENS) < self.info[node].min_tokens:
            return None
        least = plus(self._step_claim(0), o.max_score)
        if not self.account.fits(least):
            return None
        tokens = int(min(o.max_step_tokens, left(TOKENS) - least[TOKENS]))
        if left(COST) < math.inf and o.token_price > 0:
            tokens = min(tokens, (int(left(COST)) - least[COST]) * _PRICE_UNITS // o.token_price)
        if tokens < 1:
            return None
        each = plus(self._step_claim(tokens), o.max_score)
        fitting = [int(left(i)) // each[i] for i in range(4) if each[i] > 0 and left(i) < math.inf]
        count = min([o.candidates, *fitting])
        return (count, tokens) if count >= 1 else None

    def _hand_out(self, node: int, count: int, limit: int) -> tuple[int, Ticket]:
        info = self.info[node]
        claim = times(self._step_claim(limit), count)
        score_claim = times(self.options.max_score, count)
        counted = self.tree.nodes[node].tries < MAX_TRIES
        ticket = Ticket(
            node, count, limit, _ask_seed(self.seed, node, info.asked), claim, score_claim, counted, info.told
        )
        number = self.next_ticket
        self.tickets[number] = ticket
        self.next_ticket += 1
        self.account.reserved = plus(self.account.reserved, plus(claim, score_claim))
        info.asked += 1
        info.in_flight += 1
        self.tree.penalize(node)
        self.tree.add_visits(node, 1)
        return number, ticket

    def _lack(self) -> str:
        if self.account.out_of_time:
            return "deadline"
        return "budget" if self.account.remaining_ratio <= 0.0 or self.unaffordable else "exhausted"

    # ---- answers

    def admit(
        self,
        number: int,
        costs: Sequence[Sequence[Any]],
        keys: Sequence[int],
        probabilities: Sequence[float] | None = None,
    ) -> list[bool]:
        """Settle; whether each step's state is new. A cost is (tokens, prompt tokens, tool calls, cost, seconds)."""
        ticket = self.tickets[number]
        is_new = []
        for key in keys:
            new = key >= 0 and key not in self.seen
            is_new.append(new)
            if key < 0:
                self.invalid += 1
            elif new:
                self.seen.add(key)
                ticket.keys.append(key)
            else:
                self.duplicate += 1
        self.account.settle(ticket.claim, self._charge(costs))
        ticket.claim = [0] * 4
        still = times(self.options.max_score, len(ticket.keys))
        self.account.reserved = [
            r - c + s for r, c, s in zip(self.account.reserved, ticket.score_claim, still, strict=True)
        ]
        ticket.score_claim = still
        ticket.admitted = True
        self.info[ticket.node].told += len(keys)
        if probabilities is not None and self.options.tried_exponent > 0.0:
            self._count_tried(ticket.node, probabilities)
        self.waiting = False
        if not ticket.keys:
            self._end(number, fruitless=bool(keys), undo_try=not keys)
        return is_new

    def _count_tried(self, node: int, probabilities: Sequence[float]) -> None:
        """The weight of a node falls with (1 - p)^tried_exponent, p the probability of the steps tried there."""
        info, stats = self.info[node], self.tree.nodes[node]
        before = max(1.0 - info.tried, LEAST_UNTRIED)
        for probability in probabilities:
            info.tried = min(1.0, info.tried + probability)
        left = max(1.0 - info.tried, LEAST_UNTRIED) / before
        assert stats.weight is not None
        self.tree.set_weight(node, max(MIN_VALUE, stats.weight * left**self.options.tried_exponent))

    def _charge(self, costs: Sequence[Sequence[Any]]) -> Amounts:
        """What steps cost together; the time that they took is added to the clock's."""
        o, spent, seconds = self.options, [0] * 4, 0.0
        for tokens, prompt_tokens, tool_calls, cost, step_seconds in costs:
            priced = self._price(tokens, o.token_price) + self._price(prompt_tokens, o.prompt_token_price)
            calls = o.step_tool_calls if tool_calls is None else tool_calls
            spent = plus(spent, [tokens, prompt_tokens, calls, priced if cost is None else cost])
            seconds += step_seconds
        self.extra_s += seconds
        self.account.set_elapsed(self.account.elapsed_s + seconds)
        return spent

    def grow(
        self,
        number: int,
        outputs: Sequence[float],
        terminal: Sequence[bool],
        verified: Sequence[bool],
        min_tokens: Sequence[int],
        weights: Sequence[float] | None = None,
        residual: bool = False,
        score_cost: Sequence[int] = (0, 0, 0, 0),
    ) -> tuple[int | None, list[float]]:
        """The new states that are not refuted become children; (the first one's id, their values)."""
        ticket = self.tickets[number]
        node, count = ticket.node, len(outputs)
        parent_value = self.tree.nodes[node].value
        values = []
        for output, right in zip(outputs, verified, strict=True):
            value = output + (parent_value if residual else 0.0)
            values.append(1.0 if right else min(1.0, max(MIN_VALUE, value)))
        if weights is None:
            weights = [self._weight_of(v, m) for v, m in zip(values, min_tokens, strict=True)]
        self.refuted += len(ticket.keys) - count
        self.waiting = False
        self.account.settle(ticket.score_claim, score_cost)
        first = None
        if count:
            first = self.tree.expand(node, values, terminal, weights=[max(MIN_VALUE, w) for w in weights])
            self.tree.add_visits(node, -1)
            for i, value in enumerate(values):
                self.info.append(Info(min_tokens[i]))
                self.tree.backup(first + i, value)
                if verified[i] and self.solved_node is None:
                    self.solved_node, self.stop_reason = first + i, "solved"
        self._end(number, fruitless=count == 0, undo_try=False)
        return first, values

    def cancel(self, number: int, costs: Sequence[Sequence[Any]] = ()) -> None:
        ticket = self.tickets.pop(number)
        self.waiting = False
        self.account.settle(plus(ticket.claim, ticket.score_claim), self._charge(costs))
        self.seen.difference_update(ticket.keys)
        self.info[ticket.node].in_flight -= 1
        self._undo_try(ticket)

    def _undo_try(self, ticket: Ticket) -> None:
        if ticket.counted_try:
            self.tree.unpenalize(ticket.node)
        self.tree.add_visits(ticket.node, -1)

    def _end(self, number: int, fruitless: bool, undo_try: bool) -> None:
        ticket = self.tickets.pop(number)
        info = self.info[ticket.node]
        info.in_flight -= 1
        if undo_try:
            self._undo_try(ticket)
        else:
            info.fruitless = info.fruitless + 1 if fruitless else 0
        if undo_try or info.fruitless >= self.options.patience:
            self._close(ticket.node)

    def _close(self, node: int) -> None:
        self.tree.close(node)

    # ---- stopping and going on

    def stop(self, reason: str) -> None:
        self.stop_reason = self.stop_reason or reason

    def extend(self, more: Sequence[int], seconds: float) -> bool:
        """More budget; whether the search goes on."""
        self.account.extend(more, seconds)
        self.waiting = False
        if self.stop_reason in ("solved", "max_nodes"):
            return False
        for node, info in enumerate(self.info):
            if info.unaffordable:
                info.unaffordable = False
                self.tree.nodes[node].flags &= ~Tree.CLOSED
        self.unaffordable = False
        if self.stop_reason != "exhausted":
            self.stop_reason = None
        return self.stop_reason is None


def _ask_seed(seed: int, node: int, asked: int) -> int:
    of_node = _mix64(seed + (node + 1) * 0x9E3779B97F4A7C15)
    return _mix64(of_node + (asked + 1) * 0xD1B54A32D192ED03) >> 1


def _mix64(x: int) -> int:
    x &= _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


class Engine:
    """Many questions: who is asked next. Slots are not reused here, and tickets are (slot, number)."""

    def __init__(self, leaves: int) -> None:
        self.leaves = leaves
        self.questions: list[Question] = []
        self.waiting: deque[int] = deque()
        self.ready: deque[int] = deque()
        self.stopped: list[int] = []
        self.reported: set[int] = set()

    def add(self, question: Question) -> int:
        slot = len(self.questions)
        self.questions.append(question)
        if question.stop_reason is not None:
            self._report(slot)
        elif len(question.tickets) < self.leaves:
            self.waiting.append(slot)
        return slot

    def _report(self, slot: int) -> None:
        if slot not in self.reported:
            self.reported.add(slot)
            self.stopped.append(slot)

    def ask(self, limit: int, now_s: float) -> tuple[list[tuple[int, int, Ticket]], list[int]]:
        """Up to ``limit`` asks as (slot, number, ticket), and the slots that have stopped since the last call."""
        asks: list[tuple[int, int, Ticket]] = []
        while len(asks) < limit and (self.ready or self.waiting):
            slot = (self.ready or self.waiting).popleft()
            question = self.questions[slot]
            question.set_time(now_s)
            outcome = question.ask()
            if outcome == "stopped":
                self._report(slot)
            elif not isinstance(outcome, str):
                asks.append((slot, *outcome))
                if len(question.tickets) < self.leaves:
                    self.ready.append(slot)
        stopped, self.stopped = self.stopped, []
        return asks, stopped

    def _answered(self, slot: int) -> None:
        question = self.questions[slot]
        if question.stop_reason is not None:
            self._report(slot)
        elif slot not in self.ready and slot not in self.waiting and len(question.tickets) < self.leaves:
            self.ready.append(slot)

    def admit(self, slot: int, number: int, *columns: Any) -> list[bool]:
        is_new = self.questions[slot].admit(number, *columns)
        self._answered(slot)
        return is_new

    def grow(self, slot: int, number: int, *columns: Any, **options: Any) -> tuple[int | None, list[float]]:
        grown = self.questions[slot].grow(number, *columns, **options)
        self._answered(slot)
        return grown

    def cancel(self, slot: int, number: int, costs: Sequence[Sequence[Any]] = ()) -> None:
        self.questions[slot].cancel(number, costs)
        self._answered(slot)

    def stop(self, slot: int, reason: str) -> None:
        self.questions[slot].stop(reason)
        for queue in (self.ready, self.waiting):
            if slot in queue:
                queue.remove(slot)
        self._answered(slot)

    def extend(self, slot: int, more: Sequence[int], seconds: float) -> None:
        if self.questions[slot].extend(more, seconds):
            self.reported.discard(slot)
            if slot in self.stopped:
                self.stopped.remove(slot)
            self._answered(slot)

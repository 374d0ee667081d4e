"""The native engine and its twin side by side: every call goes to both, and everything about them is compared."""

from __future__ import annotations

import random
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

import numpy as np

from bavt_fast import _core, reference
from bavt_fast.reference.account import plus

POLICIES = ("power", "best_first", "uct", "puct", "ucb")


def random_options(rng: random.Random) -> dict[str, Any]:
    """Settings of a search, with every feature on in some of them."""
    return {
        "policy": rng.choice(POLICIES),
        "exploration": rng.choice([0.0, 0.5, 1.0, 3.0]),
        "decay": rng.choice([0.5, 0.85, 1.0]),
        "discount": rng.choice([1.0, 0.97, 0.5]),
        "tried_exponent": rng.choice([0.0, 0.0, 0.5, 1.0, 3.0]),
        "widening_scale": rng.choice([0.5, 1.0, 2.0]),
        "widening_exponent": rng.choice([0.0, 0.5, 1.0]),
        "candidates": rng.choice([1, 1, 2, 4]),
        "patience": rng.choice([1, 3, 10]),
        "max_nodes": rng.choice([5, 40, 10_000]),
        "max_step_tokens": rng.choice([1, 7, 64]),
        "max_step_prompt_tokens": rng.choice([0, 0, 30]),
        "step_tool_calls": rng.choice([0, 1, 3]),
        "max_step_cost": rng.choice([0, 0, 10**9]),
        "token_price": rng.choice([0, 1, 3 * 10**12, 333_333_333_333_333]),
        "prompt_token_price": rng.choice([0, 10**11]),
        "max_score": rng.choice([(0, 0, 0, 0), (0, 0, 0, 0), (5, 0, 1, 10**8)]),
    }


def random_limits(rng: random.Random) -> tuple[list[int | None], float | None]:
    limits = [
        rng.choice([None, rng.randint(1, 600)]),
        rng.choice([None, None, rng.randint(1, 2000)]),
        rng.choice([None, None, rng.randint(1, 60)]),
        rng.choice([None, None, rng.randint(1, 10**11)]),
    ]
    seconds = rng.choice([None, None, None, rng.uniform(0.5, 20.0)])
    if limits == [None] * 4 and seconds is None:
        limits[0] = 50
    return limits, seconds


class EnginePair:
    """Questions in a native engine and in its twin, with the asks that are out."""

    def __init__(self, rng: random.Random, questions: int, leaves: int) -> None:
        self.rng = rng
        self.now_s = rng.uniform(-5.0, 5.0)
        self.native, self.twin = _core.Engine(leaves), reference.Engine(leaves)
        self.natives: list[_core.Question] = []
        self.asked: list[tuple[int, int]] = []  # (slot, number)
        self.admitted: list[tuple[int, int, int]] = []  # and how many states are new
        self.stopped: list[int] = []
        for _ in range(questions):
            self.add()

    def add(self) -> None:
        rng = self.rng
        options, (limits, seconds) = random_options(rng), random_limits(rng)
        seed, root = rng.getrandbits(63), (rng.choice([1.0, 0.5, 2.0]), rng.randrange(4), False, False)
        if rng.random() < 0.05:
            root = (0.3, 0, True, rng.random() < 0.5)
        native = _core.Question(seed, limits, seconds, _core.SearchOptions(**options), *root)
        slot = self.native.add(native)
        assert slot == self.twin.add(reference.Question(seed, limits, seconds, SimpleNamespace(**options), *root))
        self.natives.append(native)

    # ---- calls

    def ask(self, limit: int) -> int:
        slots, nodes, counts, tickets, limits, seeds, stopped = self.native.ask(limit, self.now_s)
        asks, twin_stopped = self.twin.ask(limit, self.now_s)
        assert [(s << 32 | n) for s, n, _ in asks] == tickets
        assert slots == [s for s, _, _ in asks]
        columns = list(zip(nodes, counts, limits, seeds, strict=True))
        assert columns == [(t.node, t.count, t.limit, t.seed) for _, _, t in asks]
        assert sorted(stopped) == sorted(twin_stopped)
        self.asked += [(s, n) for s, n, _ in asks]
        self.stopped += stopped
        return len(asks)

    def admit(self, wave: list[tuple[int, int]]) -> None:
        """Random steps for a wave of asks; some invalid, some known, some that broke their limit."""
        rng, counts, costs, keys = self.rng, [], [], []
        for slot, number in wave:
            self.asked.remove((slot, number))
            ticket = self.twin.questions[slot].tickets[number]
            steps = rng.randint(0, ticket.count) if rng.random() < 0.9 else 0
            counts.append(steps)
            for _ in range(steps):
                most = ticket.limit * (3 if rng.random() < 0.03 else 1)
                costs.append(self.random_cost(most))
                keys.append(rng.choice([-1, rng.randrange(20), rng.randrange(5000)]))
        plain = all(cost[1:] == (0, None, None, 0.0) for cost in costs)
        tickets, tokens = [slot << 32 | number for slot, number in wave], [cost[0] for cost in costs]
        others = None if plain else [cost[1:] for cost in costs]
        probabilities = None if rng.random() < 0.3 else [rng.choice([0.0, rng.random(), 0.01, 1.0]) for _ in keys]
        is_new = self.native.admit(self.now_s, tickets, counts, tokens, keys, others, probabilities)
        at = 0
        for (slot, number), steps in zip(wave, counts, strict=True):
            here = slice(at, at + steps)
            self.twin.questions[slot].set_time(self.now_s)
            known = None if probabilities is None else probabilities[here]
            assert self.twin.admit(slot, number, costs[here], keys[here], known) == is_new[here]
            if sum(is_new[here]):
                self.admitted.append((slot, number, sum(is_new[here])))
            at += steps

    def random_cost(self, most: int) -> tuple[int, int, int | None, int | None, float]:
        rng = self.rng
        tokens = rng.randint(0, most)
        if rng.random() < 0.7:
            return tokens, 0, None, None, 0.0
        return tokens, rng.randrange(20), rng.choice([None, 0, 1]), rng.choice([None, 10**6]), rng.choice([0.0, 0.25])

    def grow(self, wave: list[tuple[int, int, int]], residual: bool) -> None:
        rng, counts, columns = self.rng, [], []
        for entry in wave:
            self.admitted.remove(entry)
            counts.append(rng.randint(0, entry[2]) if rng.random() < 0.2 else entry[2])
            for _ in range(counts[-1]):
                verified = rng.random() < 0.01
                ends = verified or rng.random() < 0.1
                output = rng.choice([rng.uniform(-1, 1), rng.random(), 0.5, 7.0, 1e-9])
                columns.append((output, ends, verified, rng.randrange(6)))
        values, terminal, verified, least = (list(c) for c in zip(*columns, strict=True)) if columns else ([],) * 4
        weights = [rng.random() for _ in values] if rng.random() < 0.2 else None
        score_costs = [(rng.randrange(3), 0, 0, rng.randrange(10)) for _ in wave] if rng.random() < 0.3 else None
        tickets = [slot << 32 | number for slot, number, _ in wave]
        first, grown, _ = self.native.grow(
            self.now_s, tickets, counts, values, terminal, verified, least, weights, residual, score_costs
        )
        at = 0
        for i, ((slot, number, _), count) in enumerate(zip(wave, counts, strict=True)):
            here = slice(at, at + count)
            self.twin.questions[slot].set_time(self.now_s)
            cost = (0,) * 4 if score_costs is None else score_costs[i]
            own = None if weights is None else weights[here]
            expected = self.twin.grow(
                slot, number, values[here], terminal[here], verified[here], least[here], own, residual, cost
            )
            assert (first[i] if count else None, grown[here]) == expected
            at += count

    def cancel(self, slot: int, number: int) -> None:
        self.asked = [entry for entry in self.asked if entry != (slot, number)]
        self.admitted = [entry for entry in self.admitted if entry[:2] != (slot, number)]
        costs = [self.random_cost(3)] if self.rng.random() < 0.3 else []
        self.native.cancel(slot << 32 | number, [cost[0] for cost in costs], [cost[1:] for cost in costs])
        self.twin.cancel(slot, number, costs)

    def stop(self, slot: int, reason: str) -> None:
        self.native.stop(slot, reason)
        self.twin.stop(slot, reason)

    def extend(self, slot: int) -> None:
        more = [self.rng.randrange(100) for _ in range(4)]
        seconds = self.rng.uniform(0.0, 5.0)
        self.native.extend(slot, more, seconds)
        self.twin.extend(slot, more, seconds)

    # ---- comparison

    def check(self) -> None:
        for native, twin in zip(self.natives, self.twin.questions, strict=True):
            check_equal(native, twin)


def check_equal(native: Any, twin: reference.Question) -> None:
    """Every column of the tree, the account and what is counted."""
    tree = native.tree
    for name in ("parents", "visit_counts", "value_sums", "values", "flags", "tries"):
        expected = getattr(twin.tree, name)
        np.testing.assert_array_equal(getattr(tree, name), expected, err_msg=name)
    weights = [twin.tree.base_weight(node) for node in range(twin.tree.num_nodes)]
    np.testing.assert_array_equal(tree.weights, weights)
    account = native.account
    assert list(account.spent) == twin.account.spent
    assert list(account.reserved) == twin.account.reserved
    assert list(account.overrun) == twin.account.overrun
    assert account.elapsed_s == twin.account.elapsed_s
    assert account.remaining_ratio == twin.account.remaining_ratio
    assert native.counts == (twin.invalid, twin.duplicate, twin.refuted)
    assert native.stop_reason == twin.stop_reason
    assert native.in_flight == len(twin.tickets)
    claims = [(n, tuple(plus(t.claim, t.score_claim))) for n, t in sorted(twin.tickets.items(), key=itemgetter(0))]
    assert native.claims() == claims
    tickets = sorted(item for item in twin.tickets.items() if not item[1].admitted)
    open_asks = [(n, t.node, t.count, t.limit, t.seed, t.tried) for n, t in tickets]
    assert native.open_asks() == open_asks

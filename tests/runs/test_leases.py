"""The total over many workers: every order of asks, answers and deaths keeps it, and nothing that fits is refused.

BAVT_INTERLEAVINGS says how many events are drawn.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field

import pytest

from bavt_fast.runs.leases import Leases

EVENTS = int(os.environ.get("BAVT_INTERLEAVINGS", "50000"))
WORKERS = 4


@dataclass(eq=False)
class Hands:
    """A worker as it is, which the account learns of with its reports alone."""

    questions: int = 0
    permits: int = 0
    out: int = 0
    settled: int = 0  # since its last report
    spent: list[int] = field(default_factory=lambda: [0, 0])


class Simulation:
    """Workers with permits, and beside them a book of all that is really taken."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.most = [rng.randint(1, 50), rng.choice([0, rng.randint(1, 9)])]
        self.limits = [rng.choice([None, rng.randint(0, 60) * self.most[0] + rng.randint(0, 50)]), rng.randint(0, 400)]
        self.are_above = rng.random() < 0.3  # whether some answers take more than they may
        self.leases = Leases(self.limits, self.most, (0, 0))
        self.workers = [Hands() for _ in range(WORKERS)]
        self.taken, self.above = [0, 0], [0, 0]
        self.asks = self.events = 0

    def draw_amount(self, most: int) -> int:
        kind = self.rng.random()
        if self.are_above and kind < 0.02:
            return most + self.rng.randint(1, 20)
        return most if kind < 0.3 else self.rng.randint(0, most)

    def step(self) -> None:
        worker = self.rng.choice(self.workers)
        kind = self.rng.random()
        self.events += 1
        if kind < 0.35:
            self.ask(worker)
        elif kind < 0.65:
            self.answer(worker)
        elif kind < 0.99:
            self.report(worker)
        else:
            self.die(worker)
        self.check()

    def ask(self, worker: Hands) -> None:
        free = min(worker.permits, worker.questions - worker.settled) - worker.out
        count = self.rng.randint(0, max(0, free))
        worker.out += count
        self.asks += count

    def answer(self, worker: Hands) -> None:
        if worker.out:
            worker.out -= 1
            worker.permits -= 1
            worker.settled += 1
            for i, most in enumerate(self.most):
                amount = self.draw_amount(most)
                worker.spent[i] += amount
                self.taken[i] += amount
                self.above[i] += max(0, amount - most)

    def report(self, worker: Hands) -> None:
        """One exchange: what was settled, permits without a use, and new ones for questions that may be asked."""
        place = self.workers.index(worker)
        self.leases.settle(place, worker.settled, worker.spent)
        worker.settled, worker.spent = 0, [0, 0]
        worker.questions = self.rng.choice([worker.questions, self.rng.randint(worker.out, 8)])
        idle = max(0, worker.permits - max(worker.out, worker.questions))
        self.leases.give_back(place, idle)
        worker.permits -= idle
        wanted = worker.questions - worker.permits
        room = self.true_room()
        given = self.leases.grant(place, wanted)
        worker.permits += given
        # Nothing is refused that fits beside what is spent and what others may still take.
        assert room is None or self.above != [0, 0] or given == max(0, min(wanted, room - self.unreported()))

    def die(self, worker: Hands) -> None:
        lost = self.leases.lose(self.workers.index(worker))
        assert lost == worker.permits + worker.settled
        for i, most in enumerate(self.most):  # its asks took at most what was reserved; nobody knows
            self.taken[i] += lost * most - worker.spent[i]
        worker.questions = worker.permits = worker.out = worker.settled = 0
        worker.spent = [0, 0]

    def unreported(self) -> int:
        return sum(worker.settled for worker in self.workers)

    def true_room(self) -> int | None:
        """Permits that fit beside what is charged by now and all permits that are held."""
        held = sum(worker.permits for worker in self.workers)
        charged = [taken - sum(worker.spent[i] for worker in self.workers) for i, taken in enumerate(self.taken)]
        fits = [
            max(0, (limit - now) // most - held)
            for limit, now, most in zip(self.limits, charged, self.most, strict=True)
            if limit is not None and most
        ]
        return min(fits) if fits else None

    def check(self) -> None:
        out = sum(worker.out for worker in self.workers)
        for limit, taken, above, most in zip(self.limits, self.taken, self.above, self.most, strict=True):
            assert limit is None or not most or taken + out * most <= limit + above, "an overrun"
        held = sum(worker.permits for worker in self.workers)
        needed = sum(max(worker.out, min(worker.permits, worker.questions)) for worker in self.workers)
        assert held <= needed * 1.2, "more is leased than is of use"

    def settle_all(self) -> None:
        """All is answered and reported, and nothing more wanted: then nothing is out, and what is left is known."""
        for worker in self.workers:
            while worker.out:
                self.answer(worker)
            place = self.workers.index(worker)
            self.leases.settle(place, worker.settled, worker.spent)
            self.leases.give_back(place, worker.permits)
            worker.permits = worker.settled = 0
            worker.spent = [0, 0]
        assert self.leases.out == 0
        assert self.leases.spent == self.taken
        columns = zip(self.limits, self.taken, self.most, strict=True)
        fits = all(limit is None or taken + most <= limit for limit, taken, most in columns if most)
        assert self.leases.is_spent == (not fits)


def test_a_total_holds_in_every_order() -> None:
    rng = random.Random(11)
    events = asks = spent = 0
    while events < EVENTS:
        simulation = Simulation(rng)
        for _ in range(min(rng.choice([20, 200, 2000]), EVENTS - events)):
            simulation.step()
        events += simulation.events
        simulation.settle_all()
        asks += simulation.asks
        spent += simulation.leases.is_spent
    assert asks > EVENTS / 20
    assert spent > 3


def test_a_permit_is_the_most_that_an_ask_may_take() -> None:
    leases = Leases((100, None), (30, 5), (10, 0))
    assert leases.grant("a", 5) == 3
    assert (leases.grant("b", 1), leases.room, leases.is_spent) == (0, 0, False)
    leases.settle("a", 1, (4, 5))
    assert (leases.spent, leases.room) == ([14, 5], 0)
    leases.settle("a", 1, (4, 0))
    assert leases.grant("b", 9) == 1
    assert leases.lose("a") == 1
    assert (leases.spent, leases.room) == ([48, 10], 0)
    leases.settle("b", 1, (99, 0))
    assert (leases.spent, leases.is_spent) == ([147, 10], True)


def test_without_a_limit_there_is_room_for_any_number() -> None:
    leases = Leases((None, 50), (7, 0), (0, 0))
    assert leases.grant(0, 10**6) == 10**6
    assert (leases.room, leases.is_spent) == (None, False)


def test_permits_that_nobody_holds_are_refused() -> None:
    leases = Leases((100,), (10,), (0,))
    leases.grant(1, 2)
    for call in (lambda: leases.settle(1, 3, (1,)), lambda: leases.give_back(2, 1), lambda: leases.give_back(1, -1)):
        with pytest.raises(ValueError, match="permits: expected up to"):
            call()
    assert (leases.spent, leases.out) == ([0], 2)
    with pytest.raises(ValueError, match="expected as many"):
        Leases((1,), (1, 2))

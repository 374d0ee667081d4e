"""One total budget over many workers: leases of permits.

A permit is worth the most that one ask may take of each resource. A worker asks only with a permit in its hand, and
the account gives one only where it fits beside all that is spent and all permits that are out:

    spent + (out + 1) * most <= limit        for each resource that is limited

So no interleaving of asks, answers and lost workers can take more than the limit. When an ask is answered its permit
ends, and what it took is spent; what it did not take is free at once, for any worker. A worker holds no more permits
than it has questions under way, each of which has one ask out at a time, and gives back those it has no use for where
others wait: what is leased is what is in flight or about to be.

Amounts are integers in the order of the engine's account: tokens, prompt tokens, tool calls, cost units.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

__all__ = ["Leases"]


class Leases:
    """The account of a run, and the permits that its workers hold.

    Args:
        limits: of each resource; None where there is none.
        most: of each resource, what one ask may take.
        spent: of each resource, by now.

    Attributes:
        spent: of each resource: what was settled, and permits that were lost with their workers.
        held: permits by worker.
    """

    def __init__(self, limits: Sequence[int | None], most: Sequence[int], spent: Sequence[int] = (0, 0, 0, 0)) -> None:
        if not len(limits) == len(most) == len(spent):
            raise ValueError(f"limits, most, spent: expected as many, got {len(limits)}, {len(most)}, {len(spent)}")
        self.limits, self.most = tuple(limits), tuple(most)
        self.spent = list(spent)
        self.held: dict[Hashable, int] = {}
        self.out = 0

    @property
    def room(self) -> int | None:
        """Permits that could be given now; None for any number. Never below 0."""
        fits = [
            (limit - spent) // most - self.out
            for limit, spent, most in zip(self.limits, self.spent, self.most, strict=True)
            if limit is not None and most
        ]
        return max(0, min(fits)) if fits else None

    @property
    def is_spent(self) -> bool:
        """Whether no permit will ever be given again: none fits, and none is out that might leave something."""
        return self.out == 0 and self.room == 0

    def grant(self, worker: Hashable, wanted: int) -> int:
        """Gives a worker up to so many permits; how many."""
        room = self.room
        given = max(0, wanted if room is None else min(wanted, room))
        self.held[worker] = self.held.get(worker, 0) + given
        self.out += given
        return given

    def settle(self, worker: Hashable, asks: int, spent: Sequence[int]) -> None:
        """Ends the permits of asks that were answered or failed, and charges what they took, also above the most.

        Raises:
            ValueError: the worker holds fewer. Nothing is changed.
        """
        self.give_back(worker, asks)
        self.spent = [old + new for old, new in zip(self.spent, spent, strict=True)]

    def give_back(self, worker: Hashable, permits: int) -> None:
        """Ends permits that no ask was made with.

        Raises:
            ValueError: the worker holds fewer. Nothing is changed.
        """
        held = self.held.get(worker, 0)
        if not 0 <= permits <= held:
            raise ValueError(f"permits: expected up to {held}, which worker {worker} holds, got {permits}")
        self.held[worker] = held - permits
        self.out -= permits

    def lose(self, worker: Hashable) -> int:
        """Charges the permits of a worker that is lost: what became of its asks nobody knows. How many they were."""
        lost = self.held.pop(worker, 0)
        self.out -= lost
        self.spent = [old + lost * most for old, most in zip(self.spent, self.most, strict=True)]
        return lost

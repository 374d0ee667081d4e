"""The loop for generators and critics that may be coroutines: a task for every ask, refilled one by one.

What came together is handled together, in the order of the tickets.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any

from bavt_fast.drive_base import LATE_S, Asked, Base, is_whole, not_whole
from bavt_fast.engine import Search
from bavt_fast.waves import Pending, Settled, call_describe, describe, named, new_states, settle

__all__ = ["AsyncDrive"]

_LONGEST_WAIT_S = 3600.0  # a timer that is set for the end of time never rings

Answered = tuple[asyncio.Task[Any] | None, Asked, Any]
"""What a task brought. Tickets are used again where a slot is, so it is the task that says whose answer it is."""


class AsyncDrive(Base):
    """The loop for generators and critics that may be coroutines: a task for every ask, refilled one by one."""

    async def run(self, searches: Iterable[Search]) -> AsyncGenerator[tuple[int, Search], None]:
        """(place, search) of each search as it stops. Cancelling stops them all; so does SystemExit and its like."""
        if not hasattr(self.generator, "propose"):
            raise TypeError("generator: expected one with propose() for asyncio, got one that streams; use search()")
        waiting = iter(searches)
        out: dict[int, asyncio.Task[None]] = {}
        done: deque[Answered] = deque()
        came = asyncio.Event()
        if self.host is not None:
            loop = asyncio.get_running_loop()
            self.host.driven(lambda: loop.call_soon_threadsafe(came.set))
        try:
            while True:
                self.fill(waiting)
                self.stop_late()
                asked, stopped = self.ask(self.wave - len(out))
                if self.host is not None:
                    self.host.before_wait()
                for again in (*self.reopened, asked):
                    self.begin(again, out, done, came)
                self.reopened.clear()
                for slot in stopped:
                    if self.searches[slot].stop_reason is None:
                        continue
                    for ticket in [ticket for ticket in out if ticket >> 32 == slot]:
                        out.pop(ticket).cancel()
                    self.charge_late(slot)
                    for place, search in self.hand_over(slot):
                        yield place, search
                if stopped:
                    continue  # their places are free
                if not out:
                    return
                await self.wait(came)
                came.clear()
                await self.tell(out, done)
                self.progress()
        finally:
            if self.host is not None:
                self.host.driven(None)
            left = set(out.values())
            out.clear()
            for task in left:
                task.cancel()
            self.break_off()
            await asyncio.gather(*left, return_exceptions=True)

    async def wait(self, came: asyncio.Event) -> None:
        """Until something comes, or a deadline is past: a coroutine may know nothing of it."""
        if not self.timed:
            await came.wait()
            return
        left = [left_s for search in self.searches.values() if (left_s := search.seconds_left()) is not None]
        least_s = min([*left, _LONGEST_WAIT_S])
        bell = asyncio.get_running_loop().call_later(least_s + 0.001 if least_s else LATE_S, came.set)
        try:
            await came.wait()
        finally:
            bell.cancel()

    def begin(
        self, asked: Asked, out: dict[int, asyncio.Task[None]], done: deque[Answered], came: asyncio.Event
    ) -> None:
        """Asks that block go to a thread together; each coroutine is a task of its own."""
        if not asked.tickets:
            return
        if inspect.iscoroutinefunction(getattr(self.generator, "propose", None)):
            alone = [asked.take([i]) for i in range(len(asked.tickets))]
        else:
            alone = [asked]
        for part in alone:
            task = asyncio.ensure_future(self.answer(part, out, done, came))
            for ticket in part.tickets:
                out[ticket] = task

    async def answer(
        self, asked: Asked, out: dict[int, asyncio.Task[None]], done: deque[Answered], came: asyncio.Event
    ) -> None:
        answers: Any
        task = asyncio.current_task()
        try:
            if inspect.iscoroutinefunction(self.generator.propose):
                requests, counts, limits = asked.requests, asked.counts, asked.limits
                answers = await self.generator.propose(list(requests), list(counts), list(limits))
            else:
                loop = asyncio.get_running_loop()
                answers = await loop.run_in_executor(None, self.propose, asked)
            if not is_whole(answers, len(asked.tickets)):
                raise not_whole(answers, len(asked.tickets))
        except Exception as error:
            answers = [named(error, "generator")] * len(asked.tickets)
        except BaseException as error:
            if task not in out.values():
                raise  # nobody waits for it: it was cancelled
            answers = error
        done.append((task, asked, answers))
        came.set()

    async def tell(self, out: dict[int, asyncio.Task[None]], done: deque[Answered]) -> None:
        """What has come by now, in the order of its tickets. Raises what ends the whole search, after the others."""
        rows = []
        ended: BaseException | None = None
        while done:
            task, asked, answers = done.popleft()
            if isinstance(answers, BaseException):
                ended = answers
                continue
            for row in zip(asked.tickets, asked.slots, asked.nodes, asked.counts, answers, strict=True):
                if out.get(row[0]) is task:
                    del out[row[0]]
                    rows.append(row)
        if rows:
            rows.sort(key=lambda row: row[0])
            await self.tell_rows(rows)
        if ended is not None:
            raise ended

    async def tell_rows(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """(ticket, slot, node, count, answer) into the trees."""
        tickets, slots, nodes, counts, answers = zip(*rows, strict=True)
        asked, told = self.good(Asked(slots, nodes, counts, tickets), answers)
        wave = asked.slots, asked.nodes, asked.tickets, told
        settled = settle(self.engine, self.searches, *wave, self.clock())
        described = await self.describe_all(asked, told, settled)
        pending = describe(self.engine, self.searches, *wave, settled, described)
        if pending.tickets:
            await self.score(pending)

    async def describe_all(self, asked: Asked, answers: Sequence[Any], settled: Settled) -> Mapping[int, Any] | None:
        """Descriptions from tasks that give them as coroutines, all at once, and of the others beside them."""
        by_slot = new_states(self.searches, asked.slots, answers, settled, "adescribe")
        if not by_slot:
            return None
        states = [(at, self.searches[slot].task, state) for slot, new in by_slot.items() for at, state in new]
        abouts = await asyncio.gather(*[adescribe(task, state) for _, task, state in states])
        for about in abouts:
            if isinstance(about, BaseException) and not isinstance(about, Exception):
                raise about
        described = {at: about for (at, _, _), about in zip(states, abouts, strict=True)}
        for slot, new in new_states(self.searches, asked.slots, answers, settled, "describe").items():
            if slot not in by_slot:
                described |= {at: call_describe(self.searches[slot].task, state) for at, state in new}
        return described

    async def score(self, pending: Pending) -> None:
        try:
            outputs = self.critic.score(pending.nodes) if pending.nodes else []
            self.grow(pending, await outputs if inspect.isawaitable(outputs) else outputs)
        except Exception as error:
            if len(pending.tickets) == 1:
                self.state_failed(pending, named(error, "critic"))
                return
            for part in pending.by_ask():
                await self.score(part)


async def adescribe(task: Any, state: Any) -> Any:
    """What a task says of a state, or what it raises: a loop would end at once of some, its tasks left as they are."""
    try:
        return await task.adescribe(state)
    except BaseException as error:
        return error

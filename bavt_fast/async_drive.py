"""The loop for generators and critics that may be coroutines: a task for every ask, refilled one by one.

What came together is handled together, in the order of the tickets. Where the critic is a coroutine, or a task
describes its states by one, each answer goes on in a task of its own: no question waits for another one's verdict or
value.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from bavt_fast._checks import as_iterator
from bavt_fast.answer_checks import is_whole, not_whole
from bavt_fast.drive_base import LATE_S, Asked, Base
from bavt_fast.engine import Search
from bavt_fast.waves import Pending, Settled, call_describe, describe, named, new_states, settle

__all__ = ["AsyncDrive"]

_LONGEST_WAIT_S = 3600.0  # a timer that is set for the end of time never rings

Answered = tuple[asyncio.Task[Any] | None, Asked, Any]
"""What a task brought. Tickets are used again where a slot is, so it is the task that says whose answer it is."""


class AsyncDrive(Base):
    """The loop for generators and critics that may be coroutines: a task for every ask, refilled one by one.

    Attributes:
        out: the task that works on each ticket: on its answer, and then perhaps on verdicts and values.
        brought: answers that have come.
        came: whether something has.
        is_coroutine: whether the generator's `propose` is one.
        critic_waits: whether the critic's `score` is one, or gives what can be awaited.
        in_thread: the call of a generator that blocks, where there was one. It goes on when nobody waits for it.
    """

    in_thread: asyncio.Future[Any] | None = None

    async def run(self, searches: Iterable[Search]) -> AsyncGenerator[tuple[int, Search], None]:
        """(place, search) of each search as it stops. Cancelling stops them all; so does SystemExit and its like."""
        if not hasattr(self.generator, "propose"):
            raise TypeError("generator: expected one with propose() for asyncio, got one that streams; use search()")
        waiting = as_iterator("searches", searches, "a list of Search")
        self.out: dict[int, asyncio.Task[None]] = {}
        self.brought: deque[Answered] = deque()
        self.came = asyncio.Event()
        self.is_coroutine = inspect.iscoroutinefunction(self.generator.propose)
        self.critic_waits = inspect.iscoroutinefunction(self.critic.score)
        if self.host is not None:
            loop = asyncio.get_running_loop()
            self.host.driven(lambda: loop.call_soon_threadsafe(self.came.set))
        try:
            while True:
                self.fill(waiting)
                self.stop_late()
                asked, stopped = self.ask(self.room)
                if self.host is not None:
                    self.host.before_wait()
                for again in (*self.reopened, asked):
                    self.begin(again)
                self.reopened.clear()
                for slot in stopped:
                    if self.searches[slot].stop_reason is None:
                        continue
                    self.give_up([ticket for ticket in self.out if ticket >> 32 == slot])
                    self.charge_late(slot)
                    for place, search in self.hand_over(slot):
                        yield place, search
                if stopped:
                    continue  # their places are free
                if not self.out and not (self.searches and self.is_busy):
                    return
                await self.wait(self.came)
                self.came.clear()
                self.tell()
                self.progress()
        finally:
            if self.host is not None:
                self.host.driven(None)
            left = _of_open_loops({*self.out.values()})
            self.out.clear()
            for task in left:
                task.cancel()
            for call in _of_open_loops([] if self.in_thread is None else [self.in_thread]):
                call.cancel()
            self.break_off()
            if left:
                await asyncio.gather(*left, return_exceptions=True)

    @property
    def room(self) -> int:
        """For so many more asks. A generator that blocks is asked by the wave, and by one thread at a time."""
        return 0 if (self.out or self.is_busy) and not self.is_coroutine else self.wave - len(self.out)

    @property
    def is_busy(self) -> bool:
        """Whether a generator that blocks is at work, if only for asks that were given up."""
        return self.in_thread is not None and not self.in_thread.done()

    def give_up(self, tickets: Sequence[int]) -> None:
        """Nobody waits for these any more. A task goes on while somebody waits for another ticket of it."""
        tasks = {self.out.pop(ticket) for ticket in tickets}
        for task in tasks.difference(self.out.values()) if tasks else ():
            task.cancel()

    async def wait(self, came: asyncio.Event) -> None:
        """Until something comes, or a deadline is past: a coroutine may know nothing of it."""
        if not self.timed:
            await came.wait()
            return
        now_s = self.clock()
        left = [self.rest_s(slot, now_s) for slot, search in self.searches.items() if not search.untimed]
        bell = asyncio.get_running_loop().call_later(min([*left, _LONGEST_WAIT_S]) + 0.001, came.set)
        try:
            await came.wait()
        finally:
            bell.cancel()

    def rest_s(self, slot: int, now_s: float) -> float:
        """Time to a question's deadline, or until what goes on after it is given up."""
        return self.searches[slot].seconds_left() or max(0.0, self.over.get(slot, now_s) + LATE_S - now_s)

    def begin(self, asked: Asked) -> None:
        """Asks that block go to a thread together; each coroutine is a task of its own."""
        if not asked.tickets:
            return
        for part in [asked.take([i]) for i in range(len(asked.tickets))] if self.is_coroutine else [asked]:
            self.work(part.tickets, self.answer(part))

    def work(self, tickets: Sequence[int], on: Coroutine[Any, Any, None]) -> None:
        """A task for tickets, which are out while it works.

        It begins when the loop comes to it, also where the loop's tasks are eager and would begin before they are out.
        """
        task = asyncio.Task(on, loop=asyncio.get_running_loop())
        for ticket in tickets:
            self.out[ticket] = task

    def is_wanted(self, ticket: int) -> bool:
        """Whether the task that asks works on a ticket still."""
        return self.out.get(ticket) is asyncio.current_task()

    async def answer(self, asked: Asked) -> None:
        answers: Any
        task = asyncio.current_task()
        try:
            if self.is_coroutine:
                requests, counts, limits = asked.requests, asked.counts, asked.limits
                answers = await self.generator.propose(list(requests), list(counts), list(limits))
            else:
                answers = await self.propose_in_thread(asked)
            if not is_whole(answers, len(asked.tickets)):
                raise not_whole(answers, len(asked.tickets))
        except Exception as error:
            answers = [named(error, "generator")] * len(asked.tickets)
        except BaseException as error:
            if task not in self.out.values():
                raise  # nobody waits for it: it was cancelled
            answers = error
            if isinstance(error, asyncio.CancelledError):
                answers = [named(_cancelled_within(error), "generator")] * len(asked.tickets)
        self.brought.append((task, asked, answers))
        self.came.set()

    async def propose_in_thread(self, asked: Asked) -> Any:
        """A generator that blocks is at work until it returns: another thread does not begin before.

        It finds the context variables of its caller, as a coroutine does.
        """
        run = contextvars.copy_context().run
        self.in_thread = asyncio.get_running_loop().run_in_executor(None, run, self.propose, asked)
        self.in_thread.add_done_callback(lambda _: self.came.set())
        return await asyncio.shield(self.in_thread)

    def tell(self) -> None:
        """What has come by now, in the order of its tickets. Raises what ends the whole search, after the others."""
        rows = []
        ended: BaseException | None = None
        while self.brought:
            task, asked, answers = self.brought.popleft()
            if isinstance(answers, BaseException):
                ended = answers
                continue
            for row in zip(asked.tickets, asked.slots, asked.nodes, asked.counts, answers, strict=True):
                if self.out.get(row[0]) is task:
                    del self.out[row[0]]
                    rows.append(row)
        if rows:
            rows.sort(key=lambda row: row[0])
            self.tell_rows(rows)
        if ended is not None:
            raise ended

    def tell_rows(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """(ticket, slot, node, count, answer) into the trees."""
        tickets, slots, nodes, counts, answers = zip(*rows, strict=True)
        asked, told = self.good(Asked(slots, nodes, counts, tickets), answers)
        slow = [hasattr(self.searches[slot].task, "adescribe") for slot in asked.slots]
        if any(slow):
            for i in [i for i, is_slow in enumerate(slow) if is_slow]:
                self.tell_slowly(asked.take([i]), [told[i]])
            rest = [i for i, is_slow in enumerate(slow) if not is_slow]
            asked, told = asked.take(rest), [told[i] for i in rest]
        if asked.tickets:
            wave = asked.slots, asked.nodes, asked.tickets, told
            settled = settle(self.engine, self.searches, *wave, self.clock())
            self.score(describe(self.engine, self.searches, *wave, settled, None))

    def tell_slowly(self, asked: Asked, told: Sequence[Any]) -> None:
        """One answer, to a question whose task describes states by a coroutine."""
        settled = settle(self.engine, self.searches, asked.slots, asked.nodes, asked.tickets, told, self.clock())
        if any(settled[2]):
            self.work(asked.tickets, self.guarded(asked, self.described, asked, told, settled))
        else:
            describe(self.engine, self.searches, asked.slots, asked.nodes, asked.tickets, told, settled, None)

    async def guarded(self, asked: Asked | Pending, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """What ends neither its ask nor its question by itself ends the search, or was cancelled somewhere within."""
        task = asyncio.current_task()
        [ticket] = asked.tickets
        try:
            await work(*arguments)
        except BaseException as error:
            if not self.is_wanted(ticket):
                raise
            if isinstance(error, (asyncio.CancelledError, Exception)):
                failure = error if isinstance(error, Exception) else _cancelled_within(error)
                self.state_failed(
                    asked if isinstance(asked, Pending) else Pending(asked.slots, asked.tickets, ()), failure
                )
            else:
                self.brought.append((task, Asked([], [], [], []), error))
        finally:
            if self.is_wanted(ticket):
                del self.out[ticket]
            self.came.set()

    async def described(self, asked: Asked, told: Sequence[Any], settled: Settled) -> None:
        described = await self.describe_all(asked, told, settled)
        if not self.is_wanted(asked.tickets[0]):
            return
        wave = asked.slots, asked.nodes, asked.tickets, told
        pending = describe(self.engine, self.searches, *wave, settled, described)
        if pending.tickets:
            await self.scored(pending)

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

    def score(self, pending: Pending) -> None:
        """Values of new states. A critic that is a coroutine is asked for each ask by itself."""
        if not pending.tickets:
            return
        if self.critic_waits:
            for part in pending.by_ask():
                if part.nodes:
                    self.work(part.tickets, self.guarded(part, self.scored, part))
                else:
                    self.grow(part, [])
            return
        try:
            outputs = self.critic.score(pending.nodes) if pending.nodes else []
            if not inspect.isawaitable(outputs):
                self.grow(pending, outputs)
                return
        except Exception as error:
            if len(pending.tickets) == 1:
                self.state_failed(pending, named(error, "critic"))
                return
            for part in pending.by_ask():
                self.score(part)
        else:
            self.critic_waits = True
            if inspect.iscoroutine(outputs):  # that has not begun
                outputs.close()
            elif isinstance(outputs, asyncio.Future):
                outputs.cancel()
            self.score(pending)

    async def scored(self, pending: Pending) -> None:
        """The same for one ask, by a task of its own."""
        try:
            outputs = self.critic.score(pending.nodes) if pending.nodes else []
            values = await outputs if inspect.isawaitable(outputs) else outputs
            if self.is_wanted(pending.tickets[0]):
                self.grow(pending, values)
        except Exception as error:
            if self.is_wanted(pending.tickets[0]):
                self.state_failed(pending, named(error, "critic"))


def _of_open_loops(futures: Iterable[asyncio.Future[Any]]) -> list[asyncio.Future[Any]]:
    """Those that can still be cancelled: a loop may have been closed under a search that nobody ended."""
    return [future for future in futures if not future.get_loop().is_closed()]


def _cancelled_within(error: BaseException) -> Exception:
    failure = RuntimeError("something that it waited for was cancelled")
    failure.__cause__ = error
    return failure


async def adescribe(task: Any, state: Any) -> Any:
    """What a task says of a state, or what it raises: a loop would end at once of some, its tasks left as they are."""
    try:
        about = task.adescribe(state)
        if not inspect.isawaitable(about):
            raise TypeError(f"adescribe: expected a coroutine, got {about!r:.80}")
        return await about
    except BaseException as error:
        return error

"""A run whose questions are searched by workers elsewhere. It alone writes to the folder, which is that of any run.

    worker --- report: journal lines, results, what was spent ---> FleetRun ---> journal, results.jsonl
           <-- given: questions, permits for asks ----------------

One call of `Worker.exchange` is out to each worker at any time. What is reported is in the journal before the worker is
told more, so that a worker or this process may be killed at any moment and the run goes on from the journal.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol, cast

from bavt_fast._files import replaced
from bavt_fast.budget import Budget
from bavt_fast.engine import Search
from bavt_fast.runs.folder import RunError
from bavt_fast.runs.journal import read_journal
from bavt_fast.runs.leases import Leases
from bavt_fast.runs.questions import Row, Rows
from bavt_fast.runs.run import Run
from bavt_fast.runs.worker import Described, Events, Given, Report

__all__ = ["FleetRun", "Pool", "WorkerLost"]

STRIKES = 3
"""Workers that one place may lose without an answer in between."""
LATE_S = 60.0
"""How long after the first worker the others are counted on: their shares of a few questions are kept for them."""
DRAIN_S = 30.0
"""How long answers in flight are waited for when a run is interrupted."""
WEIGHED_AT_ONCE = 64


class WorkerLost(Exception):
    """A worker is dead, or out of reach."""


class Pool(Protocol):
    """Workers (`bavt_fast.runs.worker.Worker`) at numbered places, each in a process of its own.

    Attributes:
        size: places.
    """

    size: int

    def start(self, place: int) -> None:
        """A new worker takes a place, once there is a machine for it; one that was there is killed."""
        ...

    def call(self, place: int, method: str, *arguments: Any) -> None:
        """Begins a call of the worker's method. One at a time for each place."""
        ...

    def wait(self, timeout_s: float) -> list[tuple[int, Any]]:
        """(place, what the call returned or raised) of calls that are done; a `WorkerLost` of a worker that is gone.

        Waits for the first of them, up to the timeout.
        """
        ...

    def close(self) -> None:
        """Kills all workers; may be called again."""
        ...


@dataclass
class _Place:
    """What the run knows of the worker at a place.

    Attributes:
        is_called: whether a call is out to it. is_heard: whether it has reported, and is to be told more.
    """

    questions: dict[int, Row] = field(default_factory=dict)
    is_ready = False
    is_called = False
    is_heard = False
    has_ended = False
    wanted = 0
    strikes = 0


class FleetRun(Run):
    """`Run` with its searches in the workers of a pool: same folder, same results, same methods.

    Questions go to the workers as they have room. Those of a dead worker go to the others with what the journal has of
    them, and a new worker takes its place. The total is leased to the workers ask by ask (`bavt_fast.runs.leases`).
    Ctrl-C lets asks in flight be answered; a second one does not.

    Args:
        pool: of workers that were made with the same `budget`, `seed`, `verify` and `keep`. It is closed with the run.
        folder, questions, budget, ...: as of `Run`.

    Raises:
        RunError: as `Run` does; or no searcher can be made, or workers die one after the other.
    """

    def __init__(
        self,
        folder: Any,
        pool: Pool,
        questions: Rows,
        *,
        budget: Budget,
        seed: int = 0,
        total: Budget | None = None,
        verify: bool = True,
        strict: bool = False,
        retry_errors: bool = False,
        flush_s: float = 5.0,
        keep: bool = False,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        self._pool = pool
        self._places = [_Place() for _ in range(pool.size)]
        self._answers: deque[tuple[int, Any]] = deque()  # that came while another was waited for
        self._waiting_begun: deque[tuple[int, Row, Events]] = deque()
        self._weighed: tuple[int, ...] = (0, 0, 0, 0)
        try:
            self._first, self._described = self._first_described()
            described = self._described
            settings = {"settings": described.settings, "wave": described.wave, "leaves": described.leaves}
            options: dict[str, Any] = {"verify": verify, "strict": strict, "retry_errors": retry_errors}
            options |= {"flush_s": flush_s, "keep": keep}
            more = {**described.about, **(about or {})}
            made = cast(Any, SimpleNamespace(**settings))  # what a Run asks its searcher for, where it does not search
            super().__init__(folder, made, questions, budget=budget, seed=seed, total=total, about=more, **options)
        except BaseException:
            pool.close()
            raise
        limits = self._limits or (None,) * len(self._most)
        columns = zip(self._settled, self._weighed, self._most, strict=True)
        self._leases = Leases(limits, self._most, [sum(own) + self.lost_asks * most for *own, most in columns])
        self._fresh = self._fresh_rows()
        self._late_at_s = time.monotonic() + LATE_S

    # ---- before it runs

    def _first_described(self) -> tuple[int, Described]:
        for place in range(self._pool.size):
            self._begin_worker(place)
        while True:
            for place, answer in self._pool.wait(1.0):
                if isinstance(answer, Described):
                    self._places[place].is_ready = True
                    self._answers.append((place, answer))
                else:
                    self._strike(place, answer, STRIKES if isinstance(answer, WorkerLost) else 1)
                    self._begin_worker(place)
            if self._answers:
                return self._answers[0]

    def _begin_worker(self, place: int) -> None:
        self._pool.start(place)
        self._call(place, "describe")

    def _strike(self, place: int, error: Any, most: int) -> None:
        worker = self._places[place]
        worker.strikes += 1
        if worker.strikes >= most:
            what = "died" if isinstance(error, WorkerLost) else "cannot make its searcher"
            times = f" {worker.strikes} times without an answer" if worker.strikes > 1 else ""
            raise RunError(
                f"worker {place}: {what}{times} ({type(error).__name__}: {error}); what was answered before is kept"
            ) from error

    def _asked(self, method: str, argument: Any) -> Any:
        """What the first worker says; for what is to be known before the run begins."""
        self._pool.call(self._first, method, argument)
        while True:
            for place, answer in self._pool.wait(1.0):
                if place != self._first:
                    self._answers.append((place, answer))
                elif isinstance(answer, WorkerLost):
                    raise RunError(f"worker {place}: died before the run began ({answer})") from answer
                elif isinstance(answer, Exception):
                    raise answer
                else:
                    return answer

    # ---- in the place of what `Run` does with its own searcher

    def _parts(self) -> dict[str, Any]:
        return self._described.parts

    def _uses_answers(self) -> bool:
        return self._described.uses_answers

    def _problems(self, questions: Sequence[str]) -> Sequence[str | None]:
        found: Sequence[str | None] = self._asked("problems", questions)
        return found

    def _replayed(self, events: Mapping[int, Events]) -> list[Search]:
        """Finds what the questions that had begun have spent. Workers search them."""
        for number, row in enumerate(self.folder.rows() if events else ()):
            if number in events:
                self._open[number] = row
                self._waiting_begun.append((number, row, events[number]))
        begun = [(row, own) for _, row, own in self._waiting_begun if own]
        for at in range(0, len(begun), WEIGHED_AT_ONCE):
            spent = self._asked("weigh", begun[at : at + WEIGHED_AT_ONCE])
            self._weighed = tuple([old + new for old, new in zip(self._weighed, spent, strict=True)])
        return []

    def _spent(self) -> tuple[int, int, int, int]:
        if not hasattr(self, "_leases"):
            return super()._spent()
        pairs = zip(self._leases.spent, self._most, strict=True)
        tokens, prompt_tokens, tool_calls, cost = [spent - self.lost_asks * most for spent, most in pairs]
        return tokens, prompt_tokens, tool_calls, cost

    def searches(self) -> list[tuple[Row, Search]]:
        """None: they are elsewhere."""
        return []

    def _go_on(self) -> None:
        if self._finished < self._count:
            path = self.folder.path
            raise ValueError(f"{path}: expected one loop, whose workers end with it; make it again to go on")

    def _lines(self) -> Generator[dict[str, Any]]:
        try:
            while self._finished < self._count and not self._is_starved:
                if not self._answers:
                    self._answers += self._pool.wait(1.0)
                yield from self._round()
                self._is_starved = self._leases.is_spent
        except (OSError, RunError):
            self._is_broken = True
            raise

    def _end(self) -> None:
        try:
            if not self._is_broken and self._finished < self._count:
                self._drain(time.monotonic() + DRAIN_S)
        finally:
            self._pool.close()
        self._journal.ended([number for place in self._places if not place.has_ended for number in place.questions])
        self._journal.flush()
        self._sync()
        if not self._open and self._finished == self._count:
            self._journal.compact(self._failed)

    def close(self) -> None:
        """Ends a loop that was left, kills the workers and lets the folder go; may be called again."""
        try:
            self._end_loops()
        finally:
            self._pool.close()
            super().close()

    # ---- rounds

    def _round(self, is_last: bool = False) -> list[dict[str, Any]]:
        """Takes what workers say, writes it down, and tells them more. Returns the lines of finished questions.

        Where Ctrl-C breaks in, the next round tells those that were heard in this one.
        """
        lines: list[dict[str, Any]] = []
        while self._answers:
            place, answer = self._answers.popleft()
            worker = self._places[place]
            worker.is_called = False
            if isinstance(answer, Report):
                lines += self._take(place, answer)
                worker.has_ended = answer.has_ended
            if isinstance(answer, Exception) or (isinstance(answer, Report) and answer.error is not None):
                self._replace(place, WorkerLost(answer.error) if isinstance(answer, Report) else answer, is_last)
                continue
            if isinstance(answer, Described):
                self._check(place, answer)
                worker.is_ready = True
            worker.is_heard = not worker.has_ended
        heard = [place for place, worker in enumerate(self._places) if worker.is_heard]
        given = [(place, Given(is_last=True) if is_last else self._given(place)) for place in heard]
        self.before_wait()  # what was reported is written before a worker knows
        for place, what in given:
            self._places[place].is_heard = False
            self._call(place, "exchange", what)
        return lines

    def _call(self, place: int, method: str, *arguments: Any) -> None:
        self._places[place].is_called = True
        self._pool.call(place, method, *arguments)

    def _check(self, place: int, described: Described) -> None:
        ours = self._described
        if (described.parts, described.about) != (ours.parts, ours.about):
            raise RunError(f"worker {place}: expected to search with the same as the others, got {described!r:.300}")

    def _take(self, place: int, report: Report) -> list[dict[str, Any]]:
        worker = self._places[place]
        self._journal.add(report.lines, report.answers)
        self._leases.settle(place, report.settled, report.spent)
        self._leases.give_back(place, report.returned)
        worker.wanted = report.wanted
        if report.answers:
            worker.strikes = 0
        for number, line, search in report.finished:
            row = worker.questions.pop(number)
            if search is not None:
                with replaced(self.folder.search_file(row)) as file:
                    file.write(search)
            del self._open[number]
            self._write(number, line)
        return [finished.line for finished in report.finished]

    def _replace(self, place: int, error: Exception, is_last: bool) -> None:
        """A worker is lost: its questions go to others, and another worker takes its place."""
        worker = self._places[place]
        lost = self._leases.lose(place)
        if lost:
            self.lost_asks += lost
            self._journal.lost(lost)
        if worker.questions:
            self._journal.flush()
            events = read_journal(self._journal.path, lambda number: number in worker.questions).events
            self._waiting_begun += [(number, row, events.get(number, ())) for number, row in worker.questions.items()]
        worker.questions = {}
        worker.is_ready, worker.has_ended, worker.wanted = False, is_last, 0
        if not is_last:
            self._strike(place, error, STRIKES)
            self._begin_worker(place)

    def _given(self, place: int) -> Given:
        """What a worker is to do next: questions up to its share, and a permit for each that it has."""
        worker, leases = self._places[place], self._leases
        questions: list[tuple[int, Row, Events]] = []
        permits = 0
        while len(worker.questions) < self._share():
            if self._waiting_begun:
                number, row, events = self._waiting_begun.popleft()
            else:
                is_covered = leases.held.get(place, 0) > len(worker.questions)
                if leases.room == 0 and not is_covered:  # it could not begin
                    break
                fresh = next(self._fresh, None)
                if fresh is None:
                    break
                (number, row), events = fresh, ()
                permits += 0 if is_covered else leases.grant(place, 1)
                self._open[number] = row
            self._journal.begun(number)
            worker.questions[number] = row
            questions.append((number, row, events))
        # Where they do not do for all at once, those get them who use them now.
        is_scarce = leases.room is not None and leases.room < len(self._places) * self._described.wave
        idle = len(worker.questions) - leases.held.get(place, 0)
        permits += leases.grant(place, min(idle, worker.wanted) if is_scarce else idle)
        return Given(questions, permits, is_scarce)

    def _share(self) -> int:
        """Questions that a worker may have at a time: so many that all have some, as long as there are enough."""
        late = time.monotonic() > self._late_at_s
        workers = sum(place.is_ready for place in self._places) if late else len(self._places)
        return min(self._described.wave, math.ceil((self._count - self._finished) / max(1, workers)))

    def _fresh_rows(self) -> Iterator[tuple[int, Row]]:
        for number, row in enumerate(self.folder.rows()):
            if not self._is_done[number] and number not in self._open:
                yield number, row

    def _drain(self, until_s: float) -> None:
        """Nothing more is asked; what is in flight is answered and written down, as far as it comes in time."""
        try:
            self._round(is_last=True)
            while any(place.is_ready and place.is_called for place in self._places):
                if time.monotonic() > until_s:
                    return
                self._answers += self._pool.wait(1.0)
                self._round(is_last=True)
        except KeyboardInterrupt:
            return

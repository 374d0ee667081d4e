"""A worker of a run on many machines: searches the questions it is given, and reports.

It is told what to do, and tells what it did, in one call, `Worker.exchange`; the searches go on in a thread of their
own meanwhile. Every ask needs a permit (`bavt_fast.runs.leases`). A permit ends when its ask is answered, and another
comes only with an exchange, when the answer is in the journal of the run: so a worker that dies loses the answers to no
more asks than it had permits, one for each question under way.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from bavt_fast._checks import message_of
from bavt_fast.budget import Budget
from bavt_fast.engine import Search
from bavt_fast.runs.journal import Answer, Failure, JournalLines
from bavt_fast.runs.questions import Row, problems_of
from bavt_fast.runs.recorder import Recorder
from bavt_fast.runs.replay import replay
from bavt_fast.runs.searching import Outcome, Searching, error_line, parts_of, save_search
from bavt_fast.searcher import Searcher
from bavt_fast.settings import Settings

__all__ = ["Described", "Finished", "Given", "Made", "Report", "Worker"]

Events = Sequence[Answer | Failure]

SOON_S = 0.05
"""How long permits and questions are waited for while others are searched and nothing wakes the loop."""


class Made(NamedTuple):
    """What a run searches with.

    Attributes:
        outcome: see `Run`.
        about: what of it, besides the searcher's settings, has to be the same when the run goes on. JSON.
    """

    searcher: Searcher
    outcome: Outcome | None = None
    about: Mapping[str, Any] = {}


class Described(NamedTuple):
    """What a worker searches with, for those who have no searcher.

    Attributes:
        parts: as `parts_of` has it. about: as of `Made`.
        wave: questions that it searches side by side.
        uses_answers: whether something is done with the right answer of a question while it is searched.
    """

    settings: Settings
    parts: dict[str, Any]
    about: dict[str, Any]
    wave: int
    leaves: int | None
    uses_answers: bool


class Given(NamedTuple):
    """What a worker is told.

    Attributes:
        questions: (number, question, what its journal says), to be searched.
        permits: for so many more asks.
        is_scarce: whether others wait for permits: those it has no use for just now are to be given back.
        is_last: whether to ask nothing more, and to end when what is in flight is answered.
    """

    questions: Sequence[tuple[int, Row, Events]] = ()
    permits: int = 0
    is_scarce: bool = False
    is_last: bool = False


class Finished(NamedTuple):
    """A question that is finished: its line of the results, and its search as a file's bytes where it is kept."""

    number: int
    line: dict[str, Any]
    search: bytes | None


class Report(NamedTuple):
    """What a worker did since its last report.

    Attributes:
        lines: of the journal. answers: asks that they say were answered.
        finished: questions, in order.
        settled: asks that were answered or failed: their permits have ended.
        spent: what they took, as amounts of the engine's account.
        returned: permits that were not used and end too.
        wanted: permits that would be used at once.
        error: what ended its searches, if anything did. has_ended: whether they have, after `Given.is_last`.
    """

    lines: list[str]
    answers: int
    finished: list[Finished]
    settled: int
    spent: tuple[int, ...]
    returned: int
    wanted: int
    error: str | None
    has_ended: bool


class _Sink(JournalLines):
    """Counts the asks that were settled."""

    settled = 0

    def begun(self, number: int) -> None:
        """Nothing: the run says so before a worker has the question."""

    def answered(self, number: int, answer: Answer) -> None:
        self.settled += 1
        super().answered(number, answer)

    def failed(self, number: int, failure: Failure) -> None:
        self.settled += 1
        super().failed(number, failure)


class Worker:
    """Searches questions for a run that is elsewhere. All methods are to be called from one thread.

    Args:
        make: makes the searcher, or what `Made` holds; called once, in `describe`.
        budget, seed, verify, keep: as of `Run`.
        wait_s: after which `exchange` returns also where there is nothing to report.
    """

    def __init__(
        self,
        make: Callable[[], Searcher | Made],
        budget: Budget,
        seed: int = 0,
        verify: bool = True,
        keep: bool = False,
        wait_s: float = 1.0,
    ) -> None:
        self._make, self._keep, self._wait_s = make, keep, wait_s
        self._options = budget, seed, verify
        self._searching: Searching | None = None
        self._thread: threading.Thread | None = None
        self._changed = threading.Condition()
        # Of the thread that searches:
        self._sink = _Sink()
        self._finished: list[Finished] = []
        self._open: dict[int, Recorder] = {}
        self._told = [0, 0, 0, 0]  # of what the open questions have spent, that which was told
        self._spent = [0, 0, 0, 0]  # and that of finished ones which is to be told
        # Of both, under `_changed`:
        self._given: deque[tuple[int, Row, Events]] = deque()
        self._permits = 0
        self._claimed = 0  # of these: asks are out with them, or about to be
        self._is_waiting = False  # for permits, with nothing else to do
        self._has_said_so = False  # since permits came
        self._is_awaited = False  # an exchange that tells of what was settled and finished, and brings more
        self._wake: Callable[[], Any] | None = None
        self._is_scarce = self._is_last = False
        self._packed: list[Report] = []
        self._end: str | None = None  # what ended the searches: "" for an end in order

    # ---- what the run calls

    def describe(self) -> Described:
        """Makes the searcher. Raises what making it raises."""
        made = self._make()
        made = made if isinstance(made, Made) else Made(made)
        if not isinstance(made.searcher, Searcher):
            raise TypeError(f"searcher: expected a function that makes a bavt.Searcher, got {made.searcher!r:.80}")
        searcher = made.searcher
        self._searching = Searching(searcher, *self._options, made.outcome)
        wave, _ = searcher._widths(one=False)
        parts, uses_answers = parts_of(searcher), self._searching.uses_answers
        return Described(searcher.settings, parts, dict(made.about), wave, searcher.leaves, uses_answers)

    def problems(self, questions: Sequence[str]) -> list[str | None]:
        """What is wrong with each question; None for nothing."""
        return problems_of(self._ready.searcher.task.initial_state, questions)

    def weigh(self, begun: Sequence[tuple[Row, Events]]) -> tuple[int, ...]:
        """What questions that had begun have spent together, by their journals.

        Raises:
            ValueError: a journal is of another search.
        """
        total = [0, 0, 0, 0]
        for row, events in begun:
            search = self._ready.start(row)
            replay(search, events)
            total = [old + new for old, new in zip(total, search._native.account.spent, strict=True)]
        return tuple(total)

    def exchange(self, given: Given) -> Report:
        """Takes what is given, and waits until there is something to report."""
        with self._changed:
            self._given.extend(given.questions)
            self._permits += given.permits
            self._is_scarce, self._is_last = given.is_scarce, given.is_last
            self._is_awaited = bool(self._packed)
            self._has_said_so = self._has_said_so and not given.permits
            self._changed.notify_all()
            if self._wake is not None:
                self._wake()
            if self._thread is None:
                ready = self._ready
                self._thread = threading.Thread(target=self._work, args=(ready,), name="bavt-worker", daemon=True)
                self._thread.start()
            self._changed.wait_for(self._has_to_say, self._wait_s)
            returned = self._idle
            self._permits -= returned
            packed, self._packed = self._packed, []
            self._has_said_so = self._is_waiting
            return self._joined(packed, returned)

    @property
    def _ready(self) -> Searching:
        assert self._searching is not None, "describe() comes before"
        return self._searching

    def _has_to_say(self) -> bool:
        is_short = self._is_scarce and self._is_waiting and not self._has_said_so
        return bool(self._packed or self._end is not None or self._idle or is_short)

    @property
    def _wanted(self) -> int:
        """Asks that could be made now, each of a question that has none out."""
        return len(self._open) - self._claimed if self._is_waiting or self._wake is not None else 0

    @property
    def _idle(self) -> int:
        """Permits that are to be given back."""
        is_no_use = self._end is not None or (self._is_scarce and self._wanted <= 0)
        return self._permits - self._claimed if is_no_use else 0

    def _joined(self, packed: Sequence[Report], returned: int) -> Report:
        spent = tuple(map(sum, zip((0, 0, 0, 0), *[part.spent for part in packed], strict=True)))
        return Report(
            [line for part in packed for line in part.lines],
            sum(part.answers for part in packed),
            [each for part in packed for each in part.finished],
            sum(part.settled for part in packed),
            spent,
            returned,
            max(0, self._wanted - (self._permits - self._claimed)),
            self._end or None,
            self._end is not None,
        )

    # ---- the thread that searches

    def _work(self, searching: Searching) -> None:
        end = ""
        try:
            with closing(searching.drive(_Waiting(self), self)) as searches:
                for search in searches:
                    self._finish(searching, search)
        except BaseException as error:  # of whatever kind: nobody else would hear of it
            end = f"{type(error).__name__}: {message_of(error)}"
        with self._changed:
            self._pack()
            self._claimed = 0
            self._end = end
            self._changed.notify_all()

    def _finish(self, searching: Searching, search: Search) -> None:
        recorder = search.observer
        assert isinstance(recorder, Recorder), "every search of a run has one"
        amounts = search._native.account.spent
        self._spent = [old + new for old, new in zip(self._spent, amounts, strict=True)]
        line = searching.line(recorder.row, search)
        kept = _as_bytes(search, line) if self._keep else None
        with self._changed:
            del self._open[recorder.number]
            self._finished.append(Finished(recorder.number, line, kept))

    def _begin(self, number: int, row: Row, events: Events) -> Search | None:
        """The search of a question; None for one that cannot begin, which is finished."""
        try:
            search = self._ready.start(row)
        except Exception as error:
            with self._changed:
                self._finished.append(Finished(number, error_line(row, error), None))
            return None
        if events:
            replay(search, events)
        spent = search._native.account.spent  # was told by those who wrote the events
        self._told = [old + new for old, new in zip(self._told, spent, strict=True)]
        recorder = Recorder(self._sink, number, row, search)
        search.observer = recorder
        with self._changed:
            self._open[number] = recorder
        return search

    def _pack(self) -> None:
        """What was done since the last time is ready to be reported. Under `_changed`."""
        sink = self._sink
        lines = sink.take()
        if not lines and not self._finished:
            return
        spent = self._spent
        for recorder in self._open.values():
            spent = [old + new for old, new in zip(spent, recorder.search._native.account.spent, strict=True)]
        new = tuple([now - told for now, told in zip(spent, self._told, strict=True)])
        self._packed.append(Report(lines, sink.answers, self._finished, sink.settled, new, 0, 0, None, False))
        self._permits -= sink.settled
        self._claimed -= sink.settled
        self._is_awaited = True
        self._told = spent
        self._finished = []
        sink.answers = sink.settled = 0
        self._changed.notify_all()

    # ---- as the host of a driver

    def driven(self, wake: Callable[[], Any] | None) -> None:
        with self._changed:
            self._wake = wake

    def room(self, wanted: int, out: int) -> int:
        """Asks that permits are there for. Waits for one where nothing is in flight."""
        with self._changed:
            self._is_waiting = True
            self._pack()
            self._await(lambda: wanted <= 0 or not self._open or self._permits > out, out > 0)
            free = 0 if self._is_last else max(0, min(wanted, self._permits - out))
            self._claimed = out + free
            self._is_waiting = False
            return free

    def _await(self, has_come: Callable[[], Any], is_busy: bool) -> None:
        """Waits for what an exchange brings; under `_changed`.

        While others are searched it waits just for an exchange that comes soon, and not where that wakes the loop.
        """
        self._changed.notify_all()  # it may be told that this waits

        def can_go_on() -> bool:
            is_late = is_busy and (self._wake is not None or not self._is_awaited)
            return bool(self._is_last or is_late or has_come())

        self._changed.wait_for(can_go_on, SOON_S if is_busy else None)

    def before_wait(self) -> None:
        """Called when asks are made and go away."""
        with self._changed:
            self._pack()
            self._claimed = sum([recorder.is_asked for recorder in self._open.values()])


class _Waiting:
    """The questions that a worker is given, as they come.

    It ends where there are none and others are searched, and goes on when there are some again.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def __iter__(self) -> _Waiting:
        return self

    def __next__(self) -> Search:
        worker = self._worker
        while True:
            with worker._changed:
                worker._pack()
                worker._await(lambda: worker._given, bool(worker._open))
                if worker._is_last or not worker._given:
                    raise StopIteration
                number, row, events = worker._given.popleft()
            search = worker._begin(number, row, events)
            if search is not None:
                return search


def _as_bytes(search: Search, line: dict[str, Any]) -> bytes | None:
    with tempfile.TemporaryDirectory(prefix="bavt-") as folder:
        path = Path(folder, "search.bavt")
        save_search(search, path, line)
        return path.read_bytes() if path.exists() else None

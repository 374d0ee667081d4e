"""A file of questions, searched for hours, also when the process is killed and started again.

    with bavt.Run("out", searcher, "questions.jsonl", budget=bavt.Budget(tokens=500)) as run:
        for line in run:                      # results as they come; all are in out/results.jsonl
            print(line["id"], line["answer"])
        print(run.summary())

The same call on the same folder goes on where the last one ended, however it ended: questions that are finished are not
asked again, and of the others only the steps that were in flight are.
"""

from __future__ import annotations

import inspect
import json
import time
import warnings
import weakref
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from types import TracebackType
from typing import Any

from bavt_fast._checks import as_amount, as_flag, as_seed, require_function, require_parameters
from bavt_fast.budget import Budget, Spent, cost_units
from bavt_fast.engine import Search
from bavt_fast.runs.folder import RunError, RunFolder
from bavt_fast.runs.journal import Answer, Failure, History, Journal, read_journal
from bavt_fast.runs.questions import BrokenLine, Row, Rows, checked_rows, problems_of
from bavt_fast.runs.recorder import Recorder
from bavt_fast.runs.replay import replay
from bavt_fast.runs.searching import Outcome, Searching, error_line, parts_of, save_search
from bavt_fast.searcher import Searcher
from bavt_fast.settings import Settings

__all__ = ["Run", "RunProgress", "RunSummary"]


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is, all its lives together.

    Attributes:
        questions: in all. finished: those with a result; solved, errors: of these. under_way: those being searched.
        answers: to asks, in this life.
        spent: by all questions; without the time.
    """

    questions: int
    finished: int
    solved: int
    errors: int
    under_way: int
    answers: int
    spent: Spent


@dataclass(frozen=True, slots=True)
class RunSummary:
    """How a run stands when one of its lives has ended.

    Attributes:
        questions, finished, solved, errors, spent: as in `RunProgress`.
        broken: lines of the question file that are no question.
        lost_asks: asks whose answers were lost with a life, and asked again.
        lost: the most that they may have cost a server, by what was reserved for them; not part of `spent`.
        end: "done", "total" (nothing more fits the total budget) or "interrupted" (Ctrl-C, or the caller stopped).
    """

    questions: int
    finished: int
    solved: int
    errors: int
    spent: Spent
    broken: tuple[BrokenLine, ...]
    lost_asks: int
    lost: Spent
    end: str


class Run:
    """Searches of many questions that outlive their process; a context manager, and an iterator of results.

    Each question is searched as `Searcher.search_many` does, with one ask out at a time; `Searcher.wave` questions are
    searched side by side. Its line in ``results.jsonl`` has its ``id``, ``answer``, ``solved``, ``spent``,
    ``stop_reason``, ``path`` and ``value``; ``error`` where it failed, ``overrun`` where something was taken above what
    was reserved, ``correct`` where `verify` is False and the right answer is known.

    Args:
        folder: holds the run; made where it is missing. One that holds a run goes on.
        searcher: what searches; its ``leaves`` may not be above 1.
        questions: a file of JSON lines, see `bavt_fast.runs.questions`, or what such lines hold.
        budget: of each question; a line's ``budget_tokens`` takes the place of its tokens. It holds over all lives.
        seed: of each question that has none of its own.
        total: of all questions together, over all lives, what was lost with a life counted at its reservation. Hard:
            nothing is asked that might not fit. Another total may be given when the run goes on.
        verify: whether a question's ``answer`` is given to the task (``task.with_answer``), so that a search ends where
            it is found. False to search without it and compare afterwards.
        strict: refuse broken lines, before anything is spent.
        retry_errors: questions that failed go on from where they were; their results make room for new ones.
        flush_s: seconds after which what was answered is on the disk, and outlives the machine. What was answered
            outlives this process at once.
        keep: whether to save every search that is finished in ``searches``.
        outcome: (question, result) -> fields of its line, in the place of ours (but ``id``, ``spent`` and ``error``) or
            more; what JSON cannot hold is an error of that question.
        about: more that has to be the same when the run goes on, such as the model's name. JSON.

    Raises:
        RunError: another process works in the folder, or it holds another run, by its questions, its searcher or its
            budget; the message has the first difference.
        OSError: the questions cannot be read, or the folder cannot be written.
        TypeError, ValueError: an argument is not what it should be; with `strict` a line is broken.
    """

    def __init__(
        self,
        folder: Any,
        searcher: Searcher,
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
        outcome: Outcome | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        if not hasattr(searcher, "settings"):  # what stands for workers elsewhere has them, and is no Searcher
            raise TypeError(f"searcher: expected a Searcher, got {searcher!r:.80}")
        if searcher.leaves not in (None, 1):
            raise ValueError(
                f"leaves: expected 1 in a run, whose searches are made again ask by ask, got {searcher.leaves}"
            )
        searcher.settings.check_budget(budget)
        self.searcher, self.budget, self.seed = searcher, budget, as_seed("seed", seed)
        self.verify, self.keep = as_flag("verify", verify), as_flag("keep", keep)
        strict, retry_errors = as_flag("strict", strict), as_flag("retry_errors", retry_errors)
        require_function("outcome", outcome, wanted="a function that takes a question and its result")
        if outcome is not None:
            require_parameters("outcome", outcome, "question", "result")
        self.searching = Searching(searcher, budget, self.seed, self.verify, outcome)
        self.flush_s = as_amount("flush_s", flush_s, allow_zero=True)
        self._limits = _checked_total(total, searcher.settings)
        self._most_tokens = budget.tokens  # that a question has
        self._settled = [0, 0, 0, 0]  # by what is finished; amounts as of the engine's account
        self._finished = self._solved = self._errors = 0
        self._open: dict[int, Any] = {}  # a Recorder for each question under way, by its number
        self._failed: set[int] = set()  # those with an error: what they were answered is kept
        self._refused: list[dict[str, Any]] = []
        self._is_starved = self._is_interrupted = False
        self._is_iterated = self._has_ended = self._is_broken = False
        self._loops: weakref.WeakSet[Generator[dict[str, Any]]] = weakref.WeakSet()  # those that somebody holds
        self._synced_s = time.monotonic()
        self._unused_answers = 0  # right ones that nothing is done with
        self.broken: list[BrokenLine] = []
        self.folder = RunFolder(folder)
        try:
            self._count = self.folder.begin(self._about(about), self._checked(questions, strict))
            self._warn_of_answers()
            self._most = most_of_an_ask(searcher.settings, replace(budget, tokens=self._most_tokens))
            self._is_done = bytearray(self._count)
            retried = set()
            for number, line in self.folder.open_results(self._count, drop_errors=retry_errors):
                if retry_errors and "error" in line:
                    retried.add(number)
                else:
                    self._tally(number, line)
            history = self._history()
            lost_asks = len(history.in_flight - retried) + history.cut_asks
            self.lost_asks = history.lost_asks + lost_asks
            self._journal = Journal(self.folder.path / "journal", history.end, lost_asks)
            self._begun = self._replayed(history.events)
        except BaseException:
            self.close()
            raise

    def _about(self, more: Mapping[str, Any] | None) -> dict[str, Any]:
        return {
            "budget": asdict(self.budget),
            "seed": self.seed,
            "verify": self.verify,
            **self._parts(),
            "about": _checked_about(more),
        }

    def _parts(self) -> dict[str, Any]:
        return parts_of(self.searcher)

    def _uses_answers(self) -> bool:
        return self.searching.uses_answers

    def _warn_of_answers(self) -> None:
        if self._unused_answers:
            warnings.warn(
                f"questions: {self._unused_answers} have an answer, and the task takes none (it has no with_answer): "
                "they are neither searched for nor compared; verify=False (--no-verify) compares them afterwards",
                stacklevel=3,
            )

    def _checked(self, questions: Rows, strict: bool) -> Iterator[Row]:
        for row in checked_rows(questions, self._problems):
            own = getattr(row, "budget_tokens", None)
            if own is not None and self._most_tokens is not None:
                self._most_tokens = max(self._most_tokens, own)
            if not isinstance(row, BrokenLine):
                self._unused_answers += row.answer is not None and not self._uses_answers()
                yield row
            elif strict:
                raise ValueError(f"questions: {row}")
            else:
                self.broken.append(row)

    def _history(self) -> History:
        path = self.folder.path / "journal"
        history = read_journal(path, self._is_open)
        if history.is_damaged:
            warnings.warn(
                f"{path}: damaged at byte {history.end}; what is there and behind it is cut off: {history.dropped} "
                f"bytes, with {history.cut_asks} answers to questions that are not finished, which are asked again and "
                "counted as lost",
                stacklevel=3,
            )
        return history

    def _is_open(self, number: int) -> bool:
        return number < self._count and not self._is_done[number]

    def _problems(self, questions: Sequence[str]) -> Sequence[str | None]:
        return problems_of(self.searcher.task.initial_state, questions)

    # ---- running

    def __iter__(self) -> Generator[dict[str, Any]]:
        """The lines of the questions that are finished from here on, as they come. Ctrl-C ends it; so does the total.

        A loop that was left may be begun again: it goes on with what was under way.

        Raises:
            RunError: the disk is full, or fails. Nothing is lost: the same run goes on later.
            ValueError: the run is closed, or broken, or another loop over it has not ended.
        """
        loop = self._looped()
        self._loops.add(loop)
        return loop

    def _looped(self) -> Generator[dict[str, Any]]:
        self._check_open()
        if self._is_iterated:
            raise ValueError(f"{self.folder.path}: expected one loop over a run at a time; end the first one")
        if self._has_ended:
            self._go_on()
        self._is_iterated = True
        try:
            try:
                with closing(self._lines()) as lines:
                    yield from lines
            except KeyboardInterrupt:
                self._is_interrupted = True
            finally:
                self._is_iterated, self._has_ended = False, True
                self._end()
        except OSError as error:
            self._is_broken = True
            raise RunError(
                f"{error.filename or self.folder.path}: {error.strerror or error}; what was answered before is kept: "
                "mend that, and start the same run again"
            ) from error

    def _check_open(self) -> None:
        if self.folder.is_closed or self._is_broken:
            raise ValueError(f"{self.folder.path}: expected a run that is open; make it again to go on")

    def _go_on(self) -> None:
        """After a loop that has ended: what it broke off is made again from the journal, as in a life of its own."""
        history = read_journal(self._journal.path, self._is_open)
        self._open.clear()
        self._begun = self._replayed(history.events)
        self._is_starved = self._is_interrupted = False  # last: where Ctrl-C breaks in, the next loop does all of it
        self.lost_asks += len(history.in_flight)
        self._journal.goes_on(len(history.in_flight))

    def complete(self) -> RunSummary:
        """Runs to the end, and closes."""
        with self:
            for _ in self:
                pass
            return self.summary()

    def progress(self) -> RunProgress:
        """How far it is; from any thread."""
        return RunProgress(
            self._count,
            self._finished,
            self._solved,
            self._errors,
            len(self._open),
            self._journal.answers,
            Spent.of(self._spent()),
        )

    def summary(self) -> RunSummary:
        """How it stands."""
        now = self.progress()
        lost = tuple([self.lost_asks * amount for amount in self._most])
        if now.finished == now.questions:
            end = "done"
        else:
            end = "total" if self._is_starved and not self._is_interrupted else "interrupted"
        counts = now.questions, now.finished, now.solved, now.errors, now.spent
        return RunSummary(*counts, tuple(self.broken), self.lost_asks, Spent.of(lost), end)  # type: ignore[arg-type]

    def searches(self) -> list[tuple[Row, Search]]:
        """The questions that are being searched, with their searches, for reading; from any thread."""
        return [(recorder.row, recorder.search) for recorder in list(self._open.values())]

    def close(self) -> None:
        """Ends a loop that was left, and lets the folder go; may be called again."""
        try:
            self._end_loops()
        finally:
            if hasattr(self, "_journal"):
                self._journal.close()
            self.folder.close()

    def _end_loops(self) -> None:
        """One that is at work, as where its generator closes the run, ends as it finds the run closed."""
        for loop in list(self._loops):
            if inspect.getgeneratorstate(loop) != inspect.GEN_RUNNING:
                loop.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- questions in and out

    def _lines(self) -> Generator[dict[str, Any]]:
        """The lines of the questions as they are finished."""
        with closing(self.searching.drive(self._waiting(), self)) as searches:
            for search in searches:
                yield from self._not_begun()
                if search.stop_reason == "interrupted":
                    self._is_interrupted = True
                else:
                    yield self._finish(search)
        yield from self._not_begun()

    def _waiting(self) -> Iterator[Search]:
        """What is to be searched: first what had begun. A question that cannot begin is finished at once."""
        while self._begun:
            yield self._begun.pop(0)
        for number, row in enumerate(self.folder.rows()):
            if not self._is_done[number] and number not in self._open:
                search = self._started(number, row, ())
                if search is not None:
                    yield search

    def _replayed(self, events: Mapping[int, list[Answer | Failure]]) -> list[Search]:
        """What had begun and is not finished, made again from the journal."""
        rows = enumerate(self.folder.rows() if events else ())
        started = [self._started(number, row, events[number]) for number, row in rows if number in events]
        return [search for search in started if search is not None]

    def _not_begun(self) -> Iterator[dict[str, Any]]:
        """The lines of questions that could not begin, each once."""
        while self._refused:
            yield self._refused.pop(0)

    def _started(self, number: int, row: Row, events: Any) -> Search | None:
        """A search that goes on behind these events; None where it cannot begin, which is its result."""
        try:
            search = self.searching.start(row)
        except Exception as error:
            self._refused.append(error_line(row, error))
            self._write(number, self._refused[-1])
            return None
        if events:
            replay(search, events)
        search.observer = self._open[number] = Recorder(self._journal, number, row, search)
        return search

    def _finish(self, search: Search) -> dict[str, Any]:
        recorder = search.observer
        assert isinstance(recorder, Recorder), "every search of a run has one"
        line = self.searching.line(recorder.row, search)
        if self.keep:
            save_search(search, self.folder.search_file(recorder.row), line)
        self._write(recorder.number, line)
        del self._open[recorder.number]  # not before: where Ctrl-C breaks in, the question is under way
        return line

    def _write(self, number: int, line: dict[str, Any]) -> None:
        self._check_open()
        if "error" in line:  # it may go on later, with all that it spent
            self._journal.flush()
        self._tally(number, line, is_new=True)

    def _tally(self, number: int, line: Mapping[str, Any], is_new: bool = False) -> None:
        """Counts a result. A new one is written before: Ctrl-C breaks in before both, or behind them."""
        amounts = Spent(**line["spent"]).amounts()
        settled = [sum(pair) for pair in zip(self._settled, amounts, strict=True)]
        is_solved, is_error = line.get("solved") is True, "error" in line
        if is_error:
            self._failed.add(number)
        if is_new:
            self.folder.write_result(line)
        self._is_done[number] = 1  # nothing is called from here on
        self._finished += 1
        self._solved += is_solved
        self._errors += is_error
        self._settled = settled

    def _spent(self) -> tuple[int, int, int, int]:
        """By all questions, in all lives."""
        of_open = [recorder.search._native.account.spent for recorder in list(self._open.values())]
        tokens, prompt_tokens, tool_calls, cost = map(sum, zip(self._settled, *of_open, strict=True))
        return tokens, prompt_tokens, tool_calls, cost

    # ---- as the host of a driver

    def driven(self, wake: Callable[[], Any] | None) -> None:
        pass  # there is never more room than a loop was told

    def room(self, wanted: int, out: int) -> int:
        """Asks that the total can hold, each at the most that one may take."""
        if self._limits is None or wanted <= 0:
            return wanted
        room = wanted
        for limit, spent, most in zip(self._limits, self._spent(), self._most, strict=True):
            if limit is not None and most:
                room = min(room, (limit - spent) // most - self.lost_asks - out)
        self._is_starved = room <= 0
        return max(0, room)

    def before_wait(self) -> None:
        """What was answered by now goes into the journal. Nothing is asked of a run that was closed meanwhile."""
        self._check_open()
        journal = self._journal
        journal.flush()
        now_s = time.monotonic()
        if now_s - self._synced_s >= self.flush_s:
            self._sync()
            self._synced_s = now_s
        if journal.is_large:
            self.folder.sync_results()  # what is left out of the journal must be there
            journal.compact({*self._open, *self._failed})

    def _sync(self) -> None:
        self._journal.sync()
        self.folder.sync_results()

    def _end(self) -> None:
        """A life has ended in order: notes which answers it did not wait for."""
        if self.folder.is_closed:
            return
        in_flight = [number for number, recorder in self._open.items() if recorder.is_unwritten]
        self._journal.ended(in_flight)
        self._journal.flush()
        self._sync()
        if not self._open and self._finished == self._count:
            self._journal.compact(self._failed)


def _checked_about(about: Mapping[str, Any] | None) -> dict[str, Any]:
    """What has to be the same when a run goes on: as it is read again, without NaN, which never is."""
    try:
        return dict(json.loads(json.dumps(dict(about or {}), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise TypeError(f"about: expected a dictionary that JSON can hold, got {about!r:.80} ({error})") from error


def most_of_an_ask(settings: Settings, budget: Budget) -> tuple[int, ...]:
    """The most that one ask may take of each resource, as the engine reserves it: no more than its question has."""
    prices = (settings.max_step_tokens, settings.token_cost), (settings.max_prompt_tokens, settings.prompt_token_cost)
    # Rounded as the engine rounds: a token's price to 1e-18, then each sum to 1e-12, always up.
    costs = [-(-count * cost_units(price, digits=18) // 10**6) for count, price in prices]
    step = settings.max_step_tokens, settings.max_prompt_tokens, settings.step_tool_calls
    score = settings.max_score.amounts()
    each = (*step, sum(costs) + cost_units(settings.max_step_cost))
    most = [settings.candidates * (own + scored) for own, scored in zip(each, score, strict=True)]
    limits = zip(most, budget.limits(), strict=True)
    return tuple([amount if limit is None else min(amount, limit) for amount, limit in limits])


def _checked_total(total: Budget | None, settings: Settings) -> tuple[int | None, ...] | None:
    if total is None:
        return None
    settings.check_budget(total, "total")
    if total.seconds is not None:
        raise ValueError(
            "total: expected tokens, cost, tool calls or prompt tokens, got seconds; limit each question's"
        )
    return total.limits()

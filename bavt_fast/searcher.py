"""Drivers of the engine: searches with a generator and a critic, one question or many, with or without asyncio.

    engine.ask -> generator.propose -> waves.admit -> critic.score -> waves.grow

Everything about a question stays in its `Search`; a driver hands asks to the generator and answers back.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import aclosing, closing
from typing import Any

from bavt_fast._checks import as_clock, as_count, as_iterator, message_of, require_function
from bavt_fast.async_drive import AsyncDrive
from bavt_fast.budget import Budget, Spent
from bavt_fast.critics.functions import as_critic
from bavt_fast.drive import Drive
from bavt_fast.drive_base import Host
from bavt_fast.engine import Search
from bavt_fast.events import Listener, checked_listener
from bavt_fast.generators.functions import as_generator
from bavt_fast.result import SearchError, SearchResult
from bavt_fast.settings import settings_of
from bavt_fast.step_checks import checked_task
from bavt_fast.tasks.text import TextTask
from bavt_fast.waves import Rules, whose

__all__ = ["Searcher", "search"]

MANY_WAVE = 64
"""Asks in flight over many questions, where nobody says."""


class Searcher:
    """Searches with a fixed generator, critic and task.

    Args:
        generator: a `StepGenerator` (its ``propose`` may be a coroutine), a `StreamingStepGenerator`, or a function
            ``(text, count) -> list of step texts``, plain or a coroutine, which may take the limit of tokens as a third
            argument.
        critic: a `Critic`, a function ``text -> value in [0, 1]``, or None for V = 1 everywhere.
        task: a `Task`; None for plain text, where every step is valid and nothing is verified.
        wave: asks in flight in all; None for 1 with one question and 64 with many.
        leaves: asks in flight in one tree; None for `wave` with one question and 1 with many. Only with ``leaves=1`` is
            a question's result the same whatever stands beside it; with one ask in flight it is the sequential
            algorithm.
        retries: asks of one question that may fail and be asked again before the question gives up.
        on_progress: called after every wave, with a `Progress` for one question and a `ManyProgress` for many.
        clock: seconds of a clock that does not run backwards.
        on_event: called with an `Event` for whatever happens in a search, see `Search`; `bavt_fast.traces` has some.
        settings: the fields of `Settings`. ``root_value`` is 0.5 unless it is given for a critic that predicts
            residuals.

    Raises:
        TypeError, ValueError: an argument is not what it should be.
    """

    def __init__(
        self,
        generator: Any,
        critic: Any = None,
        task: Any = None,
        *,
        wave: int | None = None,
        leaves: int | None = None,
        retries: int = 0,
        on_progress: Callable[[Any], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_event: Listener | None = None,
        **settings: Any,
    ) -> None:
        self.generator = as_generator(generator)
        self.critic = as_critic(critic)
        self.task = TextTask() if task is None else checked_task(task)
        self.wave = None if wave is None else as_count("wave", wave, minimum=1)
        self.leaves = None if leaves is None else as_count("leaves", leaves, minimum=1)
        self.retries = as_count("retries", retries)
        require_function("on_progress", on_progress, wanted="a function that takes a Progress or a ManyProgress")
        self.on_progress = on_progress
        self.clock = as_clock(clock)
        self.on_event = checked_listener(on_event)
        if self.critic.predicts == "residual":
            settings.setdefault("root_value", 0.5)
        settings.setdefault("max_score", getattr(self.critic, "max_score", Spent()))
        self.settings = settings_of(settings)

    # ---- one question

    def start(self, question: str, *, budget: Budget, seed: int = 0) -> Search:
        """A search of one question with this searcher's task and settings, for `run` or to drive by hand.

        Raises:
            TypeError, ValueError: a bad question, budget or seed, before anything is spent.
        """
        return self._start(question, budget, seed, Rules(self.task, self.settings))

    def _start(self, question: str, budget: Budget, seed: int, rules: Rules) -> Search:
        """`start` with what many searches share."""
        return Search(
            question,
            task=self.task,
            budget=budget,
            seed=seed,
            settings=self.settings,
            clock=self.clock,
            on_event=self.on_event,
            rules=rules,
        )

    def search(self, question: str, *, budget: Budget, seed: int = 0) -> SearchResult:
        """Searches one question. Ctrl-C ends it with the best found so far.

        Raises:
            SearchError: generator, critic or task failed; its ``result`` holds what had been found.
            TypeError, ValueError: a bad question, budget or seed, before anything is spent.
        """
        return self.complete(self.start(question, budget=budget, seed=seed))

    def complete(self, search: Search) -> SearchResult:
        """Drives one search, made by `start` or `Search.load`, to its end, as `search` does. Raises as `search`."""
        if self.is_async:
            self._run_loop([search], one=True)
        else:
            for _ in self._drive([search], one=True):
                pass
        return _result_or_error(search)

    async def asearch(self, question: str, *, budget: Budget, seed: int = 0) -> SearchResult:
        """`search` with a generator or a critic that may be coroutines. Where it is cancelled there is no result."""
        search = self.start(question, budget=budget, seed=seed)
        async with aclosing(self._adrive([search], one=True)) as driving:
            async for _ in driving:
                pass
        return _result_or_error(search)

    # ---- many

    def search_many(
        self, questions: Sequence[str], *, budget: Budget | Sequence[Budget], seed: int | Sequence[int] = 0
    ) -> list[SearchResult]:
        """Searches many questions side by side, each with a budget of its own; their results in the same order.

        Question i gives what ``search(questions[i], ...)`` gives with ``wave=1``, up to the rounding of a model whose
        numerics depend on its batch size. A question whose task, generator or critic fails ends with the stop reason
        "error" and carries its `SearchResult.error`; the others go on. Ctrl-C ends all with what they have.

        Args:
            budget, seed: one for each question, or one for all.

        Raises:
            TypeError, ValueError: a bad question, budget or seed, before anything is spent; it says whose.
        """
        searches = self._start_many(questions, budget, seed)
        if self.is_async:
            self._run_loop(searches, one=False)
        else:
            drive = Drive(self, *self._widths(False), False)
            drive.together = len(searches)
            for _ in drive.run(searches):
                pass
        return _results(searches)

    def search_iter(
        self, questions: Iterable[str], *, budget: Budget, seed: int = 0
    ) -> Iterator[tuple[int, SearchResult]]:
        """As `search_many`, but (index, result) as they come, and questions are taken only as there is room for them.

        A question that the task refuses to parse raises when its turn comes. Ctrl-C ends those that were taken.
        """
        if self.is_async:
            raise TypeError("generator: expected a plain one here, got a coroutine; use asearch_iter")
        searches = self._starts((question, budget, seed) for question in _questions(questions))
        with closing(self._drive(searches, one=False)) as driving:
            for index, search in driving:
                yield index, search.result()

    async def asearch_many(
        self, questions: Sequence[str], *, budget: Budget | Sequence[Budget], seed: int | Sequence[int] = 0
    ) -> list[SearchResult]:
        """`search_many` with a generator or a critic that may be coroutines: asks are refilled one by one."""
        return await self._acollect(self._start_many(questions, budget, seed))

    async def asearch_iter(
        self, questions: Iterable[str], *, budget: Budget, seed: int = 0
    ) -> AsyncIterator[tuple[int, SearchResult]]:
        """`search_iter` with a generator or a critic that may be coroutines."""
        searches = self._starts((question, budget, seed) for question in _questions(questions))
        async with aclosing(self._adrive(searches, one=False)) as driving:
            async for index, search in driving:
                yield index, search.result()

    def run(self, searches: Iterable[Search], *, host: Host | None = None) -> Generator[Search]:
        """Drives searches made by `start` or `Search.load` to their ends; each as it stops.

        Between two of them any search may be stopped (`Search.stop`) or given more budget (`Search.extend`). The one
        that has just come goes on where it is extended, and comes again; one that came before can be run again. Asks
        that were out are asked again, unchanged, also where they are more than `wave`.

        Args:
            host: who lets it run; `bavt_fast.runs` is one.

        Raises:
            TypeError, ValueError: something is not a search, or another run has it, or its states were admitted
                (`Search.admit`) and neither grown nor cancelled. It is left as it was.
        """
        if self.is_async:
            raise TypeError("generator: expected a plain one here, got a coroutine; use arun")
        with closing(self._drive(searches, one=False, host=host)) as driving:
            for _, search in driving:
                yield search

    async def arun(self, searches: Iterable[Search], *, host: Host | None = None) -> AsyncGenerator[Search]:
        """`run` with a generator or a critic that may be coroutines."""
        async with aclosing(self._adrive(searches, one=False, host=host)) as driving:
            async for _, search in driving:
                yield search

    # ---- within

    @property
    def is_async(self) -> bool:
        """Whether its generator or its critic is a coroutine: `run` takes neither, `arun` both."""
        propose = getattr(self.generator, "propose", None)
        return inspect.iscoroutinefunction(propose) or inspect.iscoroutinefunction(self.critic.score)

    def _drive(self, searches: Iterable[Search], one: bool, host: Host | None = None) -> Generator[tuple[int, Search]]:
        return Drive(self, *self._widths(one), one, host).run(searches)

    def _adrive(
        self, searches: Iterable[Search], one: bool, host: Host | None = None
    ) -> AsyncGenerator[tuple[int, Search], None]:
        return AsyncDrive(self, *self._widths(one), one, host).run(searches)

    def _run_loop(self, searches: list[Search], one: bool) -> None:
        """Drives searches in an event loop of their own. asyncio turns Ctrl-C into a cancelled task."""

        async def drive() -> None:
            async with aclosing(self._adrive(searches, one)) as driving:
                async for _ in driving:
                    pass

        try:
            asyncio.get_running_loop()
        except RuntimeError:  # there is none
            pass
        else:
            raise TypeError(
                "generator or critic: expected plain ones within a running event loop, got a coroutine; "
                "await asearch or asearch_many instead"
            )
        try:
            asyncio.run(drive())
        except KeyboardInterrupt:
            for search in searches:
                search.stop("interrupted")

    def _widths(self, one: bool) -> tuple[int, int]:
        """(wave, leaves)."""
        wave = self.wave or (1 if one else MANY_WAVE)
        return wave, self.leaves or (wave if one else 1)

    async def _acollect(self, searches: list[Search]) -> list[SearchResult]:
        async for _ in self.arun(searches):
            pass
        return _results(searches)

    def _start_many(
        self, questions: Sequence[str], budget: Budget | Sequence[Budget], seed: int | Sequence[int]
    ) -> list[Search]:
        asked = list(_questions(questions))
        budgets = [budget] * len(asked) if isinstance(budget, Budget) else _one_each("budget", budget, len(asked))
        seeds = _one_each("seed", seed, len(asked)) if isinstance(seed, Sequence) else [seed] * len(asked)
        return list(self._starts(zip(asked, budgets, seeds, strict=True)))

    def _starts(self, asked: Iterable[tuple[str, Budget, Any]]) -> Iterator[Search]:
        """Searches of (question, budget, seed), as they are wanted. An error says which of ten thousand it was."""
        rules = Rules(self.task, self.settings)
        for number, (question, budget, seed) in enumerate(asked):
            try:
                search = self._start(question, budget, seed, rules)
            except (TypeError, ValueError) as error:
                if error.args and isinstance(error.args[0], str):
                    error.args = f"questions[{number}]: {error.args[0]}", *error.args[1:]
                raise
            yield search


def search(
    question: str,
    *,
    generator: Any,
    critic: Any = None,
    task: Any = None,
    budget: Budget,
    policy: str = "power",
    seed: int = 0,
    **options: Any,
) -> SearchResult:
    """Searches one question within a budget, as `Searcher.search` does, and raises as that.

    Args:
        generator, critic, task, options: of `Searcher`; ``options`` may be fields of `Settings` too.
        policy: of `Settings`.
        seed: seeds everything random.
    """
    return Searcher(generator, critic, task, policy=policy, **options).search(question, budget=budget, seed=seed)


def _questions(questions: Iterable[str]) -> Iterator[str]:
    if isinstance(questions, (str, bytes)):
        raise TypeError("questions: expected a list of str, got a str; use search() for one question")
    return as_iterator("questions", questions, "a list of str")


def _one_each(name: str, values: Any, count: int) -> list[Any]:
    if not isinstance(values, Sequence) or isinstance(values, (str, bytes)):
        raise TypeError(f"{name}: expected one for all questions or a list of {count}, got {values!r:.80}")
    if len(values) != count:
        raise ValueError(f"{name}: expected {count}, one for each question, got {len(values)}")
    return list(values)


def _results(searches: list[Search]) -> list[SearchResult]:
    """Their results in order. Empties the list: each search is freed while what it holds is in the cache."""
    searches.reverse()
    return [searches.pop().result() for _ in range(len(searches))]


def _result_or_error(search: Search) -> SearchResult:
    result = search.result()
    if result.error is not None:
        who = whose(result.error)
        raised = "" if who is None else f", raised by the {who}"
        message = f"{type(result.error).__name__} during the search{raised}: {message_of(result.error)}"
        raise SearchError(message, [result]) from result.error
    return result

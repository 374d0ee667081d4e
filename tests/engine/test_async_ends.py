"""What a coroutine raises that is no Exception ends the whole search: its tasks end, its results are whole."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from scripted import AsyncGenerator, ScriptedGenerator, TableCritic, World, WorldTask
from search_checks import check_consistent, check_idle, fingerprint

import bavt_fast as bavt
from bavt_fast.engine import Search
from bavt_fast.protocols import Description, Node, StepRequest
from bavt_fast.searcher import Searcher

ENDLESS = World(goal_share=0.0, dead_share=0.0, invalid_share=0.0, merge_share=0.0, branching=26, depth=9, min_tokens=0)
BUDGET = bavt.Budget(tokens=10**6)
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def _hangs() -> Iterator[None]:
    """A loop that waits for ever is broken off."""

    def ring(*_: Any) -> None:
        raise TimeoutError(f"still waiting after {PATIENCE_S} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


class Halt(BaseException):
    """One of the caller's own."""


ENDS = [SystemExit, GeneratorExit, Halt, KeyboardInterrupt]
STAGES = ["generator", "generator at once", "thread", "critic", "describe"]


class Breaking:
    """Raises at the 20th call."""

    def __init__(self, stage: str, error: type[BaseException]) -> None:
        self.stage, self.error, self.calls = stage, error, 0

    def meet(self, stage: str) -> None:
        if stage == self.stage:
            self.calls += 1
            if self.calls == 20:
                raise self.error()


def searcher_of(breaking: Breaking) -> Searcher:
    class Generator(AsyncGenerator):
        async def propose(self, states: Sequence[StepRequest], *columns: Any) -> Any:
            breaking.meet("generator at once")
            answers = await super().propose(states, *columns)
            breaking.meet("generator")
            return answers

    class Threaded(ScriptedGenerator):
        def propose(self, states: Sequence[StepRequest], *columns: Any) -> Any:
            breaking.meet("thread")
            return super().propose(states, *columns)

    class Critic(TableCritic):
        async def score(self, candidates: Sequence[Node]) -> list[float]:  # type: ignore[override]
            await asyncio.sleep(0)
            breaking.meet("critic")
            return super().score(candidates)

    class Task(WorldTask):
        async def adescribe(self, state: Any) -> Description:
            await asyncio.sleep(0)
            breaking.meet("describe")
            return super().describe(state)

    generator: Any = Threaded(ENDLESS) if breaking.stage == "thread" else Generator(ENDLESS)
    return Searcher(generator, Critic(ENDLESS), Task(ENDLESS), wave=4)


def check_ended(searches: Sequence[bavt.Search]) -> None:
    for search in searches:
        check_idle(search)
        assert search.stop_reason == "interrupted"
        check_consistent(search.result(), WorldTask(ENDLESS), search.question)
    assert sum(len(search.nodes) for search in searches) > 8


@pytest.mark.parametrize("error", ENDS)
@pytest.mark.parametrize("stage", STAGES)
def test_it_ends_the_search(stage: str, error: type[BaseException]) -> None:
    searcher = searcher_of(Breaking(stage, error))
    searches = [searcher.start(f"q{i}", budget=BUDGET) for i in range(5)]
    left: list[Any] = []

    async def main() -> None:
        try:
            async for _ in searcher.arun(searches):
                pass
        finally:
            left.extend(asyncio.all_tasks() - {asyncio.current_task()})

    loop = asyncio.new_event_loop()  # of which nobody cancels what is left in it
    try:
        with pytest.raises(error):
            loop.run_until_complete(main())
    finally:
        loop.close()
    assert [task for task in left if "propose" in repr(task)] == []
    check_ended(searches[:4])
    # The fifth had not begun; it, and all that were ended, can still be searched.
    assert searches[4].stop_reason is None
    searches[0].extend(bavt.Budget(tokens=1))


@pytest.mark.parametrize("error", ENDS)
@pytest.mark.parametrize("stage", STAGES)
def test_it_ends_a_search_from_plain_code(stage: str, error: type[BaseException]) -> None:
    searcher = searcher_of(Breaking(stage, error))
    search = searcher.start("q", budget=BUDGET)
    ends: Callable[[], Any] = lambda: searcher.complete(search)  # noqa: E731
    if error is KeyboardInterrupt:  # as Ctrl-C: the best so far
        assert ends().stop_reason == "interrupted"
    else:
        with pytest.raises(error):
            ends()
    check_ended([search])


@pytest.mark.parametrize("stage", STAGES)
def test_an_end_of_iteration_is_a_failure(stage: str) -> None:
    """It is an Exception, which neither a coroutine nor a future takes."""
    searcher = searcher_of(Breaking(stage, StopIteration))
    results = searcher.search_many([f"q{i}" for i in range(4)], budget=bavt.Budget(tokens=200))
    failed = 0 if stage == "thread" else 1  # where a batch of many fails, each of it is asked again
    assert sorted(result.stop_reason or "" for result in results) == ["budget"] * (4 - failed) + ["error"] * failed


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "thread"])
def test_something_cancelled_within_a_coroutine_is_a_failure(stage: str) -> None:
    """Such as a task of the caller's that it waits for. Nobody has cancelled the search."""
    searcher = searcher_of(Breaking(stage, asyncio.CancelledError))
    results = searcher.search_many([f"q{i}" for i in range(4)], budget=bavt.Budget(tokens=200))
    assert sorted(result.stop_reason or "" for result in results) == ["budget"] * 3 + ["error"]
    [error] = [result.error for result in results if result.error is not None]
    assert str(error) == "something that it waited for was cancelled"


def test_a_batch_that_fails_in_its_thread_is_asked_again_one_by_one() -> None:
    class Generator(ScriptedGenerator):
        def propose(self, states: Sequence[StepRequest], *columns: Any) -> Any:
            if any(state.text.startswith("q2\n") for state in states):
                raise StopIteration
            return super().propose(states, *columns)

    class Critic(TableCritic):
        async def score(self, candidates: Sequence[Node]) -> list[float]:  # type: ignore[override]
            return super().score(candidates)

    many = Searcher(Generator(ENDLESS), Critic(ENDLESS), WorldTask(ENDLESS), wave=4)
    results = many.search_many([f"q{i}" for i in range(4)], budget=bavt.Budget(tokens=200))
    assert [result.stop_reason for result in results] == ["budget", "budget", "error", "budget"]
    assert isinstance(results[2].error, StopIteration)


def test_what_nobody_waits_for_ends_nothing() -> None:
    """An ask that was given up raises as it is cancelled: its question has stopped, the others go on."""

    class Generator(AsyncGenerator):
        async def propose(self, states: Sequence[StepRequest], *columns: Any) -> Any:
            if states[0].text.startswith("slow\n"):
                try:
                    await asyncio.sleep(PATIENCE_S)
                except asyncio.CancelledError:
                    raise Halt from None
            return await super().propose(states, *columns)

    searcher = Searcher(Generator(ENDLESS), None, WorldTask(ENDLESS), wave=2)
    slow = searcher.start("slow", budget=bavt.Budget(tokens=10**6))
    others = [searcher.start(f"q{i}", budget=bavt.Budget(tokens=40)) for i in range(3)]

    async def main() -> None:
        async for search in searcher.arun([slow, *others]):
            if search is others[0]:
                slow.stop()

    asyncio.run(main())
    assert [search.stop_reason for search in others] == ["budget"] * 3
    assert slow.stop_reason == "cancelled"
    check_idle(slow)


def test_an_answer_that_nobody_waits_for_goes_to_no_other_question() -> None:
    """It came before its question was stopped, and the next question has its slot and its ticket."""

    class Generator(AsyncGenerator):
        async def propose(self, states: Sequence[StepRequest], *columns: Any) -> Any:
            if states[0].text == "slow\n":
                await gate.wait()
                return [[bavt.Step("of another question\n", 3)]]
            return await super().propose(states, *columns)

    searcher = Searcher(Generator(ENDLESS), None, WorldTask(ENDLESS), wave=2)
    slow, *others = [searcher.start(name, budget=bavt.Budget(tokens=40)) for name in ("slow", "a", "b", "c")]
    gate = asyncio.Event()

    async def main() -> None:
        async for search in searcher.arun([slow, *others]):
            if search is others[0]:
                gate.set()
                for _ in range(10):
                    await asyncio.sleep(0)
                slow.stop()

    asyncio.run(main())
    alone = Searcher(ScriptedGenerator(ENDLESS), None, WorldTask(ENDLESS))
    for search in others:
        expected = alone.search(search.question, budget=bavt.Budget(tokens=40))
        assert fingerprint(search.result()) == fingerprint(expected)


@pytest.mark.parametrize("leaves", [1, 3])
def test_a_coroutine_that_goes_on_after_the_deadline_is_given_up(leaves: int) -> None:
    """It need not know of the deadline; what it took is not known, so its limit is charged. The others go on."""
    cancelled: list[str] = []

    async def generator(text: str, count: int) -> list[str]:
        if text.startswith("slow"):
            try:
                await asyncio.sleep(PATIENCE_S)
            finally:
                cancelled.append(text)
        await asyncio.sleep(0)
        return [f"so {len(text)}"]

    searcher = Searcher(generator, wave=6, leaves=leaves, max_step_tokens=16)
    budgets = [bavt.Budget(tokens=100, seconds=0.2), bavt.Budget(tokens=40), bavt.Budget(tokens=40, seconds=1e300)]
    started_s = time.monotonic()
    results = searcher.search_many(["slow", "a", "b"], budget=budgets)
    assert time.monotonic() - started_s < PATIENCE_S / 4
    assert [result.stop_reason for result in results] == ["deadline", "budget", "budget"]
    assert cancelled == ["slow\n"] * len(cancelled)
    assert [result.spent.tokens for result in results] == [16 * len(cancelled), 40, 40]
    assert len(cancelled) == leaves


def test_what_comes_meanwhile_gives_no_coroutine_more_time() -> None:
    """Half a second after its deadline it is given up, also where answers to other questions come until then."""

    async def generator(text: str, count: int) -> list[str]:
        await asyncio.sleep(PATIENCE_S if text == "slow\n" else 0.3)
        return [f"so {len(text)}"]

    searcher = Searcher(generator, wave=2, max_step_tokens=16)
    budgets = [bavt.Budget(tokens=100, seconds=0.2), bavt.Budget(tokens=100, seconds=1.4)]
    slow, _ = searcher.search_many(["slow", "other"], budget=budgets)
    assert slow.stop_reason == "deadline"
    assert 0.7 <= slow.spent.seconds < 1.05  # not half a second after the answer of 0.6 s


def test_more_time_makes_a_late_coroutine_one_in_time() -> None:
    """It was late once: at its next deadline it has half a second again."""
    searches: list[Search] = []

    def extend(progress: Any) -> None:
        if searches[0].budget.seconds == 0.1 and searches[0].spent.seconds >= 0.1:
            searches[0].extend(bavt.Budget(seconds=0.7))

    async def generator(text: str, count: int) -> list[str]:
        await asyncio.sleep(0.15 if text == "other\n" else 1.0)
        return ["Answer: 4"]

    searcher = Searcher(generator, wave=2, max_step_tokens=16, on_progress=extend)
    searches += [searcher.start("late", budget=bavt.Budget(tokens=16, seconds=0.1))]
    searches += [searcher.start("other", budget=bavt.Budget(tokens=16))]

    async def main() -> None:
        async for _ in searcher.arun(searches):
            pass

    asyncio.run(main())
    assert [search.result().answer for search in searches] == ["4", "4"]


@pytest.mark.parametrize("stage", ["critic", "describe"])
def test_no_question_waits_for_another_ones_value_or_verdict(stage: str) -> None:
    gate = asyncio.Event()
    order: list[str] = []

    class Critic(TableCritic):
        async def score(self, candidates: Sequence[Node]) -> list[float]:  # type: ignore[override]
            if stage == "critic" and candidates[0].text.startswith("slow\n"):
                await gate.wait()
            return super().score(candidates)

    class Task(WorldTask):
        async def adescribe(self, state: Any) -> Description:
            if stage == "describe" and state[0].startswith("slow"):
                await gate.wait()
            return super().describe(state)

    searcher = Searcher(AsyncGenerator(ENDLESS), Critic(ENDLESS), Task(ENDLESS), wave=3)

    async def main() -> None:
        async for search in searcher.arun(
            [searcher.start(q, budget=bavt.Budget(tokens=40)) for q in ("slow", "a", "b")]
        ):
            order.append(search.question)
            if len(order) == 2:
                gate.set()
            check_consistent(search.result(), WorldTask(ENDLESS), search.question)

    asyncio.run(main())
    assert order[2:] == ["slow"]


@pytest.mark.parametrize("stage", ["critic", "describe"])
def test_a_value_or_a_verdict_that_does_not_come_by_the_deadline_is_given_up(stage: str) -> None:
    """The step is paid for, and as what scoring took is not known, the most that it may take is charged."""
    cancelled = []

    async def hang() -> None:
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            cancelled.append(stage)

    class Critic(TableCritic):
        async def score(self, candidates: Sequence[Node]) -> list[float]:  # type: ignore[override]
            if stage == "critic":
                await hang()
            return super().score(candidates)

    class Task(WorldTask):
        async def adescribe(self, state: Any) -> Description:
            if stage == "describe":
                await hang()
            return super().describe(state)

    searcher = Searcher(
        AsyncGenerator(ENDLESS), Critic(ENDLESS), Task(ENDLESS), max_score=bavt.Spent(tokens=50, tool_calls=1, cost=0.5)
    )
    started_s = time.monotonic()
    result = searcher.search("q", budget=bavt.Budget(tokens=1000, seconds=0.2))
    assert time.monotonic() - started_s < PATIENCE_S / 4
    assert (result.stop_reason, cancelled) == ("deadline", [stage])
    assert result.spent.tokens > 50
    assert (result.spent.tool_calls, result.spent.cost, result.overrun) == (1, 0.5, bavt.Spent())


def test_a_deadline_ends_no_other_question_of_a_batch_that_blocks() -> None:
    """They are in one call, in one thread. The others wait for it, and go on."""
    release = threading.Event()

    def generator(text: str, count: int) -> list[str]:
        if text == "slow\n":
            release.wait(PATIENCE_S)
        return [f"so {len(text)}"]

    searcher = Searcher(generator, wave=3, max_step_tokens=16)
    budgets = [bavt.Budget(tokens=100, seconds=0.2), bavt.Budget(tokens=40), bavt.Budget(tokens=40)]
    searches = [searcher.start(q, budget=budget) for q, budget in zip(("slow", "a", "b"), budgets, strict=True)]

    async def main() -> None:
        async for search in searcher.arun(searches):
            if search is searches[0]:
                release.set()

    asyncio.run(main())
    assert [search.stop_reason for search in searches] == ["deadline", "budget", "budget"]
    assert [search.spent.tokens for search in searches] == [16, 40, 40]


def test_a_generator_that_blocks_is_asked_by_one_thread_at_a_time() -> None:
    """Also where its last call goes on for asks that were given up at their deadline."""
    at_work = threading.Lock()
    release = threading.Event()

    def generator(text: str, count: int) -> list[str]:
        if not at_work.acquire(blocking=False):
            raise AssertionError("two calls at once")
        try:
            if text == "slow\n":
                release.wait(PATIENCE_S)
            return [f"so {len(text)}"]
        finally:
            at_work.release()

    async def critic(text: str) -> float:
        return 0.5

    searcher = Searcher(generator, critic, wave=1, max_step_tokens=16)
    budgets = [bavt.Budget(tokens=100, seconds=0.1), bavt.Budget(tokens=40, seconds=PATIENCE_S)]
    searches = [searcher.start(q, budget=budget) for q, budget in zip(("slow", "next"), budgets, strict=True)]

    async def main() -> None:
        async for search in searcher.arun(searches):
            if search is searches[0]:
                asyncio.get_running_loop().call_later(0.2, release.set)

    asyncio.run(main())
    assert [search.stop_reason for search in searches] == ["deadline", "budget"]
    assert [search.spent.tokens for search in searches] == [16, 40]


def test_what_an_ask_may_take_is_charged_whole_where_it_is_given_up() -> None:
    async def generator(text: str, count: int) -> list[str]:
        await asyncio.sleep(PATIENCE_S)
        return []

    searcher = Searcher(
        generator,
        max_step_tokens=16,
        max_prompt_tokens=50,
        step_tool_calls=2,
        max_step_cost=0.25,
        token_cost=0.001,
        prompt_token_cost=0.0001,
    )
    result = searcher.search("q", budget=bavt.Budget(tokens=100, seconds=0.1, cost=1.0, tool_calls=9, prompt_tokens=99))
    assert result.stop_reason == "deadline"
    spent = result.spent
    assert (spent.tokens, spent.prompt_tokens, spent.tool_calls, spent.cost) == (16, 50, 2, 0.271)

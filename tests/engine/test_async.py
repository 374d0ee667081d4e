"""Generators and critics that are coroutines: refilled one by one, with the results of the plain driver."""

from __future__ import annotations

import asyncio
import contextvars
import gc
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import AsyncGenerator, ScriptedGenerator, StreamingGenerator, TableCritic, World, WorldTask
from search_checks import WORLDS, check_consistent, check_idle, fingerprint, worlds

import bavt_fast as bavt
from bavt_fast.protocols import Description, GenerationError, Node, StepRequest
from bavt_fast.result import SearchError
from bavt_fast.searcher import Searcher

BUDGET = bavt.Budget(tokens=80)
ENDLESS = World(goal_share=0.0, dead_share=0.0, invalid_share=0.0, merge_share=0.0, branching=26, depth=9, min_tokens=0)


class AsyncCritic:
    """The world's values, by a coroutine."""

    predicts = "value"

    def __init__(self, world: World) -> None:
        self.inner = TableCritic(world)

    async def score(self, candidates: Sequence[Node]) -> list[float]:
        await asyncio.sleep(0)
        return self.inner.score(candidates)


def alone(world: World, question: str, budget: bavt.Budget = BUDGET, seed: int = 0) -> Any:
    plain = Searcher(ScriptedGenerator(world), TableCritic(world), WorldTask(world))
    return fingerprint(plain.search(question, budget=budget, seed=seed))


@settings(max_examples=WORLDS, deadline=None)
@given(
    world=worlds,
    wave=st.integers(1, 9),
    leaves=st.integers(1, 3),
    count=st.integers(1, 5),
    async_critic=st.booleans(),
    seed=st.integers(0, 99),
)
def test_many_questions(world: World, wave: int, leaves: int, count: int, async_critic: bool, seed: int) -> None:
    generator, task = AsyncGenerator(world), WorldTask(world)
    critic = AsyncCritic(world) if async_critic else TableCritic(world)
    many = Searcher(generator, critic, task, wave=wave, leaves=leaves)
    questions = [f"q{i}" for i in range(count)]
    results = asyncio.run(many.asearch_many(questions, budget=BUDGET, seed=seed))
    assert generator.most <= wave
    assert generator.most_of_one <= leaves
    assert len(task.described) == len(set(task.described))
    for question, result in zip(questions, results, strict=True):
        check_consistent(result, WorldTask(world), question, unscored=async_critic and leaves > 1)
        if leaves == 1:  # whatever the order in which answers came
            assert fingerprint(result) == alone(world, question, seed=seed)


def test_asks_are_refilled_one_by_one() -> None:
    """As many as the wave allows are out all the time, not the slowest of a wave alone."""
    sizes: list[int] = []

    class Generator(AsyncGenerator):
        async def propose(self, states: Any, counts: Any, limits: Any) -> Any:
            sizes.append(self.out.total() + 1)
            return await super().propose(states, counts, limits)

    many = Searcher(Generator(ENDLESS, gives_way=20), None, WorldTask(ENDLESS), wave=6)
    asyncio.run(many.asearch_many([f"q{i}" for i in range(12)], budget=BUDGET, seed=list(range(12))))
    assert max(sizes) == 6
    assert sum(size >= 4 for size in sizes) > 0.8 * len(sizes)  # half of them, if whole waves were waited for


def test_one_question_by_every_way() -> None:
    expected = alone(ENDLESS, "q", seed=5)
    one = Searcher(AsyncGenerator(ENDLESS), AsyncCritic(ENDLESS), WorldTask(ENDLESS))
    assert fingerprint(one.search("q", budget=BUDGET, seed=5)) == expected  # from plain code
    assert fingerprint(asyncio.run(one.asearch("q", budget=BUDGET, seed=5))) == expected
    assert fingerprint(one.search_many(["q"], budget=BUDGET, seed=5)[0]) == expected

    async def iterate() -> list[Any]:
        return [(i, fingerprint(r)) async for i, r in one.asearch_iter(iter(["q", "q"]), budget=BUDGET, seed=5)]

    assert sorted(asyncio.run(iterate()), key=lambda pair: pair[0]) == [(0, expected), (1, expected)]


def test_leaves_of_one_question() -> None:
    generator = AsyncGenerator(ENDLESS)
    one = Searcher(generator, None, WorldTask(ENDLESS), wave=4)
    result = one.search("q", budget=bavt.Budget(tokens=600))
    assert generator.most_of_one == 4
    assert result.spent.tokens == 600
    check_consistent(result, WorldTask(ENDLESS))


def test_coroutine_functions() -> None:
    async def generator(text: str, count: int) -> list[str]:
        await asyncio.sleep(0)
        return ["Answer: 42" if text.count("\n") == 3 else f"think {text.count('think')}"]

    async def critic(text: str) -> float:
        await asyncio.sleep(0)
        return 0.5

    result = bavt.search("q", generator=generator, critic=critic, budget=bavt.Budget(tokens=40))
    assert (result.answer, result.value) == ("42", 0.5)


def test_a_plain_generator_beside_a_coroutine_critic_blocks_no_loop() -> None:
    """It runs in a thread: the loop goes on meanwhile."""
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    async def main() -> Any:
        ticking = asyncio.ensure_future(tick())
        searcher = Searcher(ScriptedGenerator(ENDLESS), AsyncCritic(ENDLESS), WorldTask(ENDLESS), wave=3)
        results = await searcher.asearch_many(["a", "b", "c"], budget=BUDGET)
        ticking.cancel()
        return results

    results = asyncio.run(main())
    assert ticks > 10
    assert [fingerprint(result) for result in results] == [alone(ENDLESS, name) for name in "abc"]


def test_all_parts_find_the_context_variables_of_the_caller() -> None:
    """Also a plain generator, which runs in a thread: a tracer's current span is one of them."""
    name = contextvars.ContextVar("name", default="nobody's")
    found: dict[str, str] = {}

    def generator(text: str, count: int) -> list[str]:
        found["generator"] = name.get()
        return ["Answer: 4"]

    async def critic(text: str) -> float:
        found["critic"] = name.get()
        return 0.5

    async def main() -> None:
        name.set("mine")
        await Searcher(generator, critic).asearch("q", budget=BUDGET)

    asyncio.run(main())
    assert found == {"generator": "mine", "critic": "mine"}


def test_what_asyncio_does_not_take() -> None:
    streaming = Searcher(StreamingGenerator(ENDLESS), None, WorldTask(ENDLESS))
    with pytest.raises(TypeError, match="generator: expected one with propose"):
        asyncio.run(streaming.asearch("q", budget=BUDGET))
    coroutine = Searcher(AsyncGenerator(ENDLESS), None, WorldTask(ENDLESS))
    with pytest.raises(TypeError, match="generator: expected a plain one here, got a coroutine; use asearch_iter"):
        next(coroutine.search_iter(["q"], budget=BUDGET))
    with pytest.raises(TypeError, match="generator: expected a plain one here, got a coroutine; use arun"):
        next(coroutine.run([coroutine.start("q", budget=BUDGET)]))


# --- descriptions that are coroutines


class SlowTask(WorldTask):
    """Verifies by a coroutine."""

    async def adescribe(self, state: Any) -> Description:
        await asyncio.sleep(0)
        return super().describe(state)


@settings(max_examples=WORLDS // 2, deadline=None)
@given(world=worlds, wave=st.integers(1, 6), seed=st.integers(0, 99))
def test_descriptions_by_coroutines(world: World, wave: int, seed: int) -> None:
    task = SlowTask(world)
    many = Searcher(AsyncGenerator(world), TableCritic(world), task, wave=wave)
    results = asyncio.run(many.asearch_many(["q0", "q1", "q2"], budget=BUDGET, seed=seed))
    for i, result in enumerate(results):
        assert fingerprint(result) == alone(world, f"q{i}", seed=seed)
    assert len(task.described) == len(set(task.described))


@pytest.mark.skipif(not hasattr(asyncio, "eager_task_factory"), reason="Python 3.12 has eager tasks first")
@pytest.mark.parametrize("gives_way", [0, 2])
@pytest.mark.parametrize("slow", ["nothing", "critic", "task", "both"])
def test_a_loop_whose_tasks_are_eager(slow: str, gives_way: int) -> None:
    """What never waits is done before its task is known to anybody."""

    class Critic(AsyncCritic):
        async def score(self, candidates: Sequence[Node]) -> list[float]:
            return self.inner.score(candidates)

    class Task(WorldTask):
        async def adescribe(self, state: Any) -> Description:
            return self.describe(state)

    async def search() -> list[Any]:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        critic = Critic(ENDLESS) if slow in ("critic", "both") else TableCritic(ENDLESS)
        task = Task(ENDLESS) if slow in ("task", "both") else WorldTask(ENDLESS)
        many = Searcher(AsyncGenerator(ENDLESS, gives_way=gives_way), critic, task, wave=3)
        return await asyncio.wait_for(many.asearch_many([f"q{i}" for i in range(4)], budget=BUDGET, seed=5), 60)

    results = asyncio.run(search())
    assert [fingerprint(result) for result in results] == [alone(ENDLESS, f"q{i}", seed=5) for i in range(4)]


class ManyTask(WorldTask):
    """Describes many states at once. Records how many."""

    describe = None  # type: ignore[assignment]

    def __init__(self, world: World, **options: Any) -> None:
        super().__init__(world, **options)
        self.sizes: list[int] = []

    def describe_many(self, states: Sequence[Any]) -> list[Description]:
        self.sizes.append(len(states))
        return [WorldTask.describe(self, state) for state in states]


@pytest.mark.parametrize("how", ["plain", "async"])
def test_descriptions_many_at_once(how: str) -> None:
    class Task(ManyTask):
        def describe(self, state: Any) -> Description:  # of the question
            return WorldTask.describe(self, state)

    world = World(seed=3, goal_share=0.1)
    task = Task(world)
    generator: Any = ScriptedGenerator(world) if how == "plain" else AsyncGenerator(world)
    results = Searcher(generator, TableCritic(world), task, wave=5).search_many(
        [f"q{i}" for i in range(5)], budget=BUDGET
    )
    assert [fingerprint(result) for result in results] == [alone(world, f"q{i}") for i in range(5)]
    assert len(task.described) == len(set(task.described))
    assert max(task.sizes) > 1


# --- failures


@pytest.mark.parametrize("stage", ["generator", "critic", "describe"])
def test_a_failure_ends_its_question_alone(stage: str) -> None:
    class Generator(AsyncGenerator):
        async def propose(self, states: Sequence[StepRequest], *columns: Any) -> Any:
            if stage == "generator" and states[0].text.startswith("q2\n") and "\n" in states[0].text[3:]:
                raise OSError("gone")
            return await super().propose(states, *columns)

    class Critic(AsyncCritic):
        async def score(self, candidates: Sequence[Node]) -> Any:
            if stage == "critic" and any(len(node.state) > 2 and node.state[0] == "q2" for node in candidates):
                raise OSError("gone")
            return await super().score(candidates)

    class Task(SlowTask):
        async def adescribe(self, state: Any) -> Description:
            if stage == "describe" and len(state) > 2 and state[0] == "q2":
                raise OSError("gone")
            return await super().adescribe(state)

    many = Searcher(Generator(ENDLESS), Critic(ENDLESS), Task(ENDLESS), wave=5)
    searches = [many.start(f"q{i}", budget=BUDGET) for i in range(5)]

    async def main() -> None:
        async for _ in many.arun(searches):
            pass

    asyncio.run(main())
    for i, search in enumerate(searches):
        result = search.result()
        check_idle(search)
        check_consistent(result, WorldTask(ENDLESS), f"q{i}")
        assert result.spent.tokens <= 80
        if i == 2:
            assert (result.stop_reason, str(result.error)) == ("error", "gone")
        else:
            assert fingerprint(result) == alone(ENDLESS, f"q{i}")
    with pytest.raises(SearchError, match=r"OSError during the search(, raised by the \w+)?: gone"):
        asyncio.run(many.asearch("q2", budget=BUDGET))


def test_retries_and_charged_failures() -> None:
    class Generator(AsyncGenerator):
        left = 2

        async def propose(self, states: Sequence[StepRequest], *columns: Any) -> Any:
            if self.left:
                self.left -= 1
                raise GenerationError("429", bavt.Spent(tokens=5))
            return await super().propose(states, *columns)

    result = Searcher(Generator(ENDLESS), None, WorldTask(ENDLESS), retries=2).search("q", budget=BUDGET)
    assert (result.stop_reason, result.error, result.spent.tokens) == ("budget", None, 80)
    steps = [step for step in result.steps if step is not None] + [refusal.step for refusal in result.refused]
    assert sum(step.tokens for step in steps) == 70


def test_a_task_that_is_cancelled_leaves_its_searches_with_what_they_have() -> None:
    generator = AsyncGenerator(ENDLESS)
    many = Searcher(generator, None, WorldTask(ENDLESS), wave=3, leaves=2)
    searches = [many.start(f"q{i}", budget=bavt.Budget(tokens=10**6)) for i in range(3)]

    async def drive() -> None:
        async for _ in many.arun(searches):
            pass

    async def main() -> None:
        driving = asyncio.ensure_future(drive())
        while len(generator.inner.requests) < 50:
            await asyncio.sleep(0)
        driving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await driving
        assert len(asyncio.all_tasks()) == 1  # no task of an ask is left

    asyncio.run(main())
    for search in searches:
        check_idle(search)
        assert search.stop_reason == "interrupted"
        check_consistent(search.result(), WorldTask(ENDLESS), search.question)
    assert sum(len(search.nodes) for search in searches) > 40


def test_an_iteration_that_is_broken_off() -> None:
    many = Searcher(AsyncGenerator(ENDLESS), None, WorldTask(ENDLESS), wave=3)
    searches = [many.start(f"q{i}", budget=bavt.Budget(tokens=30 if i == 0 else 10**6)) for i in range(3)]

    async def main() -> None:
        iteration = many.arun(searches)
        async for search in iteration:
            assert search is searches[0]
            break
        await iteration.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())
    for search in searches:
        check_idle(search)
    assert [search.stop_reason for search in searches] == ["budget", "interrupted", "interrupted"]


def test_a_loop_that_is_closed_too_early_leaves_its_searches_with_what_they_have() -> None:
    async def generator(text: str, count: int) -> list[str]:
        await asyncio.sleep(0 if text.startswith("quick") else 60)
        return ["and so on"]

    searcher = bavt.Searcher(generator, max_step_tokens=3)
    searches = [searcher.start(name, budget=bavt.Budget(tokens=3)) for name in ("quick", "slow", "slower")]
    driving: Any = searcher.arun(searches)
    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(anext(driving)) is searches[0]
    loop.close()
    del driving
    gc.collect()
    for search in searches:
        check_idle(search)
    assert [search.stop_reason for search in searches] == ["budget", "interrupted", "interrupted"]


def test_searches_are_stopped_and_extended_in_the_middle() -> None:
    many = Searcher(AsyncGenerator(ENDLESS), None, WorldTask(ENDLESS), wave=3)
    quick, extended, stopped = (
        many.start(name, budget=bavt.Budget(tokens=n)) for name, n in (("a", 30), ("b", 40), ("c", 10**6))
    )
    seen: list[str] = []

    async def main() -> None:
        async for search in many.arun([quick, extended, stopped]):
            seen.append(search.question)
            if search is extended and seen.count("b") == 1:
                search.extend(bavt.Budget(tokens=60))
            if seen.count("b") == 2:
                stopped.stop()

    asyncio.run(main())
    assert sorted(seen) == ["a", "b", "b", "c"]
    assert (quick.stop_reason, extended.stop_reason, stopped.stop_reason) == ("budget", "budget", "cancelled")
    assert extended.spent.tokens == 100
    for search in (quick, extended, stopped):
        check_idle(search)
        check_consistent(search.result(), WorldTask(ENDLESS), search.question)


def test_two_searches_in_one_loop() -> None:
    """A searcher keeps nothing of a search: two at once do not know of each other."""
    one = Searcher(AsyncGenerator(ENDLESS), AsyncCritic(ENDLESS), WorldTask(ENDLESS))

    async def main() -> list[Any]:
        return await asyncio.gather(*[one.asearch(f"q{i}", budget=BUDGET, seed=i) for i in range(5)])

    for i, result in enumerate(asyncio.run(main())):
        assert fingerprint(result) == alone(ENDLESS, f"q{i}", seed=i)


def test_seeds_of_answers_do_not_depend_on_their_order() -> None:
    orders = set()
    for shuffle in range(4):
        generator = AsyncGenerator(ENDLESS, gives_way=shuffle * 5)
        many = Searcher(generator, None, WorldTask(ENDLESS), wave=6)
        many.search_many([f"q{i}" for i in range(6)], budget=BUDGET, seed=list(range(6)))
        orders.add(tuple(request.seed for request in generator.inner.requests))
    assert len(orders) > 1
    assert len({tuple(sorted(order)) for order in orders}) == 1


@pytest.mark.parametrize("kind", ["coroutine", "task"])
def test_a_critic_may_give_what_can_be_awaited(kind: str) -> None:
    """Nobody sees beforehand that it will."""
    inner = AsyncCritic(ENDLESS)

    class Critic(TableCritic):
        def score(self, candidates: Any) -> Any:
            awaitable = inner.score(candidates)
            return awaitable if kind == "coroutine" else asyncio.ensure_future(awaitable)

    many = Searcher(AsyncGenerator(ENDLESS), Critic(ENDLESS), WorldTask(ENDLESS), wave=3)
    questions = [f"q{i}" for i in range(4)]
    results = asyncio.run(many.asearch_many(questions, budget=BUDGET, seed=5))
    assert [fingerprint(result) for result in results] == [alone(ENDLESS, q, seed=5) for q in questions]

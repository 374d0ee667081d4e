"""What our client costs above a bare call of aiohttp, which it is made of, and of the package openai; and what comes
through a real vLLM.

Costs are processor time of the client's process: against a server that answers at once a client is never idle, so on a
machine of its own they are the wall time, and on one that others use they are what stays the same.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import aiohttp

from bavt_fast.budget import Budget
from bavt_fast.folder_settings import embedded_folder
from bavt_fast.generators.openai_server import OpenAIGenerator
from bavt_fast.protocols import StepRequest
from bavt_fast.searcher import Searcher
from bavt_fast.tasks.text import TextTask
from benchmarks.harness import Limits, Row, elapsed_s, rounds_of, row_of
from benchmarks.server import rows, serving
from benchmarks.server.instant import TOKENS

PROMPT = "Question {}: what comes next?\n"
STEP_TOKENS = 10
"""Of every answer of vLLM: nothing ends it before."""


def processor_s(run: Callable[[], object]) -> float:
    """Processor time of this process."""
    start_s = time.process_time()
    run()
    return time.process_time() - start_s


async def workers(count: int, steps: int, call: Callable[[int], Awaitable[object]]) -> None:
    """Makes so many calls, always so many of them at once."""
    numbers = iter(range(steps))

    async def worker() -> None:
        for number in numbers:
            await call(number)

    await asyncio.gather(*(worker() for _ in range(count)))


def in_flight(count: int, steps: int, call: Callable[[int], Awaitable[object]]) -> Callable[[], None]:
    """`workers` in an event loop of their own."""
    return lambda: asyncio.run(workers(count, steps, call))


def fields(number: int) -> dict[str, Any]:
    """Of a request, as our generator sends them."""
    prompt = PROMPT.format(number)
    return {
        "model": "m",
        "prompt": prompt,
        "max_tokens": 8,
        "stop": ["\n"],
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": number,
    }


def bare_aiohttp(url: str, count: int, steps: int) -> float:
    """The client of the package aiohttp alone, with the same fields."""

    async def run() -> None:
        connector = aiohttp.TCPConnector(limit=count)
        timeout = aiohttp.ClientTimeout(total=120.0)
        headers = {"Authorization": "Bearer none"}
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:

            async def call(number: int) -> None:
                async with session.post(f"{url}/completions", json=fields(number)) as response:
                    await response.json()

            await workers(count, steps, call)

    return processor_s(lambda: asyncio.run(run()))


def bare(url: str, count: int, steps: int) -> float:
    """The client of the package openai alone, with the same fields."""
    import openai

    async def call(number: int) -> None:
        await client.completions.create(**fields(number), timeout=120.0)

    client = openai.AsyncOpenAI(api_key="none", base_url=url, max_retries=0)
    return processor_s(in_flight(count, steps, call))


def generator_alone(url: str, count: int, steps: int) -> float:
    generator = OpenAIGenerator("m", base_url=url, max_in_flight=count)

    async def call(number: int) -> None:
        ((_,),) = await generator.propose([StepRequest(PROMPT.format(number), seed=number)], [1], [8])  # type: ignore[misc]

    return processor_s(in_flight(count, steps, call))


def search(url: str, count: int, steps: int) -> float:
    """Whole searches, a step of each question in flight."""
    generator = OpenAIGenerator("m", base_url=url, max_in_flight=count)
    each = steps // count
    searcher = Searcher(generator, task=TextTask(max_depth=1000), wave=count, max_step_tokens=TOKENS)
    questions = [PROMPT.format(number) for number in range(count)]
    budget = Budget(tokens=each * TOKENS)
    seconds = processor_s(lambda: searcher.search_many(questions, budget=budget))
    asked = generator.server_statistics().requests
    assert asked == each * count, asked
    return seconds


def overhead(count: int, steps: int, limits: Limits) -> Iterator[Row]:
    at = {"in_flight": count}
    with serving.instant() as url:
        sides = {
            rows.AIOHTTP: lambda: bare_aiohttp(url, count, steps),
            rows.CLIENT: lambda: generator_alone(url, count, steps),
            rows.SEARCH: lambda: search(url, count, steps),
        }
        if importlib.util.find_spec("openai") is not None:
            sides[rows.BARE] = lambda: bare(url, count, steps)
        seconds = rounds_of(sides, limits)
    for who, rounds in seconds.items():
        yield row_of(rows.STEP, who, "us", [1e6 * s / steps for s in rounds], at)
    for what, bare_one in ((rows.ADDED, rows.AIOHTTP), (rows.ADDED_TO_OPENAI, rows.BARE)):
        if bare_one in seconds:
            for who in (rows.CLIENT, rows.SEARCH):
                pairs = zip(seconds[who], seconds[bare_one], strict=True)
                yield row_of(what, who, "us", [1e6 * (ours - theirs) / steps for ours, theirs in pairs], at)


def through_vllm(count: int, steps: int, rounds: int, added_us: Callable[[], float | None]) -> Iterator[Row]:
    """Steps of the embedded model, as many and as long as vLLM's own client asks for; they take turns.

    Its requests are the same as ours, and once without seeds: vLLM draws for requests with seeds one by one. Throughput
    is of wall time, and so of what others leave of the machine. What vLLM itself takes for a step is not.
    """
    folder, at = embedded_folder(), {"in_flight": count}
    numbers = itertools.cycle(range(1, 100))
    busy: list[float] = []
    prompts: list[str] = []
    drawn = {"temperature": 1.0, "top_p": 1.0}

    async def one(number: int) -> None:
        prompt = prompts[number % len(prompts)]
        ((_,),) = await generator.propose([StepRequest(prompt, seed=number)], [1], [STEP_TOKENS])  # type: ignore[misc]

    def by_ours() -> float:
        start_s = time.process_time()
        seconds = elapsed_s(in_flight(count, steps, one))
        busy.append((time.process_time() - start_s) / seconds)
        return steps / seconds

    def by_theirs(body: Mapping[str, Any]) -> float:
        return serving.their_steps_a_second(server.url, folder, prompts, STEP_TOKENS, count, body)

    sides: dict[str, Callable[[], float]] = {
        rows.CLIENT: by_ours,
        rows.VLLM_BENCH: lambda: by_theirs({**drawn, "stop": ["never"], "seed": 7}),
        rows.UNSEEDED: lambda: by_theirs({**drawn, "stop": ["never"]}),
    }
    rates: dict[str, list[float]] = {who: [] for who in sides}
    took: dict[str, list[float]] = {who: [] for who in sides}
    with serving.vllm(folder, 64) as server:
        for turn in range(rounds + 1):  # the first warms up
            prompts[:] = [
                f"Target: 24 (left: {' '.join(str(next(numbers)) for _ in range(4))})\n" for _ in range(steps)
            ]
            body = {"ignore_eos": True}
            generator = OpenAIGenerator(
                "m", base_url=server.url, delimiter="never", max_in_flight=count, extra_body=body
            )
            order = [*sides]
            for who in order[turn % 3 :] + order[: turn % 3]:
                start_s = server.processor_s()
                rates[who].append(sides[who]())
                took[who].append(1e3 * (server.processor_s() - start_s) / steps)

    def of(what: dict[str, list[float]], who: str) -> list[float]:
        return [ours / theirs for ours, theirs in zip(what[rows.CLIENT][1:], what[who][1:], strict=True)]

    for who in sides:
        yield row_of(rows.THROUGHPUT, who, "steps/s", rates[who][1:], at)
    yield row_of(rows.OF_THEIRS, rows.CLIENT, "x", of(rates, rows.VLLM_BENCH), at)
    yield row_of(rows.OF_UNSEEDED, rows.CLIENT, "x", of(rates, rows.UNSEEDED), at)
    for who in sides:
        yield row_of(rows.SERVER, who, "ms", took[who][1:], at)
    yield row_of(rows.OF_THEIR_SERVER, rows.CLIENT, "x", of(took, rows.VLLM_BENCH), at)
    yield row_of(rows.BUSY, rows.CLIENT, "%", [100 * share for share in busy[1:]], at)
    added = added_us()
    if added is not None:
        yield row_of(rows.SHARE, rows.CLIENT, "%", [100 * added * 1e-6 * rate for rate in rates[rows.CLIENT][1:]], at)

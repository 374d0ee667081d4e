"""Searches through a proxy that does what bad networks and bad servers do: nothing is lost, and no budget is broken."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

pytest.importorskip("aiohttp")

from fake_server import FakeServer, Reply, as_generate, thinks_and_answers
from fault_proxy import Fault, FaultProxy, closed, counted, half, now_and_then, refused, reset, slow

import bavt_fast as bavt
from bavt_fast.generators.openai_server import OpenAIGenerator
from bavt_fast.tasks.text import TextTask

QUESTIONS = [f"Question {i}" for i in range(6)]
FAULTS: dict[str, Fault] = {
    "slow": slow(0.05),
    "too many requests": refused(429),
    "bad gateway": refused(502),
    "reset before a byte": reset(0.0),
    "reset in mid-stream": reset(0.6),
    "closed in mid-stream": closed(0.6),
    "half an answer": half,
}


@pytest.fixture(autouse=True)
def no_key_or_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested is what is sent again, not how long a client waits for that (tests/test_server_client.py)."""
    monkeypatch.setattr("bavt_fast.server_client._FIRST_WAIT_S", 0.02)


class Endpoint(NamedTuple):
    """One that a generator can ask.

    Attributes:
        answer: the server's. options: the generator's. listed: tokens that each answer lists besides its count.
        prompt_of, limit_of: of a request's body.
    """

    answer: Callable[[dict[str, Any]], Reply]
    options: dict[str, Any]
    listed: int
    prompt_of: Callable[[dict[str, Any]], str]
    limit_of: Callable[[dict[str, Any]], int]


ENDPOINTS = {
    "completions": Endpoint(thinks_and_answers, {}, 0, lambda body: body["prompt"], lambda body: body["max_tokens"]),
    "SGLang's generate": Endpoint(
        as_generate(thinks_and_answers),
        {"generate_endpoint": True},
        4,
        lambda body: body["text"],
        lambda body: body["sampling_params"]["max_new_tokens"],
    ),
}


@pytest.fixture(scope="module", params=ENDPOINTS)
def endpoint(request: pytest.FixtureRequest) -> Endpoint:
    return ENDPOINTS[request.param]


def search(url: str, *, budget_tokens: int = 60, wave: int = 4, **options: Any) -> list[bavt.SearchResult]:
    generator = OpenAIGenerator("m", base_url=url, **options)
    searcher = bavt.Searcher(generator, task=TextTask(answers="1"), wave=wave, max_step_tokens=8)
    return searcher.search_many(QUESTIONS, budget=bavt.Budget(tokens=budget_tokens))


def found(results: list[bavt.SearchResult]) -> list[Any]:
    return [(result.answer, result.texts, result.spent.tokens, result.stop_reason, result.error) for result in results]


@pytest.fixture(scope="module")
def calm(endpoint: Endpoint) -> list[Any]:
    with FakeServer(endpoint.answer) as server:
        return found(search(server.url, **endpoint.options))


def test_both_endpoints_find_the_same() -> None:
    results = []
    for endpoint in ENDPOINTS.values():
        with FakeServer(endpoint.answer) as server:
            results.append(found(search(server.url, **endpoint.options)))
    assert results[0] == results[1]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_now_and_then_changes_no_result(name: str, endpoint: Endpoint, calm: list[Any]) -> None:
    with (
        FakeServer(endpoint.answer) as server,
        FaultProxy(server.url, now_and_then([FAULTS[name]])) as proxy,
    ):
        results = search(proxy.url, **endpoint.options)
    assert found(results) == calm
    assert len(proxy.requests) > 10


@pytest.mark.parametrize("seed", range(3))
def test_a_storm_of_all_of_them_changes_no_result(seed: int, endpoint: Endpoint, calm: list[Any]) -> None:
    """Two requests of five fail, each in some way, also those that are sent again."""
    draw = random.Random(seed)
    chosen = [draw.choice(list(FAULTS.values())) if draw.random() < 0.4 else None for _ in range(10_000)]
    with (
        FakeServer(endpoint.answer) as server,
        FaultProxy(server.url, lambda number, body: chosen[number]) as proxy,
    ):
        results = search(proxy.url, retries=20, **endpoint.options)
    assert found(results) == calm


@pytest.mark.parametrize("name", [name for name in FAULTS if name != "slow"])
def test_a_fault_that_stays_ends_its_own_question_with_an_error(name: str, endpoint: Endpoint, calm: list[Any]) -> None:
    def only_the_third(number: int, body: dict[str, Any]) -> Fault | None:
        return FAULTS[name] if QUESTIONS[2] in endpoint.prompt_of(body) else None

    with FakeServer(endpoint.answer) as server, FaultProxy(server.url, only_the_third) as proxy:
        results = search(proxy.url, retries=1, **endpoint.options)
    assert found(results[:2] + results[3:]) == calm[:2] + calm[3:]
    assert results[2].stop_reason == "error"
    assert isinstance(results[2].error, bavt.GenerationError)
    assert proxy.url in str(results[2].error)
    assert results[2].spent.tokens == 0


def test_a_server_that_lies_about_its_counts_is_asked_for_no_more_than_the_budget_holds(endpoint: Endpoint) -> None:
    """Each request may take what is left of its question's budget by the numbers that were told until then.

    SGLang lists the tokens besides: of these, and of what it tells, the larger number counts.
    """
    draw = random.Random(5)
    told = [draw.choice([0, 1, 2, 8, -1, -50, None, 9, 40]) for _ in range(10_000)]
    charged: dict[str, int] = dict.fromkeys(QUESTIONS, 0)
    over: set[str] = set()
    budget = 60

    def lying(number: int, body: dict[str, Any]) -> Fault:
        question = next(question for question in QUESTIONS if question in endpoint.prompt_of(body))
        limit = endpoint.limit_of(body)
        assert question not in over, "nothing is asked after an overrun"
        assert 0 < limit <= budget - charged[question]
        tokens = told[number]
        takes = (endpoint.listed or limit) if tokens is None or tokens <= 0 else max(tokens, endpoint.listed)
        charged[question] += takes
        if charged[question] > budget or takes > limit:
            over.add(question)
        return counted(tokens)

    problems: list[BaseException] = []

    def watched(number: int, body: dict[str, Any]) -> Fault:
        try:
            return lying(number, body)
        except AssertionError as error:
            problems.append(error)
            raise

    with (
        FakeServer(endpoint.answer) as server,
        FaultProxy(server.url, watched) as proxy,
        pytest.warns(UserWarning, match="above what was reserved"),
    ):
        results = search(proxy.url, budget_tokens=budget, **endpoint.options)
    assert problems == []
    assert over
    for question, result in zip(QUESTIONS, results, strict=True):
        assert result.spent.tokens == charged[question]
        assert (result.overrun.tokens > 0) == (question in over)

"""Requests to a server: their connections, their key, and what becomes of them when they are given up."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from fake_server import FakeServer, Reply

from bavt_fast.protocols import GenerationError
from bavt_fast.server_client import OutOfTime, ServerClient
from bavt_fast.server_connections import Answer

YES = Reply({"answer": 1})


@pytest.fixture(autouse=True)
def no_key_or_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def slowly(body: dict[str, Any]) -> Reply:
    return Reply({"answer": body["n"]}, delay_s=0.2)


async def ask(client: ServerClient, n: int = 1, **options: Any) -> Any:
    return await client.post("/ask", {"n": n}, lambda answer: answer["answer"], **options)


def test_connections_are_as_many_as_requests_at_once_and_are_used_again() -> None:
    async def run() -> None:
        client = ServerClient(server.url, max_in_flight=8)
        for n in range(3):
            assert await ask(client, n) == n
        assert len(server.connections) == 1
        assert await asyncio.gather(*(ask(client, n) for n in range(20))) == list(range(20))
        assert await asyncio.gather(*(ask(client, n) for n in range(8))) == list(range(8))
        await client.aclose()

    with FakeServer(slowly) as server:
        asyncio.run(run())
    assert server.most_at_once == 8
    assert len(server.connections) == 8
    assert server.paths[0] == "/v1/ask"


def test_a_server_that_closes_after_each_answer() -> None:
    async def run() -> list[Any]:
        client = ServerClient(server.url, retries=0)
        found = [await ask(client) for _ in range(3)]
        await client.aclose()
        return found

    with FakeServer(lambda body: Reply({"answer": 1}, headers={"Connection": "close"})) as server:
        assert asyncio.run(run()) == [1, 1, 1]
    assert len(server.connections) == 3


def test_a_request_that_is_given_up_leaves_its_place() -> None:
    async def run() -> None:
        client = ServerClient(server.url, max_in_flight=1)
        task = asyncio.create_task(ask(client, 1))
        while not server.requests:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await ask(client, 2) == 2
        await client.aclose()

    with FakeServer(slowly) as server:
        asyncio.run(run())
    assert len(server.connections) == 2  # the first was dropped


def test_a_client_goes_from_one_event_loop_to_the_next() -> None:
    with FakeServer(lambda body: YES) as server:
        client = ServerClient(server.url)
        assert [asyncio.run(ask(client)) for _ in range(3)] == [1, 1, 1]
    assert (client.requests, client.retried, client.failed) == (3, 0, 0)


def test_the_key_is_the_one_for_models(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the one for administrators, which the package openai reads too."""
    monkeypatch.setenv("OPENAI_ADMIN_KEY", "admin-key")
    with FakeServer(lambda body: YES) as server:
        asyncio.run(ask(ServerClient(server.url)))
        asyncio.run(ask(ServerClient(server.url, api_key="own-key")))
        monkeypatch.setenv("OPENAI_API_KEY", "key-of-the-environment")
        asyncio.run(ask(ServerClient(server.url)))
    assert server.keys == ["none", "own-key", "key-of-the-environment"]


def test_an_address_of_its_own() -> None:
    async def run() -> Any:
        return await ServerClient(server.url).post(server.url[:-3] + "/other", {}, lambda answer: answer["answer"])

    with FakeServer(lambda body: YES) as server:
        assert asyncio.run(run()) == 1
    assert server.paths == ["/other"]


def test_deadlines() -> None:
    with FakeServer(slowly) as server:
        client = ServerClient(server.url)
        with pytest.raises(OutOfTime):
            asyncio.run(ask(client, deadline=time.monotonic() - 1.0))
        assert server.requests == []
        with pytest.raises(OutOfTime):
            asyncio.run(ask(client, deadline=time.monotonic() + 0.1))
        assert asyncio.run(ask(client, deadline=time.monotonic() + 30.0)) == 1
    assert (client.requests, client.failed) == (1, 0)


def test_a_refusal_that_is_no_error() -> None:
    with FakeServer(lambda body: Reply({"error": {"message": "there is no room"}}, 400)) as server:
        client = ServerClient(server.url)
        assert asyncio.run(ask(client, none_if=("no room",))) is None
        with pytest.raises(GenerationError, match="no room"):
            asyncio.run(ask(client, none_if=("other words",)))
    assert (client.requests, client.failed, len(server.requests)) == (0, 1, 2)


@pytest.mark.parametrize(("asked", "longest"), [("nan", 0.0), ("-5", 0.0), ("inf", 30.0), ("1e999", 30.0), ("x", 0.4)])
def test_a_wait_that_a_server_asks_for_is_a_time(asked: str, longest: float) -> None:
    wait_s = ServerClient()._wait_s(0, Answer(503, "slow down", asked, b""))
    assert wait_s is not None
    assert 0.0 <= wait_s <= longest


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "too long"}}, "too long"),
        ({"object": "error", "message": "too long"}, "too long"),
        ({"error": "unknown field `m`"}, "unknown field `m`"),
        ({"detail": "unknown field, key a-key"}, "unknown field, key [key]"),
        (b"<h1>No such page</h1>", "<h1>No such page</h1>"),
        ({"detail": [1]}, "400"),
        ({"detail": "x" * 420 + "a-key" * 40}, "x[key]"),
    ],
)
def test_what_a_server_says_of_a_refusal_is_in_the_error(body: Any, words: str) -> None:
    async def run() -> None:
        client = ServerClient(server.url, api_key="a-key", retries=0)
        with pytest.raises(GenerationError) as caught:
            await ask(client)
        assert words in str(caught.value)
        assert "a-key" not in str(caught.value)
        await client.aclose()

    with FakeServer(lambda _: Reply(body, 400)) as server:
        asyncio.run(run())

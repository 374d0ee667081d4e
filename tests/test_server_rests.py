"""A server that asks for a rest (Retry-After), and deadlines of requests that wait."""

from __future__ import annotations

import asyncio
import pickle
import time
from datetime import datetime, timezone
from email.utils import formatdate
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from fake_server import FakeServer, Reply, ask, in_turn, slowly

from bavt_fast.protocols import GenerationError
from bavt_fast.server_client import OutOfTime, ServerClient, _rest_s

YES = Reply({"answer": 1})
REFUSED = Reply({"error": "slow down"}, 429, {"Retry-After": "60"})
pytestmark = pytest.mark.usefixtures("no_key_or_proxy")


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("2", 2.0),
        ("0.5", 0.5),
        ("nan", 0.0),
        ("-5", 0.0),
        ("inf", 600.0),
        ("1e999", 600.0),
        ("601", 600.0),
        ("x", None),
    ],
)
def test_a_wait_that_a_server_asks_for_is_a_time(asked: str, seconds: float | None) -> None:
    assert _rest_s(asked) == seconds


@pytest.mark.parametrize(
    ("asked", "seconds"),
    [
        ("Fri, 27 Nov 2026 12:00:30 GMT", 30.0),
        ("Friday, 27-Nov-26 12:00:30 GMT", 30.0),  # the form of RFC 850
        ("Fri Nov 27 12:00:30 2026", 30.0),  # that of C
        ("Fri, 27 Nov 2026 13:00:30 +0100", 30.0),
        ("Fri, 27 Nov 2026 12:00:30 -0000", 30.0),
        ("Fri, 27 Nov 2026 11:59:00 GMT", 0.0),
        ("Sat, 28 Nov 2026 12:00:00 GMT", 600.0),
        ("Fri, 01 Jan 9999 00:00:00 GMT", 600.0),
        ("Fri, 99 Nov 2026 12:00:00 GMT", None),
        ("soon", None),
        ("", None),
    ],
)
def test_a_wait_that_is_a_date(asked: str, seconds: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = datetime(2026, 11, 27, 12, tzinfo=timezone.utc).timestamp()
    monkeypatch.setattr(time, "time", lambda: now_s)
    assert _rest_s(asked) == seconds


def test_a_date_beyond_the_deadline_is_waited_for() -> None:
    refused = Reply({"error": "slow down"}, 429, {"Retry-After": formatdate(time.time() + 300, usegmt=True)})
    with FakeServer(lambda body: refused) as server:
        client = ServerClient(server.url)
        with pytest.raises(OutOfTime):
            asyncio.run(ask(client, deadline=time.monotonic() + 0.6))
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_asks_for_a_rest_is_asked_for_nothing_until_then(status: int) -> None:
    came: list[float] = []

    def answer(body: dict[str, Any]) -> Reply:
        came.append(time.monotonic())
        return Reply({"error": "slow down"}, status, {"Retry-After": "0.5"}) if len(came) == 1 else YES

    async def run() -> None:
        client = ServerClient(server.url, retries=0)
        with pytest.raises(GenerationError, match="slow down"):
            await ask(client)
        assert await asyncio.gather(*(ask(client, n) for n in range(5))) == [1] * 5
        await client.aclose()

    with FakeServer(answer) as server:
        asyncio.run(run())
    assert len(came) == 6
    assert min(came[1:]) - came[0] >= 0.5


@pytest.mark.parametrize("asked", ["0", "-1", formatdate(0, usegmt=True)])
def test_a_rest_of_nothing_is_none(asked: str) -> None:
    """Attempts do not follow each other at once, as where the server's clock is behind."""
    replies = in_turn(Reply({"error": "slow down"}, 429, {"Retry-After": asked}), YES)
    with FakeServer(replies) as server:
        begin_s = time.monotonic()
        assert asyncio.run(ask(ServerClient(server.url))) == 1
    assert time.monotonic() - begin_s >= 0.125


@pytest.mark.parametrize("attempt", [0, 1, 7, 1100, 10**6])
def test_waits_grow_to_half_a_minute_and_no_further(attempt: int) -> None:
    """A thousand waits, each twice as long as the last one, would be longer than a float can be."""
    wait_s = ServerClient(retries=10**7)._wait_s(attempt, None, None)
    most_s = min(0.25 * 2 ** min(attempt, 7), 30.0)
    assert wait_s is not None
    assert most_s / 2 <= wait_s <= most_s


def test_a_deadline_before_the_end_of_a_rest(caplog: pytest.LogCaptureFixture) -> None:
    """It is no error, and is told when it has come: who asks again at once would be told the same."""

    async def run() -> None:
        client = ServerClient(server.url)
        for _ in range(2):  # the second is not sent at all
            deadline = time.monotonic() + 0.2
            with pytest.raises(OutOfTime) as late:
                await ask(client, deadline=deadline)
            assert not late.value.asked
            assert time.monotonic() > deadline
        assert (client.failed, client.retried) == (0, 0)
        await client.aclose()

    with FakeServer(lambda body: REFUSED) as server:
        asyncio.run(run())
    assert len(server.requests) == 1
    assert [record.message for record in caplog.records] == [
        f"server {server.url}: status 429; it is asked again in 60 s (Retry-After)"
    ]


def test_a_rest_is_for_this_machine_alone() -> None:
    with FakeServer(lambda body: REFUSED) as server:
        client = ServerClient(server.url, retries=0)
        with pytest.raises(GenerationError, match="slow down"):
            asyncio.run(ask(client))
        with pytest.raises(GenerationError, match="slow down"):
            asyncio.run(ask(pickle.loads(pickle.dumps(client))))


def test_a_deadline_before_a_place_is_free() -> None:
    """The request is not sent, and takes no place with it."""

    async def run() -> None:
        client = ServerClient(server.url, max_in_flight=1)
        first = asyncio.create_task(ask(client, 1))
        while not server.requests:
            await asyncio.sleep(0.01)
        with pytest.raises(OutOfTime) as late:
            await ask(client, 2, deadline=time.monotonic() + 0.01)
        assert not late.value.asked
        assert await first == 1
        assert await ask(client, 3, deadline=time.monotonic() + 60.0) == 3
        assert await asyncio.gather(*(ask(client, n, deadline=time.monotonic() + 60.0) for n in (4, 5))) == [4, 5]
        await client.aclose()

    with FakeServer(slowly) as server:
        asyncio.run(run())
    assert [body["n"] for body in server.requests] == [1, 3, 4, 5]
    assert server.most_at_once == 1

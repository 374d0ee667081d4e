"""A client's connections to a server: what ends them, and that none is left behind."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from fake_server import FakeServer, Reply, ask, slowly, thinks_and_answers

import bavt_fast as bavt
from bavt_fast.protocols import GenerationError
from bavt_fast.server_client import OutOfTime, ServerClient
from bavt_fast.tasks.text import TextTask

YES = Reply({"answer": 1})
pytestmark = pytest.mark.usefixtures("no_key_or_proxy")


# --- connections that end

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]


async def request_of(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = await reader.readuntil(b"\r\n\r\n")
    (length,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return json.loads(await reader.readexactly(int(length.split(b":")[1])))


def told(answer: Any) -> bytes:
    content = json.dumps(answer).encode()
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)


async def with_server(talk: Talk, run: Callable[[str], Awaitable[Any]]) -> Any:
    """What `run` gives, with the address of a server that numbers its connections."""
    count = 0

    async def numbered(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        count += 1
        try:
            await talk(reader, writer, count)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(numbered, "127.0.0.1", 0)
    try:
        return await run(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1")
    finally:
        server.close()


def test_cancelling_closes_the_connection() -> None:
    """By which a server knows that it may stop."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await request_of(reader)
        asked.set()
        if number == 2:  # in the middle of the answer
            writer.write(told({"answer": 1})[:-3])
        assert await reader.read() == b""
        gone.append(number)

    async def run(url: str) -> None:
        client = ServerClient(url)
        for number in (1, 2):
            asked.clear()
            task = asyncio.create_task(ask(client))
            await asked.wait()
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            for _ in range(100):
                if len(gone) < number:
                    await asyncio.sleep(0.01)
            assert gone[-1] == number
        await client.aclose()

    async def whole() -> None:
        nonlocal asked
        asked = asyncio.Event()
        await with_server(talk, run)

    asked: asyncio.Event
    gone: list[int] = []
    asyncio.run(whole())
    assert gone == [1, 2]


@pytest.mark.parametrize("end", ["closed", "reset"])
def test_a_connection_that_was_closed_meanwhile_costs_no_retry(end: str) -> None:
    """The server answers once over each connection, and ends it when the next request comes."""
    most = 8

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        writer.write(told({"answer": (await request_of(reader))["n"]}))
        await request_of(reader)
        if end == "reset":
            writer.transport.abort()

    async def run(url: str) -> ServerClient:
        client = ServerClient(url, retries=0, max_in_flight=most)
        for _ in range(3):
            start_s = time.monotonic()
            assert await asyncio.gather(*(ask(client, n) for n in range(most))) == list(range(most))
            assert await ask(client, 7) == 7  # not over another one that waits
            assert time.monotonic() - start_s < 2.0
        await client.aclose()
        return client

    client = asyncio.run(with_server(talk, run))
    assert (client.requests, client.retried, client.failed) == (3 * most + 3, 0, 0)


def test_a_server_that_ends_every_connection_is_asked_as_often_as_it_was_said() -> None:
    """No connection was used before: what fails are retries."""
    seen: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await request_of(reader)
        seen.append(number)

    async def run(url: str) -> None:
        client = ServerClient(url, retries=2)
        with pytest.raises(GenerationError, match="ServerDisconnectedError"):
            await ask(client)
        assert client.retried == 2
        await client.aclose()

    asyncio.run(with_server(talk, run))
    assert seen == [1, 2, 3]


def test_what_ends_in_its_answer_is_a_retry() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await request_of(reader)
        writer.write(told({"answer": 1}))
        if number == 1:
            await request_of(reader)
            writer.write(told({"answer": 1})[:-3])

    async def run(url: str) -> ServerClient:
        client = ServerClient(url, retries=1)
        assert [await ask(client), await ask(client)] == [1, 1]
        await client.aclose()
        return client

    assert asyncio.run(with_server(talk, run)).retried == 1


def test_a_deadline_that_comes_during_the_last_try() -> None:
    with FakeServer(slowly) as server, pytest.raises(OutOfTime):
        asyncio.run(ask(ServerClient(server.url, retries=0), deadline=time.monotonic() + 0.1))


def test_a_deadline_holds_also_for_what_is_sent_over_a_new_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await request_of(reader)
        if number > 1:
            await reader.read()
        writer.write(told({"answer": 1}))
        await request_of(reader)
        await asyncio.sleep(0.4)

    async def run(url: str) -> None:
        client = ServerClient(url)
        await ask(client)
        start_s = time.monotonic()
        with pytest.raises(OutOfTime):
            await ask(client, deadline=start_s + 0.8)
        assert 0.4 < time.monotonic() - start_s < 1.1
        await client.aclose()

    asyncio.run(with_server(talk, run))


def test_a_timeout() -> None:
    with FakeServer(slowly) as server, pytest.raises(GenerationError, match=r"no answer within 0\.05 s"):
        asyncio.run(ask(ServerClient(server.url, retries=0, timeout_s=0.05)))


# --- what no wait mends is not sent again


def failing_once(address: str) -> str:
    """The error of a client that has many retries, and takes none."""
    client = ServerClient(address, api_key="a-long-secret", retries=50)
    with pytest.raises(GenerationError) as caught:
        asyncio.run(asyncio.wait_for(ask(client), 30.0))
    assert (client.retried, client.failed) == (0, 1)
    return str(caught.value)


def test_a_proxy_of_another_kind_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:1")
    assert "proxy: expected an address such as 'http:" in failing_once("http://far.example/v1")


@pytest.mark.parametrize("place", ["ftp://far.example/v1", "http://:1:2", "mailto:a@b.example"])
def test_a_redirect_to_no_http_address(place: str) -> None:
    with FakeServer(lambda body: Reply({}, 307, {"Location": place})) as server:
        failing_once(server.url)
    assert len(server.requests) == 1


def test_a_certificate_that_nobody_trusts(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate")
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    made = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    subprocess.run([*made, "-subj", "/CN=127.0.0.1"], check=True, capture_output=True)
    with FakeServer(lambda body: YES) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
        assert "CERTIFICATE_VERIFY_FAILED" in failing_once(server.url.replace("http:", "https:"))


@pytest.mark.parametrize("status", [403, 407])
def test_a_proxy_that_refuses_the_way_to_a_server(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d Not so\r\nContent-Length: 0\r\n\r\n" % status)
        numbers.append(number)

    async def run(url: str) -> None:
        monkeypatch.setenv("https_proxy", url.removesuffix("/v1"))
        client = ServerClient("https://far.example/v1", retries=50)
        with pytest.raises(GenerationError, match=f"status {status} Not so: said by the proxy"):
            await ask(client)

    numbers: list[int] = []
    asyncio.run(with_server(talk, run))
    assert numbers == [1]


# --- event loops that end before the client


def open_sockets() -> set[str]:
    found = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            name = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if name.startswith("socket:"):
            found.add(name)
    return found


@pytest.fixture
def nothing_is_said(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [record.getMessage() for record in caplog.records if record.levelno > logging.DEBUG] == []
    assert [str(warning.message) for warning in warned] == []


@pytest.mark.usefixtures("nothing_is_said")
def test_an_event_loop_that_ends_closes_its_connections() -> None:
    async def asks() -> None:
        assert await asyncio.gather(*(ask(client, n) for n in range(5))) == list(range(5))

    with FakeServer(lambda body: Reply({"answer": body["n"]})) as server:
        client = ServerClient(server.url)
        before = open_sockets()
        for _ in range(3):
            asyncio.run(asks())
            gc.collect()
            end_s = time.monotonic() + 5.0
            while (left := open_sockets() - before) and time.monotonic() < end_s:
                time.sleep(0.01)  # the server's ends, in its threads
            assert left == set()
    assert client.requests == 15


@pytest.mark.usefixtures("nothing_is_said")
def test_a_search_that_is_followed_by_another() -> None:
    with FakeServer(thinks_and_answers) as server:
        generator = bavt.OpenAIGenerator("m", base_url=server.url)
        searcher = bavt.Searcher(generator, task=TextTask(answers="1"), wave=4, max_step_tokens=8)
        for _ in range(3):
            searcher.search_many(["Why?", "What?"], budget=bavt.Budget(tokens=40))
        del generator, searcher
        gc.collect()


def test_an_event_loop_that_is_closed_in_another_way(caplog: pytest.LogCaptureFixture) -> None:
    """Without its asynchronous generators. asyncio itself then warns of transports, and closes them."""
    with FakeServer(lambda body: YES) as server:
        client = ServerClient(server.url)
        before = open_sockets()
        for _ in range(2):
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(ask(client)) == 1
            loop.close()
        del client, loop
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()
        end_s = time.monotonic() + 5.0
        while (left := open_sockets() - before) and time.monotonic() < end_s:
            time.sleep(0.01)
        assert left == set()
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.usefixtures("nothing_is_said")
def test_a_client_that_is_dropped_in_a_running_loop_closes_its_connections() -> None:
    async def run() -> None:
        client = ServerClient(server.url)
        assert await ask(client) == 1
        before = len(open_sockets())
        del client
        gc.collect()
        end_s = time.monotonic() + 5.0
        while len(open_sockets()) > before - 2 and time.monotonic() < end_s:
            await asyncio.sleep(0.01)
        assert len(open_sockets()) == before - 2  # the server's end, and ours

    with FakeServer(lambda body: YES) as server:
        asyncio.run(run())


@pytest.mark.usefixtures("nothing_is_said")
def test_event_loops_at_the_same_time_have_connections_of_their_own() -> None:
    async def run() -> None:
        for n in range(20):
            assert await ask(client, n) == n
            await asyncio.sleep(0)

    with FakeServer(lambda body: Reply({"answer": body["n"]})) as server:
        client = ServerClient(server.url)
        threads = [threading.Thread(target=asyncio.run, args=(run(),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(server.connections) == 3
    assert len(server.requests) == 60


AT_EXIT = {
    "a loop that has ended": "asyncio.run(ask())",
    "a loop that waits": "loop = asyncio.new_event_loop(); loop.run_until_complete(ask())",
    "a loop that was closed": "loop = asyncio.new_event_loop(); loop.run_until_complete(ask()); loop.close()",
    "a loop in a thread": """
import threading
loop = asyncio.new_event_loop()
threading.Thread(target=loop.run_forever, daemon=True).start()
asyncio.run_coroutine_threadsafe(ask(), loop).result()
""",
}


@pytest.mark.parametrize("what", AT_EXIT)
def test_nothing_is_said_when_the_interpreter_exits(what: str) -> None:
    """But of what is not ours: that a loop was not closed, or with its transports open."""
    with FakeServer(lambda body: YES) as server:
        code = f"""
import asyncio, warnings
from bavt_fast.server_client import ServerClient
warnings.filterwarnings("ignore", "unclosed (event loop|transport|<socket)", ResourceWarning)
async def ask():
    assert await client.post("/ask", {{"n": 1}}, lambda answer: answer["answer"]) == 1
client = ServerClient({server.url!r})
{AT_EXIT[what]}
"""
        start_s = time.monotonic()
        done = subprocess.run([sys.executable, "-X", "dev", "-c", code], capture_output=True, text=True, timeout=120)
        assert time.monotonic() - start_s < 60.0
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert len(server.requests) == 1

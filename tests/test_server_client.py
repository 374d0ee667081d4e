"""Requests to a server: their connections, their key, and what becomes of them when they are given up."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
import sys
import time
import warnings
from typing import Any

import pytest

pytest.importorskip("aiohttp")

from fake_server import FakeServer, Reply, ask, completion, one_step, slowly

import bavt_fast as bavt
from bavt_fast.protocols import GenerationError
from bavt_fast.server_client import OutOfTime, ServerClient

YES = Reply({"answer": 1})
pytestmark = pytest.mark.usefixtures("no_key_or_proxy")


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
        asyncio.run(ask(ServerClient(server.url, api_key="")))  # none, as it says
    assert server.keys == ["none", "own-key", "key-of-the-environment", "none"]


@pytest.mark.parametrize(("code", "asked"), [(400, 1), (402, 1), (429, 2), (502, 2), (None, 2), ("gone", 2), (True, 2)])
def test_an_error_in_the_place_of_an_answer(code: Any, asked: int) -> None:
    """Some servers send it with status 200, and the status within."""
    with FakeServer(lambda body: Reply({"error": {"message": "no such model", "code": code}})) as server:
        client = ServerClient(server.url, retries=1)
        told = f"status {code} in an answer with 200: no such model" if type(code) is int else "KeyError"
        with pytest.raises(GenerationError, match=told):
            asyncio.run(ask(client))
    assert (len(server.requests), client.requests) == (asked, 0)


def test_a_refusal_in_the_place_of_an_answer_that_is_no_error() -> None:
    with FakeServer(lambda body: Reply({"error": {"message": "there is no room", "code": 400}})) as server:
        assert asyncio.run(ask(ServerClient(server.url), none_if=lambda said: "no room" in said)) is None


def test_an_answer_with_an_error_beside_it_is_one() -> None:
    with FakeServer(lambda body: Reply({"answer": 1, "error": {"code": 500}})) as server:
        assert asyncio.run(ask(ServerClient(server.url))) == 1


def test_an_address_of_its_own() -> None:
    async def run() -> Any:
        return await ServerClient(server.url).post(server.url[:-3] + "/other", {}, lambda answer: answer["answer"])

    with FakeServer(lambda body: YES) as server:
        assert asyncio.run(run()) == 1
    assert server.paths == ["/other"]


def test_deadlines() -> None:
    with FakeServer(slowly) as server:
        client = ServerClient(server.url)
        with pytest.raises(OutOfTime) as early:
            asyncio.run(ask(client, deadline=time.monotonic() - 1.0))
        assert server.requests == []
        with pytest.raises(OutOfTime) as late:
            asyncio.run(ask(client, deadline=time.monotonic() + 0.1))
        assert (early.value.asked, late.value.asked) == (False, True)
        assert asyncio.run(ask(client, deadline=time.monotonic() + 30.0)) == 1
    assert (client.requests, client.failed) == (1, 0)


def test_a_refusal_that_is_no_error() -> None:
    with FakeServer(lambda body: Reply({"error": {"message": "there is no room"}}, 400)) as server:
        client = ServerClient(server.url)
        assert asyncio.run(ask(client, none_if=lambda said: "no room" in said)) is None
        with pytest.raises(GenerationError, match="no room"):
            asyncio.run(ask(client, none_if=lambda said: "other words" in said))
    assert (client.requests, client.failed, len(server.requests)) == (0, 1, 2)


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


@pytest.mark.parametrize("key", ["a-secret-key", 'a-"secret"-key'])
def test_a_key_that_a_server_says_again_is_not_in_what_is_cut_from_its_answer(key: str) -> None:
    async def run() -> str:
        client = ServerClient(server.url, api_key=key, retries=0)
        with pytest.raises(GenerationError) as caught:
            await client.post("/ask", {"n": 1}, refused)
        await client.aclose()
        return str(caught.value)

    def refused(answer: Any) -> Any:
        raise ValueError(f"expected another, got {answer!r:.60}")

    for padding in range(60):
        with FakeServer(lambda _, padding=padding: Reply({"x": "p" * padding + key})) as server:
            told = asyncio.run(run())
            assert "sec" not in told, told


def test_a_password_in_an_address_is_not_told() -> None:
    with FakeServer(lambda _: Reply({"error": "no, Basic dTpwYS9zcw== of pa/ss"}, 401)) as server:
        address = server.url.replace("//", "//u:pa%2Fss@")
        generator = bavt.OpenAIGenerator("m", base_url=address, api_key="none", retries=0)
        ((error,),) = (asyncio.run(generator.propose([bavt.StepRequest("q\n")], [1], [5])),)
    assert isinstance(error, GenerationError)
    assert "pa/ss" not in str(error)
    assert "dTpwYS9zcw" not in str(error)
    for text in (repr(generator), str(error), repr(bavt.OpenAIGenerator("m", base_url="http://u:p/a@ss@host/v1"))):
        assert "ss@" not in text


def test_an_answer_that_nests_without_end_is_an_answer_that_cannot_be_read() -> None:
    async def run() -> None:
        client = ServerClient(server.url, retries=0)
        with pytest.raises(GenerationError, match="RecursionError"):
            await ask(client)
        await client.aclose()

    with FakeServer(lambda _: Reply(b"[" * 200_000 + b"]" * 200_000)) as server:
        asyncio.run(run())


def test_requests_that_wait_while_the_connections_are_closed() -> None:
    async def run() -> None:
        client = ServerClient(server.url, max_in_flight=2)
        asked = [asyncio.ensure_future(ask(client, n)) for n in range(6)]
        await asyncio.sleep(0.05)
        await client.aclose()
        ends = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(end, GenerationError) for end in ends), ends
        assert client.failed == 6
        assert await ask(client, 7) == 7
        await client.aclose()

    with FakeServer(slowly) as server:
        asyncio.run(run())


def test_a_copy_has_connections_of_its_own() -> None:
    async def run() -> None:
        client = ServerClient(server.url)
        assert await ask(client) == 1
        for other in (pickle.loads(pickle.dumps(client)), copy.deepcopy(client)):
            assert await ask(other) == 1
            await other.aclose()
        assert await ask(client) == 1
        await client.aclose()

    with FakeServer(lambda _: YES) as server:
        asyncio.run(run())


def test_without_the_package_aiohttp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "bavt_fast.server_connections")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"generator: a server needs aiohttp.*pip install 'bavt_fast\[server\]'"
    ):
        bavt.OpenAIGenerator("m")


# --- what is sent


def test_the_environment_is_that_of_the_package_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer(lambda body: YES) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url + "/")
        monkeypatch.setenv("OPENAI_ORG_ID", "an-organization")
        monkeypatch.setenv("OPENAI_PROJECT_ID", "a-project")
        assert asyncio.run(ask(ServerClient())) == 1
    assert server.paths == ["/v1/ask"]
    (headers,) = server.headers
    assert headers["OpenAI-Organization"] == "an-organization"
    assert headers["OpenAI-Project"] == "a-project"
    assert headers["Content-Type"] == "application/json"


def test_errors_name_the_server_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:password@127.0.0.1:1/v1\n")
    with pytest.raises(GenerationError, match=r"^server http://127.0.0.1:1/v1: .*Cannot connect"):
        asyncio.run(ask(ServerClient(retries=0)))


@pytest.mark.parametrize("address", ["127.0.0.1:8000/v1", "http://h/v1?version=2", "http://h:port/v1"])
def test_an_address_of_the_environment_that_cannot_be_one(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", address)
    with pytest.raises(
        GenerationError, match="OPENAI_BASE_URL: expected an address such as .*, got " + re.escape(repr(address))
    ):
        asyncio.run(ask(ServerClient(retries=0)))


def test_text_of_all_languages_goes_and_comes() -> None:
    text = "Ünïcödé 数学 😀 \u2028"
    with FakeServer(lambda body: Reply({"answer": body["text"]})) as server:
        found = asyncio.run(ServerClient(server.url).post("/ask", {"text": text}, lambda answer: answer["answer"]))
    assert found == text


def test_a_large_request_is_sent_whole() -> None:
    ids = list(range(300_000))
    with FakeServer(lambda body: Reply({"answer": len(body["ids"])})) as server, warnings.catch_warnings():
        warnings.simplefilter("error")
        found = asyncio.run(ServerClient(server.url).post("/ask", {"ids": ids}, lambda answer: answer["answer"]))
    assert found == len(ids)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (float("nan"), "Out of range float"),
        (float("inf"), "Out of range float"),
        (object(), "not JSON serializable"),
        ({(1, 2): 3}, "keys must be"),
    ],
)
def test_what_json_cannot_say_is_not_sent(value: Any, words: str) -> None:
    with FakeServer(lambda body: YES) as server:
        client = ServerClient(server.url)
        with pytest.raises(GenerationError, match=f"request: expected what JSON can say, got another: .*{words}"):
            asyncio.run(client.post("/ask", {"value": value}, lambda answer: answer))
    assert server.requests == []
    assert (client.retried, client.failed) == (0, 1)


@pytest.mark.parametrize("body", [b"<html>gate</html>", b"", b"{"])
def test_what_is_not_json_is_shown(body: bytes) -> None:
    words = f"expected an answer in JSON, got {body.decode()!r}"
    with FakeServer(lambda _: Reply(body, 200)) as server, pytest.raises(GenerationError, match=re.escape(words)):
        asyncio.run(ServerClient(server.url, retries=0).post("/ask", {}, lambda answer: answer))


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http://:80/v1",
        "http://[::1/v1",
        "https:///v1",
        "http://h:99999/v1",
        "http://h:0",
        "http://h/v1?x=1",
        "http://h/v1#x",
        "http://h/v1\n",
    ],
)
def test_an_address_that_cannot_be_one_is_refused_at_once(address: str) -> None:
    with pytest.raises(ValueError, match="base_url: expected an address"):
        ServerClient(address)


def test_half_a_character_is_sent_as_a_question_mark() -> None:
    """A model may write one, and the search goes on from there."""
    with FakeServer(lambda body: YES) as server:
        asyncio.run(ServerClient(server.url).post("/ask", {"value": "half of a pair: \ud83d"}, lambda answer: answer))
    assert [body["value"] for body in server.requests] == ["half of a pair: ?"]


def test_half_a_character_in_an_error_can_be_printed() -> None:
    error = one_step(Reply(b'{"error": {"message": "half of a pair: \\ud83d"}}', 400))
    assert str(error).endswith("half of a pair: ?")
    assert str(error).encode()


@pytest.mark.parametrize("reply", [Reply({"error": "no"}, 503), Reply(b"<html>", 200), Reply({"answer": None})])
def test_a_failure_with_no_time_to_ask_again_is_an_error(reply: Reply, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the end of the time: the server is at fault, and what it did not do costs nothing."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)  # the third time has a second to be answered in
    with FakeServer(lambda body: reply) as server:
        client = ServerClient(server.url, retries=9)
        with pytest.raises(GenerationError, match="no time is left to ask again"):
            asyncio.run(client.post("/ask", {}, lambda answer: answer["answer"] + 1, deadline=time.monotonic() + 1.7))
    assert (client.requests, client.failed) == (0, 1)
    assert server.requests


@pytest.mark.parametrize("key", ["two\nlines", "not-äscii", "\x00"])
def test_a_key_that_cannot_be_sent(key: str) -> None:
    client = ServerClient("http://127.0.0.1:1/v1", api_key=key)
    with pytest.raises(GenerationError, match="api_key: expected visible ASCII characters, got others") as caught:
        asyncio.run(ask(client))
    assert key not in str(caught.value)
    assert client.retried == 0


@pytest.mark.parametrize("key", ["1", "EMPTY", "token", "text", "not-needed"])
def test_a_key_that_is_a_word_changes_no_answer(key: str) -> None:
    step = one_step(completion(f"is {key} EMPTY\n", 4, read=11), api_key=key)
    assert (step.text, step.tokens, step.prompt_tokens) == (f"is {key} EMPTY\n", 4, 11)
    refusal = Reply({"error": f"no {key} [key]"}, 400)
    with FakeServer(lambda body: refusal) as server:
        client = ServerClient(server.url, api_key=key, retries=0)
        assert asyncio.run(ask(client, none_if=lambda said: f"no {key}" in said)) is None
        with pytest.raises(GenerationError, match=r"no \[key\] \[key\]$"):
            asyncio.run(ask(client))


def test_a_line_break_behind_the_key_is_no_part_of_it() -> None:
    refusal = Reply({"error": "not with a-key"}, 401)
    with FakeServer(lambda body: refusal) as server, pytest.raises(GenerationError, match=r"not with \[key\]"):
        asyncio.run(ask(ServerClient(server.url, api_key="a-key\n")))
    assert server.keys == ["a-key"]


def test_an_address_with_a_user_and_a_password() -> None:
    with FakeServer(lambda body: Reply({"error": "go away"}, 403)) as server:
        url = server.url.replace("//", "//me:secret@")
        with pytest.raises(GenerationError) as caught:
            asyncio.run(ask(ServerClient(url, api_key="a-key")))
    assert server.headers[0]["Authorization"] == "Basic bWU6c2VjcmV0"
    assert "secret" not in str(caught.value)
    assert server.url in str(caught.value)


# --- other servers on the way


def test_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer(lambda body: YES) as proxy, FakeServer(lambda body: YES) as server:
        monkeypatch.setenv("http_proxy", proxy.url.removesuffix("/v1").replace("//", "//me:secret@"))
        assert asyncio.run(ask(ServerClient("http://far.example/v1"))) == 1
        assert proxy.paths == ["http://far.example/v1/ask"]
        assert proxy.headers[0]["Proxy-Authorization"] == "Basic bWU6c2VjcmV0"
        monkeypatch.setenv("no_proxy", f"other.example,{server.url.removeprefix('http://').removesuffix('/v1')}")
        assert asyncio.run(ask(ServerClient(server.url))) == 1
        assert (len(server.requests), len(proxy.requests)) == (1, 1)
        monkeypatch.delenv("http_proxy")
        monkeypatch.setenv("all_proxy", proxy.url.removeprefix("http://").removesuffix("/v1"))
        assert asyncio.run(ask(ServerClient("http://far.example/v1"))) == 1
        assert len(proxy.requests) == 2


def test_a_proxy_of_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("all_proxy", "socks5://me:secret@127.0.0.1:1")
    with pytest.raises(GenerationError, match="proxy: expected an address such as 'http:") as caught:
        asyncio.run(ask(ServerClient("http://far.example/v1")))
    assert "secret" not in str(caught.value)


def test_a_tunnel_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer(lambda body: YES) as proxy:  # which knows POST and nothing else
        monkeypatch.setenv("https_proxy", proxy.url.removesuffix("/v1").replace("//", "//me:secret@"))
        with pytest.raises(GenerationError, match="501") as caught:
            asyncio.run(ask(ServerClient("https://far.example/v1", api_key="a-key", retries=0)))
    assert "secret" not in str(caught.value)


def test_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:1")
    with pytest.raises(GenerationError, match="Cannot connect") as caught:
        asyncio.run(ask(ServerClient("http://far.example/v1", retries=0)))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [307, 308])
def test_a_server_that_sends_on_to_another_does_not_pass_on_the_key(status: int) -> None:
    with FakeServer(lambda body: YES) as other:
        sent_on = Reply({}, status, {"Location": other.url + "/elsewhere"})
        with FakeServer(lambda body: sent_on) as server:
            assert asyncio.run(ask(ServerClient(server.url, api_key="a-key"), n=7)) == 1
    assert server.keys == ["a-key"]
    assert "Authorization" not in other.headers[0]
    assert (other.paths, other.requests) == (["/v1/elsewhere"], [{"n": 7}])


def test_a_server_that_sends_on_for_ever() -> None:
    def answer(body: dict[str, Any]) -> Reply:
        return Reply({}, 307, {"Location": server.url + "/ask"})

    with FakeServer(answer) as server, pytest.raises(GenerationError, match="TooManyRedirects"):
        asyncio.run(ask(ServerClient(server.url, retries=0)))


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_server_that_has_moved_is_an_error_that_says_where_to(status: int) -> None:
    """The request would go on as a GET, and what answers that says nothing of the cause."""
    with FakeServer(lambda body: YES) as other:
        moved = Reply({}, status, {"Location": other.url.replace("//", "//me:secret@") + "/ask"})
        with FakeServer(lambda body: moved) as server, pytest.raises(GenerationError) as caught:
            asyncio.run(ask(ServerClient(server.url)))
        assert f"status {status} " in str(caught.value)
        assert (
            f"base_url: expected the address that takes requests, got one that sends them on to {other.url}/ask"
            in str(caught.value)
        )
        assert "secret" not in str(caught.value)
    assert (len(server.requests), other.requests) == (1, [])


def test_a_server_that_has_moved_without_saying_where_to() -> None:
    with FakeServer(lambda body: Reply({}, 302)) as server, pytest.raises(GenerationError, match="status 302"):
        asyncio.run(ask(ServerClient(server.url)))
    assert len(server.requests) == 1

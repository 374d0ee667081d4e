"""A search that is watched: its server, and the page that follows it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from browsing import until
from by_hand import answer, start

import bavt_fast as bavt
from bavt_fast.view import Live


@pytest.fixture
def search() -> bavt.Search:
    return start(record=True)


def get(live: Live, path: str, **headers: str) -> http.client.HTTPResponse:
    address = urlsplit(live.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=20)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def messages(response: http.client.HTTPResponse) -> Iterator[tuple[str, Any]]:
    kind = ""
    for line in response:
        text = line.decode("ascii").rstrip("\n")
        if text.startswith("event: "):
            kind = text.removeprefix("event: ")
        elif text.startswith("data: "):
            yield kind, json.loads(text.removeprefix("data: "))


def work(search: bavt.Search, asks: int) -> None:
    for _ in range(asks):
        for ask in search.ask():
            answer(search, ask)


def test_a_watcher_gets_everything_once(search: bavt.Search) -> None:
    work(search, 5)
    with Live(search) as live:
        stream = messages(get(live, f"/{live.token}/events"))
        kind, chunk = next(stream)
        assert (kind, chunk["from"], chunk["live"]) == ("chunk", 0, True)
        parents, events = list(chunk["nodes"]["parents"]), list(chunk["events"]["kinds"])
        work(search, 20)
        closing = threading.Thread(target=live.close)
        closing.start()
        for kind, chunk in stream:
            if kind == "end":
                break
            assert chunk["from"] == len(parents)
            parents += chunk["nodes"]["parents"]
            events += chunk["events"]["kinds"]
        closing.join(timeout=10)
    assert chunk is not None
    assert parents == search.tree.parents.tolist()
    assert len(events) == len(search.events or ())


def test_the_last_chunk_says_how_it_ended(search: bavt.Search) -> None:
    live = Live(search)
    stream = messages(get(live, f"/{live.token}/events"))
    next(stream)
    while search.ask(1) or search.stop_reason is None:
        for ask in search.open_asks():
            answer(search, ask)
    threading.Thread(target=live.close).start()
    *_, (_, last), (kind, _) = stream
    assert kind == "end"
    assert last["live"] is False
    assert last["nodes"]["visits"] == search.tree.visit_counts.tolist()
    assert last["header"]["stop_reason"] == search.stop_reason


def test_nothing_without_the_token(search: bavt.Search) -> None:
    with Live(search) as live:
        for path in (
            "/",
            "/events",
            "/token/",
            f"/{live.token[:-1]}/",
            f"/{live.token}/../",
            f"/{live.token}/etc",
            "//",
        ):
            assert get(live, path).status == 404, path
        assert get(live, f"/{live.token}/", Host="evil.example:80").status == 404
        page = get(live, f"/{live.token}/")
        assert page.status == 200
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert page.headers["Cache-Control"] == "no-store"
        assert b"connect-src 'self'" in page.read()
        assert urlsplit(live.url).hostname == "127.0.0.1"


def test_the_server_goes_with_the_search(search: bavt.Search) -> None:
    with Live(search) as live:
        assert get(live, f"/{live.token}/").status == 200
    address = urlsplit(live.url)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((address.hostname or "", address.port or 0), timeout=5)


def test_a_watcher_that_does_not_read_holds_nothing_up(search: bavt.Search) -> None:
    live = Live(search)
    address = urlsplit(live.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=5) as silent:
        silent.sendall(f"GET /{live.token}/events HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
        with socket.create_connection((address.hostname or "", address.port or 0), timeout=5):
            work(search, 20)
            start_s = time.monotonic()
            live.close()
            assert time.monotonic() - start_s < 8
    assert search.stop_reason is None


def test_only_so_many_watchers(search: bavt.Search) -> None:
    with Live(search) as live:
        streams = [get(live, f"/{live.token}/events") for _ in range(8)]
        assert [stream.status for stream in streams] == [200] * 8
        assert get(live, f"/{live.token}/events").status == 503


def test_what_cannot_be_watched() -> None:
    with pytest.raises(TypeError, match="expected a Search"):
        Live(3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="record=True"):
        Live(start())
    for port in (-1, 65_536, "80", 80.0):
        with pytest.raises((TypeError, ValueError), match="port: expected an integer from 0 to 65535, got"):
            Live(start(record=True), port=port)  # type: ignore[arg-type]


def test_a_watched_search_is_the_same_search() -> None:
    alone, watched = start(record=True), start(record=True)
    work(alone, 40)
    with Live(watched) as live:
        stream = messages(get(live, f"/{live.token}/events"))
        next(stream)
        work(watched, 40)
    assert watched.tree.parents.tolist() == alone.tree.parents.tolist()
    assert watched.tree.values.tolist() == alone.tree.values.tolist()


def test_the_page_follows(tab: Any, search: bavt.Search) -> None:
    work(search, 3)
    with Live(search) as live:
        tab.goto(live.url)
        tab.locator("html[data-ready]").wait_for(state="attached")
        assert tab.locator("#live").text_content() == "live"
        until(tab, f"bavt.pane.search.count === {len(search.nodes)}")
        work(search, 30)
        until(tab, f"bavt.pane.search.count === {len(search.nodes)}")
        assert tab.evaluate("bavt.pane.replay.born") == len(search.nodes)
        tab.locator("#moment").fill("1")  # who looks back stays there
        work(search, 10)
        until(tab, f"bavt.pane.search.count === {len(search.nodes)}")
        assert tab.evaluate("bavt.pane.replay.at") == 1
    until(tab, "document.getElementById('live').textContent === 'ended'")
    tab.evaluate("bavt.goTo(1e9)")
    visits = "bavt.pane.search.parents.map((_, node) => bavt.pane.replay.visits[node])"
    assert tab.evaluate(visits) == search.tree.visit_counts.tolist()

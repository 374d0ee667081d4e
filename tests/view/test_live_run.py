"""A run that is watched: a page that lists what is under way, and a page for each search."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from run_worlds import BUDGET, questions, searcher

from bavt_fast.runs import Run
from bavt_fast.view import LiveRun


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    rows = [*questions(6), {"id": "<script>alert(1)</script>", "question": "</td><script>evil</script> & more"}]
    with Run(tmp_path, searcher(wave=10, record=True), rows, budget=BUDGET) as begun:
        yield begun


def get(live: LiveRun, path: str, **headers: str) -> http.client.HTTPResponse:
    address = urlsplit(live.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port or 0, timeout=20)
    connection.request("GET", path, headers=headers)
    return connection.getresponse()


def text(response: http.client.HTTPResponse) -> str:
    assert response.status == 200
    return response.read().decode()


def test_the_list_and_a_search_of_it(run: Run) -> None:
    with LiveRun(run) as live:
        top = f"/{live.token}/"
        assert "<caption>0 under way</caption>" in text(get(live, top))
        lines = iter(run)
        first = next(lines)
        shown = text(get(live, top))
        assert "1 of 7 questions" in shown
        under_way = [row for row, _ in run.searches()]
        assert [f'href="{row.line}/"' in shown for row in under_way] == [True] * len(under_way) != []
        assert "<script" not in shown
        assert "evil" in shown
        page = text(get(live, f"{top}{under_way[0].line}/"))
        assert under_way[0].question in page
        done = int(first["id"].removeprefix("id-")) + 1
        for missing in (f"{done}/", "99/", "nothing", "events", f"{under_way[0].line}"):
            assert get(live, top + missing).status == 404
        for refused in ("/", "/wrong/", f"/wrong/{under_way[0].line}/"):
            assert get(live, refused).status == 404
        assert get(live, top, Host="evil.example").status == 404


def test_a_search_is_followed_to_its_end(run: Run) -> None:
    with LiveRun(run) as live:
        lines = iter(run)
        next(lines)
        row, search = run.searches()[-1]
        stream = get(live, f"/{live.token}/{row.line}/events")
        chunks: list[Any] = []

        def follow() -> None:
            for line in stream:
                if line.startswith(b'data: {"'):
                    chunks.append(json.loads(line.removeprefix(b"data: ")))

        watcher = threading.Thread(target=follow)
        watcher.start()
        for _ in lines:
            pass
        watcher.join(timeout=20)
        assert not watcher.is_alive()
        assert sum(len(chunk["nodes"]["parents"]) for chunk in chunks) == len(search.nodes)
        assert chunks[-1]["live"] is False


def test_searches_have_to_keep_their_events(tmp_path: Path) -> None:
    with Run(tmp_path, searcher(), questions(1), budget=BUDGET) as run, pytest.raises(ValueError, match="record=True"):
        LiveRun(run)
    with pytest.raises(TypeError, match=r"run: expected a bavt_fast\.Run, got 5"):
        LiveRun(5)

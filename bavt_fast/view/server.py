"""A search to watch while it runs: its page on the loopback address, kept up to date by server-sent events.

The search knows nothing of it. Threads of the server read what the search has appended since they last looked: its
events, refused steps and nodes, which only grow. They take no lock of the search, look only while somebody watches, and
rest fifty times as long as a look took, so that a watcher costs a search at most a fiftieth of one core.
"""

from __future__ import annotations

import hmac
import secrets
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from bavt_fast._checks import as_count
from bavt_fast.engine import Search
from bavt_fast.view.page import chunk_of_part, dump, final_columns, page
from bavt_fast.view.record import NodeColumns, Picture
from bavt_fast.view.run_page import run_page
from bavt_fast.view.sources import part_of_search, picture_of_result

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Live", "LiveRun"]

INTERVAL_S = 0.25
REST = 50
"""Times as long as a look took until the next one."""
MOST_WATCHERS = 8
LAST_LOOK_S = 1.0
"""How long the end of a search waits for its watchers to be told of it."""
SILENCE_S = 5.0
"""After which something is sent all the same, to find out who has gone."""


class Seen(NamedTuple):
    """How much of a search a watcher has."""

    nodes: int = 0
    refused: int = 0
    events: int = 0


class _Serving(ABC):
    """Serves pages on the loopback address; a context manager.

    Args:
        port: of 127.0.0.1; any free one for 0.

    Attributes:
        url: the page's address. It holds a random token: whoever does not know it gets nothing.

    Raises:
        OSError: the port is taken.
    """

    def __init__(self, port: int) -> None:
        self.token = secrets.token_urlsafe(24)
        self.ended = threading.Event()
        self.watchers: set[int] = set()
        self._told = threading.Condition()
        self._server = _Server(("127.0.0.1", as_count("port", port, maximum=65_535)), self)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/{self.token}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True, name="bavt-live")
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Tells the watchers the end, and stops serving. A watcher that does not listen is waited for one second."""
        self.ended.set()
        with self._told:
            self._told.wait_for(lambda: not self.watchers, timeout=LAST_LOOK_S)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=LAST_LOOK_S)

    # ---- for the threads of the server

    @abstractmethod
    def found(self, name: str) -> Search | str | None:
        """What is at an address below the token: a search, a page as HTML, or nothing."""

    def has_ended(self, search: Search) -> bool:
        """Whether nothing more will come of a search."""
        return self.ended.is_set()

    def enter(self) -> bool:
        """One more watcher; False where there are enough."""
        with self._told:
            if len(self.watchers) >= MOST_WATCHERS:
                return False
            self.watchers.add(threading.get_ident())
            return True

    def leave(self) -> None:
        with self._told:
            self.watchers.discard(threading.get_ident())
            self._told.notify_all()

    def chunks(self, search: Search) -> Iterator[bytes]:
        """What is new, each time that something is; b"" after a silence. Ends with the search."""
        seen, quiet_s = Seen(), 0.0
        while True:
            ending = self.has_ended(search)  # before the look: what came by then is in it
            start_s = time.perf_counter()
            chunk, now = look(search, seen, ending)
            took_s = time.perf_counter() - start_s
            if now != seen or ending:
                yield dump(chunk)
                quiet_s = 0.0
            elif quiet_s > SILENCE_S:
                yield b""
                quiet_s = 0.0
            if ending:
                return
            seen = now
            rest_s = max(INTERVAL_S, REST * took_s)
            quiet_s += rest_s
            self.ended.wait(rest_s)


class Live(_Serving):
    """Serves the page of one search on the loopback address; a context manager.

        with Live(search) as live:
            print(live.url)
            ...                     # drive the search

    When it closes, watchers are told the end, and the server is gone; a page that is open keeps what it has.

    Args:
        search: a `Search` with ``record=True``; may have begun.
        port: of 127.0.0.1; any free one for 0.

    Attributes:
        url: the page's address. It holds a random token: whoever does not know it gets nothing.

    Raises:
        TypeError, ValueError: not a search, or one that keeps no events.
        OSError: the port is taken.
    """

    def __init__(self, search: Search, *, port: int = 0) -> None:
        if not isinstance(search, Search):
            raise TypeError(f"search: expected a Search, got {search!r:.80}; Searcher.start makes one")
        if search.events is None:
            raise ValueError("search: expected one that keeps its events, got one without; search with record=True")
        self.search = search
        super().__init__(port)

    def found(self, name: str) -> Search | str | None:
        return self.search if name == "" else None


class LiveRun(_Serving):
    """Serves a run: a page that lists the questions under way, and a page for each of their searches.

    Args:
        run: a `bavt_fast.runs.Run` whose searcher has ``record=True``.
        port: of 127.0.0.1; any free one for 0.

    Raises:
        TypeError, ValueError: not a run, or one whose searches keep no events.
        OSError: the port is taken.
    """

    def __init__(self, run: Any, *, port: int = 0) -> None:
        if not hasattr(run, "searches") or not hasattr(run, "searcher"):
            raise TypeError(f"run: expected a bavt_fast.Run, got {run!r:.80}")
        if not run.searcher.settings.record:
            raise ValueError("run: expected searches that keep their events, got ones without; search with record=True")
        self.run = run
        super().__init__(port)

    def found(self, name: str) -> Search | str | None:
        if name == "":
            return run_page(self.run.progress(), self.run.searches())
        return next((search for row, search in self.run.searches() if name == str(row.line)), None)

    def has_ended(self, search: Search) -> bool:
        return self.ended.is_set() or search.stop_reason is not None


def look(search: Search, seen: Seen, ending: bool) -> tuple[dict[str, Any], Seen]:
    """What a search has that was not seen before, and what is seen with it."""
    part, now = part_of_search(search, *seen)
    chunk = chunk_of_part(part, seen.nodes, live=not ending)
    if ending:
        nodes = picture_of_result(search.result()).nodes
        if nodes.count == now[0]:  # else it goes on all the same, and the page works it out from the events
            chunk["nodes"] |= final_columns(nodes)
    return chunk, Seen(*now)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], live: _Serving) -> None:
        self.live = live
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without asking for the host's name, which may take long."""
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A watcher that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    timeout = 10
    server: _Server

    def do_GET(self) -> None:
        token, _, rest = urlsplit(self.path).path.lstrip("/").partition("/")
        known = hmac.compare_digest(token.encode(), self.server.live.token.encode())
        name, _, part = rest.rpartition("/")
        found = self.server.live.found(name) if known and self._is_for_us() and part in ("", "events") else None
        if isinstance(found, str) and part == "":
            self._send_html(found)
        elif not isinstance(found, Search):
            self.send_error(404, "nothing here; a question that is finished is not shown any more")
        elif part == "":
            self._send_html(page([Picture(nodes=_NOTHING, question=found.question)], live=True))
        elif self.server.live.enter():
            try:
                self._send_events(found)
            finally:
                self.server.live.leave()
        else:
            self.send_error(503, "too many watchers")

    def _is_for_us(self) -> bool:
        """Not a page elsewhere that had its own name point here."""
        port = self.server.server_port
        return self.headers.get("Host") in (f"127.0.0.1:{port}", f"localhost:{port}")

    def _begin(self, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("X-Frame-Options", "DENY")
        self.end_headers()

    def _send_html(self, text: str) -> None:
        self._begin("text/html; charset=utf-8")
        self.wfile.write(text.encode("utf-8", "replace"))

    def _send_events(self, search: Search) -> None:
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._begin("text/event-stream")
        for chunk in self.server.live.chunks(search):
            self.wfile.write(b"event: chunk\ndata: " + chunk + b"\n\n" if chunk else b": still there\n\n")
            self.wfile.flush()
        self.wfile.write(b"event: end\ndata: {}\n\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the terminal belongs to the search."""


_NOTHING = NodeColumns([-1], [""], [1.0], [None], [1.0], [0], [0], [0], [0], [None], [None], ["open"])

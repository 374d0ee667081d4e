"""The connections of one event loop to a server, with the client of the package aiohttp.

A session of aiohttp belongs to the event loop that it was made in, and complains when that ends first. Here the loop
closes it: at its end it closes the asynchronous generators that were begun in it (``shutdown_asyncgens``, a part of
`asyncio.run`), and one of them holds the session.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextlib
import io
import json
import os
import re
import time
import urllib.request
import weakref
from collections.abc import AsyncGenerator
from contextvars import ContextVar
from typing import Any, NamedTuple

import aiohttp
from yarl import URL

from bavt_fast._version import __version__

__all__ = ["FAILURES", "FINAL", "Answer", "Connections"]

FAILURES = (aiohttp.ClientError, asyncio.TimeoutError, OSError)
"""What a request that got no answer raises."""
FINAL = (ValueError, getattr(aiohttp, "NonHttpUrlClientError", ValueError))  # aiohttp has it from 3.10 on
"""The same where no other try will get one: no address to ask (a proxy, a redirect), or a certificate not trusted."""
_OPENAI = "https://api.openai.com/v1"
_IDLE_S = 4.0
"""How long a connection is kept without a request. uvicorn, and so vLLM and SGLang, closes it after five seconds."""
_LARGE = 2**20
"""Bytes of a body above which aiohttp wants it as a file."""
_EXIT_S = 2.0
_LOSE_THE_BODY = (301, 302, 303)
"""Redirects behind which a POST is a GET."""
_LEAST_SECRET = 12
"""Characters from which on a key is taken out of an answer that is good: "EMPTY" and "token" are words in it, too."""
_MARKS = ("[key]", "[password]")

_NEW: ContextVar[bool] = ContextVar("bavt_fast_new_connection", default=False)
"""Whether this task's next request must have a connection that was not used before."""
_USED: ContextVar[bool] = ContextVar("bavt_fast_used_connection", default=False)
"""Whether this task's last request had one that was."""


class Answer(NamedTuple):
    """What a server sent back.

    Attributes:
        status, reason: such as 503 and "Service Unavailable".
        retry_after: the header, None where there is none.
        content: bytes of the body.
    """

    status: int
    reason: str
    retry_after: str | None
    content: bytes


class _Connector(aiohttp.TCPConnector):
    """Tells a task whether its request goes over a connection that was used before."""

    def __init__(self) -> None:
        super().__init__(limit=0, keepalive_timeout=_IDLE_S)  # the limit is `Connections.free`
        self._known_to_us: weakref.WeakSet[Any] = weakref.WeakSet()

    async def connect(self, *arguments: Any, **options: Any) -> Any:
        while True:
            connection = await super().connect(*arguments, **options)
            if connection.protocol not in self._known_to_us:
                self._known_to_us.add(connection.protocol)
                _USED.set(False)
                return connection
            if not _NEW.get():
                _USED.set(True)
                return connection
            connection.close()  # it has been idle as long as the one that was closed


class Connections:
    """To be made, and used, in a running event loop.

    Args:
        key: goes with every request, and is left out where the server sends a request on to another one.
        base_url: None for OpenAI.
        most: connections at once.

    Attributes:
        loop: the event loop.
        free: one of so many places has to be held while a request is out.

    Raises:
        ValueError: the key cannot be sent, or there is no such address.
    """

    def __init__(self, key: str, base_url: str | None, most: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.free = asyncio.Semaphore(most)
        key = key.strip()
        self._secrets: dict[str, str] = {}
        if key not in ("", "none"):
            self._hide(key, "[key]")
        self._base_url = (base_url or _OPENAI).rstrip("/")
        self._ways: dict[str, tuple[URL, URL | None]] = {}
        headers = {
            "Accept": "application/json",
            "Authorization": self._authorization(key),
            "Content-Type": "application/json",
            "User-Agent": f"bavt_fast/{__version__}",
        }
        for name, variable in (("OpenAI-Organization", "OPENAI_ORG_ID"), ("OpenAI-Project", "OPENAI_PROJECT_ID")):
            if os.environ.get(variable):
                headers[name] = _sendable(variable, os.environ[variable])
        self._session = aiohttp.ClientSession(
            connector=_Connector(), cookie_jar=aiohttp.DummyCookieJar(), headers=headers
        )
        self._held = _held(self._session)
        with contextlib.suppress(StopIteration):  # as far as its yield, without going out of this function
            self._held.__anext__().send(None)
        weakref.finalize(self, _close_behind, self.loop, self._session).atexit = False
        _OPEN.add(self)

    async def send(self, path: str, content: bytes, seconds: float) -> Answer:
        """Posts JSON to `path` (behind the server's address, or a whole one).

        A connection that waits for a request may be closed by the server in the very moment in which one comes. The
        request is then sent once more, at once, over a new one. Whether the server has read the first is not known.

        A request that is sent on with 307 or 308 stays as it is. With 301, 302 and 303 it would go on as a GET, without
        its body: the answer is then the server's 301, with the address that it names.

        Raises:
            FAILURES: no answer, or not all of it, within so many seconds.
            ValueError: there is no such address.
        """
        url, proxy = self._ways.get(path) or self._way(path)
        end_s = time.monotonic() + seconds
        try:
            response = await self._session.post(url, data=_data(content), proxy=proxy, timeout=_within(seconds))
        except aiohttp.ClientConnectionError as error:
            left_s = end_s - time.monotonic()
            if not _USED.get() or isinstance(error, asyncio.TimeoutError) or left_s <= 0:
                raise
            _NEW.set(True)
            try:
                response = await self._session.post(url, data=_data(content), proxy=proxy, timeout=_within(left_s))
            finally:
                _NEW.set(False)
        except aiohttp.ClientHttpProxyError as error:  # of an https address: it opens no way to the server
            wait = None if error.headers is None else error.headers.get("Retry-After")
            return Answer(error.status, error.message, wait, b"said by the proxy")
        finally:
            _USED.set(False)
        for moved in response.history:
            if moved.status in _LOSE_THE_BODY:
                response.close()  # its connection is not read to the end
                return _moved(moved)
        read = await response.read()
        return Answer(response.status, response.reason or "", response.headers.get("Retry-After"), read)

    async def aclose(self) -> None:
        """Closes them all."""
        await self._held.aclose()

    @property
    def closed(self) -> bool:
        return self._session.closed

    def without_secrets(self, content: bytes) -> bytes:
        """A good answer, without those that are no words of it. What is cut from it afterwards has no part of one."""
        for secret, instead in self._secrets.items():
            if len(secret) >= _LEAST_SECRET and secret.encode() in content:
                content = content.replace(secret.encode(), instead.encode())
        return content

    def told(self, text: str) -> str:
        """A text without the keys and passwords that are used here."""
        instead = {mark: mark for mark in _MARKS} | self._secrets  # what is hidden stays as it is
        words = "|".join(map(re.escape, sorted(instead, key=len, reverse=True)))
        return re.sub(words, lambda found: instead[found[0]], text)

    def _authorization(self, key: str) -> str:
        """Basic where the server's address has a user in it."""
        url = _url(self._base_url)
        if url.user is None and url.password is None:
            return f"Bearer {_sendable('api_key', key)}"
        basic = base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()
        self._hide(basic, "[key]")
        if url.password:
            self._hide(url.password, "[password]")
        return "Basic " + basic

    def _hide(self, secret: str, instead: str) -> None:
        """As it is, and as JSON and Python write it."""
        for written in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):
            self._secrets[written] = instead

    def _way(self, path: str) -> tuple[URL, URL | None]:
        """An address, and the proxy on the way to it as the environment has it (HTTP_PROXY, NO_PROXY and so on).

        This is looked up once: aiohttp asks a thread for it, and another one for a .netrc, with every request.
        """
        url = _url(path if path.startswith(("http://", "https://")) else self._base_url + path).with_user(None)
        known = {} if urllib.request.proxy_bypass(f"{url.host}:{url.port}") else urllib.request.getproxies()
        named = known.get(url.scheme) or known.get("all")
        proxy = None if named is None else _url(named if "://" in named else f"http://{named}", "proxy")
        if proxy is not None and proxy.raw_password:
            self._secrets[f":{proxy.raw_password}@"] = ":[password]@"
        way = self._ways[path] = url, proxy
        return way


_OPEN: weakref.WeakSet[Connections] = weakref.WeakSet()
os.register_at_fork(after_in_child=_OPEN.clear)  # they stay the parent's


async def _held(session: aiohttp.ClientSession) -> AsyncGenerator[None, None]:
    """Ends with its event loop, or with whoever has it, or when it is closed; and the session with it."""
    try:
        yield
    finally:
        await session.close()


def _close_behind(loop: asyncio.AbstractEventLoop, session: aiohttp.ClientSession) -> None:
    """For a loop that was closed without its asynchronous generators. There is nothing left to wait for."""
    if loop.is_closed():
        for _ in session.close().__await__():
            break


@atexit.register
def _close_at_exit() -> None:
    for connections in list(_OPEN):
        loop = connections.loop
        with contextlib.suppress(Exception):
            if loop.is_closed():
                _close_behind(loop, connections._session)
            elif loop.is_running():  # in another thread
                asyncio.run_coroutine_threadsafe(connections.aclose(), loop).result(_EXIT_S)
            else:
                loop.run_until_complete(connections.aclose())


def _moved(answer: aiohttp.ClientResponse) -> Answer:
    """Says where a server has moved to."""
    place = "another one"
    with contextlib.suppress(ValueError, LookupError):
        place = str(answer.url.join(URL(answer.headers["Location"])).with_user(None))
    words = f"base_url: expected the address that takes requests, got one that sends them on to {place}"
    return Answer(answer.status, answer.reason or "", None, words.encode())


def _within(seconds: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds, ceil_threshold=float("inf"))  # else it is rounded up to whole seconds


def _data(content: bytes) -> Any:
    return content if len(content) <= _LARGE else io.BytesIO(content)


def _sendable(name: str, value: str) -> str:
    """What a header can hold. Its value is never part of the error."""
    value = value.strip()
    if not (value and value.isascii() and value.isprintable()):
        raise ValueError(f"{name}: expected visible ASCII characters, got others")
    return value


def _url(address: str, name: str = "base_url") -> URL:
    """Raises ValueError for what aiohttp cannot ask. The address, in which a password may be, is not part of it."""
    try:
        url = URL(address)
        if url.scheme in ("http", "https") and url.host:
            return url
    except ValueError:
        pass
    raise ValueError(f"{name}: expected an address such as 'http://127.0.0.1:8000', got another")

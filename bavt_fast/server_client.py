"""Requests to a server, sent again where that is of use: what a generator and a critic over a server share.

Of the package openai this takes the way there: addresses, keys, connections, errors. Answers are read as the JSON that
they are; making objects of them would take longer than everything that is done with them.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from bavt_fast._checks import as_amount, as_count
from bavt_fast.protocols import GenerationError

__all__ = ["OutOfTime", "ServerClient"]

_RETRIED_STATUS = (408, 409, 425, 429)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 30.0

Read = TypeVar("Read")


class OutOfTime(Exception):
    """The deadline came before the answer. What the server did by then is not known."""


@dataclass
class _Connection:
    """A client belongs to the event loop that it was made in."""

    loop: asyncio.AbstractEventLoop
    client: Any
    free: asyncio.Semaphore


class ServerClient:
    """Asks one server, with the client of the package openai.

    Args:
        base_url: such as "http://127.0.0.1:8000/v1"; None for the client's own (OPENAI_BASE_URL, or OpenAI).
        api_key: None for OPENAI_API_KEY; a server that wants none is given "none". Never part of an error or a repr.
        max_in_flight: requests out at once.
        timeout_s: of one request; a deadline comes before it.
        retries: times that a request is sent again after a dropped connection, a timeout, an answer that cannot be
            read, or a status of 408, 409, 425, 429 or 5xx, with longer and longer waits, or after what the server asks
            for (Retry-After).
        user: who needs the package, for the error where it is missing.

    Attributes:
        requests: that were answered. retried: that were sent again. failed: that were given up.

    Raises:
        ModuleNotFoundError: the package openai is not installed.
        TypeError, ValueError: an argument is not what it should be.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        max_in_flight: int = 64,
        timeout_s: float = 120.0,
        retries: int = 5,
        user: str = "generator",
    ) -> None:
        try:
            import openai

            from bavt_fast.server_connections import connect
        except ModuleNotFoundError as error:
            if error.name != "openai":
                raise
            raise ModuleNotFoundError(
                f"{user}: a server needs openai; install it with: pip install 'bavt_fast[openai]'", name=error.name
            ) from error
        if base_url is not None and not _is_url(base_url):
            raise ValueError(f"base_url: expected an address such as 'http://127.0.0.1:8000/v1', got {base_url!r:.80}")
        self._openai, self._connect = openai, connect
        self._api_key = api_key
        self.base_url = base_url
        self.max_in_flight = as_count("max_in_flight", max_in_flight, minimum=1)
        self.timeout_s = as_amount("timeout_s", timeout_s)
        self.retries = as_count("retries", retries)
        self.requests = self.retried = self.failed = 0
        self._connection: _Connection | None = None

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], Read],
        *,
        deadline: float | None = None,
        none_if: Sequence[str] = (),
    ) -> Read | None:
        """What `read` makes of the server's answer, which is JSON.

        Args:
            path: behind `base_url`, or a whole address.
            read: raises ValueError, TypeError, AttributeError or LookupError where the answer is not what it should
                be: it is asked for again.
            deadline: by ``time.monotonic()``.
            none_if: words of a refusal (status 400) that is no error: None comes back.

        Raises:
            GenerationError: what remained wrong, with the server's address.
            OutOfTime: `deadline` has come.
        """
        connection = self._connected()
        async with connection.free:
            for attempt in range(self.retries + 1):
                left_s = self.timeout_s if deadline is None else min(self.timeout_s, deadline - time.monotonic())
                if left_s <= 0:
                    raise OutOfTime
                try:
                    options = {"timeout": left_s, "security": {"bearer_auth": True}}
                    found = read(await connection.client.post(path, cast_to=object, body=body, options=options))
                except self._openai.BadRequestError as error:
                    if any(words in _words_of(error) for words in none_if):
                        return None
                    raise self._error(error) from None
                except (self._openai.APIError, ValueError, TypeError, AttributeError, LookupError) as error:
                    wait_s = self._wait_s(error, attempt)
                    if wait_s is None:
                        raise self._error(error) from None
                    if deadline is not None and time.monotonic() + wait_s >= deadline:
                        raise OutOfTime from None
                    self.retried += 1
                    await asyncio.sleep(wait_s)
                else:
                    self.requests += 1
                    return found
        raise AssertionError("the last attempt returns or raises")

    async def aclose(self) -> None:
        """Closes the connections, in the event loop that they were made in. The next request opens new ones."""
        connection, self._connection = self._connection, None
        if connection is not None and connection.loop is asyncio.get_running_loop():
            await connection.client.close()

    def unbind(self) -> None:
        """Leaves the connections to whoever else has them: of a copy, which then makes its own."""
        self._connection = None

    @property
    def name(self) -> str:
        """The server's, for errors."""
        return f"server {self.base_url or 'OpenAI'}"

    def _connected(self) -> _Connection:
        loop = asyncio.get_running_loop()
        if self._connection is None or self._connection.loop is not loop:
            key = self._api_key or os.environ.get("OPENAI_API_KEY") or "none"
            client = self._connect(key, self.base_url)
            self._connection = _Connection(loop, client, asyncio.Semaphore(self.max_in_flight))
        return self._connection

    def _wait_s(self, error: Exception, attempt: int) -> float | None:
        """How long to wait before the request is sent again; None where that is of no use."""
        status = getattr(error, "status_code", None)
        if attempt >= self.retries or (status is not None and status not in _RETRIED_STATUS and status < 500):
            return None
        response = getattr(error, "response", None)
        asked = None if response is None else response.headers.get("retry-after")
        try:
            if asked is not None:
                return min(max(0.0, float(asked)), _LONGEST_WAIT_S)  # in this order 0 for NaN
        except ValueError:  # a date
            pass
        return min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S) * random.uniform(0.5, 1.0)

    def _error(self, error: Exception) -> GenerationError:
        self.failed += 1
        text = f"{type(error).__name__}: {_words_of(error)}"
        key = None if self._connection is None else self._connection.client.api_key
        if key and key != "none":
            text = text.replace(key, "[key]")
        return GenerationError(f"{self.name}: {text:.500}")


def _is_url(address: Any) -> bool:
    return isinstance(address, str) and address.startswith(("http://", "https://"))


def _words_of(error: Exception) -> str:
    """An error's message, with what the server says in another form than OpenAI's, which the client leaves out."""
    said = getattr(error, "body", None)
    told = said.get("detail") if isinstance(said, dict) else said
    return f"{error} - {told}" if isinstance(told, str) and told else str(error)

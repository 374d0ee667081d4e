"""Requests to a server, sent again where that is of use: what a generator and a critic over a server share.

They go over connections of the package aiohttp (`bavt_fast.server_connections`). Addresses and keys are where the
package openai has them. Answers are read as the JSON that they are; making objects of them would take longer than
everything that is done with them.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import random
import re
import time
from collections.abc import Callable, Mapping
from datetime import timezone
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from bavt_fast._checks import as_amount, as_count
from bavt_fast.protocols import GenerationError

if TYPE_CHECKING:
    from bavt_fast.server_connections import Answer, Connections

__all__ = ["OutOfTime", "ServerClient", "shown", "told_count"]

_MOST = 2**60  # of what a server says that it took
_RETRIED_STATUS = (408, 409, 425, 429)
_RESTING_STATUS = (429, 503)
"""With Retry-After they speak of the server, and not of one request."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.25, 30.0
_LONGEST_REST_S = 600.0
"""How much of a Retry-After is believed."""
_TOLD_REST_S = 10.0
"""From here on a rest is logged: nothing goes on meanwhile."""
_PAST_S = 0.001
"""So far behind a deadline no clock says that it is still to come."""
_log = logging.getLogger("bavt_fast")
_encoded = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

Read = TypeVar("Read")


class OutOfTime(Exception):
    """The deadline came before an answer, or a failure.

    Attributes:
        asked: whether the server was at it; what it did by then is not known. Else it did nothing: it was not asked, or
            has sent the request away.
    """

    def __init__(self, asked: bool) -> None:
        super().__init__(asked)
        self.asked = asked


class _Failure(NamedTuple):
    """A request that came to nothing.

    Attributes:
        problem: what was wrong.
        answer: what the server said, where it did.
        is_final: whether it would come to nothing again.
    """

    problem: str
    answer: Answer | None = None
    is_final: bool = False


class ServerClient:
    """Asks one server, from any event loop: each has connections of its own, which are closed when it ends.

    The environment is that of the package openai: OPENAI_API_KEY, OPENAI_BASE_URL, OPENAI_ORG_ID, OPENAI_PROJECT_ID;
    and proxies as everywhere (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY).

    Args:
        base_url: such as "http://127.0.0.1:8000/v1"; None for OPENAI_BASE_URL, or OpenAI.
        api_key: None for OPENAI_API_KEY; a server that wants none is given "none". Never part of an error or a repr.
        max_in_flight: requests out at once.
        timeout_s: of one request; a deadline comes before it.
        retries: times that a request is sent again after a dropped connection, a timeout, an answer that cannot be
            read, or a status of 408, 409, 425, 429 or 5xx, with longer and longer waits, or after what the server asks
            for (Retry-After, in seconds or as a date; up to ten minutes are believed). A server that says so with 429
            or 503 is asked for nothing at all until then. A request that meets a connection which the server has just
            closed, and of whose answer nothing has come, is besides sent once more at once, which is not counted. As
            with all that is sent again, the server may have been asked twice.
        user: who needs the package, for the error where it is missing.

    Attributes:
        requests: that were answered. retried: that were sent again. failed: that were given up.

    Raises:
        ModuleNotFoundError: the package aiohttp is not installed.
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
            from bavt_fast.server_connections import FAILURES, FINAL, Connections
        except ModuleNotFoundError as error:
            if error.name != "aiohttp":
                raise
            raise ModuleNotFoundError(
                f"{user}: a server needs aiohttp; install it with: pip install 'bavt_fast[server]'", name=error.name
            ) from error
        if base_url is not None and not _is_url(base_url):
            got = shown(base_url) if isinstance(base_url, str) else base_url
            raise ValueError(f"base_url: expected an address such as 'http://127.0.0.1:8000/v1', got {got!r:.80}")
        if api_key is not None and not isinstance(api_key, str):
            raise TypeError(f"api_key: expected a str or None, got one of type {type(api_key).__name__}")
        self._failures, self._final, self._connect = FAILURES, FINAL, Connections
        self._api_key = api_key
        self.base_url = base_url
        self.max_in_flight = as_count("max_in_flight", max_in_flight, minimum=1)
        self.timeout_s = as_amount("timeout_s", timeout_s)
        self.retries = as_count("retries", retries)
        self.requests = self.retried = self.failed = 0
        self._rests_until_s = 0.0  # by time.monotonic(); nothing is sent before
        self._last: Connections | None = None
        self._of_loops: dict[asyncio.AbstractEventLoop, Connections] = {}

    async def post(
        self,
        path: str,
        body: Mapping[str, Any],
        read: Callable[[Any], Read],
        *,
        deadline: float | None = None,
        none_if: Callable[[str], bool] | None = None,
    ) -> Read | None:
        """What `read` makes of the server's answer, which is JSON.

        Args:
            path: behind `base_url`, or a whole address.
            read: raises ValueError, TypeError, AttributeError or LookupError where the answer is not what it should
                be: it is asked for again. A GenerationError ends the request.
            deadline: by ``time.monotonic()``.
            none_if: whether the words of a refusal (status 400) are no error: None comes back.

        Raises:
            GenerationError: what remained wrong, with the server's address, or `read` raised it.
            OutOfTime: `deadline` has come while the server was at it, or before it could be asked.
        """
        here = self._last
        if here is None or here.loop is not asyncio.get_running_loop():
            here = self._connected()
        try:
            content = _encoded(body).encode(errors="replace")  # half a character, as texts of models may have
        except (ValueError, TypeError, RecursionError) as error:
            raise self._error(f"request: expected what JSON can say, got another: {error}", here) from None
        problem = ""
        for attempt in range(self.retries + 1):
            left_s = await self._turn(here, deadline)
            if left_s is None:
                raise self._late(problem, here)
            try:
                found = await self._try(here, path, content, read, none_if, left_s)
            finally:
                here.free.release()
            if not isinstance(found, _Failure):
                return found
            problem = await self._failed(attempt, found, here, deadline)
        raise AssertionError("the last attempt returns or raises")

    async def _try(
        self,
        here: Connections,
        path: str,
        content: bytes,
        read: Callable[[Any], Read],
        none_if: Callable[[str], bool] | None,
        left_s: float,
    ) -> Read | _Failure | None:
        """One attempt."""
        answer: Answer | None = None
        told: Any = None
        try:
            answer = await here.send(path, content, left_s)
            if 200 <= answer.status < 300:
                told = json.loads(here.without_secrets(answer.content))
                found = read(told)
                self.requests += 1
                return found
        except asyncio.TimeoutError:
            if left_s < self.timeout_s:
                raise OutOfTime(asked=True) from None
            return _Failure(f"no answer within {left_s:.3g} s", answer)
        except json.JSONDecodeError as error:
            return _Failure(f"expected an answer in JSON, got {error.doc!r:.80}", answer)
        except (
            *self._failures,
            ValueError,
            TypeError,
            AttributeError,
            LookupError,
            OverflowError,
            RecursionError,
        ) as error:
            status = _status_in(told)
            if answer is None or status is None:
                is_final = answer is None and isinstance(error, self._final)
                return _Failure(f"{type(error).__name__}: {error}", answer, is_final)
            answer = answer._replace(status=status, reason=f"in an answer with {answer.status}")
        except GenerationError:
            self.failed += 1
            raise
        except RuntimeError as error:
            if not here.closed:
                raise
            raise self._error(f"the connections were closed meanwhile ({error})", here) from None
        said = answer.content.decode(errors="replace")  # the error has no key of it
        if answer.status == 400 and none_if is not None and none_if(said):
            return None
        return _Failure(f"status {answer.status} {answer.reason}: {_words_of(said)}", answer)

    async def _failed(self, attempt: int, failure: _Failure, here: Connections, deadline: float | None) -> str:
        """Waits until the request may be sent again. What was wrong, where the server did not ask to wait."""
        answer = failure.answer
        rest_s = None if answer is None or answer.status < 300 else _rest_s(answer.retry_after) or None
        if answer is not None and rest_s is not None and answer.status in _RESTING_STATUS:
            self._rest(rest_s, answer)
        wait_s = None if failure.is_final else self._wait_s(attempt, answer, rest_s)
        if wait_s is None:
            raise self._error(failure.problem, here)
        if rest_s is None and deadline is not None and time.monotonic() + wait_s >= deadline:
            raise self._late(failure.problem, here)
        if not await _slept(wait_s, deadline):
            raise OutOfTime(asked=False)
        self.retried += 1
        return failure.problem if rest_s is None else ""

    def _rest(self, seconds: float, answer: Answer) -> None:
        """Nothing is sent for so long."""
        until_s = time.monotonic() + seconds
        if seconds >= _TOLD_REST_S and until_s > self._rests_until_s + 1.0:
            _log.warning("%s: status %d; it is asked again in %.0f s (Retry-After)", self.name, answer.status, seconds)
        self._rests_until_s = max(self._rests_until_s, until_s)

    async def _turn(self, here: Connections, deadline: float | None) -> float | None:
        """Takes a place as soon as the server may be asked. How long a request may last; None where it is too late."""
        while True:
            rest_s = self._rests_until_s - time.monotonic()
            if rest_s > 0.0:
                if not await _slept(rest_s, deadline):
                    return None
                continue
            if not await _taken(here.free, deadline):
                return None
            now_s = time.monotonic()
            left_s = self.timeout_s if deadline is None else min(self.timeout_s, deadline - now_s)
            if now_s >= self._rests_until_s and left_s > 0.0:
                return left_s
            here.free.release()
            if left_s <= 0.0:
                return None

    async def aclose(self) -> None:
        """Closes the connections, in the event loop that they were made in. The next request opens new ones."""
        self._last = None
        here = self._of_loops.pop(asyncio.get_running_loop(), None)
        if here is not None:
            await here.aclose()

    def __getstate__(self) -> dict[str, Any]:
        """A copy makes connections of its own, and another machine has a clock of its own."""
        return {**self.__dict__, "_last": None, "_of_loops": {}, "_rests_until_s": 0.0}

    def unbind(self) -> None:
        """Leaves the connections to whoever else has them: of a copy, which then makes its own."""
        self._last, self._of_loops = None, {}

    @property
    def name(self) -> str:
        """The server's, for errors."""
        return f"server {shown(self.base_url or _named()) or 'OpenAI'}"

    @property
    def _address(self) -> str | None:
        """Of the argument or the environment. Raises ValueError for one of the environment that cannot be one."""
        address = _named()
        if self.base_url is None and address is not None and not _is_url(address):
            raise ValueError(
                f"OPENAI_BASE_URL: expected an address such as 'http://127.0.0.1:8000/v1', got {shown(address)!r:.80}"
            )
        return self.base_url or address

    def _connected(self) -> Connections:
        """This event loop's connections, made where it has none."""
        loop = asyncio.get_running_loop()
        for other in list(self._of_loops):
            if other.is_closed():
                self._of_loops.pop(other, None)
        here = self._of_loops.get(loop)
        if here is None:
            key = os.environ.get("OPENAI_API_KEY") if self._api_key is None else self._api_key
            try:
                here = self._connect(key or "none", self._address, self.max_in_flight)
            except ValueError as error:
                raise self._error(str(error)) from None
            self._of_loops[loop] = here
        self._last = here
        return here

    def _wait_s(self, attempt: int, answer: Answer | None, rest_s: float | None) -> float | None:
        """How long to wait before the request is sent again; None where that is of no use."""
        if attempt >= self.retries:
            return None
        status = 200 if answer is None else answer.status
        if 300 <= status < 500 and status not in _RETRIED_STATUS:
            return None
        if rest_s is not None:
            return rest_s
        return min(_FIRST_WAIT_S * 2.0 ** min(attempt, 20), _LONGEST_WAIT_S) * random.uniform(0.5, 1.0)

    def _late(self, problem: str, here: Connections) -> Exception:
        """Where there is no time to ask again: what went wrong, if anything did."""
        return self._error(f"{problem}; no time is left to ask again", here) if problem else OutOfTime(False)

    def _error(self, problem: str, here: Connections | None = None) -> GenerationError:
        self.failed += 1
        said = problem if here is None else here.told(problem)
        said = said.encode(errors="replace").decode()  # half a character can be neither printed nor written
        return GenerationError(f"{self.name}: {said:.500}")


def _named() -> str | None:
    """The address that the environment names."""
    return os.environ.get("OPENAI_BASE_URL", "").strip() or None


def shown(address: str | None) -> str | None:
    """An address for people: without a user and a password."""
    return None if address is None else re.sub("//.*@", "//", address)


def _rest_s(asked: str | None) -> float | None:
    """What a server asks for (Retry-After, in seconds or as a date), as seconds; None where it asks for nothing.

    0 is no rest either, such as of a date by a clock that is behind: all attempts would be made at once.
    """
    if asked is None:
        return None
    try:
        seconds = float(asked)
    except ValueError:
        try:
            until = parsedate_to_datetime(asked)
            zone = until.tzinfo or timezone.utc
            seconds = until.replace(tzinfo=zone).timestamp() - time.time()
        except (ValueError, TypeError, LookupError, OverflowError):
            return None
    return min(max(0.0, seconds), _LONGEST_REST_S)  # in this order 0 for NaN


async def _slept(seconds: float, deadline: float | None) -> bool:
    """Sleeps; False where the deadline comes first, and is past by then."""
    left_s = math.inf if deadline is None else deadline - time.monotonic()
    await asyncio.sleep(seconds if seconds < left_s else left_s + _PAST_S)
    return seconds < left_s


async def _taken(free: asyncio.Semaphore, deadline: float | None) -> bool:
    """Takes a place; False where the deadline comes before one is free."""
    if deadline is None or not free.locked():
        return await free.acquire()
    taking = asyncio.ensure_future(free.acquire())
    taken = False
    try:
        await asyncio.wait({taking}, timeout=deadline - time.monotonic() + _PAST_S)
        taken = taking.done()
    finally:
        if not taken and not taking.cancel():  # it came in this very moment
            free.release()
    return taken


def told_count(holder: Any, name: str) -> int | None:
    """A count that a server gave; None where it gave none that can be one."""
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST else None


def _is_url(address: Any) -> bool:
    """Whether something can stand behind it: a scheme, a host, perhaps a port and a path, and nothing else."""
    if not isinstance(address, str) or not address.startswith(("http://", "https://")) or not address.isprintable():
        return False
    try:
        parts = urlsplit(re.sub("//.*@", "//", address))  # a password may hold anything
        return bool(parts.hostname) and parts.port != 0 and not (parts.query or parts.fragment or " " in address)
    except ValueError:  # of the port
        return False


def _status_in(told: Any) -> int | None:
    """That of an error which a server, or a proxy, sends in the place of an answer (OpenRouter); None without one."""
    error = told.get("error") if isinstance(told, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, int) and 400 <= code < 600 else None


def _words_of(said: str) -> str:
    """What a server says of a refusal: in OpenAI's form, in FastAPI's, or in its own."""
    try:
        told = json.loads(said)
    except (ValueError, RecursionError):
        return said
    for name in ("error", "message", "detail"):
        if isinstance(told, dict) and told.get(name):
            told = told[name]
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)

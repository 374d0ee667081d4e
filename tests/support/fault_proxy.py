"""A proxy between a client and a server with OpenAI's protocol that does what bad networks and bad servers do."""

from __future__ import annotations

import itertools
import json
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from fake_server import FakeServer, Reply

MOST_FAULTS = 5
"""Of one request: our client sends it again five times, unless it is told otherwise."""
PATHS = {"messages": "chat/completions", "prompt": "completions", "sampling_params": "../generate"}
"""By a field that only requests to it have."""
Fault = Callable[[Callable[[], Reply]], Reply]
"""Gets a function that asks the server, which it may call or not, and gives what the client sees."""


class FaultProxy(FakeServer):
    """Passes requests on to a server while the ``with`` lasts.

    Args:
        url: the server's, such as "http://127.0.0.1:8000/v1".
        fault: (number of the request, its JSON body) -> a fault; None to pass it on and nothing else.
    """

    def __init__(self, url: str, fault: Callable[[int, dict[str, Any]], Fault | None]) -> None:
        super().__init__(self.pass_on)
        self.server_url, self.fault = url, fault
        self.numbers = itertools.count()

    def pass_on(self, body: dict[str, Any]) -> Reply:
        chosen = self.fault(next(self.numbers), body)
        return self.ask(body) if chosen is None else chosen(lambda: self.ask(body))

    def ask(self, body: dict[str, Any]) -> Reply:
        path = next((path for field, path in PATHS.items() if field in body), "../pooling")
        headers = {"Content-Type": "application/json"}
        url = urllib.parse.urljoin(f"{self.server_url}/", path)
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
                return Reply(answer.read(), answer.status)
        except urllib.error.HTTPError as error:
            return Reply(error.read(), error.code)


def now_and_then(faults: Sequence[Fault]) -> Callable[[int, dict[str, Any]], Fault | None]:
    """Every third request meets the next of the faults, unless the same one has met as many as a client puts up with.

    By chance all that a client sends of a request could be third ones: several in flight go round together.
    """
    met: Counter[str] = Counter()

    def fault(number: int, body: dict[str, Any]) -> Fault | None:
        request = json.dumps(body, sort_keys=True)
        if number % 3 or met[request] == MOST_FAULTS:
            return None
        met[request] += 1
        return faults[number // 3 % len(faults)]

    return fault


def slow(seconds: float) -> Fault:
    """The answer comes late."""
    return lambda ask: replace(ask(), delay_s=seconds)


def refused(status: int, seconds: str = "0") -> Fault:
    """The server is not asked, and the client told to come again."""
    return lambda ask: Reply({"error": {"message": "come again"}}, status, {"Retry-After": seconds})


def reset(share: float) -> Fault:
    """The connection is reset after a part of the answer: the server has done its work."""
    return lambda ask: replace(ask(), sent_share=share, reset=True)


def closed(share: float) -> Fault:
    """The connection is closed after a part of the answer."""
    return lambda ask: replace(ask(), sent_share=share)


def half(ask: Callable[[], Reply]) -> Reply:
    """Half of the answer as if it were all."""
    content = ask().body
    return Reply(content[: len(content) // 2])


def counted(tokens: int | None) -> Fault:
    """The server says another number of generated tokens; None for no usage at all."""

    def fault(ask: Callable[[], Reply]) -> Reply:
        answer = json.loads(ask().body)
        if "meta_info" in answer:
            answer["meta_info"]["completion_tokens"] = tokens
        elif tokens is None:
            answer["usage"] = None
        else:
            answer["usage"]["completion_tokens"] = tokens
        return Reply(answer)

    return fault

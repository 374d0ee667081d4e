"""The connections of a client of the package openai, one for each request in flight.

The client's own pool looks at every connection that it has, and asks the system about the idle ones, whenever a request
begins or ends: at 64 in flight that is more time than all else. Here the connection that was used last is taken first.
"""

from __future__ import annotations

import sys
from typing import Any

import openai

__all__ = ["connect"]


class _OneForEach(openai.DefaultAsyncHttpxClient):
    """Sends every request by a client with a single connection, which nobody else uses meanwhile."""

    def __init__(self) -> None:
        # httpx, or what a newer openai has in its place
        http: Any = sys.modules[openai.DefaultAsyncHttpxClient.__mro__[1].__module__.partition(".")[0]]
        self._certificates = http.create_ssl_context()  # a tenth of a second, so all share them
        super().__init__(verify=self._certificates)
        self._free: list[Any] = []
        self._all: list[Any] = []

    async def send(self, request: Any, **options: Any) -> Any:
        if self._free:
            client = self._free.pop()
        else:
            client = openai.DefaultAsyncHttpxClient(verify=self._certificates)
            self._all.append(client)
        try:
            return await client.send(request, **options)
        finally:
            self._free.append(client)

    async def aclose(self) -> None:
        clients, self._all, self._free = self._all, [], []
        for client in clients:
            await client.aclose()
        await super().aclose()


def connect(api_key: str, base_url: str | None) -> openai.AsyncOpenAI:
    """A client for one event loop, that sends nothing again by itself. Close it there."""
    return openai.AsyncOpenAI(api_key=api_key, base_url=base_url, max_retries=0, http_client=_OneForEach())

"""A server with OpenAI's protocol whose answers, and faults, a test decides on."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import bavt_fast as bavt


@dataclass
class Reply:
    """What is sent back. `body` is JSON, or bytes as they are.

    Attributes:
        delay_s: time before it.
        sent_share: the part of the body after which the connection is closed; 1 for a whole answer.
        reset: it is not closed but reset, so that what was sent before may be lost too.
    """

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    sent_share: float = 1.0
    reset: bool = False


def completion(
    text: str, tokens: int | None = 5, finish_reason: str | None = "stop", read: int = 7, **choice: Any
) -> Reply:
    """An answer of ``/completions``; without a usage where `tokens` is None. ``choice`` goes into its one choice."""
    usage: dict[str, Any] | None = None
    if tokens is not None:
        usage = {"completion_tokens": tokens, "prompt_tokens": read, "total_tokens": read + tokens}
    row = {"index": 0, "text": text, "finish_reason": finish_reason, "logprobs": None, **choice}
    return Reply({"id": "1", "object": "text_completion", "created": 0, "model": "m", "choices": [row], "usage": usage})


def chat_completion(
    text: str | None, tokens: int | None = 5, finish_reason: str | None = "stop", **choice: Any
) -> Reply:
    """The same of ``/chat/completions``."""
    message = {"role": "assistant", "content": text}
    reply = completion("", tokens, finish_reason, 7, message=message, **choice)
    del reply.body["choices"][0]["text"]
    reply.body["object"] = "chat.completion"
    return reply


def thinks_and_answers(body: dict[str, Any]) -> Reply:
    """A thought after the question, an answer after that; the seed decides on both."""
    thought = body["prompt"].count("\n") > 1
    return completion(f"Answer: {body['seed'] % 3}" if thought else f"thought {body['seed'] % 5}", 4)


def slowly(body: dict[str, Any]) -> Reply:
    return Reply({"answer": body["n"]}, delay_s=0.2)


async def ask(client: Any, n: int = 1, **options: Any) -> Any:
    """A request of a `ServerClient` for {"answer": ...}."""
    return await client.post("/ask", {"n": n}, lambda answer: answer["answer"], **options)


def propose(generator: Any, *requests: Any, count: int = 1, limit: int = 20) -> list[Any]:
    """The answers of a generator over a server, in an event loop of its own."""

    async def run() -> list[Any]:
        try:
            return await generator.propose(requests, [count] * len(requests), [limit] * len(requests))
        finally:
            await generator.aclose()

    return asyncio.run(run())


def one_step(reply: Reply, request: Any = None, limit: int = 20, **options: Any) -> Any:
    """What a generator makes of one answer of its server."""
    with FakeServer(lambda body: reply) as server:
        generator = bavt.OpenAIGenerator("m", base_url=server.url, retries=0, **options)
        (answer,) = propose(generator, request or bavt.StepRequest("Q\n", seed=3), limit=limit)
    return answer[0] if isinstance(answer, list) and answer else answer


def in_turn(*replies: Reply) -> Callable[[dict[str, Any]], Reply]:
    """One reply after the other, the last one for ever."""
    left, lock = list(replies), threading.Lock()

    def answer(body: dict[str, Any]) -> Reply:
        with lock:
            return left.pop(0) if len(left) > 1 else left[0]

    return answer


def as_generate(answer: Callable[[dict[str, Any]], Reply]) -> Callable[[dict[str, Any]], Reply]:
    """What answers ``/completions``, for requests and answers of SGLang's ``/generate``."""

    def generate(body: dict[str, Any]) -> Reply:
        asked = body["sampling_params"]
        prompt = body["text"] if "text" in body else body["input_ids"]
        reply = answer({"prompt": prompt, "max_tokens": asked["max_new_tokens"], "seed": asked["sampling_seed"]})
        (choice,), usage = reply.body["choices"], reply.body["usage"]
        end = {"type": choice["finish_reason"]}
        if end["type"] == "stop":
            end["matched"] = asked["stop"][0]
        told = {"id": "1", "finish_reason": end, "weight_version": "default", "num_retractions": 0, "cached_tokens": 0}
        made = list(range(usage["completion_tokens"]))
        told |= {name: usage[name] for name in ("prompt_tokens", "completion_tokens")}
        return Reply({"text": choice["text"], "output_ids": made, "meta_info": told})

    return generate


class FakeServer:
    """Serves on a port of its own while the ``with`` lasts.

    Args:
        answer: (request's JSON body) -> Reply.

    Attributes:
        requests: the bodies that came, in order. paths, headers, keys: their paths, headers and bearer keys.
        connections: the clients' addresses, each once.
        most_at_once: requests that were being answered at the same time.
    """

    def __init__(self, answer: Callable[[dict[str, Any]], Reply]) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.keys: list[str] = []
        self.connections: set[Any] = set()
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()

    def __enter__(self) -> FakeServer:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.serve(self, body)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            request_queue_size = 256
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # the client went away

        self.http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}/v1"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.http.shutdown()
        self.http.server_close()

    def serve(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            self.requests.append(body)
            self.paths.append(handler.path)
            self.headers.append(dict(handler.headers))
            self.connections.add(handler.client_address)
            self.keys.append(handler.headers.get("Authorization", "").removeprefix("Bearer "))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            reply = self.answer(body)
            time.sleep(reply.delay_s)
        finally:
            with self._lock:
                self._now -= 1
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        handler.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: int(len(content) * reply.sent_share)])
        handler.wfile.flush()
        if reply.reset:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(handler.connection.detach())
        elif reply.sent_share < 1.0:
            handler.close_connection = True
            handler.connection.shutdown(socket.SHUT_RDWR)

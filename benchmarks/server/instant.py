"""A server with OpenAI's protocol that answers at once: ``python -m benchmarks.server.instant`` prints its port.

It has a process of its own, so that a client's time is the client's. A text depends on the request's seed.
"""

from __future__ import annotations

import asyncio
import json

TOKENS = 5
"""Of every answer."""


def answer(body: bytes) -> bytes:
    text = f" step {json.loads(body)['seed']}"
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": "stop", "stop_reason": "\n"}
    usage = {"prompt_tokens": 20, "completion_tokens": TOKENS, "total_tokens": 20 + TOKENS}
    whole = {"id": "1", "object": "text_completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    content = json.dumps(whole).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET"):  # is it there?
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                continue
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            writer.write(answer(await reader.readexactly(int(length.split(b":")[1]))))
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main() -> None:
    server = await asyncio.start_server(talk, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

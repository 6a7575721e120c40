"""A source of tokens: the streams of a llama-server, at a pace or as fast as they are taken."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncGenerator


def _answer(head: bytes) -> bytes:
    """What a llama-server says of itself to a worker that uses it; 404 to all else."""
    documents = {
        b"/health": {"status": "ok"},
        b"/props": {"model_path": "source.gguf", "default_generation_settings": {"n_ctx": 4096}, "total_slots": 8},
    }
    document = documents.get(head.split(b" ")[1])
    body = json.dumps(document).encode()
    status = b"200 OK" if document else b"404 Not Found"
    kind = b"Content-Type: application/json\r\nConnection: close\r\n"
    return b"HTTP/1.1 %s\r\n%sContent-Length: %d\r\n\r\n%s" % (status, kind, len(body), body)


class Source:
    """Answers with ``tokens`` tokens; each one's text in /completion is when it was made, in nanoseconds.

    /v1/chat/completions is answered in OpenAI's form, for others than the worker as well.

    Args:
        tokens: how many tokens a stream has.
        rate: tokens per second of each stream; 0: no pause.
    """

    def __init__(self, tokens: int, rate: float) -> None:
        self._tokens = tokens
        self._pause = 1 / rate if rate else 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"GET "):
            writer.write(_answer(head))
            writer.close()
            return
        length = next(
            int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        )
        await reader.readexactly(length)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        try:
            await (self._chat(writer) if head.startswith(b"POST /v1/chat/completions ") else self._stream(writer))
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _paced(self) -> AsyncGenerator[int, None]:
        begun = time.monotonic()
        for number in range(self._tokens):
            if self._pause:
                await asyncio.sleep(max(0.0, begun + number * self._pause - time.monotonic()))
            yield number

    async def _chat(self, writer: asyncio.StreamWriter) -> None:
        about = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": int(time.time()), "model": "source"}

        def chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            return b"data: " + json.dumps(about | {"choices": [choice]}).encode() + b"\n\n"

        async for number in self._paced():
            role = {} if number else {"role": "assistant"}
            writer.write(chunk({**role, "content": f" word{number}"}))
            await writer.drain()
        usage = {"prompt_tokens": 3, "completion_tokens": self._tokens, "total_tokens": 3 + self._tokens}
        writer.write(chunk({}, "stop"))
        writer.write(b"data: " + json.dumps(about | {"choices": [], "usage": usage}).encode() + b"\n\n")
        writer.write(b"data: [DONE]\n\n")
        await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        async for number in self._paced():
            chunk = {
                "index": 0,
                "content": f" {time.monotonic_ns()}",
                "tokens": [number],
                "stop": False,
                "id_slot": -1,
                "tokens_predicted": number + 1,
                "tokens_evaluated": 3,
            }
            writer.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
            await writer.drain()
        last = {
            "content": "",
            "stop": True,
            "stop_type": "limit",
            "tokens_evaluated": 3,
            "tokens_predicted": self._tokens,
        }
        writer.write(b"data: " + json.dumps(last).encode() + b"\n\n")
        await writer.drain()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--rate", type=float, default=0.0)
    arguments = parser.parse_args()
    source = Source(arguments.tokens, arguments.rate)
    server = await asyncio.start_server(source.serve, "127.0.0.1", arguments.port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

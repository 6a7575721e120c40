"""A llama-server that answers as it is told to, or as llama-server does."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
import anyio.abc

from processes import free_port

PROPS = {
    "model_path": "/models/strange.gguf",
    "default_generation_settings": {"n_ctx": 512},
    "total_slots": 4,
    "chat_template": "",
}
GOOD: list[dict[str, Any]] = [
    {"content": "Hi", "tokens": [1]},
    {"content": "", "stop": True, "stop_type": "eos", "tokens_evaluated": 1, "tokens_predicted": 1, "timings": {}},
]


def _whole(value: Any) -> bytes:
    body = json.dumps(value).encode()
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


class StrangeEngine:
    """Serves on a free port of 127.0.0.1.

    Attributes:
        url: where.
    """

    def __init__(self) -> None:
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._answer: tuple[bytes, list[bytes]] | None = None
        self._about: Any = None

    @asynccontextmanager
    async def serving(self, beside: AbstractAsyncContextManager[Any]) -> AsyncGenerator[None, None]:
        """Serve as long as somebody else needs it."""
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=self._port)
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, self._serve)
            async with beside:
                yield
            group.cancel_scope.cancel()

    @contextmanager
    def lying(self, answer: tuple[bytes, list[bytes]], about: Any) -> Generator[None, None, None]:
        """Answer the prompt "lie" like this, and, if it is given, /props, /metrics and /health with a value."""
        self._answer, self._about = answer, about
        yield
        self._answer = self._about = None

    async def _serve(self, connection: anyio.abc.SocketStream) -> None:
        with suppress(anyio.BrokenResourceError, anyio.EndOfStream, anyio.ClosedResourceError):
            async with connection:
                method, path, body = await _request(connection)
                for piece in self._pieces(method, path, body):
                    await connection.send(piece)

    def _pieces(self, method: str, path: str, body: bytes) -> list[bytes]:
        if method == "GET":
            if self._about is not None and path in {"/props", "/metrics", "/health"}:
                return [_whole(self._about)]
            return [_whole({"/props": PROPS, "/health": {"status": "ok"}}.get(path, {}))]
        if self._answer is not None and b'"lie"' in body:
            return [self._answer[0], *self._answer[1]]
        if path == "/tokenize":
            return [_whole({"tokens": [1]})]
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        return [head, *(b"data: " + json.dumps(piece).encode() + b"\n\n" for piece in GOOD)]


async def _request(connection: anyio.abc.SocketStream) -> tuple[str, str, bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        received += await connection.receive()
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    while lengths and len(body) < int(lengths[0]):
        body += await connection.receive()
    method, path, _ = head.split(b" ", 2)
    return method.decode(), path.decode(), body

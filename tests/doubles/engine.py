"""A llama-server's HTTP side, scripted: what it answers, in which pieces, and how the answer ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import anyio
import orjson

from tests.support.door import Door

PROPS: dict[str, Any] = {
    "default_generation_settings": {"n_ctx": 2048, "params": {}},
    "total_slots": 2,
    "model_path": "/models/tiny.Q4_1.gguf",
    "modalities": {"vision": False},
}
LOADING = {"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}


class End(Enum):
    """How an answer ends."""

    WHOLE = "the last chunk, then the connection is closed, as llama-server does after each stream"
    CUT = "the connection is closed in the middle"
    RESET = "the connection is reset"
    OPEN = "not at all: the client has to leave"
    SILENT = "not even headers: the client has to leave"
    NOISE = "the chunks as they are, which is no HTTP"


@dataclass(frozen=True)
class Answer:
    """One answer: a stream in chunks, or a whole document."""

    chunks: Sequence[bytes] = ()
    end: End = End.WHOLE
    status: int = 200
    document: bytes | None = None
    headers: bytes = b""
    """Further ones, each with its line break."""


def document(value: Any, status: int = 200) -> Answer:
    return Answer(status=status, document=orjson.dumps(value))


@dataclass
class Request:
    """What a client asked."""

    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class EngineDouble:
    """A server on a port of its own; each path gives its answers in turn, the last one again and again."""

    answers: dict[str, list[Answer]] = field(default_factory=dict[str, list[Answer]])
    requests: list[Request] = field(default_factory=list[Request])
    left: anyio.Event = field(default_factory=anyio.Event)
    """Set once a stream is over: for an open one, once its client has closed the connection."""
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[EngineDouble, None]:
        door = Door(self.serve)
        await door.open()
        self.port = door.port
        try:
            yield self
        finally:
            await door.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                first, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                path = first.split()[1]
                self.requests.append(Request(path, headers, orjson.loads(body) if body else None))
                waiting = self.answers.get(path, [document({"error": "File Not Found"}, 404)])
                answer = waiting.pop(0) if len(waiting) > 1 else waiting[0]
                if answer.document is None:
                    try:
                        await self._stream(answer, reader, writer)
                    finally:
                        self.left.set()
                    return
                length = len(answer.document)
                head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%s\r\n" % (answer.status, length, answer.headers)
                writer.write(head + answer.document)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is done
        finally:
            writer.close()

    async def _stream(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer.end is End.NOISE:
            writer.write(b"".join(answer.chunks))
            return
        if answer.end is not End.SILENT:
            head = b"HTTP/1.1 %d X\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
            closing = self.requests[-1].headers.get("connection") == "close"
            writer.write(head % answer.status)
            writer.write(b"Connection: close\r\n\r\n" if closing else b"Keep-Alive: timeout=5, max=100\r\n\r\n")
        for chunk in answer.chunks:
            writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            await anyio.sleep(0.001)  # so that the client reads each on its own, mostly
        match answer.end:
            case End.WHOLE:
                writer.write(b"0\r\n\r\n")
            case End.CUT:
                pass
            case End.RESET:
                writer.transport.abort()
            case End.OPEN | End.SILENT:
                await reader.read(1)


def healthy() -> dict[str, list[Answer]]:
    """The answers of a server that is ready."""
    return {"/health": [document({"status": "ok"})], "/props": [document(PROPS)]}


def sse(*documents: Any) -> bytes:
    """Each document as one event; bytes as they are."""
    return b"".join(b"data: " + (one if isinstance(one, bytes) else orjson.dumps(one)) + b"\n\n" for one in documents)

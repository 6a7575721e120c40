"""A test double of llama-server that sends each token only when it is told to."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any, Self

import anyio
import anyio.to_thread

from tests.support.door import Door
from tests.support.processes import MakeWorker
from tests.support.servers import free_port

TOKENS = 20


class PacedServer:
    """Answers /health, /props and /completion; a completion's tokens wait for :meth:`release`.

    Attributes:
        closed: set when a client closed its connection before the end.
    """

    def __init__(self, tokens: int, *, slots: int = 1) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.closed = asyncio.Event()
        self._tokens = tokens
        self._slots = slots
        self._writers: list[asyncio.StreamWriter] = []
        self._permits = asyncio.Semaphore(0)
        self._door = Door(self._serve)

    async def __aenter__(self) -> Self:
        await self._door.open(self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._door.close()

    async def vanish(self) -> None:
        """Be there no more, for those either who have a connection."""
        await self._door.close()
        self._writers.clear()

    async def come_back(self, *, slots: int) -> None:
        """Be there again, with so many slots."""
        self._slots = slots
        await self.__aenter__()

    def release(self) -> None:
        """Let one more token go."""
        self._permits.release()

    @property
    def running(self) -> int:
        """How many completions have begun."""
        return len(self._writers)

    def drop_first(self) -> None:
        """Cut the connection of the completion that began first."""
        self._writers[0].transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            if path == "/completion":
                await self._complete(reader, writer)
            else:
                self._answer(writer, path)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def _answer(self, writer: asyncio.StreamWriter, path: str) -> None:
        body: dict[str, Any] = {"status": "ok"}
        if path == "/props":
            body = {
                "model_path": "paced.gguf",
                "total_slots": self._slots,
                "default_generation_settings": {"n_ctx": 100},
            }
        data = json.dumps(body).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(data)}\r\nConnection: close\r\n\r\n"
        writer.write(head.encode() + data)

    async def _complete(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        self._writers.append(writer)
        end = asyncio.create_task(self._until_closed(reader))
        for number in range(self._tokens):
            permit = asyncio.create_task(self._permits.acquire())
            await asyncio.wait({permit, end}, return_when=asyncio.FIRST_COMPLETED)
            if end.done():
                permit.cancel()
                self.closed.set()
                return
            writer.write(_event({"index": 0, "content": f" {number}", "stop": False}))
            await writer.drain()
        last = {"content": "", "stop": True, "stop_type": "limit", "tokens_evaluated": 1, "tokens_predicted": 1}
        writer.write(_event(last))
        await writer.drain()
        end.cancel()

    async def _until_closed(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while await reader.read(4096):
                pass


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


@contextlib.asynccontextmanager
async def paced(make_worker: MakeWorker, *, slots: int = 1, **settings: str) -> AsyncGenerator[PacedServer, None]:
    """A paced server, and a worker that is ready to use it."""
    async with PacedServer(TOKENS, slots=slots) as server:
        worker = make_worker(LLAMA_SERVER_URL=server.url, **settings)
        await anyio.to_thread.run_sync(worker.wait_for, "worker_ready")
        yield server


async def next_entry(commands: Any, job_id: str, after: str) -> tuple[str, dict[bytes, bytes]]:
    """Wait for the entry that follows ``after`` in a job's stream; returns its id and its fields."""
    with anyio.fail_after(60):
        while not (reply := await commands.xread({f"stream:{job_id}": after}, count=1, block=1000)):
            pass
    ((_, ((entry_id, fields),)),) = reply
    return entry_id.decode(), fields


async def push(commands: Any, job_id: str, **fields: Any) -> None:
    """Push a streamed completion."""
    job = {"id": job_id, "type": "completion", "data": {"prompt": "x", "stream": True}, **fields}
    await commands.lpush("llama_queue", json.dumps(job))

"""A server of raw bytes, on whichever event loop the test runs."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

Serve = Callable[["Guest"], Awaitable[None]]


class Guest:
    """One connection to a peer.

    Attributes:
        requests: the heads that came.
        ended: set once the other side has closed it.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.requests: list[bytes] = []
        self.ended = asyncio.Event()

    async def head(self) -> bytes:
        """Read one request's head."""
        self.requests.append(await self.reader.readuntil(b"\r\n\r\n"))
        return self.requests[-1]

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self, data: bytes) -> None:
        """Read a request's head and say this."""
        await self.head()
        await self.say(data)

    async def wait_until_closed(self) -> None:
        """Read until the other side has closed it."""
        try:
            while await self.reader.read(65536):
                pass
        except OSError:
            pass
        self.ended.set()

    async def is_gone(self, limit: float) -> None:
        """Wait until the other side has closed it."""
        async with asyncio.timeout(limit):
            await self.ended.wait()

    def close(self) -> None:
        """End it in good order."""
        self.writer.close()

    def say_no_more(self) -> None:
        """End this side of the TCP connection, and nothing else."""
        with socket.fromfd(self.writer.get_extra_info("socket").fileno(), socket.AF_INET, socket.SOCK_STREAM) as raw:
            raw.shutdown(socket.SHUT_WR)

    def read_nothing(self) -> None:
        """Leave what comes where it is."""
        cast("asyncio.ReadTransport", self.writer.transport).pause_reading()

    def read_again(self) -> None:
        cast("asyncio.ReadTransport", self.writer.transport).resume_reading()

    def reset(self) -> None:
        """End it so that the other side has a reset connection."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


class Peer:
    """The server; made by :func:`peer`.

    Attributes:
        guests: all connections that there were.
    """

    def __init__(self, serve: Serve, scheme: str) -> None:
        self.port = 0
        self.guests: list[Guest] = []
        self._scheme = scheme
        self._serve = serve
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def requests(self) -> int:
        """How many requests came, over all connections."""
        return sum(len(guest.requests) for guest in self.guests)

    def welcome(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        guest = Guest(reader, writer)
        self.guests.append(guest)
        task = asyncio.ensure_future(self._have(guest))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _have(self, guest: Guest) -> None:
        try:
            await self._serve(guest)
        except (OSError, asyncio.IncompleteReadError):
            guest.ended.set()

    async def end(self) -> None:
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        for guest in self.guests:
            guest.writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def peer(serve: Serve, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncGenerator[Peer]:
    """Serve every connection by ``serve``; ends with all of them."""
    guests = Peer(serve, "https" if tls else "http")
    server = await asyncio.start_server(guests.welcome, host, 0, ssl=tls)
    guests.port = server.sockets[0].getsockname()[1]
    try:
        yield guests
    finally:
        server.close()
        await guests.end()
        await server.wait_closed()
        for _turn in range(10):
            await asyncio.sleep(0)

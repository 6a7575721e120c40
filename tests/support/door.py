"""A server of a test's own that leaves no connection behind."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

_TURNS = 10
"""So many turns of the event loop a connection takes at most from its accept to whoever serves it."""


class Door:
    """Listens on 127.0.0.1 and has each connection served by a task; ends with all of them.

    Attributes:
        port: where, once it is open.
    """

    def __init__(self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self.port = 0
        self._scheme = "http"
        self._serve = serve
        self._server: asyncio.Server | None = None
        self._guests: set[asyncio.Future[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    async def open(self, port: int = 0, *, tls: ssl.SSLContext | None = None) -> None:
        """Begin to listen."""
        self._scheme = "http" if tls is None else "https"
        self._server = await asyncio.start_server(self._let_in, "127.0.0.1", port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    def _let_in(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        guest = asyncio.ensure_future(self._serve(reader, writer))
        self._guests.add(guest)
        guest.add_done_callback(self._guests.discard)
        self._writers.append(writer)

    async def close(self) -> None:
        """Let nobody in any more, and cut off those who are inside, whoever came at the last moment as well."""
        assert self._server is not None
        for listener in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listener.fileno())
        for _turn in range(_TURNS):  # whom a closed server has just let in, nobody would have
            await asyncio.sleep(0)
        self._server.close()
        guests = tuple(self._guests)
        for guest in guests:
            guest.cancel()
        for writer in self._writers:  # also of guests that never began, or left something unsent
            writer.transport.abort()
        await asyncio.gather(*guests, return_exceptions=True)
        for _turn in range(_TURNS):
            await asyncio.sleep(0)

"""A TCP proxy in front of a Redis that loses replies, cuts connections, stalls and delays; with TLS if wanted."""

from __future__ import annotations

import asyncio
import enum
import ssl
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import anyio
import trustme
from anyio.abc import ByteStream, SocketAttribute, TaskStatus
from anyio.from_thread import BlockingPortal, start_blocking_portal
from anyio.streams.tls import TLSListener

_BULKS: Final = b"$!="
_SCALARS: Final = b"+-:_#,("
_AGGREGATES: Final = {b"*": 1, b"~": 1, b">": 1, b"%": 2}
"""RESP's types by their first byte: an aggregate's number of elements is its length times this."""

_Chunk = tuple[float, list[bytes]]
"""When replies may be delivered, in seconds of the loop's clock, and the replies."""


class Replies:
    """Cuts what a Redis sends (RESP2, or RESP3 without attributes) into whole replies, whatever is nested in them.

    An EXEC's array is one reply; a message that RESP3 pushes counts as one, too. Protocol:
    https://redis.io/docs/latest/develop/reference/protocol-spec/
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0  # where the next element begins
        self._searched = 0  # before here, the line that begins at _at has no end
        self._missing = 1  # elements until the reply is whole

    def feed(self, data: bytes) -> list[bytes]:
        """Take what arrived; returns the replies that it made whole.

        Raises:
            ValueError: this is no RESP.
        """
        self._buffer += data
        whole: list[bytes] = []
        begin = 0
        while self._pass_element():
            if not self._missing:
                whole.append(bytes(self._buffer[begin : self._at]))
                begin, self._missing = self._at, 1
        del self._buffer[:begin]
        self._at -= begin
        self._searched = max(0, self._searched - begin)
        return whole

    def _pass_element(self) -> bool:
        """Go past a scalar, a bulk string or an aggregate's head; False: it is not all there yet."""
        line_end = self._buffer.find(b"\r\n", max(self._at, self._searched))
        if line_end < 0:
            self._searched = max(0, len(self._buffer) - 1)
            return False
        kind, line = bytes(self._buffer[self._at : self._at + 1]), self._buffer[self._at + 1 : line_end]
        end, more = line_end + 2, 0
        if kind in _AGGREGATES:
            more = max(int(line), 0) * _AGGREGATES[kind]
        elif kind in _BULKS:
            end += int(line) + 2 if int(line) >= 0 else 0
        elif kind not in _SCALARS:
            raise ValueError(f"not RESP: {kind!r}")
        if len(self._buffer) < end:
            return False
        self._at = end
        self._missing += more - 1
        return True


class State(enum.Enum):
    """What becomes of a connection's bytes."""

    OPEN = enum.auto()
    CUT = enum.auto()  # it ends
    SILENT = enum.auto()  # it stays and passes nothing any more, not even that one side closed it


@dataclass(eq=False)
class _Link:
    """One client's connection and the one to Redis behind it."""

    client: ByteStream
    redis: ByteStream
    state: State = State.OPEN
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ended: anyio.Event = field(default_factory=anyio.Event)
    arrived: asyncio.Queue[_Chunk | None] = field(default_factory=lambda: asyncio.Queue(1024))


class FaultyProxy:
    """Stands between clients and the Redis at a port; a context manager whose loop runs in a thread of its own.

    All methods may be called from any thread, and what they promise holds when they return.

    Attributes:
        port: where clients connect.
        connections, refused: how many connections it made, and how many it closed at once.
        passed, dropped: how many replies it passed on, and how many it lost.
    """

    _scheme = "redis"
    _context: ssl.SSLContext | None = None

    def __init__(self, target_port: int) -> None:
        self.port = 0
        self.connections = self.refused = self.passed = self.dropped = 0
        self._target = target_port
        self._links: set[_Link] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._refuses = False
        self._delay = 0.0
        self._lose(State.OPEN, every=0)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def drop_every(self, n: int) -> None:
        """Lose every ``n``-th reply from now on, counted over all connections, and its connection with it."""
        self._portal.call(self._lose, State.CUT, n)

    def swallow_every(self, n: int) -> None:
        """Lose every ``n``-th reply from now on, and let its connection stay open and silent.

        As when a NAT forgot it: neither side gets anything any more, nor hears that the other side closed it.
        """
        self._portal.call(self._lose, State.SILENT, n)

    def delay(self, seconds: float) -> None:
        """Let each reply arrive that much later from now on; the order stays."""
        self._delay = seconds

    def freeze(self) -> None:
        """Keep all bytes of all connections back, both ways."""
        self._portal.call(self._flowing.clear)

    def thaw(self) -> None:
        """Let all bytes flow again, first those that were kept back."""
        self._portal.call(self._flowing.set)

    def refuse(self) -> None:
        """Close new connections at once."""
        self._refuses = True

    def accept(self) -> None:
        """Take new connections again."""
        self._refuses = False

    def heal(self) -> None:
        """End all faults; connections that are silent stay so."""
        self.accept()
        self.delay(0)
        self.thaw()
        self._portal.call(self._lose, State.OPEN, 0)

    def cut_all(self) -> None:
        """Close all connections."""
        self._portal.call(self._cut_all)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._portal: BlockingPortal = stack.enter_context(start_blocking_portal())
            listening: tuple[Future[None], int] = self._portal.start_task(self._listen)
            self._listening, self.port = listening
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self._portal.call(self._scope.cancel)
            self._listening.result()

    async def _cut_all(self) -> None:
        links = [*self._links]
        for link in links:
            link.scope.cancel()
        for link in links:
            await link.ended.wait()

    async def _listen(self, *, task_status: TaskStatus[int]) -> None:
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        with anyio.CancelScope() as self._scope:
            async with listener:
                task_status.started(listener.extra(SocketAttribute.local_port))  # noqa: S610 (no Django)
                tls = self._context and TLSListener(listener, self._context, standard_compatible=False)
                await (tls or listener).serve(self._serve)

    async def _serve(self, client: ByteStream) -> None:
        async with client:
            if self._refuses:
                self.refused += 1
                return
            try:
                redis = await anyio.connect_tcp("127.0.0.1", self._target)
            except OSError:
                return
            self.connections += 1
            await self._join(_Link(client, redis))

    async def _join(self, link: _Link) -> None:
        self._links.add(link)
        try:
            with link.scope:
                async with link.client, link.redis, anyio.create_task_group() as group:
                    for pump in (self._request, self._receive, self._deliver):
                        group.start_soon(self._until_lost, link, pump)
        finally:
            self._links.discard(link)
            link.ended.set()

    async def _until_lost(self, link: _Link, pump: Callable[[_Link], Awaitable[None]]) -> None:
        """Run a pump; as soon as one has no more to do, the connection ends."""
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await pump(link)
        await self._flowing.wait()
        if link.state is not State.SILENT:
            link.scope.cancel()

    async def _request(self, link: _Link) -> None:
        async for data in link.client:
            await self._flowing.wait()
            if link.state is not State.SILENT:
                await link.redis.send(data)

    async def _receive(self, link: _Link) -> None:
        replies = Replies()
        with suppress(anyio.BrokenResourceError):
            async for data in link.redis:
                if whole := replies.feed(data):
                    await link.arrived.put((anyio.current_time() + self._delay, whole))
        await link.arrived.put(None)
        await anyio.sleep_forever()  # what arrived is delivered first

    async def _deliver(self, link: _Link) -> None:
        while chunk := await link.arrived.get():
            due, replies = chunk
            await anyio.sleep_until(due)
            await self._flowing.wait()
            if passing := self._passing(link, replies):
                await link.client.send(b"".join(passing))
            if link.state is State.CUT:
                return

    def _passing(self, link: _Link, replies: list[bytes]) -> list[bytes]:
        passing: list[bytes] = []
        for reply in replies:
            if link.state is State.OPEN:
                self._counted += 1
                link.state = self._loss if self._every and self._counted % self._every == 0 else State.OPEN
            if link.state is State.OPEN:
                passing.append(reply)
        self.passed += len(passing)
        self.dropped += len(replies) - len(passing)
        return passing

    def _lose(self, loss: State, every: int) -> None:
        self._loss, self._every, self._counted = loss, every, 0


class TLSProxy(FaultyProxy):
    """A faulty proxy to which clients speak TLS; it has a certificate authority of its own."""

    _scheme = "rediss"

    def __init__(self, target_port: int, folder: Path) -> None:
        super().__init__(target_port)
        authority = trustme.CA()
        self.authority = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.authority))
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(self._context)  # pyright: ignore[reportUnknownMemberType]

    @property
    def url(self) -> str:
        return f"{super().url}?ssl_ca_certs={self.authority}"

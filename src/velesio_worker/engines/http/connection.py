"""One connection to an engine's HTTP server, whose answers are pushed: each read goes on in the call that brings it.

Between the socket and what is done with a token lie a C parser (llhttp, by httptools) and one call: no queue, and no
task that is woken. That takes a tenth of what a token costs on its way through a client's layers of async generators.
"""

from __future__ import annotations

import asyncio
import select
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Final, cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser  # pyright: ignore[reportMissingTypeStubs]

from velesio_worker.core.bell import Bell

BARE_BYTES: Final = 64 * 1024
"""So much may come without a byte of a body: a head, sizes of chunks, a trailer; a peer may send them for ever."""

HELD_BYTES: Final = 256 * 1024
"""What is read before anybody wants it; then the reading pauses."""

_CONTINUE: Final = 100
_OK: Final = 200
_LENGTH: Final = frozenset({b"content-length", b"transfer-encoding"})
"""The headers of which one says where a body ends; without them it is the connection's end."""

Header = tuple[bytes, bytes]


class BrokenAnswerError(Exception):
    """An answer broke off, or is no HTTP."""


class Connection(asyncio.Protocol):
    """A connection, one request at a time. Made by :func:`velesio_worker.engines.http.connecting.connect`.

    Attributes:
        status: the answer's HTTP status, once its head is there.
        headers: the answer's headers, as they came.
        untouched: whether nothing has come since the last request: the peer may not have seen it.
        idle_since: since when nothing is under way, in monotonic seconds.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: list[Header] = []
        self.untouched = True
        self.idle_since = 0.0
        self._transport = asyncio.Transport()
        self._moved = Bell()
        self._wanted = False
        self._pieces: list[bytes] = []
        self.on_body = self._pieces.append  # called by the parser: no frame of Python's for a chunk
        self._begin(over=True)

    def _begin(self, *, over: bool) -> None:
        self._parser = HttpResponseParser(self)
        self._headers: list[Header] = []
        self._over, self._headed, self._keeps, self._to_its_end = over, False, False, False
        self._failure: Exception | None = None
        self._feed: Callable[[bytes], bool] | None = None
        self._full = False
        self._bare = 0
        self._whole = 0
        self.untouched = True

    @property
    def usable(self) -> bool:
        """Whether another request may be sent: the last answer is read to its end, and the peer stays and is silent."""
        return (
            self._over
            and self._keeps
            and not self._pieces
            and not self._transport.is_closing()
            and not self._has_more()
        )

    def _has_more(self) -> bool:
        """Whether there is something to read that the event loop has not come to: its end, or an answer to nothing."""
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket"), select.POLLIN)
        return bool(poll.poll(0))

    async def request(self, content: bytes, *, keep: bool) -> None:
        """Send a request, and wait for the head of its answer.

        Args:
            content: the whole request, as HTTP has it.
            keep: whether the connection is kept for another request, if the peer does so.

        Raises:
            BrokenAnswerError: there is no answer, or none that is HTTP.
        """
        self._begin(over=False)
        self._wanted = keep
        if self._transport.is_closing():  # its end is told only once
            raise BrokenAnswerError("the connection was closed before its request")
        self._resume()  # whoever had the last answer may have left it paused
        self._transport.write(content)
        while not self._headed:
            if self._failure is not None:
                raise self._failure
            await self._moved.wait()

    async def push(self, feed: Callable[[bytes], bool], more: Callable[[], Awaitable[bool]]) -> None:
        """Have the body handed on as it is read, to its end.

        Args:
            feed: takes what one read brought; False pauses the reading.
            more: awaited whenever it is paused; returns whether it is to go on.

        Raises:
            BrokenAnswerError: it broke off.
            Exception: whatever ``feed`` and ``more`` raise.
        """
        self._feed = feed
        try:
            self._hand_on()
            while True:
                if self._full:
                    if not await more():
                        return
                    self._full = False
                    self._hand_on()
                    if not self._full:
                        self._resume()
                elif await self._has_ended():
                    return
        finally:
            self._feed = None

    async def reads(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it is read; for whoever would rather pull.

        Raises:
            BrokenAnswerError: it broke off.
        """
        while True:
            if self._pieces:
                body = self._take()
                self._resume()
                yield body
            elif await self._has_ended():
                return

    async def _has_ended(self) -> bool:
        """Wait for what comes next, unless this is the end; raises if it is none to be had."""
        if self._failure is not None:
            raise self._failure
        if not self._over:
            await self._moved.wait()
            return False
        return True

    def close(self) -> None:
        """End the connection, which stops what the peer does for it."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Parse what one read brought, and hand on what of a body is in it."""
        if self._over or self._failure is not None:
            self.close()  # nobody asked for this
            return
        self.untouched = False
        self._bare += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._keeps = False
            if not self._over:
                self._fail(f"an answer is no HTTP: {error}")
        if self._over:
            del self._pieces[self._whole :]
            self._moved.ring()
        if self._pieces:
            self._bare = 0
            if self._feed is not None and not self._full:
                self._hand_on()
                return
            self._moved.ring()
            if sum(map(len, self._pieces)) > HELD_BYTES:
                self._pause()
        elif self._bare > BARE_BYTES:
            self._fail(f"an answer has more than {BARE_BYTES} bytes of head, or between two parts of its body")

    def _pause(self) -> None:
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def _resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def _take(self) -> bytes:
        pieces = self._pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        return body

    def _hand_on(self) -> None:
        if self._pieces and self._feed is not None:
            try:
                goes_on = self._feed(self._take())
            except Exception as error:  # noqa: BLE001 (whoever pushes gets it)
                self._failure, goes_on = error, True
                self.close()
                self._moved.ring()
            if not goes_on:
                self._full = True
                self._pause()
                self._moved.ring()

    def _fail(self, why: str) -> None:
        self._failure = self._failure or BrokenAnswerError(why)
        self.close()
        self._moved.ring()

    def eof_received(self) -> None:
        """Take note that the peer sends no more, which some bodies have no other mark of.

        What is not sent yet is not waited for, since nobody may read it.
        """
        if self._headed and self._to_its_end and not self._is_cut_off():
            self._over = True
        self._end("")

    def _is_cut_off(self) -> bool:
        """Whether TLS has not said that this is the end: anybody on the way can end what lies below it."""
        tls: ssl.SSLObject | None = self._transport.get_extra_info("ssl_object")
        try:
            return tls is not None and tls.read(1) != b""
        except ssl.SSLError:
            return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note of the end."""
        self._end("" if exc is None else f" ({exc})")

    def _end(self, reason: str) -> None:
        self._keeps = False
        self.close()  # also what is lost already: asyncio's TLS says of that else that it is not closing
        if self._over:
            self._moved.ring()
        else:
            where = "in the middle of an answer" if self._headed else "before its answer"
            self._fail(f"the connection was closed {where}{reason}")

    def on_message_begin(self) -> None:
        """Called by the parser, also for what comes behind an answer."""
        self._keeps = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Called by the parser, for a trailer's as well."""
        if not self._headed:
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Called by the parser."""
        if self._over:  # nobody asked for this
            return
        status = self._parser.get_status_code()
        if _CONTINUE <= status < _OK:  # the answer itself is still to come
            self._headers = []
            return
        self.status, self.headers = status, self._headers
        self._headed = True
        self._to_its_end = not any(name.lower() in _LENGTH for name, _ in self._headers)
        self._moved.ring()

    def on_message_complete(self) -> None:
        """Called by the parser; whatever follows, in the same read as well, was not asked for."""
        if self._headed and not self._over:
            self._over, self._whole = True, len(self._pieces)
            self._keeps = self._wanted and self._parser.should_keep_alive()
            self.idle_since = time.monotonic()

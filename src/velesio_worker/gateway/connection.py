"""One HTTP/1.1 connection: uvicorn's, with bounds on what a client may leave half done.

httptools bounds neither a head nor the time that one takes, and uvicorn waits forever for the first request of a
connection. A timer and two numbers a connection bound both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Final, cast

import httptools
import orjson
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.flow import Flow
from velesio_worker.gateway.light import Event, Pipeline
from velesio_worker.gateway.middleware import error_body
from velesio_worker.gateway.seen import LINE

MOST_HEAD_BYTES: Final = 64 * 1024
_STALL_SECONDS: Final = 60.0
"""So long a client may take nothing of an answer that waits for it."""

_MOST_AHEAD: Final = 32
"""So many requests may wait behind the one that is answered while the connection is still read; who is not read has to
be looked for, to see whether it is gone."""


class Connection(HttpToolsProtocol):
    """A connection whose heads, bodies and readers are bounded; made by :func:`connection_class`.

    Its attributes are slots: with more than 30 in all, Python would give each connection a dictionary of its own.
    """

    __slots__ = (
        *("_flow", "_head_bytes", "_head_read", "_heads", "_in_head", "_in_message", "_lost", "_refusal", "_stall"),
        *("_timer", "_unanswered", "_unsent", "_wants_another", "_when_lost"),
    )

    head_seconds: ClassVar[float] = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Give the client so long for its first head."""
        self._timer: asyncio.TimerHandle | None = None
        self._stall: asyncio.TimerHandle | None = None
        self._unsent = self._head_bytes = self._head_read = self._heads = 0
        self._in_head = self._in_message = self._wants_another = self._lost = False
        self._refusal: bytes | None = None
        self._when_lost: Callable[[], None] | None = None
        self._unanswered: list[RequestResponseCycle] = []
        super().connection_made(transport)
        self.flow = self._flow = Flow(transport)
        self.pipeline = cast("Any", Pipeline())
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._disarm()
        self._stop_stall()
        self._unset_keepalive_if_required()  # uvicorn leaves it to hold a connection that was reset for its 5 s
        self._flow.forget()
        super().connection_lost(exc)
        for cycle in self._unanswered:  # uvicorn tells the newest alone
            cycle.disconnected = True
            cycle.message_event.set()
        self._lost = True
        call, self._when_lost = self._when_lost, None
        if call is not None:
            call()

    def data_received(self, data: bytes) -> None:
        """Parse what came; what is no HTTP is told so."""
        self._unset_keepalive_if_required()
        begun, went_on = int(not self._in_message), self._in_head or not self._in_message
        self._heads = 0
        try:
            self.parser.feed_data(data)  # pyright: ignore[reportOptionalMemberAccess] (None once it is lost)
        except httptools.HttpParserUpgrade as stopped:
            if self._wants_another:
                self._go_on_as_asked(data[stopped.args[0] :])
        except httptools.HttpParserError:
            if self._refusal is None:
                self._refuse(400, "bad_request", "This is no HTTP request.")
        if went_on and self._in_head and self._heads <= begun:  # the parser keeps what is not whole
            self._head_read += len(data)
            self._check_head()

    def _go_on_as_asked(self, rest: bytes) -> None:
        """Read a request that would rather speak another protocol, such as h2c, as what it is: there is none.

        httptools takes it to end with its head, whatever body follows; Java's own client asks so with every body.
        """
        self._wants_another = False
        parser: httptools.HttpRequestParser = self.parser  # pyright: ignore[reportAssignmentType] (as above)
        first = b"%b %b HTTP/%b\r\n" % (parser.get_method(), self.url, parser.get_http_version().encode())
        lines = [b"%b: %b\r\n" % header for header in self.headers if header[0] != b"upgrade"]
        head = b"".join([first, *lines, b"\r\n"])
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
        self.data_received(head + rest)

    def on_message_begin(self) -> None:
        """Begin a request."""
        super().on_message_begin()
        self.scope["state"][LINE] = self  # pyright: ignore[reportTypedDictNotRequiredAccess] (it has it)
        self._head_bytes = self._head_read = 0
        self._in_head = self._in_message = True
        self._heads += 1
        if self._timer is None:
            self._arm()

    def on_url(self, url: bytes) -> None:
        """Take a piece of the request's target."""
        if self._counted(len(url)):
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        if self._counted(len(name) + len(value) + 4):
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin to answer."""
        self._disarm()
        self._wants_another = self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT"  # pyright: ignore[reportOptionalMemberAccess] (as above)
        if self._refusal is None and not self._wants_another:
            super().on_headers_complete()
            self.url, self.headers = b"", []  # uvicorn keeps them until the next request's; this one has its own
            self.cycle.message_event = cast(
                "asyncio.Event", Event()
            )  # the request's task, which waits for it, has not begun
            self._unanswered.append(self.cycle)
            if 1 < len(self._unanswered) <= _MOST_AHEAD:
                self.flow.resume_reading()
        self._in_head = False  # not before: what raises here is within the head

    def on_body(self, body: bytes) -> None:
        """Take a piece of the body."""
        if self._refusal is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is whole."""
        self._in_message = False
        self._disarm()
        if self._refusal is None and not self._wants_another:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note that the answer is; the rest of a body that nobody wanted is dropped for a while, then refused."""
        self._when_lost = None
        self._unanswered.pop(0)
        super().on_response_complete()
        if self._refusal is not None:
            self._say_refusal()
        elif self._in_message and not self._in_head:
            self._arm()

    def pause_writing(self) -> None:
        """Begin to watch whether the client takes anything at all."""
        super().pause_writing()
        if self._stall is None:
            self._unsent = self.transport.get_write_buffer_size()
            self._stall = self.loop.call_later(_STALL_SECONDS, self._look_at_reader)

    def resume_writing(self) -> None:
        """It does."""
        self._stop_stall()
        super().resume_writing()

    def when_lost(self, call: Callable[[], None]) -> None:
        """Have something called once the connection is lost, if the request has not been answered by then."""
        if self._lost:
            call()
        else:
            self._when_lost = call

    def send_piece(self, chunk: bytes) -> Awaitable[None] | None:
        """Send a piece of a live answer that has begun, one chunk of it; returns what waits until there is room.

        It does as uvicorn's ``send`` with a message that has the piece does, in half the time.
        """
        if self.flow.write_paused:
            return self._send_later(chunk)
        if not self._lost:
            self.transport.write(chunk)
        return None

    async def _send_later(self, chunk: bytes) -> None:
        await self.flow.drain()
        if not self._lost:
            self.transport.write(chunk)

    def _counted(self, size: int) -> bool:
        self._head_bytes += size
        return self._check_head()

    def _check_head(self) -> bool:
        if max(self._head_bytes, self._head_read) > MOST_HEAD_BYTES and self._refusal is None:
            self._refuse(431, "head_too_large", f"The request's head is larger than {MOST_HEAD_BYTES} bytes.")
        return self._refusal is None

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer what is no request, once those in front of it have been answered, and hang up."""
        body = orjson.dumps(error_body(ApiError(status, code, message)))
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
        self._refusal = STATUS_LINE[status] + head + body
        self._disarm()
        if self._in_message and not self._in_head:
            self._give_up_newest()
        self._say_refusal()

    def _give_up_newest(self) -> None:
        """Have the request whose body broke off end without an answer of its own."""
        if not self._unanswered or self._unanswered[-1].response_started:
            self._refusal = b""  # it has an answer, or half of one
        if self._unanswered:
            cycle = self._unanswered.pop()
            if self.pipeline and self.pipeline[0][0] is cycle:
                del self.pipeline[0]
            cycle.disconnected = True
            cycle.message_event.set()

    def _say_refusal(self) -> None:
        if self.transport.is_closing():
            return
        if self._unanswered:  # whose answers come first
            self.flow.pause_reading()
            return
        if self._refusal:
            self.transport.write(self._refusal)
        self.transport.close()

    def _arm(self) -> None:
        self._disarm()
        self._timer = self.loop.call_later(self.head_seconds, self._is_late)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_late(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._unanswered:  # what comes behind the request that is answered can wait
            self._arm()
        elif self._in_head:
            self._refuse(408, "request_timeout", "The request's head came too slowly.")
        else:
            self.transport.close()

    def _look_at_reader(self) -> None:
        self._stall = None
        unsent = self.transport.get_write_buffer_size()
        if unsent >= self._unsent:
            self.transport.abort()
        else:
            self._unsent = unsent
            self._stall = self.loop.call_later(_STALL_SECONDS, self._look_at_reader)

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None


def connection_class(seconds: float) -> type[Connection]:
    """Return the class of connections whose heads may take so many seconds."""
    return type("Connection", (Connection,), {"head_seconds": seconds})

"""httpx's way to a server, on connections whose answers are pushed."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import AsyncIterator
from typing import Final

import httpx

from velesio_worker.engines.http.answers import CONNECTION
from velesio_worker.engines.http.connecting import connect
from velesio_worker.engines.http.connection import BrokenAnswerError, Connection

KEEPALIVE_SECONDS: Final = 4.0
"""llama-server closes idle connections after 5 s; one that is closed earlier is never used a moment too late."""

CONNECT_SECONDS: Final = 5.0
_LINE_END: Final = re.compile(rb"[\r\n\0]")


class Transport(httpx.AsyncBaseTransport):
    """httpx's way to a server, on connections whose answers are pushed.

    Whatever does something is sent on a connection of its own; one that is kept may be closed by then.
    """

    def __init__(self, verify: ssl.SSLContext | bool) -> None:  # noqa: FBT001 (httpx's own signature)
        self._tls = httpx.create_ssl_context(trust_env=False) if verify is True else verify or None
        self._idle: list[Connection] = []  # the one that has been idle longest in front
        self._closed = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; returns once the head of its answer is there."""
        content = _written(request)
        keep = request.method == "GET" and request.headers.get("Connection") != "close"
        connection = self._kept() if keep else None
        reused = connection is not None
        while True:
            connection = connection or await self._connect(request)
            try:
                await connection.request(content, keep=keep)
                break
            except BrokenAnswerError as error:
                connection.close()
                if not (reused and connection.untouched):
                    raise httpx.RemoteProtocolError(str(error)) from error
                connection, reused = None, False  # it had been closed just then
            except BaseException:
                connection.close()
                raise
        return httpx.Response(
            connection.status,
            headers=connection.headers,
            stream=_Body(connection, self),
            extensions={CONNECTION: connection},
        )

    def _kept(self) -> Connection | None:
        now = time.monotonic()
        while self._idle and now - self._idle[0].idle_since >= KEEPALIVE_SECONDS:
            self._idle.pop(0).close()
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < KEEPALIVE_SECONDS and connection.usable:
                return connection
            connection.close()
        return None

    def put_back(self, connection: Connection) -> None:
        """Keep a connection for another request, or end it."""
        if connection.usable and not self._closed:
            self._idle.append(connection)
        else:
            connection.close()

    async def _connect(self, request: httpx.Request) -> Connection:
        url, tls = request.url, self._tls if request.url.scheme == "https" else None
        try:
            return await connect(url.raw_host.decode(), url.port or (443 if tls else 80), tls, CONNECT_SECONDS)
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection within {CONNECT_SECONDS:g} s") from error
        except (OSError, UnicodeError) as error:  # a name may be none that a resolver can be asked for
            raise httpx.ConnectError(str(error) or type(error).__name__) from error

    async def aclose(self) -> None:
        """End the connections that are kept, and keep none from now on."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()


class _Body(httpx.AsyncByteStream):
    """An answer's body, and the end of its use of the connection."""

    def __init__(self, connection: Connection, transport: Transport) -> None:
        self._connection = connection
        self._transport = transport

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for read in self._connection.reads():
                yield read
        except BrokenAnswerError as error:
            raise httpx.RemoteProtocolError(str(error)) from error

    async def aclose(self) -> None:
        self._transport.put_back(self._connection)


def _written(request: httpx.Request) -> bytes:
    """Write a request as HTTP has it.

    Raises:
        httpx.LocalProtocolError: a header would be several.
    """
    head = [b"%s %s HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    head += [b"%s: %s" % header for header in request.headers.raw]
    if any(map(_LINE_END.search, head)):
        raise httpx.LocalProtocolError("a header has a line end in it")
    return b"\r\n".join([*head, b"", request.content])

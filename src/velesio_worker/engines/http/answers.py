"""What comes of a request: an answer, read as far as its use allows, or what became of it instead."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Final, cast

import anyio
import httpx

from velesio_worker.engines.http.connection import BrokenAnswerError, Connection

CLOSE_SECONDS: Final = 2.0

SMALL_BYTES: Final = 1024 * 1024
"""The largest answer to a question about the server itself, and the largest error."""

LIST_BYTES: Final = 16 * SMALL_BYTES
"""The largest list of what a server has or counts."""

ANSWER_BYTES: Final = 64 * SMALL_BYTES
"""The largest answer that is a job's result, such as embeddings; it is decoded whole."""

_PLAIN: Final = frozenset({"", "identity"})
_SHOWN: Final = 40
CONNECTION: Final = "connection"
LOST: Final = httpx.HTTPError


class ConnectionLostError(Exception):
    """The engine could not be reached, or went away in the middle of an answer."""


class NotReachedError(ConnectionLostError):
    """Nothing listens at the engine's address: the request never began."""


class UnreadableAnswerError(ConnectionLostError):
    """The answer is not read on, and its connection closed: it is too large, or packed although nobody asked for it.

    Whoever knows no better takes it for a connection that was lost.
    """


class AnswerTooLargeError(UnreadableAnswerError):
    """The answer is larger than its use allows."""


class UnusableURLError(Exception):
    """A URL, one it leads to, or a proxy's cannot be used at all; trying again is of no use."""


class EngineResponse:
    """A streamed answer.

    Attributes:
        status: the HTTP status.
    """

    def __init__(self, response: httpx.Response) -> None:
        self.status = response.status_code
        self._response = response

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives.

        Raises:
            UnreadableAnswerError: it is packed.
            ConnectionLostError: it broke off.
        """
        self._check_encoding()
        try:
            async for chunk in self._response.aiter_raw():
                yield chunk
        except LOST as error:
            raise ConnectionLostError(reason(error)) from error

    async def push(self, feed: Callable[[bytes], bool], more: Callable[[], Awaitable[bool]]) -> None:
        """Have the body handed on as it is read; see :meth:`velesio_worker.engines.http.connection.Connection.push`.

        Raises:
            UnreadableAnswerError: it is packed.
            ConnectionLostError: it broke off.
        """
        self._check_encoding()
        try:
            await cast("Connection", self._response.extensions[CONNECTION]).push(feed, more)
        except BrokenAnswerError as error:
            raise ConnectionLostError(reason(error)) from error

    async def body(self, limit: int) -> bytes:
        """Return the whole body: the one way in which one is read.

        Args:
            limit: the most bytes that it may have.

        Raises:
            AnswerTooLargeError: it has more, or says that it has.
            UnreadableAnswerError: it is packed.
            ConnectionLostError: it broke off.
        """
        told = self._response.headers.get("Content-Length", "")
        if told.isdecimal() and int(told) > limit:
            raise AnswerTooLargeError(f"an answer has more than {limit} bytes")
        read, pieces = 0, list[bytes]()
        async with contextlib.aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                read += len(chunk)
                if read > limit:
                    raise AnswerTooLargeError(f"an answer has more than {limit} bytes")
                pieces.append(chunk)
        return b"".join(pieces)

    def _check_encoding(self) -> None:
        """Refuse what is packed: it would have to be unpacked to as much as it likes."""
        encoding = self._response.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in _PLAIN:
            raise UnreadableAnswerError(f"an answer has the Content-Encoding {encoding[:_SHOWN]!r}, not identity")


@contextlib.asynccontextmanager
async def answering(
    client: httpx.AsyncClient, method: str, url: str | httpx.URL, body: bytes | None, headers: Mapping[str, str]
) -> AsyncGenerator[httpx.Response, None]:
    """Send a request and give its answer, whose head is there, until the context is left; raises what this module has.

    Args:
        client: who sends it.
        method: as HTTP has it.
        url: a whole URL, or what is behind the client's own.
        body: what is sent; None for nothing.
        headers: further ones.
    """
    try:
        request = client.build_request(method, url, content=body, headers=headers)
        response = await client.send(request, stream=True)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise UnusableURLError(reason(error)) from error
    except LOST as error:
        refused = isinstance(error, httpx.ConnectError)
        raise (NotReachedError if refused else ConnectionLostError)(reason(error)) from error
    try:
        yield response
    finally:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True), contextlib.suppress(LOST):
            await response.aclose()


def reason(error: Exception) -> str:
    """Say what an error says, or else what it is."""
    return str(error) or type(error).__name__

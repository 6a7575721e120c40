"""HTTP to an engine. The one module that imports httpx, so that its successor is a change of one line."""

from __future__ import annotations

import contextlib
import re
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self, cast

import anyio
import httpx

from velesio_worker.engines.connecting import connect
from velesio_worker.engines.connection import BrokenAnswerError, Connection
from velesio_worker.engines.decoding import decode_json

KEEPALIVE_SECONDS: Final = 4.0
"""llama-server closes idle connections after 5 s; one that is closed earlier is never used a moment too late."""

CONNECT_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 2.0

SMALL_BYTES: Final = 1024 * 1024
"""The largest answer to a question about the server itself, and the largest error."""

LIST_BYTES: Final = 16 * SMALL_BYTES
"""The largest list of what a server has or counts."""

ANSWER_BYTES: Final = 64 * SMALL_BYTES
"""The largest answer that is a job's result, such as embeddings; it is decoded whole."""

_PLAIN: Final = frozenset({"", "identity"})
_SHOWN: Final = 40

DOWNLOAD_CONNECT_SECONDS: Final = 10.0
DOWNLOAD_READ_SECONDS: Final = 30.0

_CLOSED: Final = "it was stopped"
_URLS_KEPT: Final = 64
_CONNECTION: Final = "connection"
_LINE_END: Final = re.compile(rb"[\r\n\0]")
_LOST: Final = httpx.HTTPError
_POST_HEADERS: Final = {"Content-Type": "application/json", "Connection": "close"}
"""llama-server promises to keep a connection and closes it after a streamed answer all the same; the next request on
it would be lost."""


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
        except _LOST as error:
            raise ConnectionLostError(_reason(error)) from error

    async def push(self, feed: Callable[[bytes], bool], more: Callable[[], Awaitable[bool]]) -> None:
        """Have the body handed on as it is read; see :meth:`velesio_worker.engines.connection.Connection.push`.

        Raises:
            UnreadableAnswerError: it is packed.
            ConnectionLostError: it broke off.
        """
        self._check_encoding()
        try:
            await cast("Connection", self._response.extensions[_CONNECTION]).push(feed, more)
        except BrokenAnswerError as error:
            raise ConnectionLostError(_reason(error)) from error

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


class _NoCookies(httpx.Cookies):
    """Keeps no cookie, which no engine needs, and does not look for any."""

    def extract_cookies(self, response: httpx.Response) -> None:
        """Do nothing."""


class _Client(httpx.AsyncClient):
    cookies = property(lambda _: _NO_COOKIES)  # pyright: ignore[reportIncompatibleMethodOverride] (nor set)


_NO_COOKIES: Final = _NoCookies()


class EngineHTTP:
    """A client of one engine's HTTP server. An async context manager.

    Args:
        base_url: the server's address, such as ``http://127.0.0.1:1337``; a user and password in it are sent as such.
        api_key: sent as a bearer token.
        ca_file: PEM certificates of authorities that the server's may be from, beside those that all know.
    """

    def __init__(self, base_url: str, *, api_key: str | None = None, ca_file: Path | None = None) -> None:
        url = httpx.URL(base_url)
        self._urls: dict[str, httpx.URL] = {}
        self._client = _Client(
            base_url=url.copy_with(userinfo=b""),
            auth=httpx.BasicAuth(url.username, url.password) if url.userinfo else None,
            transport=_Transport(_verification(url, ca_file)),
            timeout=None,
            headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {api_key}"} if api_key else {}),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def get(
        self,
        path: str,
        *,
        timeout: float,  # noqa: ASYNC109 (one limit for connection, head and body together)
        limit: int = SMALL_BYTES,
        keep: bool = True,
    ) -> tuple[int, Any]:
        """GET a JSON document; returns the status, and the document or None if the body is no JSON.

        Args:
            path: what to get.
            timeout: for how many seconds it is waited for, to its end.
            limit: the most bytes that it may have.
            keep: whether the connection may be used again; it takes up one of llama-server's threads until then.

        Raises:
            UnreadableAnswerError: the answer is too large, or packed.
            ConnectionLostError: there was no whole answer within ``timeout`` seconds.
        """
        status, body = await self._get(path, timeout, limit, {} if keep else {"Connection": "close"})
        return status, decode_json(body)

    async def get_text(
        self,
        path: str,
        *,
        timeout: float,  # noqa: ASYNC109 (as above)
        limit: int = LIST_BYTES,
    ) -> tuple[int, str]:
        """GET a text; returns the status and the text. Otherwise as :meth:`get`."""
        status, body = await self._get(path, timeout, limit, {})
        return status, body.decode(errors="replace")

    async def _get(self, path: str, patience: float, limit: int, headers: Mapping[str, str]) -> tuple[int, bytes]:
        if self._client.is_closed:
            raise ConnectionLostError(_CLOSED)
        try:
            with anyio.fail_after(patience):
                async with _answer(self._client, "GET", self._url(path), None, headers) as response:
                    return response.status_code, await EngineResponse(response).body(limit)
        except TimeoutError:
            raise ConnectionLostError(f"no whole answer to {path} within {patience:g} s") from None
        except UnusableURLError as error:
            raise ConnectionLostError(str(error)) from error

    @contextlib.asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncGenerator[EngineResponse, None]:
        """POST JSON and stream the answer; leaving the context closes the connection if the answer is not at its end.

        Raises:
            NotReachedError: nothing listens there, or the client is closed.
            ConnectionLostError: there was no answer.
        """
        if self._client.is_closed:
            raise NotReachedError(_CLOSED)
        async with _answer(self._client, "POST", self._url(path), body, _POST_HEADERS) as response:
            yield EngineResponse(response)

    def _url(self, path: str) -> httpx.URL:
        """Return a whole URL; to put one together takes a fifth of a request's time."""
        url = self._urls.get(path)
        if url is None:
            url = self._client.build_request("GET", path).url
            if len(self._urls) < _URLS_KEPT:
                self._urls[path] = url
        return url


@contextlib.asynccontextmanager
async def _answer(
    client: httpx.AsyncClient, method: str, url: str | httpx.URL, body: bytes | None, headers: Mapping[str, str]
) -> AsyncGenerator[httpx.Response, None]:
    try:
        request = client.build_request(method, url, content=body, headers=headers)
        response = await client.send(request, stream=True)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise UnusableURLError(_reason(error)) from error
    except _LOST as error:
        refused = isinstance(error, httpx.ConnectError)
        raise (NotReachedError if refused else ConnectionLostError)(_reason(error)) from error
    try:
        yield response
    finally:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True), contextlib.suppress(_LOST):
            await response.aclose()


class DownloadResponse(EngineResponse):
    """A file that comes.

    Attributes:
        headers: the answer's headers; their names are found in any case.
        secure: whether nobody on the way could change it: all answers came by https.
        own_headers: the headers of all answers by the host that was asked, redirects included, the first in front.
    """

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response)
        answers = (*response.history, response)
        asked = answers[0].url
        self.headers: Mapping[str, str] = response.headers
        self.secure = all(answer.url.scheme == "https" for answer in answers)
        self.own_headers: Sequence[Mapping[str, str]] = [
            answer.headers for answer in answers if (answer.url.host, answer.url.port) == (asked.host, asked.port)
        ]

    def _check_encoding(self) -> None:
        """Take a file as it comes: stores tell of encodings that are none, and its checksum is compared."""


@contextlib.asynccontextmanager
async def fetch(url: str, headers: Mapping[str, str]) -> AsyncGenerator[DownloadResponse, None]:
    """GET a file from anywhere: redirects are followed, none from https to http; the environment's proxies are used.

    Args:
        url: the file; a user and password in it are sent as such.
        headers: further headers; ``Authorization`` is sent to the URL's own host and to no other.

    Raises:
        UnusableURLError: the URL, one it leads to, a proxy's or the certificates are of no use.
        ConnectionLostError: there was no answer.
    """
    timeout = httpx.Timeout(DOWNLOAD_READ_SECONDS, connect=DOWNLOAD_CONNECT_SECONDS)
    secure = False

    async def stay_secure(request: httpx.Request) -> None:
        nonlocal secure
        if secure and request.url.scheme != "https":
            raise UnusableURLError(f"it leads from https:// to http:// at {request.url.host}, which anybody can change")
        secure = request.url.scheme == "https"

    try:
        hooks = {"request": [stay_secure]}
        client = httpx.AsyncClient(follow_redirects=True, timeout=timeout, trust_env=True, event_hooks=hooks)
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
        remedy = "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE"
        raise UnusableURLError(f"{_reason(error)}: {remedy}") from error
    async with client, _answer(client, "GET", url, None, headers) as response:
        yield DownloadResponse(response)


def _verification(url: httpx.URL, ca_file: Path | None) -> ssl.SSLContext | bool:
    """Return how a server's certificate is checked.

    Where there is no TLS, there is nothing to check, and no certificates are read: that takes 20 ms of a core.
    """
    if ca_file is None or url.scheme != "https":
        return url.scheme == "https"
    context = httpx.create_ssl_context(trust_env=False)
    context.load_verify_locations(cafile=ca_file)
    return context


class _Transport(httpx.AsyncBaseTransport):
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
            extensions={_CONNECTION: connection},
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

    def __init__(self, connection: Connection, transport: _Transport) -> None:
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


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__

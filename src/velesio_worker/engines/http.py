"""HTTP to an engine. The one module that imports httpx, so that its successor is a change of one line."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from typing import Any, Final, Self, cast

import anyio
import httpx
import orjson

FAST: Final = importlib.util.find_spec("httpx_aiohttp") is not None

KEEPALIVE_SECONDS: Final = 4.0
"""llama-server closes idle connections after 5 s; one that is closed earlier is never used a moment too late."""

CONNECT_SECONDS: Final = 5.0
CLOSE_SECONDS: Final = 2.0

DEEPEST: Final = 200
"""How deep an answer may be nested: orjson reads 1,024 levels and writes 254, with those that are put around it."""

DOWNLOAD_CONNECT_SECONDS: Final = 10.0
DOWNLOAD_READ_SECONDS: Final = 30.0

_CLOSED: Final = "it was stopped"
_POST_HEADERS: Final = {"Content-Type": "application/json", "Connection": "close"}
"""llama-server promises to keep a connection and closes it after a streamed answer all the same; the next request on
it would be lost."""


class ConnectionLostError(Exception):
    """The engine could not be reached, or went away in the middle of an answer."""


class NotReachedError(ConnectionLostError):
    """Nothing listens at the engine's address: the request never began."""


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
            ConnectionLostError: it broke off.
        """
        try:
            async for chunk in self._response.aiter_raw():
                yield chunk
        except _LOST as error:
            raise ConnectionLostError(_reason(error)) from error

    async def body(self) -> bytes:
        """Return the whole body.

        Raises:
            ConnectionLostError: it broke off.
        """
        return b"".join([chunk async for chunk in self.chunks()])


class EngineHTTP:
    """A client of one engine's HTTP server. An async context manager.

    Args:
        base_url: the server's address, such as ``http://127.0.0.1:1337``; a user and password in it are sent as such.
        api_key: sent as a bearer token.
    """

    def __init__(self, base_url: str, *, api_key: str | None = None) -> None:
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=KEEPALIVE_SECONDS)
        url = httpx.URL(base_url)
        self._client = httpx.AsyncClient(
            base_url=url.copy_with(userinfo=b""),
            auth=httpx.BasicAuth(url.username, url.password) if url.userinfo else None,
            limits=limits,
            transport=_transport(limits, tls=url.scheme == "https"),
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
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
        timeout: float,  # noqa: ASYNC109 (httpx's own time-out)
        keep: bool = True,
    ) -> tuple[int, Any]:
        """GET a JSON document; returns the status, and the document or None if the body is no JSON.

        Args:
            path: what to get.
            timeout: for how many seconds it is waited for.
            keep: whether the connection may be used again; it takes up one of llama-server's threads until then.

        Raises:
            ConnectionLostError: there was no answer within ``timeout`` seconds.
        """
        response = await self._get(path, timeout, {} if keep else {"Connection": "close"})
        return response.status_code, decode_json(response.content)

    async def get_text(self, path: str, *, timeout: float) -> tuple[int, str]:  # noqa: ASYNC109 (httpx's own time-out)
        """GET a text; returns the status and the text. Otherwise as :meth:`get`."""
        response = await self._get(path, timeout, {})
        return response.status_code, response.text

    async def _get(
        self,
        path: str,
        timeout: float,  # noqa: ASYNC109 (httpx's own time-out)
        headers: Mapping[str, str],
    ) -> httpx.Response:
        if self._client.is_closed:
            raise ConnectionLostError(_CLOSED)
        try:
            return await self._client.get(path, timeout=timeout, headers=headers)
        except _LOST as error:
            raise ConnectionLostError(_reason(error)) from error

    @contextlib.asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncGenerator[EngineResponse, None]:
        """POST JSON and stream the answer; leaving the context closes the connection if the answer is not at its end.

        Raises:
            NotReachedError: nothing listens there, or the client is closed.
            ConnectionLostError: there was no answer.
        """
        if self._client.is_closed:
            raise NotReachedError(_CLOSED)
        async with _answer(self._client, "POST", path, body, _POST_HEADERS) as response:
            yield EngineResponse(response)


@contextlib.asynccontextmanager
async def _answer(
    client: httpx.AsyncClient, method: str, url: str, body: bytes | None, headers: Mapping[str, str]
) -> AsyncGenerator[httpx.Response, None]:
    try:
        request = client.build_request(method, url, content=body, headers=headers)
        response = await client.send(request, stream=True)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.TooManyRedirects) as error:
        raise UnusableURLError(_reason(error)) from error
    except _LOST as error:
        refused = isinstance(error, _REFUSED) or isinstance(error.__cause__, _REFUSED)
        raise (NotReachedError if refused else ConnectionLostError)(_reason(error)) from error
    try:
        yield response
    finally:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True), contextlib.suppress(*_LOST):
            await response.aclose()


class DownloadResponse(EngineResponse):
    """A file that comes.

    Attributes:
        headers: the answer's headers; their names are found in any case.
        own_headers: the headers of all answers by the host that was asked, redirects included, the first in front.
    """

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(response)
        answers = (*response.history, response)
        asked = answers[0].url
        self.headers: Mapping[str, str] = response.headers
        self.own_headers: Sequence[Mapping[str, str]] = [
            answer.headers for answer in answers if (answer.url.host, answer.url.port) == (asked.host, asked.port)
        ]


@contextlib.asynccontextmanager
async def fetch(url: str, headers: Mapping[str, str]) -> AsyncGenerator[DownloadResponse, None]:
    """GET a file from anywhere: redirects are followed, the environment's proxies are used.

    Args:
        url: the file; a user and password in it are sent as such.
        headers: further headers; ``Authorization`` is sent to the URL's own host and to no other.

    Raises:
        UnusableURLError: the URL, one it leads to, a proxy's or the certificates are of no use.
        ConnectionLostError: there was no answer.
    """
    timeout = httpx.Timeout(DOWNLOAD_READ_SECONDS, connect=DOWNLOAD_CONNECT_SECONDS)
    try:
        client = httpx.AsyncClient(follow_redirects=True, timeout=timeout, trust_env=True)
    except (ValueError, ImportError, OSError, httpx.InvalidURL) as error:
        remedy = "check HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, SSL_CERT_FILE"
        raise UnusableURLError(f"{_reason(error)}: {remedy}") from error
    async with client, _answer(client, "GET", url, None, headers) as response:
        yield DownloadResponse(response)


def _errors_of_the_transport() -> tuple[tuple[type[Exception], ...], tuple[type[Exception], ...]]:
    """Return the errors of any trouble, and those of a connection that was refused."""
    if not FAST:
        return (httpx.HTTPError,), (httpx.ConnectError,)
    from aiohttp import ClientConnectorError, ClientError  # noqa: PLC0415 (an extra; not all become httpx's)

    return (httpx.HTTPError, ClientError), (httpx.ConnectError, ClientConnectorError)


_LOST, _REFUSED = _errors_of_the_transport()


def _transport(limits: httpx.Limits, *, tls: bool) -> httpx.AsyncBaseTransport:
    """httpx-aiohttp's transport where it is installed (a third of the CPU time per token), else httpx's own.

    Where there is no TLS, there is nothing to verify, and no certificates are read: that takes 20 ms of a core.
    """
    if not FAST:
        return httpx.AsyncHTTPTransport(limits=limits, trust_env=False, verify=tls)
    from httpx_aiohttp import AiohttpTransport  # noqa: PLC0415 (an extra)

    unlimited = httpx.Limits(max_connections=0, keepalive_expiry=limits.keepalive_expiry)  # None is 100 to aiohttp
    return AiohttpTransport(limits=unlimited, trust_env=False, verify=tls)


def decode_json(data: bytes) -> Any:  # noqa: ANN401 (JSON)
    """Decode JSON; bytes that are no UTF-8 become U+FFFD, and what is no JSON, or too deep to be kept, becomes None."""
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            document = orjson.loads(data.decode(errors="replace"))
        except orjson.JSONDecodeError:
            return None
    opened = data.count(b"{") + data.count(b"[")  # which is quick, and nearly always enough to know
    return document if opened <= DEEPEST or not _too_deep(document) else None


def _too_deep(document: object) -> bool:
    """Whether a document is nested deeper than ``DEEPEST``."""
    level = [document]
    for _ in range(DEEPEST + 1):
        level = [inner for outer in level for inner in _within(outer) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _within(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return cast("dict[str, object]", value).values()
    return cast("list[object]", value) if isinstance(value, list) else ()


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__

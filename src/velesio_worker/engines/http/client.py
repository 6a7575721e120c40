"""A client of one engine's HTTP server."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any, Final, Self

import anyio
import httpx

from velesio_worker.engines.decoding import decode_json
from velesio_worker.engines.http.answers import (
    LIST_BYTES,
    SMALL_BYTES,
    ConnectionLostError,
    EngineResponse,
    NotReachedError,
    UnusableURLError,
    answering,
)
from velesio_worker.engines.http.transport import Transport

_CLOSED: Final = "it was stopped"
_URLS_KEPT: Final = 64
_POST_HEADERS: Final = {"Content-Type": "application/json", "Connection": "close"}
"""llama-server promises to keep a connection and closes it after a streamed answer all the same; the next request on
it would be lost."""


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
            transport=Transport(_verification(url, ca_file)),
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
                async with answering(self._client, "GET", self._url(path), None, headers) as response:
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
        async with answering(self._client, "POST", self._url(path), body, _POST_HEADERS) as response:
            yield EngineResponse(response)

    def _url(self, path: str) -> httpx.URL:
        """Return a whole URL; to put one together takes a fifth of a request's time."""
        url = self._urls.get(path)
        if url is None:
            url = self._client.build_request("GET", path).url
            if len(self._urls) < _URLS_KEPT:
                self._urls[path] = url
        return url


def _verification(url: httpx.URL, ca_file: Path | None) -> ssl.SSLContext | bool:
    """Return how a server's certificate is checked.

    Where there is no TLS, there is nothing to check, and no certificates are read: that takes 20 ms of a core.
    """
    if ca_file is None or url.scheme != "https":
        return url.scheme == "https"
    context = httpx.create_ssl_context(trust_env=False)
    context.load_verify_locations(cafile=ca_file)
    return context

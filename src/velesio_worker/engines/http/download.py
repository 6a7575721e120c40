"""Files from anywhere."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Final

import httpx

from velesio_worker.engines.http.answers import EngineResponse, UnusableURLError, answering, reason

DOWNLOAD_CONNECT_SECONDS: Final = 10.0
DOWNLOAD_READ_SECONDS: Final = 30.0


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
        raise UnusableURLError(f"{reason(error)}: {remedy}") from error
    async with client, answering(client, "GET", url, None, headers) as response:
        yield DownloadResponse(response)

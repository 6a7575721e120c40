"""One file from a server: fetched, resumed, tried again, checked."""

from __future__ import annotations

import email.utils
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio
import anyio.to_thread

from velesio_worker.core.logs import get_logger
from velesio_worker.core.model_source import ModelSource
from velesio_worker.engines.http import ConnectionLostError, DownloadResponse, UnusableURLError, fetch
from velesio_worker.engines.models.part_file import Origin, PartFile
from velesio_worker.wire.errors import VelesioError

RETRY_SECONDS: tuple[float, ...] = (1, 2, 4, 8, 16)
"""The waits between attempts that bring nothing new; after the last of them it is given up."""

RETRY_AFTER_SECONDS: Final = 60.0
"""How long a wait that the server asks for may be."""

ROOM_BYTES: Final = 64 * 1024 * 1024
"""What is left free on the disk."""

_GIBIBYTE: Final = 1024**3
_MAGIC: Final = b"GGUF"
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
_HUB_SHA256: Final = re.compile(r'"([0-9a-f]{64})"')
"""The hub's ``X-Linked-Etag`` of a large file, which rides on its redirect; of a small one it holds a git hash."""

_OF_RANGES: Final = {HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}

OnProgress = Callable[[int, int | None], None]
"""Called with the bytes that are there and those of the whole, which may be unknown."""

_log = get_logger(__name__)


class ModelDownloadError(VelesioError):
    """A model could not be downloaded."""


class _BusyError(Exception):
    """The server has no time; ``wait`` is for how many seconds it asks to be left alone."""

    def __init__(self, status: int, wait: float) -> None:
        super().__init__(f"it answers {status}")
        self.wait = wait


class Transfer:
    """Fetches one file, of which ``part`` is what there is, and locked; the token is the user's, for the hub alone."""

    def __init__(self, source: ModelSource, part: PartFile, token: str | None, on_progress: OnProgress) -> None:
        self._source = source
        self._part = part
        self._token = token if source.hub else None
        self._on_progress = on_progress
        self._secure = True
        parts = urlsplit(source.url)  # shown without users, passwords, and queries, which hold signatures
        self._shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()

    async def run(self) -> str:
        """Download what is missing, with patience, and put it into place; returns its SHA-256.

        Raises ModelDownloadError, OSError.
        """
        failures = most = 0
        whole = False
        while not whole:
            try:
                whole = await self._attempt()
            except UnusableURLError as error:
                raise ModelDownloadError(f"{self._shown}: {error}") from error
            except (ConnectionLostError, _BusyError) as error:
                await self._part.flush()
                failures = 1 if self._part.size > most else failures + 1
                most = max(most, self._part.size)
                await self._wait(error, failures)
        return await self._finish()

    async def _wait(self, error: ConnectionLostError | _BusyError, failures: int) -> None:
        if failures > len(RETRY_SECONDS):
            kept = "; what has come stays, and the next attempt goes on from there" if self._part.size else ""
            raise ModelDownloadError(f"{self._shown}: {error} ({failures} times in a row){kept}") from error
        asked = error.wait if isinstance(error, _BusyError) else 0.0
        seconds = max(RETRY_SECONDS[failures - 1], min(asked, RETRY_AFTER_SECONDS))
        _log.warning(f"the download broke off ({error}); once more in {seconds:g} s", action="model_download_retry")
        await anyio.sleep(seconds)

    async def _attempt(self) -> bool:
        """Fetch what is missing; returns whether all is there, else what was there is of no use and it begins anew."""
        part = self._part
        if part.size and not self._is_resumable():
            await part.drop()
        if part.size:
            self._report()
            await part.digest()
            if part.size == self._total:
                return True
        async with fetch(self._source.url, self._headers()) as response:
            origin = self._origin(response)
            self._secure = response.secure
            if response.status == HTTPStatus.OK:
                await part.begin(origin)
            elif response.status not in _OF_RANGES or not part.size:
                raise self._refusal(response)
            elif not self._goes_on(response, origin):
                await part.drop()
                return False
            await self._receive(response)
        return True

    @property
    def _total(self) -> int | None:
        return self._part.origin.total if self._part.origin else None

    def _report(self) -> None:
        self._on_progress(self._part.size, self._total)

    def _is_resumable(self) -> bool:
        """Whether it will be seen if what is there belongs to another file."""
        origin, size = self._part.origin, self._part.size
        if origin is None or origin.url != self._shown or (origin.total is not None and size > origin.total):
            return False
        return bool(origin.validator or origin.sha256 or self._source.sha256)

    def _headers(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        if self._part.size and self._part.origin:
            headers["Range"] = f"bytes={self._part.size}-"
            if self._part.origin.validator:
                headers["If-Range"] = self._part.origin.validator
        return headers

    def _origin(self, response: DownloadResponse) -> Origin:
        linked = [answer.get("x-linked-etag", "") for answer in response.own_headers] if self._source.hub else []
        sha256 = next((found[1] for etag in linked if (found := _HUB_SHA256.fullmatch(etag))), None)
        if sha256 and self._source.sha256 and sha256 != self._source.sha256:
            raise ModelDownloadError(
                f"the hub has another file at {self._shown}: expected SHA-256 {self._source.sha256}, got {sha256}. "
                "Correct the checksum, or name the revision that has it (hf:owner/repo@revision/file)"
            )
        headers, etag, place = response.headers, response.headers.get("etag", ""), _place(response)
        validator = etag if etag.startswith('"') else headers.get("last-modified")  # If-Range takes no weak ETag
        length = place[2] if place else headers.get("content-length", "")
        return Origin(self._shown, validator, int(length) if length.isdecimal() else None, sha256)

    def _goes_on(self, response: DownloadResponse, origin: Origin) -> bool:
        """Whether the answer is the rest of what is there."""
        known, place = self._part.origin, _place(response)
        is_next = response.status == HTTPStatus.PARTIAL_CONTENT and place and int(place[1]) == self._part.size
        return bool(is_next and known and known.agrees_with(origin))

    def _refusal(self, response: DownloadResponse) -> Exception:
        status, shown = response.status, self._shown
        if status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return _BusyError(status, retry_after(response.headers))
        if status == HTTPStatus.NOT_FOUND:
            return ModelDownloadError(f"{shown} does not exist (404): check the name")
        if status not in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            return ModelDownloadError(f"{shown} cannot be had: the server answers {status}")
        if not self._source.hub:
            return ModelDownloadError(f"{urlsplit(shown).netloc} refuses ({status}): {shown}")
        wish = "refuses HF_TOKEN: ask for access on the model's page" if self._token else "wants a token: set HF_TOKEN"
        return ModelDownloadError(f"the hub {wish} ({status}; that is its answer to wrong names, too): {shown}")

    async def _receive(self, response: DownloadResponse) -> None:
        part, total = self._part, self._total
        if total is not None:
            await _make_sure_of_room(part.target.parent, total - part.size)
        self._report()
        async with aclosing(response.chunks()) as chunks:
            async for chunk in chunks:
                if await part.add(chunk):
                    self._report()
                    await _make_sure_of_room(part.target.parent, 0 if total is None else total - part.size)
        await part.flush()
        self._report()
        if total is not None and part.size < total:
            raise ConnectionLostError("the answer ended too early")

    async def _finish(self) -> str:
        """Check the file, and put it into place; returns its SHA-256. What is not what was asked for is removed."""
        part, total, found = self._part, self._total, await self._part.digest()
        expected = self._source.sha256 or (part.origin.sha256 if part.origin else None)
        trouble = None
        if total not in {None, part.size}:
            trouble = f"has another length: expected {total} bytes, got {part.size}"
        elif expected not in {None, found}:
            trouble = f"has another checksum: expected SHA-256 {expected}, got {found}"
        elif expected is None and await part.head(len(_MAGIC)) != _MAGIC:
            trouble = "is no GGUF model"
        if trouble:
            await part.drop()
            raise ModelDownloadError(f"{self._shown} {trouble}. What has come is removed: check the source, try again")
        if expected is None and not self._secure:
            _log.warning(
                f"{self._shown} came over http:// and nobody knows its checksum: whoever stands between may have "
                f"chosen it. If it is the right one, pin it: #sha256={found} behind the URL",
                action="model_unchecked",
            )
        await part.publish()
        return found


async def _make_sure_of_room(folder: Path, missing: int) -> None:
    free = (await anyio.to_thread.run_sync(shutil.disk_usage, folder)).free
    if free < missing + ROOM_BYTES:
        raise ModelDownloadError(
            f"{missing / _GIBIBYTE:.2f} GiB more are needed in {folder}, where {free / _GIBIBYTE:.2f} GiB are free: "
            "make room there, or name another folder (MODEL_PATH)"
        )


def _place(response: DownloadResponse) -> re.Match[str] | None:
    """Where in the file an answer begins, and the whole file's length (RFC 9110, Content-Range)."""
    return _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))


def retry_after(headers: Mapping[str, str]) -> float:
    """Return how many seconds the server wants to be left alone; 0 if it does not say so."""
    value = headers.get("retry-after", "")
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0

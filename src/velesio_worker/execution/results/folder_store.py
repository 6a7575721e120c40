"""What a store for results promises, and the one that is a folder."""

from __future__ import annotations

import os
import secrets
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

import anyio

from velesio_worker.core.secrets import unread
from velesio_worker.core.threads import aside
from velesio_worker.wire.errors import SettingsError, VelesioError

PUT_SECONDS: Final = 30.0
"""A store that has not taken a file after so long is given up."""

_MOST_WRITERS: Final = 32
"""Each thread that hangs in a folder holds an image: so many, and no more."""


class StoreError(VelesioError):
    """The store did not take a file; the text names what to change behind its last colon."""


class ResultStore(Protocol):
    """Keeps files for whoever has their URLs. It never deletes any: that is for the bucket's rules, or a cron job."""

    async def put(self, name: str, content: bytes) -> str:
        """Store a file, in place of one of the same name, within ``PUT_SECONDS``.

        Args:
            name: its name, without a path.
            content: the whole file.

        Returns:
            its URL.

        Raises:
            StoreError: the store did not take it.
            ValueError: the name is none.
        """
        ...


class FolderStore:
    """Stores files in a folder, which has to exist: one made here might lie below a mount that is missing.

    Args:
        folder: the folder.
        public_url: where a web server shows it; without one, URLs are ``file://`` ones.
        put_seconds: how long the disk may take for a file.
        most_writers: how many files may be under way at a time.
    """

    def __init__(
        self,
        folder: Path,
        public_url: str | None = None,
        *,
        put_seconds: float = PUT_SECONDS,
        most_writers: int = _MOST_WRITERS,
    ) -> None:
        self._put_seconds = put_seconds
        self._folder = folder.absolute()
        self._public_url = public_url
        self._writers = threading.BoundedSemaphore(most_writers)

    async def put(self, name: str, content: bytes) -> str:
        """Store a file; see :meth:`ResultStore.put`. Whoever reads the folder sees it whole or not at all."""
        path = self._folder / plain_name(name)
        if not self._writers.acquire(blocking=False):
            raise StoreError(f"{self._folder} hangs with earlier files: check the disk that RESULT_STORE names")
        try:
            with anyio.fail_after(self._put_seconds):
                await aside(lambda: self._write(path, content))
        except TimeoutError:
            raise StoreError(
                f"{self._folder} took no file in {self._put_seconds:g} s: check the disk that RESULT_STORE names"
            ) from None
        except OSError as error:
            raise StoreError(
                f"{self._folder} takes no file ({error.strerror or error}): make the folder, let the worker's"
                " user write into it and keep some of the disk free, or change RESULT_STORE"
            ) from None
        return f"{self._public_url.rstrip('/')}/{quote(name)}" if self._public_url else path.as_uri()

    def _write(self, path: Path, content: bytes) -> None:
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            self._sync_folder()
        finally:
            self._writers.release()
            part.unlink(missing_ok=True)

    def _sync_folder(self) -> None:
        with suppress(OSError):  # not every network file system can
            descriptor = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def plain_name(name: str) -> str:
    """Return a name that has no path in it; anything else is a ValueError."""
    if name in {"", ".", ".."} or set(name) & set("/\\\0"):
        raise ValueError(f"{name!r} is no file's name")
    return name


def no_store(where: str) -> SettingsError:
    """Return the error for a RESULT_STORE that names no store."""
    return SettingsError(f"RESULT_STORE={unread(where)!r}: must be a folder, or s3://bucket/prefix")

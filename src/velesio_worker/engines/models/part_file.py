"""A file that is still on its way: ``<target>.part``, what it is a part of, and who may write it."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final, Self

import anyio
import anyio.to_thread
from pydantic import TypeAdapter, ValidationError

LOCK_POLL_SECONDS: Final = 0.5
_WRITE_BYTES: Final = 4 * 1024 * 1024
_WRITE_SECONDS: Final = 1.0
"""Bytes are written when there are so many, or after so long: few hand-overs to a thread, and little to lose."""

_HASH_BYTES: Final = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Origin:
    """What a partial file is a part of.

    Attributes:
        url: where it comes from, without what is secret.
        validator: the strong ETag or the Last-Modified that the server gave it; None if neither.
        total: the length of the whole, in bytes; None if the server did not say.
        sha256: the checksum that the hub gave, in hexadecimal digits; None if it gave none.
    """

    url: str
    validator: str | None = None
    total: int | None = None
    sha256: str | None = None

    def agrees_with(self, other: Origin) -> bool:
        """Whether both can be the same file, as far as is known of them."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return all(one is None or another is None or one == another for one, another in pairs)


_ORIGIN: Final = TypeAdapter(Origin)


class PartFile:
    """A partial file: written and hashed in threads, and put into place when it is whole. An async context manager.

    One task uses it, and one process: see :func:`locked`. What it holds stays when the context is left, for another
    day.

    Attributes:
        target: the file that it is to become.
        origin: what it is a part of; None if that is unknown, and what it holds therefore useless.
        size: how many bytes it has on the disk.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.origin: Origin | None = None
        self.size = 0
        self._path = target.with_name(f"{target.name}.part")
        self._origin_path = target.with_name(f"{target.name}.part.json")
        self._one_thread = threading.Lock()  # a task that is cancelled from without (Ctrl-C) leaves its thread behind
        self._waiting = bytearray()
        self._written_at = time.monotonic()
        self._hash = hashlib.sha256()
        self._hashed = 0

    def look(self) -> None:
        """Read from the disk what is there: ``size`` and ``origin``. Whoever only looks needs no lock."""
        try:
            self.size = self._path.stat().st_size
            self.origin = _ORIGIN.validate_json(self._origin_path.read_bytes())
        except (FileNotFoundError, ValidationError):
            self.origin = None

    async def __aenter__(self) -> Self:
        self._file: io.FileIO = await anyio.to_thread.run_sync(io.FileIO, self._path, "a+")
        await anyio.to_thread.run_sync(self.look)
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._close)

    def _close(self) -> None:
        try:
            self._write()
        finally:
            with self._one_thread:
                self._file.close()
                if not self.size:
                    self._path.unlink(missing_ok=True)
                    self._origin_path.unlink(missing_ok=True)

    async def begin(self, origin: Origin) -> None:
        """Begin anew, with nothing."""
        await self.drop()
        self.origin = origin
        await anyio.Path(self._origin_path).write_bytes(_ORIGIN.dump_json(origin))

    async def drop(self) -> None:
        """Forget all that is there; what is empty when the context is left is removed."""
        self._waiting.clear()
        await anyio.to_thread.run_sync(self._file.truncate, 0)
        self.origin = None
        self.size = self._hashed = 0
        self._hash = hashlib.sha256()

    async def add(self, chunk: bytes) -> bool:
        """Add bytes; returns whether this was the time to write them, so that ``size`` has grown."""
        self._waiting += chunk
        if len(self._waiting) < _WRITE_BYTES and time.monotonic() < self._written_at + _WRITE_SECONDS:
            return False
        await self.flush()
        return True

    async def flush(self) -> None:
        """Write what was added."""
        await anyio.to_thread.run_sync(self._write)

    def _write(self) -> None:
        with self._one_thread:
            left, self._waiting = memoryview(self._waiting), bytearray()
            self._written_at = time.monotonic()
            while left:
                written = self._file.write(left)
                if self._hashed == self.size:
                    self._hash.update(left[:written])
                    self._hashed += written
                self.size += written
                left = left[written:]

    async def digest(self) -> str:
        """Return the SHA-256 of what is there, in hexadecimal digits; what was there before is read for it."""
        while self._hashed < self.size:
            block = await anyio.to_thread.run_sync(os.pread, self._file.fileno(), _HASH_BYTES, self._hashed)
            if not block:
                raise OSError(f"{self._path} became shorter")
            await anyio.to_thread.run_sync(self._hash.update, block)
            self._hashed += len(block)
        return self._hash.hexdigest()

    async def head(self, size: int) -> bytes:
        """Return its first bytes."""
        return await anyio.to_thread.run_sync(os.pread, self._file.fileno(), size, 0)

    async def publish(self) -> None:
        """Put it in the target's place, once it is safe on the disk: whoever finds the target finds all of it."""
        await anyio.to_thread.run_sync(self._publish)

    def _publish(self) -> None:
        with self._one_thread:
            os.fsync(self._file.fileno())
            self._path.replace(self.target)
            self._origin_path.unlink(missing_ok=True)
        folder = os.open(self.target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


async def hash_file(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    digest = hashlib.sha256()
    async with await anyio.open_file(path, "rb") as file:
        while block := await file.read(_HASH_BYTES):
            await anyio.to_thread.run_sync(digest.update, block)
    return digest.hexdigest()


@asynccontextmanager
async def locked(path: Path, on_wait: Callable[[], None]) -> AsyncGenerator[None, None]:
    """Hold a lock that excludes all other tasks and processes of this host, and those that share the folder over NFS.

    Its file is there as long as it is held; ``on_wait`` is called now and then while another holds it.
    """
    while (lock := _try_lock(path)) is None:
        on_wait()
        await anyio.sleep(LOCK_POLL_SECONDS)
    try:
        yield
    finally:
        _unlock(path, lock)


def _unlock(path: Path, lock: int) -> None:
    path.unlink(missing_ok=True)  # still held: who has opened this very file finds that it is gone, and tries again
    os.close(lock)


def _try_lock(path: Path) -> int | None:
    """Return the descriptor that holds the lock, or None while another holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    held = False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held = os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        pass
    finally:
        if not held:
            os.close(descriptor)
    return descriptor if held else None

"""Where the images of large results go: a folder or an S3-compatible store; the result then carries their URLs."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread
from redis.asyncio import Redis
from redis.exceptions import RedisError

from velesio_worker.core.base64_text import decode_base64
from velesio_worker.core.logs import get_logger
from velesio_worker.core.settings import Settings
from velesio_worker.execution.results.folder_store import FolderStore, ResultStore, StoreError, no_store
from velesio_worker.execution.results.s3_store import S3Store
from velesio_worker.queue.claims import Held
from velesio_worker.queue.connection import REPLY_SECONDS
from velesio_worker.queue.keys import preview_key
from velesio_worker.queue.outage import within
from velesio_worker.wire.errors import SettingsError
from velesio_worker.wire.events import Done

AT_ONCE: Final = 4
"""So many images of one result are decoded and on their way at a time."""

PREVIEW_SECONDS: Final = 600
"""How long a preview is kept."""

CHECK_NAME: Final = "velesio-worker-check.txt"
STAYED: Final = "the images are inline, because the worker's store for results did not take them"
"""What a result's ``warnings`` say; the reason is the operator's, and in the worker's log."""

log = get_logger(__name__)


def open_store(settings: Settings) -> ResultStore | None:
    """Return the store that RESULT_STORE names; None if it names none. Whether it can be written, ``check`` says.

    Raises:
        SettingsError: RESULT_STORE names no store, obstore is missing, or an AWS variable has a wrong value.
    """
    where = settings.result_store
    if where is None:
        return None
    if where.startswith("s3://"):
        return S3Store(where, settings.result_store_url, signed_seconds=settings.result_ttl)
    if "://" in where:
        raise no_store(where)
    return FolderStore(Path(where), settings.result_store_url)


async def check(store: ResultStore) -> None:
    """Write the small file ``CHECK_NAME``, and leave it there: who may write need not be allowed to delete.

    Raises:
        SettingsError: the store did not take it; the text says why and what to change.
    """
    try:
        await store.put(CHECK_NAME, b"velesio-worker can write here.\n")
    except StoreError as error:
        raise SettingsError(f"RESULT_STORE cannot be written: {error}") from None


async def _put_all(store: ResultStore, stem: str, images: Sequence[str]) -> list[str]:
    """Store all images, or raise what went wrong with the first that failed."""
    urls = [""] * len(images)
    turn = anyio.Semaphore(AT_ONCE)

    async def put(number: int) -> None:
        async with turn:
            content = await anyio.to_thread.run_sync(decode_base64, images[number])
            urls[number] = await store.put(f"{stem}-{number}.png", content)

    try:
        async with anyio.create_task_group() as group:
            for number in range(len(images)):
                group.start_soon(put, number)
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return urls


class ImageOutput:
    """Keeps previews and puts large images where they belong. Trouble with either fails no job.

    Args:
        commands: the client for commands.
        store: where images of more than ``inline_bytes`` go, all of a result's base64 together; None: into the result.
    """

    def __init__(self, commands: Redis, store: ResultStore | None, *, inline_bytes: int) -> None:
        self._commands: Any = commands
        self._store = store
        self._inline_bytes = inline_bytes

    async def look_at_store(self) -> None:
        """Say if the store cannot be used: large images stay in their results then."""
        if self._store is None:
            return
        try:
            await check(self._store)
        except SettingsError as error:
            log.warning(f"{error}. Images stay in their results", action="no_result_store")

    async def keep_preview(self, job_id: str, picture: bytes) -> str | None:
        """Keep a job's preview; returns its key, None if that failed."""
        key = preview_key(job_id)
        try:
            await within(REPLY_SECONDS, self._commands.set(key, picture, ex=PREVIEW_SECONDS))
        except RedisError as error:
            log.debug(f"a preview was not kept: {error}", action="preview_lost")
            return None
        return key

    async def place(self, held: Held, done: Done) -> Done:
        """Move a result's images into the store if they are large. It is never an error: at worst they stay inline.

        The files are named after the attempt and a number that nobody guesses: ids come again, and files are never
        overwritten. Returns the job's end with ``images`` being URLs and ``images_stored``
        true; or with its images inline and one more of ``warnings``, if the store failed; or as it was.
        """
        result = done.result
        images: list[str] = result.get("images", [])
        if self._store is None or sum(map(len, images)) <= self._inline_bytes:
            return done
        name = held.job_id.replace(":", "~")  # no job id has a tilde, and URLs take it as it is
        stem = f"{name}-{held.attempt}-{secrets.token_hex(8)}"
        try:
            urls = await _put_all(self._store, stem, images)
        except Exception as error:  # noqa: BLE001 (whatever is the matter with the store, the result is owed)
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning(f"RESULT_STORE failed, images stay inline: {reason}", action="images_not_stored")
            return replace(done, result={**result, "warnings": [*(result.get("warnings") or ()), STAYED]})
        return replace(done, result={**result, "images": urls, "images_stored": True})

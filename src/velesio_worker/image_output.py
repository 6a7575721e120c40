"""What image jobs leave in Redis beside stream and result, or elsewhere: previews, and large images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import RedisError

from velesio_worker.errors import SettingsError
from velesio_worker.events import Done
from velesio_worker.logs import get_logger
from velesio_worker.queue.claims import Held
from velesio_worker.queue.connection import REPLY_SECONDS, within
from velesio_worker.queue.keys import preview_key
from velesio_worker.result_store import check, place
from velesio_worker.stores import ResultStore

PREVIEW_SECONDS: Final = 600
"""How long a preview is kept."""

log = get_logger(__name__)


class ImageOutput:
    """Keeps previews and puts large images where they belong. Trouble with either fails no job.

    Args:
        commands: the client for commands.
        store: where large images go; None: into the result.
        inline_bytes: up to so many bytes of base64 they stay in the result all the same.
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
        """Put the images of a result where they belong; returns the end of the job with what stands for them."""
        if self._store is None:
            return done
        result = await place(
            self._store, done.result, job_id=held.job_id, attempt=held.attempt, inline_bytes=self._inline_bytes
        )
        return replace(done, result=result)

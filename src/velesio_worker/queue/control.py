"""Control: how a job is cancelled (wire protocol, section 6), waiting or running."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis

from velesio_worker.queue.connection import BLOCK_SECONDS, Outage, until_done
from velesio_worker.queue.keys import Keys, job_key, result_key
from velesio_worker.queue.scripts import JOB_HASH_TTL

CONTROL_ENTRIES: Final = 1000


async def request_cancel(redis: Redis, keys: Keys, job_id: str) -> None:
    """Ask that a job be stopped: the flag is the truth, the control entry the doorbell.

    Args:
        redis: a client.
        keys: the queue's keys.
        job_id: the job; if its result is there, nothing happens.
    """
    commands: Any = redis
    if await commands.exists(result_key(job_id)):
        return
    await commands.hset(job_key(job_id), "cancel", 1)
    if await commands.ttl(job_key(job_id)) < 0:
        await commands.expire(job_key(job_id), JOB_HASH_TTL)
    await commands.xadd(keys.control, {"cancel": job_id}, maxlen=CONTROL_ENTRIES, approximate=True)


class Control:
    """Hears of jobs that are to be stopped.

    Args:
        blocking: the client for blocking reads.
        commands: the client for commands.
        keys: the queue's keys.
        running: the ids of the jobs that run now.
        cancel: stops one of them.
        outage: whom to tell when Redis does not answer.
    """

    def __init__(
        self,
        blocking: Redis,
        commands: Redis,
        keys: Keys,
        *,
        running: Callable[[], Sequence[str]],
        cancel: Callable[[str], None],
        outage: Outage,
    ) -> None:
        self._blocking: Any = blocking
        self._commands: Any = commands
        self._keys = keys
        self._running = running
        self._cancel = cancel
        self._outage = outage

    async def run(self) -> None:
        """Listen for ever: to the doorbell at once, and once a second to the flags, should it not have rung."""
        after = await until_done(self._outage, self._newest, writes=False)
        while True:
            read = partial(self._blocking.xread, {self._keys.control: after}, block=int(BLOCK_SECONDS * 1000))
            reply = await until_done(self._outage, read, writes=False)
            for entry_id, fields in reply[0][1] if reply else ():
                after = entry_id.decode()
                self._cancel(fields.get(b"cancel", b"").decode(errors="replace"))
            if not reply:
                await until_done(self._outage, self._look_at_flags, writes=False)

    async def _newest(self) -> str:
        entries = await self._commands.xrevrange(self._keys.control, count=1)
        return entries[0][0].decode() if entries else "0-0"

    async def _look_at_flags(self) -> None:
        ids = self._running()
        if not ids:
            return
        async with self._commands.pipeline(transaction=False) as pipe:
            for job_id in ids:
                pipe.hget(job_key(job_id), "cancel")
            flags = await pipe.execute()
        for job_id, flag in zip(ids, flags, strict=True):
            if flag == b"1":
                self._cancel(job_id)

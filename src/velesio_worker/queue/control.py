"""Control: how a job is cancelled (wire protocol, section 6)."""

from __future__ import annotations

from typing import Any, Final

from redis.asyncio import Redis

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

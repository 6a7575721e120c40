"""Whether somebody still has a job whose stream is silent."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

from velesio_worker.queue.keys import Keys, job_key, worker_name
from velesio_worker.queue.outage import Outage, until_done
from velesio_worker.wire.errors import VelesioError


class JobStalledError(VelesioError):
    """The job gives no sign, and no worker has it.

    Attributes:
        job_id: the job.
    """

    def __init__(self, message: str | None = None, *, job_id: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id


class StallWatch:
    """Bounds the wait for a job that nobody takes, or that a worker was lost with and no other takes up.

    Signs of a job are its entries, and a worker whose lease runs and that has it. Time in which Redis is away does not
    count.

    Args:
        redis: a client that repeats nothing by itself.
        keys: the queue's keys.
        job_id: the job.
        seconds: how long it may give no sign.
        outage: whom to tell when Redis does not answer.
    """

    def __init__(self, redis: Redis, keys: Keys, job_id: str, seconds: float, outage: Outage) -> None:
        self._commands: Any = redis
        self._keys = keys
        self._job_id = job_id
        self._seconds = seconds
        self._outage = outage
        self._since = time.monotonic()

    def seen(self) -> None:
        """Take note of a sign."""
        self._since = time.monotonic()

    @property
    def left(self) -> float:
        """How long it may still give none, in seconds."""
        return self._since + self._seconds + self._outage.away_since(self._since) - time.monotonic()

    async def check(self) -> None:
        """Look who has the job, once it gave no sign for too long.

        Raises:
            JobStalledError: nobody who lives.
            redis.exceptions.RedisError: Redis answered with an error that waiting does not mend.
        """
        if self.left > 0:
            return
        try:
            owner = worker_name(await self._field(job_key(self._job_id), "owner"))
            if owner and await self._field(self._keys.worker(owner), "version"):
                self.seen()
                return
        except NoPermissionError:
            raise self._error("and this user of Redis may not see which worker has it") from None
        if owner:
            raise self._error(f"the worker that had it, {owner}, is gone, and no other goes on with it")
        raise self._error("no worker has taken it; its stream and its result may have expired, too")

    async def _field(self, key: str, name: str) -> bytes:
        """Return a field of a hash; empty if there is none."""
        (value,) = await until_done(self._outage, partial(self._commands.hmget, key, name), writes=False)
        return value or b""

    def _error(self, why: str) -> JobStalledError:
        return JobStalledError(f"Job {self._job_id} gave no sign for {self._seconds:g} s: {why}.", job_id=self._job_id)

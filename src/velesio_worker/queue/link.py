"""A line to Redis: what everybody needs who speaks to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import Redis

from velesio_worker.queue.keys import Keys
from velesio_worker.queue.outage import Outage, until_done
from velesio_worker.queue.scripts import Scripts

T = TypeVar("T")


class Link:
    """A client, the queue's keys, the scripts, and whom to tell when Redis does not answer.

    Args:
        redis: a client that repeats nothing by itself.
        keys: the queue's keys.
        outage: whom to tell; one for a whole worker.
        job_ttl: how long a job's hash is kept at least, in seconds.

    Attributes:
        commands: the client again; redis-py's methods are typed for two kinds of client at once.
    """

    def __init__(self, redis: Redis, keys: Keys, outage: Outage, *, job_ttl: int = 0) -> None:
        self.redis = redis
        self.commands: Any = redis
        self.keys = keys
        self.outage = outage
        self.scripts = Scripts(redis, job_ttl=job_ttl)

    async def done(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Have something written that is safe to repeat, however long Redis is away.

        Raises:
            redis.exceptions.RedisError: Redis answered with an error that waiting does not mend.
        """
        return await until_done(self.outage, operation)

    async def asked(self, question: Callable[[], Awaitable[T]]) -> T:
        """Have something read; that Redis answers does not show that it takes writes. Raises as :meth:`done` does."""
        return await until_done(self.outage, question, writes=False)

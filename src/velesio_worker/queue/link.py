"""A line to Redis: what everybody needs who speaks to it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from velesio_worker.queue.keys import Keys
from velesio_worker.queue.outage import Backoff, Outage, until_done
from velesio_worker.queue.remedies import FOREIGN, kind_of
from velesio_worker.queue.scripts import Scripts

T = TypeVar("T")

_PUT_RIGHT: Final = 5
_A_WHILE: Final = 60.0
"""So often in so many seconds a key of another type may be put right before it is found; else it is none of those."""


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
        self._put_right: list[float] = []

    async def done(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Have something written that is safe to repeat, however long Redis is away.

        Raises:
            redis.exceptions.RedisError: Redis answered with an error that waiting does not mend.
        """
        return await until_done(self.outage, operation)

    async def asked(self, question: Callable[[], Awaitable[T]]) -> T:
        """Have something read; that Redis answers does not show that it takes writes. Raises as :meth:`done` does."""
        return await until_done(self.outage, question, writes=False)

    async def on_keys(
        self, keys: Mapping[str, str], operation: Callable[[], Awaitable[T]], *, writes: bool = True
    ) -> T:
        """As :meth:`done`, for keys of the queue: should one be somebody else's, wait until it is put right.

        Args:
            keys: the types that the keys have to have, by key.
            operation: what is to be done with them.
            writes: as :func:`velesio_worker.queue.outage.until_done` has it.

        Raises:
            redis.exceptions.RedisError: Redis answered with an error that waiting does not mend.
        """
        backoff = Backoff()
        while True:
            try:
                return await until_done(self.outage, operation, writes=writes)
            except ResponseError as error:
                foreign = await self.foreign(keys, error)
                if foreign is None:
                    raise
                self.outage.noticed(foreign)
                await backoff.pause()

    async def foreign(self, keys: Mapping[str, str], error: Exception) -> ResponseError | None:
        """Return the error that names the key which is of another type than ``keys`` says; None if that is not it."""
        if kind_of(error) != FOREIGN:
            return None
        if named := await self.foreign_key(keys):
            return ResponseError(f"{FOREIGN} {named}")
        now = time.monotonic()
        self._put_right = [moment for moment in self._put_right if moment > now - _A_WHILE] + [now]
        return ResponseError(str(error)) if len(self._put_right) <= _PUT_RIGHT else None

    async def foreign_key(self, keys: Mapping[str, str]) -> str:
        """Say which key is of another type than ``keys`` says, and of which; empty if none is seen to be."""
        for key, kind in keys.items():
            found = (await self.asked(partial(self.commands.type, key))).decode()
            if found not in {kind, "none"}:
                return f"{key} is a {found}, where a {kind} belongs"
        return ""

"""What a worker sees of the others, and of the queue that they share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Mapping
from functools import partial
from typing import Any, Final

import orjson
from redis.exceptions import RedisError, ResponseError

from velesio_worker.core.logs import get_logger
from velesio_worker.queue.connection import REPLY_SECONDS
from velesio_worker.queue.keys import LAST_JOB_TIME, metrics_key
from velesio_worker.queue.lease import LONGEST_LEASE
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import within
from velesio_worker.wire.jobs import Kind

METRICS_TTL: Final = 86400
"""How long ``metrics:<second>`` is kept, in seconds."""

_FAILED: Final = "failed"

log = get_logger(__name__)


class Fleet:
    """Looks at the workers other than ``worker``, which is this one's id, and at the lists that all take jobs from."""

    def __init__(self, link: Link, worker: str) -> None:
        self._link = link
        self._worker = worker

    async def serves(self, kind: Kind) -> bool:
        """Whether another worker lives that may run jobs of a kind."""
        keys = self._link.keys
        read = partial(self._link.scripts.leases, keys, LONGEST_LEASE)
        for lease in await self._link.on_keys({keys.workers: "zset"}, read, writes=False):
            others = lease.worker not in {"", self._worker} and lease.left > 0
            if others and await self._may_run(lease.worker, kind):
                return True
        return False

    async def _may_run(self, worker: str, kind: Kind) -> bool:
        fields = ("kinds", f"{kind}_state")
        key = self._link.keys.worker(worker)
        try:
            known: list[bytes | None] = await self._link.asked(partial(self._link.commands.hmget, key, fields))
        except ResponseError as error:
            if (foreign := await self._link.foreign({key: "hash"}, error)) is None:
                raise
            log.debug(f"what worker {worker} runs is not known: {foreign}", action="foreign_key")
            return False
        kinds, state = ((value or b"").decode(errors="replace") for value in known)
        if kind not in kinds.split(",") or state == _FAILED:
            return False
        return await self._link.asked(partial(self._link.scripts.alive, self._link.keys, worker))

    async def waiting(self, kind: Kind) -> int:
        """How many jobs wait that are, or may become, of a kind."""
        lists = (self._link.keys.incoming, self._link.keys.ready(kind))
        lengths = [partial(self._link.commands.llen, key) for key in lists]
        types = dict.fromkeys(lists, "list")
        return sum([await self._link.on_keys(types, length, writes=False) for length in lengths])

    async def note_job(self, at: float, entry: Mapping[str, Any]) -> None:
        """Keep what the last job was, and its time for whoever stops hosts that have none; trouble is no matter.

        Args:
            at: when it ended, in Unix time.
            entry: what ``metrics:<second>`` is to hold (wire protocol, section 5).
        """
        with contextlib.suppress(RedisError):  # whatever becomes of one, the other is waited for, too
            noted: Awaitable[Any] = self._link.commands.set(metrics_key(int(at)), orjson.dumps(entry), ex=METRICS_TTL)
            timed: Awaitable[Any] = self._link.commands.set(LAST_JOB_TIME, f"{at:.3f}")
            await within(REPLY_SECONDS, asyncio.gather(noted, timed, return_exceptions=True))

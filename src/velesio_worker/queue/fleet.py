"""What a worker sees of the others, and of the queue that they share."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import anyio
import orjson
from redis.exceptions import RedisError, ResponseError

from velesio_worker.core.bell import Bell
from velesio_worker.core.logs import get_logger
from velesio_worker.queue.clients import execute
from velesio_worker.queue.connection import REPLY_SECONDS
from velesio_worker.queue.keys import LAST_JOB_TIME, count_in_redis, metrics_key
from velesio_worker.queue.lease import LONGEST_LEASE
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import within
from velesio_worker.wire.jobs import Kind

METRICS_TTL: Final = 86400
"""How long ``metrics:<second>`` is kept, in seconds."""

NOTES_SECONDS: Final = 1.0
"""How often it is written at most what the last job was."""

_FAILED: Final = "failed"

log = get_logger(__name__)


class Fleet:
    """Looks at the workers other than ``worker``, which is this one's id, and at the lists that all take jobs from."""

    def __init__(self, link: Link, worker: str) -> None:
        self._link = link
        self._worker = worker
        self._noted: dict[int, tuple[float, Mapping[str, Any]]] = {}
        self._has_noted = Bell()

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
        lists = sum([await self._link.on_keys(types, length, writes=False) for length in lengths])
        share = self._link.keys.share(kind)
        lined = partial(self._link.commands.hget, share, "lined")
        return lists + (count_in_redis(await self._link.on_keys({share: "hash"}, lined, writes=False)) or 0)

    def note_job(self, at: float, entry: Mapping[str, Any]) -> None:
        """Have kept what the last job was, and its time for whoever stops hosts that have none.

        Args:
            at: when it ended, in Unix time.
            entry: what ``metrics:<second>`` is to hold (wire protocol, section 5).
        """
        self._noted[int(at)] = at, entry
        self._has_noted.ring()

    async def keep_notes(self) -> None:
        """Keep what is noted, for ever: at once, and then once a second at most, however many jobs end in it."""
        try:
            while True:
                while not self._noted:
                    await self._has_noted.wait()
                await self.write_notes()
                await anyio.sleep(NOTES_SECONDS)
        finally:
            with anyio.CancelScope(shield=True):
                await self.write_notes()

    async def write_notes(self) -> None:
        """Write what was noted since the last time; trouble is no matter."""
        noted, self._noted = self._noted, {}
        if not noted:
            return
        async with self._link.commands.pipeline(transaction=False) as pipe:
            for second, (_, entry) in noted.items():
                pipe.set(metrics_key(second), orjson.dumps(entry), ex=METRICS_TTL)
            pipe.set(LAST_JOB_TIME, f"{max(at for at, _ in noted.values()):.3f}")
            with contextlib.suppress(RedisError):
                await within(REPLY_SECONDS, execute(pipe, raise_on_error=False))

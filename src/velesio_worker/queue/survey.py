"""The queue as one worker sees it: how much waits, since when, and who is there to take it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson
from redis.asyncio import Redis

from velesio_worker.jobs import Kind, moment_of
from velesio_worker.queue.connection import within
from velesio_worker.queue.keys import Keys
from velesio_worker.queue.scripts import Scripts

_HEAD_BYTES: Final = 64 * 1024
_ANY_TIME: Final = 1e9


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits in one list.

    Attributes:
        jobs: how many jobs.
        oldest: the age of the one that is next, in seconds; 0 if none waits.
    """

    jobs: int
    oldest: float


@dataclass(frozen=True, slots=True)
class QueueView:
    """The queue at a moment.

    Attributes:
        at: the moment, in Unix time.
        waiting: what waits, by list: ``incoming`` or a :class:`velesio_worker.jobs.Kind`.
        leases: how long the workers' leases still run, in seconds, by worker; negative once they are over.
        dead: how many dead letters there are.
    """

    at: float
    waiting: Mapping[str, Waiting]
    leases: Mapping[str, float]
    dead: int

    @property
    def alive(self) -> int:
        """How many workers live."""
        return sum(left > 0 for left in self.leases.values())


class Survey:
    """Looks at the queue, and remembers since when it has seen the same job at the head of a list.

    Args:
        commands: the client for commands.
        keys: the queue's keys.
        seconds: how long a look may take.
    """

    def __init__(self, commands: Redis, keys: Keys, *, seconds: float) -> None:
        self._commands: Any = commands
        self._scripts = Scripts(commands)
        self._keys = keys
        self._seconds = seconds
        self._lists = {"incoming": keys.incoming, **{kind.value: keys.ready(kind) for kind in Kind}}
        self._heads: dict[str, tuple[bytes, float]] = {}

    async def look(self) -> QueueView:
        """Look at the queue now.

        Raises:
            redis.exceptions.RedisError: Redis does not answer, or not in time.
        """
        return await within(self._seconds, self._look())

    async def _look(self) -> QueueView:
        heads = await self._scripts.heads(list(self._lists.values()), _HEAD_BYTES)
        leases = await self._scripts.leases(self._keys, _ANY_TIME)
        dead: int = await self._commands.llen(self._keys.dead)
        waiting = {
            name: Waiting(jobs, self._age(name, head)) for name, (jobs, head) in zip(self._lists, heads, strict=True)
        }
        return QueueView(time.time(), waiting, {lease.worker: lease.left for lease in leases}, dead)

    def _age(self, name: str, head: bytes) -> float:
        """The age of a job: since it was made, if it says when, else since it was first seen as the next one."""
        if not head:
            self._heads.pop(name, None)
            return 0.0
        now = time.time()
        mark = hashlib.blake2b(head, digest_size=16).digest()
        known = self._heads.get(name)
        since = known[1] if known is not None and known[0] == mark else now
        self._heads[name] = (mark, since)
        made = _created_at(head)
        return max(0.0, now - (since if made is None else min(made, since)))


def _created_at(head: bytes) -> float | None:
    try:
        return moment_of(orjson.loads(head).get("created_at"))
    except (orjson.JSONDecodeError, AttributeError):
        return None

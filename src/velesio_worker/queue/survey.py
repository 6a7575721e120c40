"""The queue as one worker sees it: how much waits, since when, and who is there to take it."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

import orjson
from redis.exceptions import ResponseError

from velesio_worker.queue.keys import LINED
from velesio_worker.queue.lease import LONGEST_LEASE
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import within
from velesio_worker.wire.jobs import moment_of

HEAD_BYTES: Final = 64 * 1024
"""So much is looked at of a job that is next in a list."""

_SPARE_SECONDS: Final = 30.0
"""For so long the head of a list is not read again if it is large: Redis does nothing else meanwhile."""

_CREATED_AT: Final = re.compile(rb'"created_at"\s*:\s*([0-9]+(?:\.[0-9]+)?)')


class _Head(NamedTuple):
    """The job that is next in a list: what tells it from others, since when it waits, when it is read again."""

    mark: bytes
    since: float
    spare_until: float


class Waiting(NamedTuple):
    """What waits in one list.

    Attributes:
        jobs: how many jobs.
        oldest: the age of the one that is next, in seconds, by its ``created_at``; without that, for how long it has
            been seen as the next one; 0 if none waits.
    """

    jobs: int
    oldest: float

    def with_lines(self, jobs: int, since: float | None, now: float) -> Waiting:
        """Return the same with the jobs that wait in the lines beside the list, the first of them since a moment."""
        waited = 0.0 if since is None else max(0.0, now - since)
        return Waiting(self.jobs + jobs, max(self.oldest, waited))


class QueueView(NamedTuple):
    """The queue at a moment.

    Attributes:
        at: the moment, in Unix time.
        waiting: what waits, by list: ``incoming`` or a :class:`velesio_worker.wire.jobs.Kind`, with what lies beside it
            in the lines of tenants.
        leases: how long the workers' leases still run, in seconds, by worker; negative once they are over.
        dead: how many dead letters there are.
        by_priority: what waits of each priority, by kind of job; of what is sorted, so without ``incoming``.
    """

    at: float
    waiting: Mapping[str, Waiting]
    leases: Mapping[str, float]
    dead: int
    by_priority: Mapping[str, Mapping[str, Waiting]] = MappingProxyType({})

    @property
    def alive(self) -> int:
        """How many workers live."""
        return sum(left > 0 for left in self.leases.values())


class Heads:
    """Remembers since when it has seen the same job at the head of each list."""

    def __init__(self) -> None:
        self._heads: dict[str, _Head] = {}

    def are_due(self, names: Iterable[str], now: float) -> set[str]:
        """Return of which lists the next job is to be read: large ones are so only now and then."""
        return {name for name in names if name not in self._heads or self._heads[name].spare_until <= now}

    def seen(self, name: str, jobs: int, head: bytes, size: int, now: float) -> Waiting:
        """Take note of a list as it is now.

        Args:
            name: the list.
            jobs: how many jobs wait in it.
            head: the next job or its beginning; empty if it was not read.
            size: how many bytes that job has.
            now: Unix time.
        """
        if not jobs:
            self._heads.pop(name, None)
        elif head:
            self._take_note(name, head[:HEAD_BYTES], size, now)
        known = self._heads.get(name)
        return Waiting(jobs, max(0.0, now - known.since) if known else 0.0)

    def _take_note(self, name: str, head: bytes, size: int, now: float) -> None:
        """Note since when a job waits: since it was made, if it says when, else since it was first seen as the next."""
        mark = hashlib.blake2b(head, digest_size=16).digest()
        known = self._heads.get(name)
        seen = known.since if known is not None and known.mark == mark else now
        made = _created_at(head)
        spare_until = now + _SPARE_SECONDS if size > HEAD_BYTES else 0.0
        self._heads[name] = _Head(mark, seen if made is None else min(made, seen), spare_until)


class Survey:
    """Looks at the queue.

    Args:
        seconds: how long a look may take.
    """

    def __init__(self, link: Link, *, seconds: float) -> None:
        self._link = link
        self._seconds = seconds
        self._lists = link.keys.waiting
        self._heads = Heads()

    async def look(self) -> QueueView:
        """Look at the queue now.

        Raises:
            redis.exceptions.RedisError: Redis does not answer, or not in time.
        """
        try:
            return await within(self._seconds, self._look())
        except ResponseError as error:
            keys = self._link.keys
            types = {**dict.fromkeys((*self._lists.values(), keys.dead), "list"), keys.workers: "zset"}
            types |= {key: type_ for kind in LINED for key, type_ in keys.shares(kind).items()}
            raise await self._link.foreign(types, error) or error from None

    async def _look(self) -> QueueView:
        now = time.time()
        due = self._heads.are_due(self._lists, now)
        lists = {key: name in due for name, key in self._lists.items()}
        heads, lines = await self._link.scripts.heads(
            self._link.keys, lists | {self._link.keys.dead: False}, HEAD_BYTES
        )
        *heads, (dead, _, _) = heads
        leases = await self._link.scripts.leases(self._link.keys, LONGEST_LEASE)
        waiting = {name: self._heads.seen(name, *seen, now) for name, seen in zip(self._lists, heads, strict=True)}
        by_priority: dict[str, dict[str, Waiting]] = {}
        for kind, of in lines.items():
            plain = {"": waiting[kind.value], "normal": waiting[kind.value]}
            told = {name: plain.get(name, Waiting(0, 0.0)).with_lines(*seen, now) for name, seen in of.items()}
            waiting[kind.value] = told.pop("")
            by_priority[kind.value] = told
        left = {lease.worker: lease.left for lease in leases if lease.worker}
        return QueueView(now, waiting, left, dead, by_priority)


def _created_at(head: bytes) -> float | None:
    """Read when a job was made; of one that is cut, from what stands in front of its data."""
    try:
        return moment_of(orjson.loads(head).get("created_at"))
    except orjson.JSONDecodeError:
        found = _CREATED_AT.search(head.partition(b'"data"')[0])
        return moment_of(float(found.group(1))) if found else None
    except AttributeError:
        return None

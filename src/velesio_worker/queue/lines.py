"""Who waits in the lines of a queue and what runs, for an operator to look at, to move, or to drop."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

from redis.asyncio import Redis

from velesio_worker.queue.clients import Command, ask, count_of
from velesio_worker.queue.control import FLAG_SECONDS, request_cancel
from velesio_worker.queue.keys import LINED, Keys, cancel_key
from velesio_worker.queue.scripts import Scripts
from velesio_worker.wire.errors import VelesioError
from velesio_worker.wire.jobs import PRIORITIES, Kind
from velesio_worker.wire.payload import job_id_in

MOST_TENANTS: Final = 100_000
"""So many tenants of a priority are looked at."""

_PORTION: Final = 500
"""How much is asked for, or moved, at a time: Redis does nothing else meanwhile."""

_PAGE: Final = 64
_PAGE_BYTES: Final = 16 * 1024 * 1024
_RUNNING_PARTS: Final = 4
_MANAGED: Final = {Kind.TEXT: Kind.MANAGE, Kind.IMAGE: Kind.MANAGE_IMAGE}


class LineError(VelesioError):
    """A line cannot be moved: somebody else uses its name."""


class Line(NamedTuple):
    """What waits, or runs, of one tenant.

    Attributes:
        tenant: whose it is; empty: jobs without a tenant.
        jobs: how many.
        oldest: for how long the first of them has waited, or has run, in seconds; None where that is not known, as it
            is not of what waits with neither priority nor tenant.
    """

    kind: Kind
    priority: str
    tenant: str
    jobs: int
    oldest: float | None


class LinesView(NamedTuple):
    """A queue's lines at one moment.

    Attributes:
        incoming: how many jobs nobody has sorted yet.
        waiting: what waits, by kind, priority and tenant: the longest lines first within a priority.
        running: what runs, likewise.
    """

    incoming: int
    waiting: tuple[Line, ...]
    running: tuple[Line, ...]


class Lines:
    """The lines in which jobs of text and images wait.

    Args:
        redis: a client; patient, since jobs are large.
    """

    def __init__(self, redis: Redis, keys: Keys) -> None:
        self._redis: Any = redis
        self._scripts = Scripts(redis)
        self._keys = keys

    async def look(self) -> LinesView:
        """Return who waits, and what runs; what is damaged, or somebody else's, is passed over."""
        now = time.time()
        (incoming,) = await ask(self._redis, [("LLEN", self._keys.incoming)])
        waiting: list[Line] = []
        running: list[Line] = []
        for kind in LINED:
            for priority in PRIORITIES:
                waiting += await self._waiting(kind, priority, now)
            running += await self._running(kind, now)
        return LinesView(count_of(incoming), tuple(waiting), tuple(running))

    async def move(self, tenant: str, priority: str, other: str, kind: Kind) -> int:
        """Move what waits of a tenant's now to the end of its line of another priority; returns how many jobs.

        Raises:
            LineError: what one of the lines is called is no list.
        """
        left, total = await self.count(tenant, priority, kind), 0
        while left > total:
            moved = await self._scripts.move(self._keys, kind, tenant, priority, other, min(_PORTION, left - total))
            if moved < 0:
                raise LineError(f"somebody else uses the name of a line of {tenant!r}: {total} were moved")
            if not moved:
                break
            total += moved
        return total

    async def drop(self, tenant: str, priority: str, kind: Kind) -> int:
        """Cancel what waits of a tenant's now; returns how many jobs.

        Each is flagged, then moved to where it is taken at once and without an engine, to end as cancelled. One that a
        worker takes meanwhile is stopped.
        """
        key, destination = self._keys.line(kind, priority, tenant), self._keys.ready(_MANAGED[kind])
        left, total, page = await self.count(tenant, priority, kind), 0, 1
        while left > total:
            jobs: list[bytes] = (await self._redis.lrange(key, -min(page, left - total), -1))[::-1]
            if not jobs:
                break
            page = max(1, min(_PAGE, _PAGE_BYTES // (max(map(len, jobs)) + 1)))
            ids = [job_id_in(job) for job in jobs]
            for job_id in filter(None, ids):
                await self._redis.set(cancel_key(job_id), 1, ex=FLAG_SECONDS)
            moved = await self._scripts.drop(self._keys, kind, tenant, priority, jobs, destination)
            for place, job_id in enumerate(ids):
                if job_id is not None and place not in moved:
                    await request_cancel(self._redis, self._keys, job_id)
            total += len(jobs)
        return total

    async def count(self, tenant: str, priority: str, kind: Kind) -> int:
        """Count what waits of a tenant's."""
        (jobs,) = await ask(self._redis, [("LLEN", self._keys.line(kind, priority, tenant))])
        return count_of(jobs)

    async def _waiting(self, kind: Kind, priority: str, now: float) -> list[Line]:
        who = f"{self._keys.share(kind)}:{priority}"
        names: list[str] = []
        for start in range(0, MOST_TENANTS, _PORTION):
            (found,) = await ask(self._redis, [("ZRANGE", who, start, start + _PORTION - 1)])
            page = cast("list[bytes]", found or [])
            names += [name.decode(errors="replace") for name in page]
            if len(page) < _PORTION:
                break
        if priority == "normal":  # of the jobs with neither it is seen only when one is taken
            names = ["", *(name for name in names if name)]
        lines: list[Line] = []
        for start in range(0, len(names), _PORTION):
            lines += await self._lines(kind, priority, names[start : start + _PORTION], now)
        return sorted(lines, key=lambda line: -line.jobs)

    async def _lines(self, kind: Kind, priority: str, names: Sequence[str], now: float) -> list[Line]:
        keys = [self._keys.line(kind, priority, name) for name in names]
        commands: list[Command] = []
        for key in keys:  # beside jobs with neither there are no tags
            tag = ("LLEN", key) if key == self._keys.ready(kind) else ("LINDEX", f"{key}:tags", -1)
            commands += [("LLEN", key), tag]
        replies = await ask(self._redis, commands)
        tags = [tag if isinstance(tag, bytes) else b"" for tag in replies[1::2]]
        since = await ask(self._redis, [("ZSCORE", self._keys.lines(kind), tag) for tag in tags])
        return [
            Line(kind, priority, name, count_of(jobs), _age(first, now))
            for name, jobs, first in zip(names, replies[::2], since, strict=True)
            if count_of(jobs)
        ]

    async def _running(self, kind: Kind, now: float) -> list[Line]:
        jobs: Counter[tuple[str, str]] = Counter()
        oldest: dict[tuple[str, str], float] = {}
        cursor: Any = 0
        while True:
            (found,) = await ask(self._redis, [("HSCAN", self._keys.running(kind), cursor, "COUNT", _PORTION)])
            cursor, pairs = cast("tuple[Any, dict[bytes, bytes]]", found or (0, {}))
            for value in pairs.values():
                parts = value.decode(errors="replace").split(" ", _RUNNING_PARTS - 1)
                if len(parts) == _RUNNING_PARTS and parts[2] in PRIORITIES:
                    line = parts[2], parts[3]
                    jobs[line] += 1
                    oldest[line] = max(oldest.get(line, 0.0), _age(parts[0].encode(), now) or 0.0)
            if not int(cursor):
                break
        places = {priority: place for place, priority in enumerate(PRIORITIES)}
        ordered = sorted(jobs.items(), key=lambda one: (places[one[0][0]], -one[1], one[0][1]))
        return [Line(kind, *line, count, oldest[line]) for line, count in ordered]


def _age(since: bytes | float | None, now: float) -> float | None:
    try:
        age = now - float(since) if since is not None else math.nan
    except ValueError:
        return None
    return max(0.0, age) if math.isfinite(age) else None

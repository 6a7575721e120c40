"""All of a worker that speaks to Redis, composed: what it needs no engine for."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

import anyio
from redis.asyncio import Redis

from velesio_worker.core.bell import Bell
from velesio_worker.core.job_types import types_named
from velesio_worker.core.settings import Settings
from velesio_worker.execution.admission import Admission
from velesio_worker.execution.closing import Closer
from velesio_worker.queue.claims import Claims
from velesio_worker.queue.connection import PAYLOAD_SECONDS, connect
from velesio_worker.queue.fleet import Fleet
from velesio_worker.queue.keys import Keys, Slot
from velesio_worker.queue.lease import Facts, Lease
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import Outage
from velesio_worker.queue.reaper import Reaper
from velesio_worker.queue.slots import Slots
from velesio_worker.stream import FLUSH_SECONDS, Publisher


class Clients(NamedTuple):
    """A worker's connections, by what is waited for on them.

    Attributes:
        commands: short commands.
        blocking: moves and reads that wait, and payloads.
        publishing: entries of streams.
    """

    commands: Redis
    blocking: Redis
    publishing: Redis

    @classmethod
    def connected(cls, url: str, worker: str) -> Self:
        """Return clients that carry the worker's id as their name; they connect when they are first used."""
        return cls(
            commands=connect(url, name=worker),
            blocking=connect(url, name=worker, socket_timeout=PAYLOAD_SECONDS),
            publishing=connect(url, name=worker, socket_timeout=FLUSH_SECONDS),
        )


class RedisSide:
    """Composes it. An async context manager that closes the connections.

    ``facts`` says what the worker is and does, for its hash; ``changed`` is rung when that has changed.
    """

    def __init__(self, clients: Clients, settings: Settings, worker: str, *, facts: Facts, changed: Bell) -> None:
        keys, outage = Keys(settings.queue_name), Outage(settings.redis_url)
        longest_life = settings.stream_ttl + 2 * math.ceil(settings.worker_timeout)
        job_ttl = max(longest_life, settings.result_ttl)  # so that the hash tells of a cancel that came too late
        self.worker = worker
        self.clients = clients
        self.link = Link(clients.commands, keys, outage, job_ttl=job_ttl)
        self.lease = Lease(self.link, worker, seconds=settings.lease_seconds, facts=facts, changed=changed)
        self.slots = Slots(clients.blocking, self.link, self.lease, largest=settings.max_job_bytes)
        self.claims = Claims(self.link, self.slots, result_ttl=settings.result_ttl, stream_ttl=settings.stream_ttl)
        publishing = Link(clients.publishing, keys, outage)
        self.publisher = Publisher(publishing, ttl=settings.stream_ttl, longest=settings.worker_timeout)
        self.closer = Closer(self.claims, self.slots, self.publisher, largest=settings.max_result_bytes)
        self.admission = Admission(
            self.link,
            self.closer,
            max_bytes=settings.max_job_bytes,
            stream_ttl=settings.stream_ttl,
            types=types_named(settings.job_types),
        )
        self.reaper = Reaper(self.link, worker, lease_seconds=settings.lease_seconds)
        self.fleet = Fleet(self.link, worker)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            for client in self.clients:
                await client.aclose()

    def slot(self, name: str, *, home: str) -> Slot:
        """Return one of the worker's slots; what is handed back from it goes to ``home``."""
        return self.link.keys.slot(self.worker, name, home=home)

    async def leave(self) -> int:
        """Leave the list of workers that live, with nothing left behind; returns how many jobs were put back."""
        await self.claims.give_up(self.lease.slots)
        return await self.lease.end()

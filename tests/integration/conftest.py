from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from velesio_worker.admission import Admission
from velesio_worker.closing import Closer
from velesio_worker.jobs import Kind
from velesio_worker.queue.claims import Claims
from velesio_worker.queue.connection import Outage, connect
from velesio_worker.queue.keys import Keys, Slot
from velesio_worker.queue.lease import Lease
from velesio_worker.queue.scripts import Scripts
from velesio_worker.queue.slots import Slots
from velesio_worker.stream import Publisher

MAX_BYTES = 10_000


@dataclass
class Side:
    """The Redis side of one worker, without engines."""

    name: str
    keys: Keys
    scripts: Scripts
    lease: Lease
    slots: Slots
    claims: Claims
    publisher: Publisher
    closer: Closer
    admission: Admission
    outage: Outage

    def slot(self, name: str = "text-0") -> Slot:
        return self.keys.slot(self.name, name, home=self.keys.ready(Kind.TEXT))


def make_side(url: str, name: str, commands: Any, blocking: Any, publishing: Any) -> Side:
    outage = Outage(url)
    keys = Keys("llama_queue")
    lease = Lease(commands, keys, name, seconds=60, facts=lambda: {"state": "test"}, outage=outage)
    slots = Slots(blocking, commands, keys, lease, outage)
    claims = Claims(commands, slots, outage, result_ttl=100)
    publisher = Publisher(publishing, outage, ttl=200)
    closer = Closer(claims, slots, publisher)
    admission = Admission(commands, claims, slots, closer, publisher, outage, max_bytes=MAX_BYTES, stream_ttl=200)
    return Side(name, keys, Scripts(commands), lease, slots, claims, publisher, closer, admission, outage)


@pytest.fixture
async def side(redis_url: str) -> AsyncIterator[Side]:
    """The Redis side of a worker ``w1`` whose publisher runs and whose lease is fresh."""
    clients = [connect(redis_url, name="w1") for _ in range(3)]
    side = make_side(redis_url, "w1", *clients)
    await side.lease.beat()
    async with anyio.create_task_group() as group:
        group.start_soon(side.publisher.run)
        yield side
        group.cancel_scope.cancel()
    for client in clients:
        await client.aclose()

"""The Redis side of one worker, without engines."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from velesio_worker.core.bell import Bell
from velesio_worker.core.settings import Settings
from velesio_worker.execution.redis_side import Clients, RedisSide
from velesio_worker.queue.keys import Keys, Slot
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import Outage
from velesio_worker.queue.scripts import Scripts
from velesio_worker.wire.jobs import Job

MAX_BYTES = 10_000


class Side(RedisSide):
    """The Redis side of one worker, and what tests look at of it."""

    @property
    def keys(self) -> Keys:
        return self.link.keys

    @property
    def scripts(self) -> Scripts:
        return self.link.scripts

    @property
    def outage(self) -> Outage:
        return self.link.outage

    def linked(self, redis: Any) -> Link:
        """The same link over another client."""
        return Link(redis, self.keys, self.outage)

    def slot(self, name: str = "text-0", *, home: str = "{llama_queue}:text") -> Slot:
        return super().slot(name, home=home)

    async def got(self, slot: Slot, job: Job, size: int) -> None:
        """Take note whose a job of ``size`` bytes in a slot is, as its claim does."""
        noting = self.slots.got(slot, job, size)
        if noting is not None:
            kind, share = noting
            await self.link.done(partial(self.scripts.got, self.keys, kind, slot, share))


def make_side(url: str, worker: str, *clients: Any, facts: Mapping[str, str | int] | None = None) -> Side:
    """Make the Redis side of a worker on the given clients, or on new ones; ``facts`` is what it says of itself."""
    settings = Settings.model_validate(
        {"redis_url": url, "result_ttl": 100, "stream_ttl": 200, "max_job_bytes": MAX_BYTES, "lease_seconds": 60}
    )
    connections = Clients(*clients) if clients else Clients.connected(url, worker)
    return Side(connections, settings, worker, facts=lambda: facts or {"state": "test"}, changed=Bell())


async def take_over(side: Side, commands: Any, payload: bytes, job_id: str = "a") -> None:
    """Have a living worker ``w2`` hold the job, and own its next attempt."""
    other = side.keys.slot("w2", "text-0")
    await side.scripts.beat(side.keys, "w2", 60, {"state": "test"})
    await commands.lpush(other.key, payload)
    mine = await commands.hget(f"{{result:{job_id}}}:job", "nonce")
    await side.scripts.claim(job_id, other, "nonce", 9, mine.decode())

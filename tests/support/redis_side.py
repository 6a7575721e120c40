"""The Redis side of one worker, without engines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from velesio_worker.execution.admission import Admission
from velesio_worker.execution.closing import Closer
from velesio_worker.queue.claims import Claims
from velesio_worker.queue.keys import Keys, Slot
from velesio_worker.queue.lease import Lease
from velesio_worker.queue.outage import Outage
from velesio_worker.queue.scripts import Scripts
from velesio_worker.queue.slots import Slots
from velesio_worker.stream import Publisher
from velesio_worker.wire.jobs import Kind

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

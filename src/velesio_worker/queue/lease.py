"""A worker's lease: the heartbeat that says that it lives, and what it holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import anyio

from velesio_worker.core.bell import Bell
from velesio_worker.queue.keys import Slot
from velesio_worker.queue.link import Link

LONGEST_LEASE: Final = 3600
"""No lease is longer, in seconds (``scripts/guard.lua`` says so, too): one that is was written by no worker."""

BEATS_PER_LEASE: Final = 12
"""A third would do for the lease; each further beat shortens what a killed worker costs the readers of its jobs."""

SLACK_SECONDS: Final = 0.25
"""How much later than due a beat may come before it counts as missed."""

Facts = Callable[[], Mapping[str, str | int]]


def overdue(lease_seconds: float) -> float:
    """How many seconds after a beat the next one counts as missed."""
    return lease_seconds / BEATS_PER_LEASE + SLACK_SECONDS


class Lease:
    """Keeps a worker in the list of those that live, with the slots in which whoever reaps it looks for jobs.

    Args:
        seconds: how long it counts as alive after a beat.
        facts: says what the worker is and does, for its hash.
        changed: rung when that has changed: the hash then says so at once.
    """

    def __init__(self, link: Link, worker: str, *, seconds: int, facts: Facts, changed: Bell) -> None:
        self._link = link
        self._worker = worker
        self._seconds = seconds
        self._facts = facts
        self._changed = changed
        self._slots: dict[str, Slot] = {}
        self._beating = anyio.Lock()
        self._told: set[str] = set()
        self._told_at = -math.inf
        self._ends = ""

    @property
    def slots(self) -> list[Slot]:
        """The slots that the worker uses."""
        return list(self._slots.values())

    @property
    def keys(self) -> Mapping[str, str]:
        """The keys that a beat writes to, and their types."""
        keys = self._link.keys
        return {keys.workers: "zset", keys.slots(self._worker): "hash"}

    async def beat(self) -> None:
        """Renew the lease once."""
        await self._link.on_keys(self.keys, self._beat)

    async def _beat(self, unless: Callable[[], bool] = lambda: False) -> None:
        async with self._beating:
            if unless():
                return
            slots, began = self.slots, time.monotonic()
            self._ends = await self._link.scripts.beat(
                self._link.keys, self._worker, self._seconds, self._facts(), slots
            )
            self._told, self._told_at = {slot.key for slot in slots}, began

    def know(self, slot: Slot) -> None:
        """Have the next beat name a slot that is to be used."""
        self._slots.setdefault(slot.key, slot)

    async def cover(self, slot: Slot) -> None:
        """See to it, before a job is moved into a slot, that whoever reaps this worker looks there.

        Redis knows the slot from the last beat; but if that is overdue, the worker may have been reaped meanwhile.

        Raises:
            redis.exceptions.RedisError: Redis could not be told.
        """
        self.know(slot)
        if not self._covers(slot):
            await self._beat(unless=lambda: self._covers(slot))  # the beat that was waited for may have named it, too

    def _covers(self, slot: Slot) -> bool:
        return slot.key in self._told and time.monotonic() - self._told_at < overdue(self._seconds)

    async def keep(self) -> None:
        """Renew the lease for ever, and at once whenever the facts have changed."""
        while True:
            changed = self._changed.listen()
            await self.beat()
            with anyio.move_on_after(self._seconds / BEATS_PER_LEASE):
                await changed.wait()

    async def end(self) -> int:
        """Leave the list of those that live, and put back what is left of the worker's jobs; returns how many.

        It is one step, that of whoever reaps a lost worker: should this one be lost before it, another takes it.
        """
        await self.beat()  # so that all slots are known, also if it was taken for lost
        reap = partial(self._link.scripts.reap, self._link.keys, self._worker, self._ends, gone=True, lost=False)
        return max(0, await self._link.done(reap))

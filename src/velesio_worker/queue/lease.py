"""A worker's lease: the heartbeat that says that it lives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import anyio
from redis.asyncio import Redis

from velesio_worker.queue.connection import Outage, until_done
from velesio_worker.queue.keys import Keys, Slot
from velesio_worker.queue.scripts import Scripts

BEATS_PER_LEASE: Final = 12
"""A third would do for the lease; each further beat shortens what a killed worker costs the readers of its jobs."""

Facts = Callable[[], Mapping[str, str | int]]


class Lease:
    """Keeps a worker in the list of those that live.

    Args:
        commands: the client for commands.
        keys: the queue's keys.
        worker: the worker's id.
        seconds: how long it counts as alive after a beat.
        facts: says what the worker is and does, for its hash.
        slots: the worker's slots, which grow as it gets ready; whoever reaps it looks there.
        outage: whom to tell when Redis does not answer.
    """

    def __init__(
        self,
        commands: Redis,
        keys: Keys,
        worker: str,
        *,
        seconds: int,
        facts: Facts,
        slots: Sequence[Slot],
        outage: Outage,
    ) -> None:
        self._commands: Any = commands
        self._scripts = Scripts(commands)
        self._keys = keys
        self._worker = worker
        self._seconds = seconds
        self._facts = facts
        self._slots = slots
        self._outage = outage
        self._nudged = anyio.Event()

    async def beat(self) -> None:
        """Renew the lease once."""
        await until_done(
            self._outage,
            lambda: self._scripts.beat(self._keys, self._worker, self._seconds, self._facts(), self._slots),
        )

    async def keep(self) -> None:
        """Renew the lease for ever, and at once whenever :meth:`nudge` says that the facts have changed."""
        while True:
            self._nudged = anyio.Event()
            await self.beat()
            with anyio.move_on_after(self._seconds / BEATS_PER_LEASE):
                await self._nudged.wait()

    def nudge(self) -> None:
        """Have the worker's hash say now what has changed."""
        self._nudged.set()

    async def end(self) -> None:
        """Leave the list of those that live."""
        await until_done(self._outage, lambda: self._commands.zrem(self._keys.workers, self._worker))
        await until_done(self._outage, lambda: self._commands.delete(self._keys.worker(self._worker)))
        await until_done(self._outage, lambda: self._commands.delete(self._keys.slots(self._worker)))

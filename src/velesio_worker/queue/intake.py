"""Intake: from the list that producers push to, to the list of the job's kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from velesio_worker.errors import NoWorkerError, UnusablePayloadError
from velesio_worker.jobs import Job, RefusedJobError, parse_job
from velesio_worker.queue.connection import Outage, until_done
from velesio_worker.queue.keys import Keys, Slot
from velesio_worker.queue.scripts import Scripts
from velesio_worker.queue.slots import Slots

Refuse = Callable[[RefusedJobError, Slot, bytes], Awaitable[None]]


class Intake:
    """Sorts what producers push. Wrong jobs end here; whatever happens, none is lost.

    Args:
        slots: this worker's slots.
        scripts: the queue's scripts.
        keys: the queue's keys.
        slot: the intake's own slot.
        max_bytes: the largest job that is accepted, in bytes.
        refuse: answers a job that has an id but is otherwise wrong.
        outage: whom to tell when Redis does not answer.
    """

    def __init__(
        self,
        slots: Slots,
        scripts: Scripts,
        keys: Keys,
        slot: Slot,
        *,
        max_bytes: int,
        refuse: Refuse,
        outage: Outage,
    ) -> None:
        self._slots = slots
        self._scripts = scripts
        self._keys = keys
        self._slot = slot
        self._max_bytes = max_bytes
        self._refuse = refuse
        self._outage = outage

    async def run(self, stopping: anyio.Event) -> None:
        """Sort jobs until ``stopping`` is set."""
        while not stopping.is_set():
            payload = await self._slots.take(self._keys.incoming, self._slot)
            if payload is not None:
                await self._sort(payload)

    async def _sort(self, payload: bytes) -> None:
        try:
            job = parse_job(payload, max_bytes=self._max_bytes)
            destination = await self._destination(job)
        except UnusablePayloadError as error:
            await self._slots.bury(self._slot, payload, str(error))
        except RefusedJobError as refusal:
            await self._refuse(refusal, self._slot, payload)
        else:
            await self._slots.send(self._slot, destination)

    async def _destination(self, job: Job) -> str:
        name = job.worker
        if name is None:
            return self._keys.ready(job.type.kind)
        if not await until_done(self._outage, lambda: self._scripts.alive(self._keys, name)):
            raise RefusedJobError(job.id, NoWorkerError(f"The worker {name}, which the job names, is gone."))
        return self._keys.only(name)

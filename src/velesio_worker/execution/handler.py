"""What is done with a payload that lies in a slot: admitted, run, refused; buried if even that fails."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

import anyio

from velesio_worker.core.logs import fields_in_log, get_logger
from velesio_worker.execution.admission import Admission
from velesio_worker.execution.closing import Closer
from velesio_worker.execution.executor import Executor
from velesio_worker.execution.run import BatchMember, batch_of
from velesio_worker.observability.monitor import Monitor
from velesio_worker.queue.consumer import Group
from velesio_worker.queue.fleet import Fleet
from velesio_worker.queue.keys import Slot
from velesio_worker.wire.errors import StoppedError
from velesio_worker.wire.jobs import RefusedJobError
from velesio_worker.wire.payload import job_id_in

log = get_logger(__name__)


class JobHandler:
    """Handles payloads, one or several that go together; afterwards their slots are empty.

    What the last job was is kept by the fleet for all, and by the monitor for this worker.
    """

    def __init__(
        self, closer: Closer, admission: Admission, executor: Executor, fleet: Fleet, monitor: Monitor
    ) -> None:
        self._closer = closer
        self._admission = admission
        self._executor = executor
        self._fleet = fleet
        self._monitor = monitor

    async def process(self, slot: Slot, payload: bytes) -> None:
        """Run the job in a slot."""
        await self._guarded(slot, payload, self._run(slot, payload, None))

    async def process_group(self, group: Group) -> None:
        """Run jobs that may be run as one; each has its own end."""
        places = batch_of(len(group))
        async with anyio.create_task_group() as members:
            for (slot, payload), member in zip(group, places, strict=True):
                members.start_soon(self._guarded, slot, payload, self._run(slot, payload, member))

    async def refuse(self, refusal: RefusedJobError, slot: Slot, payload: bytes) -> None:
        """Answer a job that has an id but is otherwise wrong."""
        await self._guarded(slot, payload, self._admission.refuse(refusal, slot, payload))

    async def _run(self, slot: Slot, payload: bytes, member: BatchMember | None) -> None:
        try:
            claim = await self._admission.admit(slot, payload)
            if claim is not None:
                run = await self._executor.run(claim, member)
                if run.ended and run.job.kind is run.job.kind.engine:  # looking after models is no work
                    self._monitor.last_job = entry = run.entry(self._monitor.utilisation)
                    self._fleet.note_job(entry["timestamp"], entry)
        finally:
            if member is not None:
                member.give_up()

    async def _guarded(self, slot: Slot, payload: bytes, work: Coroutine[Any, Any, None]) -> None:
        """Do what is to be done with a payload; if that fails, it is answered and buried rather than end the worker."""
        try:
            await work
        except StoppedError:
            raise  # the job stays in its slot until the slots are handed back
        except Exception as error:
            job_id = job_id_in(payload)
            with fields_in_log(**{} if job_id is None else {"job_id": job_id}):
                log.exception("a job could not be handled", action="job_unhandled", slot=slot.name)
                await self._closer.answer(slot, payload, error)

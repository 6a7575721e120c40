"""Intake: from the list that producers push to, to the list of the job's kind."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final

import anyio

from velesio_worker.queue.keys import Keys, Slot
from velesio_worker.queue.slots import Slots
from velesio_worker.wire.errors import NoWorkerError, UnusablePayloadError, WorkerLostError
from velesio_worker.wire.jobs import ALL_TYPES, Job, JobType, Kind, RefusedJobError, parse_job, refuse_others
from velesio_worker.wire.limits import MOST_LOST_AT_INTAKE
from velesio_worker.wire.payload import id_at_ends

MOST_ARRIVALS: Final = 10_000
"""The arrivals of so many jobs are remembered."""

READ_BYTES: Final = 1024 * 1024
"""Jobs of so many bytes together are kept as they were read."""

ASIDE_BYTES: Final = 256 * 1024
"""Larger jobs are read in a thread."""

SUSPECTS_SECONDS: Final = 1
"""How often it is looked whether a job was put aside."""

Refuse = Callable[[RefusedJobError, Slot, bytes], Awaitable[None]]


async def read_job(payload: bytes, *, max_bytes: int) -> Job:
    """Read a job as :func:`velesio_worker.wire.jobs.parse_job` does; a large one beside the event loop."""
    read = partial(parse_job, payload, max_bytes=max_bytes)
    return read() if len(payload) <= ASIDE_BYTES else await anyio.to_thread.run_sync(read)


class JobsRead:
    """Keeps the jobs that were read at the intake, so that whoever claims one here need not read it again.

    Small ones, the latest of them; whoever takes one has it alone.
    """

    def __init__(self) -> None:
        self._jobs: dict[bytes, Job] = {}
        self._bytes = 0

    def keep(self, payload: bytes, job: Job) -> None:
        """Keep a job."""
        if len(payload) > READ_BYTES // 64:
            return
        self.take(payload)
        self._jobs[payload] = job
        self._bytes += len(payload)
        while self._bytes > READ_BYTES:
            self.take(next(iter(self._jobs)))

    def take(self, payload: bytes) -> Job | None:
        """Return a job that was read, and forget it; None if it is not known."""
        job = self._jobs.pop(payload, None)
        if job is not None:
            self._bytes -= len(payload)
        return job


class Arrivals:
    """Remembers when jobs came in, for those whose producers did not say when they were made.

    Only what this worker has sorted itself; a job that another one claims is forgotten after ``MOST_ARRIVALS`` more.

    Attributes:
        read: the jobs themselves, as they were read.
        expected: called with the kind of each job that came in or is about to be claimed: one may be run here soon.
    """

    def __init__(self) -> None:
        self.expected: Callable[[Kind], None] = lambda kind: None  # noqa: ARG005
        self.read = JobsRead()
        self._seen: dict[str, float] = {}

    def note(self, job: Job) -> None:
        """Take note that a job came in now."""
        self.expected(job.kind)
        if job.submitted_at is None:
            self._seen.pop(job.id, None)
            self._seen[job.id] = time.time()
            if len(self._seen) > MOST_ARRIVALS:
                del self._seen[next(iter(self._seen))]

    def waited(self, job: Job, until: float | None = None) -> float | None:
        """Return how long a job has waited, in seconds, and forget it; None if that is not known.

        It waited ``until`` a moment in Unix time, or until now.
        """
        since = self._seen.pop(job.id, None) if job.submitted_at is None else job.submitted_at
        return None if since is None else max(0.0, (until or time.time()) - since)


class Intake:
    """Sorts what producers push. Wrong jobs end here; whatever happens, none is lost.

    Args:
        slot: the intake's own slot.
        arrivals: is told what came in.
        max_bytes: the largest job that is accepted, in bytes.
        refuse: answers a job that has an id but is otherwise wrong.
        types: the types of job that are taken (``JOB_TYPES``).
    """

    def __init__(
        self,
        slots: Slots,
        keys: Keys,
        slot: Slot,
        arrivals: Arrivals,
        *,
        max_bytes: int,
        refuse: Refuse,
        types: AbstractSet[JobType] = ALL_TYPES,
    ) -> None:
        self._slots = slots
        self._keys = keys
        self._slot = slot
        self._arrivals = arrivals
        self._max_bytes = max_bytes
        self._refuse = refuse
        self._look_at = -math.inf
        self._types = types

    async def run(self, stopping: anyio.Event) -> None:
        """Sort jobs until ``stopping`` is set."""
        while not stopping.is_set():
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + SUSPECTS_SECONDS
                while suspect := await self._slots.take_now(self._keys.suspects, self._slot):
                    await self._put_aside(suspect)
            payload = await self._slots.take(self._keys.incoming, self._slot)
            if payload is not None:
                await self._sort(payload)

    async def _sort(self, payload: bytes) -> None:
        try:
            job = await read_job(payload, max_bytes=self._max_bytes)
            refuse_others(job, self._types)
            self._arrivals.note(job)
            self._arrivals.read.keep(payload, job)
            await self._send(job, len(payload))
        except UnusablePayloadError as error:
            await self._slots.bury(self._slot, payload, str(error))
        except RefusedJobError as refusal:
            await self._refuse(refusal, self._slot, payload)

    async def _put_aside(self, payload: bytes) -> None:
        """Answer what too many workers were lost with; nothing more is read of it than its id."""
        reason = f"The job was put aside: {MOST_LOST_AT_INTAKE} workers or more were lost while they held it."
        job_id = id_at_ends(payload)
        if job_id is None:
            await self._slots.bury(self._slot, payload, reason)
        else:
            await self._refuse(RefusedJobError(job_id, WorkerLostError(reason)), self._slot, payload)

    async def _send(self, job: Job, size: int) -> None:
        if job.worker is None:
            await self._slots.send_in_line(self._slot, job, size)
        elif not await self._slots.send_to_worker(self._slot, job.worker):
            raise RefusedJobError(
                job.id, NoWorkerError(f"The worker {job.worker}, which the job names, is gone."), job.type
            )

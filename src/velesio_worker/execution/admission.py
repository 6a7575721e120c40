"""From a payload in a slot to a job that is to be run; whatever need not run ends here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any

import orjson

from velesio_worker.core.logs import fields_in_log, get_logger
from velesio_worker.core.metrics import PRIORITY_WAIT, QUEUE_WAIT
from velesio_worker.execution.closing import Closer, cancelled_while_waiting
from velesio_worker.execution.published import NOTHING, Published, complete_stream, read_published
from velesio_worker.job_stream import JobStream
from velesio_worker.queue.claims import Beginning, Claim, Held
from velesio_worker.queue.intake import Arrivals, read_job
from velesio_worker.queue.keys import LINED, Slot, result_key, stream_key
from velesio_worker.queue.link import Link
from velesio_worker.queue.scripts import ClaimReply, ClaimStatus
from velesio_worker.stream import last_entry
from velesio_worker.wire.errors import (
    ExpiredError,
    FencedError,
    InternalError,
    StreamLostError,
    UnusablePayloadError,
    WorkerLostError,
)
from velesio_worker.wire.events import FOREIGN_RESULT, START, split_id, start_entry
from velesio_worker.wire.jobs import ALL_TYPES, DEFAULT_MAX_ATTEMPTS, Job, JobType, RefusedJobError, refuse_others

log = get_logger(__name__)


class Admission:
    """Claims what lies in a slot, or ends it: wrong, finished, cancelled, expired, lost too often.

    Args:
        link: the line to Redis.
        closer: ends attempts; what it does that with claims them.
        max_bytes: the largest job that is accepted, in bytes.
        stream_ttl: how long a stream is kept, in seconds.
        types: the types of job that are taken (``JOB_TYPES``).

    Attributes:
        arrivals: since when jobs wait, and whom to tell that one comes; whoever sees them come in tells it.
        announced: returns the ``start`` entry's data of a job's first attempt, if whoever runs jobs knows it before.
    """

    def __init__(
        self, link: Link, closer: Closer, *, max_bytes: int, stream_ttl: int, types: AbstractSet[JobType] = ALL_TYPES
    ) -> None:
        self._link = link
        self._closer = closer
        self._claims = closer.claims
        self._slots = closer.slots
        self.arrivals = Arrivals()
        self.announced: Callable[[Job, str], dict[str, Any] | None] = lambda job, worker: None  # noqa: ARG005
        self._max_bytes = max_bytes
        self._stream_ttl = stream_ttl
        self._types = types

    async def admit(self, slot: Slot, payload: bytes) -> Claim | None:
        """Claim the job in the slot; None if it ended here, and then the slot is empty."""
        try:
            job = self.arrivals.read.take(payload) or await read_job(payload, max_bytes=self._max_bytes)
            refuse_others(job, self._types)
        except UnusablePayloadError as error:
            await self._slots.bury(slot, payload, str(error))
            return None
        except RefusedJobError as refusal:
            await self.refuse(refusal, slot, payload)
            return None
        with fields_in_log(job_id=job.id, engine=job.kind.engine.value):
            self.arrivals.expected(job.kind)
            began, beginning, noting = time.time(), self._beginning(job, slot), self._slots.got(slot, job, len(payload))
            claim = self._claims.claim(job.id, slot, job.attempts_allowed, beginning=beginning, noting=noting)
            reply = await claim
            begun = beginning if reply.begun else None
            held = Held(job.id, slot, payload, reply.attempt, job.type)
            with fields_in_log(attempt=reply.attempt):
                await self._begin(job.id, reply)
                if await self._settled(job, held, reply, begun):
                    return None
        waited = self.arrivals.waited(job, began if begun else None) if reply.first else None
        if waited is not None:
            QUEUE_WAIT.labels(job.type).observe(waited)
            if job.kind in LINED:
                PRIORITY_WAIT.labels(job.kind, job.priority).observe(waited)
        last = reply.counted >= job.attempts_allowed
        return Claim(job, held, first=reply.first, last=last, waited=waited, suspect=reply.suspect, begun=begun)

    def _beginning(self, job: Job, slot: Slot) -> Beginning | None:
        """What a first attempt begins with as soon as it is claimed; None if that is to be seen then."""
        if job.expires_at is not None and job.expires_at <= time.time():
            return None
        entry = self.announced(job, slot.worker)
        if entry is None:
            return None
        return Beginning(entry["model"], orjson.dumps(entry), self._closer.publisher.running_life, time.monotonic())

    async def refuse(self, refusal: RefusedJobError, slot: Slot, payload: bytes) -> None:
        """Answer a job that has an id but is otherwise wrong."""
        with fields_in_log(job_id=refusal.job_id):
            reply = await self._claims.claim(refusal.job_id, slot, DEFAULT_MAX_ATTEMPTS, refused=True)
            held = Held(refusal.job_id, slot, payload, reply.attempt, refusal.type, refused=True)
            with fields_in_log(attempt=reply.attempt):
                await self._begin(refusal.job_id, reply)
                await self._end_refused(refusal, held, reply.status)

    async def _end_refused(self, refusal: RefusedJobError, held: Held, status: ClaimStatus) -> None:
        match status:
            case ClaimStatus.HELD:
                reason = f"its id {refusal.job_id} is that of a job that runs, and it is wrong: {refusal.error.public}"
                await self._slots.bury(held.slot, held.payload, reason)
            case ClaimStatus.FINISHED:
                await self._finished(held)
            case _:
                log.warning(refusal.error.public, action="job_refused", code=refusal.error.code)
                aside = len(held.payload) > self._max_bytes or isinstance(refusal.error, WorkerLostError)
                bury = str(refusal) if aside else ""
                await self._closer.failed(held, refusal.error, bury=bury)

    async def _settled(self, job: Job, held: Held, reply: ClaimReply, begun: Beginning | None) -> bool:
        """End a job that need not run; False if it must."""
        match reply.status:
            case ClaimStatus.FINISHED:
                await self._finished(held)
            case ClaimStatus.HELD:
                log.info("the job runs already", action="job_duplicate")
                await self._slots.ack(held.slot, held.payload)
            case ClaimStatus.CLAIMED if begun or job.expires_at is None or job.expires_at > time.time():
                return False  # what expires once its stream has begun does so in front of its engine
            case _:
                await self._end_unrun(job, held, reply, begun)
        return True

    async def _end_unrun(self, job: Job, held: Held, reply: ClaimReply, begun: Beginning | None) -> None:
        """End a job that this attempt need not run; what earlier attempts published counts."""
        self._slots.used(held.slot, 0)
        if reply.first:
            stream, before = self._closer.publisher.open(job.id, held.attempt, begun), NOTHING
        else:
            stream, before = await self._shut_out(job, held)
        match reply.status:
            case ClaimStatus.CANCELLED:
                log.info("cancelled while it waited", action="job_cancelled")
                await self._closer.done(held, cancelled_while_waiting(job.type, before.text), stream)
            case ClaimStatus.EXHAUSTED:
                allowed = job.attempts_allowed
                lost = "1 attempt was" if allowed == 1 else f"{allowed} attempts were"
                reading = ", once at least while the engine read this job's request" if reply.suspect else ""
                reason = f"{lost} lost: each time the worker or its engine died{reading}"
                error = WorkerLostError(f"The job was given up: {reason}.")
                log.warning(f"job failed: {error}", action="job_failed", code=error.code, type=job.type.value)
                bury = "" if job.on_crash == "fail" else reason
                await self._closer.failed(held, error, stream, partial=before.has_output, bury=bury)
            case _:
                late = time.time() - (job.expires_at or 0)
                error = ExpiredError(f"The job's expires_at passed {late:.1f} s ago.")
                log.info("expired while it waited", action="job_expired", code=error.code)
                await self._closer.failed(held, error, stream, partial=before.has_output)

    async def _shut_out(self, job: Job, held: Held) -> tuple[JobStream, Published]:
        """Shut earlier attempts out of the stream, then read what they published."""
        stream = self._closer.publisher.open(job.id, held.attempt)
        start = start_entry(job.type, held.attempt, held.slot.worker, None, "continue")
        stream.put(START, orjson.dumps(start))
        with contextlib.suppress(FencedError, InternalError, StreamLostError):
            await stream.flushed()
        return stream, await self._link.asked(lambda: read_published(self._link.commands, job.id))

    async def _finished(self, held: Held) -> None:
        log.info("the job is over already", action="job_finished_before")
        sound = await self._link.done(
            lambda: complete_stream(self._link.commands, held.job_id, attempt=held.attempt, ttl=self._stream_ttl)
        )
        if sound:
            await self._slots.ack(held.slot, held.payload)
        else:
            await self._slots.bury(held.slot, held.payload, f"{result_key(held.job_id)}: {FOREIGN_RESULT}")

    async def _begin(self, job_id: str, reply: ClaimReply) -> None:
        """Delete what an earlier submission under the same id left; its end would be read as this one's."""
        if reply.base and reply.status not in {ClaimStatus.FINISHED, ClaimStatus.HELD}:
            await self._link.done(lambda: self._forget_stream(job_id, reply.base))

    async def _forget_stream(self, job_id: str, base: int) -> None:
        last = await last_entry(self._link.commands, stream_key(job_id))
        if last is not None and split_id(last.id)[0] <= base:
            await self._link.commands.delete(stream_key(job_id))

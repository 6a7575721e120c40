"""The end of a job: all its entries, then its result, then its terminal entry, then its slot is free."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson

from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import FENCED, HANDED_BACK, JOBS, UNKNOWN
from velesio_worker.queue.claims import Claims, Held
from velesio_worker.queue.slots import Slots
from velesio_worker.stream import JobStream, Publisher
from velesio_worker.wire.errors import AbandonedError, FencedError, InternalError, JobError, StreamLostError
from velesio_worker.wire.events import DONE, ERROR, Done
from velesio_worker.wire.jobs import WRITING, JobType

log = get_logger(__name__)


class Closer:
    """Ends attempts. Each step is in Redis before the next begins, so a crash between two loses nothing."""

    def __init__(self, claims: Claims, slots: Slots, publisher: Publisher) -> None:
        self.claims = claims
        self.slots = slots
        self.publisher = publisher

    async def done(self, held: Held, done: Done, stream: JobStream | None = None) -> bool:
        """End an attempt with a result; False if another attempt owns the job, or has to end it."""
        owned = await self._close(held, done.result, DONE, done.entry(), stream)
        if owned:
            outcome = "cancelled" if done.finish_reason == "cancelled" else "done"
            JOBS.labels(held.type or UNKNOWN, outcome).inc()
        return owned

    async def failed(
        self, held: Held, error: JobError, stream: JobStream | None = None, *, partial: bool = False, bury: str = ""
    ) -> bool:
        """End an attempt with an error; False if another attempt owns the job, or has to end it.

        Args:
            held: the attempt.
            error: what went wrong.
            stream: the attempt's stream, if it was opened.
            partial: whether tokens were published before.
            bury: if given, the job goes to the dead letters, with this as the reason.
        """
        owned = await self._close(held, error.result(), ERROR, error.entry(partial=partial), stream, bury=bury)
        if owned:
            JOBS.labels(held.type or UNKNOWN, error.code).inc()
        return owned

    async def hand_back(self, held: Held, *, in_good_order: bool) -> None:
        """Put a job back; see :meth:`velesio_worker.queue.claims.Claims.hand_back`."""
        await self.claims.hand_back(held, in_good_order=in_good_order)
        HANDED_BACK.labels(held.type or UNKNOWN).inc()

    async def drop(self, held: Held) -> None:
        """Forget an attempt that another one has taken the place of."""
        await self.slots.ack(held.slot, held.payload)

    async def _close(
        self,
        held: Held,
        result: dict[str, Any],
        event: str,
        data: dict[str, Any],
        stream: JobStream | None,
        *,
        bury: str = "",
    ) -> bool:
        stream = stream or self.publisher.open(held.job_id, held.attempt)
        try:
            owned = await self._publish(held, stream, result, event, data)
        except StreamLostError:
            await self.hand_back(held, in_good_order=True)
            return False
        except FencedError:
            owned = False
        if not owned:
            log.warning("another attempt owns the job", action="job_fenced")
            FENCED.inc()
        if bury and owned:
            await self.slots.bury(held.slot, held.payload, bury)
        else:
            await self.drop(held)
        return owned

    async def _publish(
        self, held: Held, stream: JobStream, result: dict[str, Any], event: str, data: dict[str, Any]
    ) -> bool:
        with contextlib.suppress(AbandonedError, InternalError):  # whatever becomes of the stream, the result is owed
            await stream.flushed()
        if not await self.claims.finish(held, orjson.dumps(result)):
            return False
        stream.put(event, orjson.dumps(data))
        try:
            await stream.flushed()
        except (AbandonedError, InternalError, StreamLostError) as error:
            log.warning(f"no terminal entry: {error}", action="stream_lost")
        return True


def cancelled_while_waiting(job_type: JobType, text: str) -> Done:
    """The end of a job that was cancelled while it waited; ``text`` is what an earlier attempt published."""
    if job_type in {JobType.TXT2IMG, JobType.IMG2IMG}:
        return Done({"images": [], "parameters": {}, "info": {}, "finish_reason": "cancelled"}, "cancelled")
    if job_type not in WRITING:
        return Done({"finish_reason": "cancelled"}, "cancelled")
    result: dict[str, Any] = {"text": text, "finish_reason": "cancelled", "usage": None, "timings": None}
    if job_type is JobType.CHAT_COMPLETION:
        result["message"] = {"role": "assistant", "content": text}
    return Done(result, "cancelled")

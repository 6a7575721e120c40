"""The end of a job: all its entries, then its result, then its last entry, then its slot is free; or all at once."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, Final

import orjson
from redis.exceptions import ResponseError

from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import FENCED, HANDED_BACK, JOBS, UNKNOWN, figure
from velesio_worker.job_stream import JobStream
from velesio_worker.queue.claims import Claims, Held, Standing
from velesio_worker.queue.keys import Slot, job_key
from velesio_worker.queue.remedies import words
from velesio_worker.queue.slots import Slots
from velesio_worker.stream import Publisher
from velesio_worker.wire.errors import (
    AbandonedError,
    BadJobError,
    EngineRefusedError,
    FencedError,
    InternalError,
    JobError,
    ResultTooLargeError,
    StreamLostError,
    VelesioError,
)
from velesio_worker.wire.events import DONE, ERROR, Done, written
from velesio_worker.wire.jobs import WRITING, JobType
from velesio_worker.wire.payload import job_id_in
from velesio_worker.wire.share import used

_TOO_LARGE: Final = "maximum allowed size"
"""What Redis says of a string that is longer than its proto-max-bulk-len."""

log = get_logger(__name__)


class Closer:
    """Ends attempts: in one step, where one server has all keys, and nothing is the matter with any of them.

    Else each step is in Redis before the next begins, so a crash between two loses nothing.

    Args:
        claims: stores results.
        slots: this worker's slots.
        publisher: writes terminal entries.
        largest: the largest result, in bytes (``MAX_RESULT_BYTES``).
    """

    def __init__(self, claims: Claims, slots: Slots, publisher: Publisher, *, largest: int) -> None:
        self.claims = claims
        self.slots = slots
        self.publisher = publisher
        self._largest = largest

    async def done(self, held: Held, done: Done, stream: JobStream | None = None) -> bool:
        """End an attempt with a result; False if another attempt owns the job, or has to end it.

        A result that is too large, or that Redis does not take, ends it with an error.
        """
        stream = stream or self.publisher.open(held.job_id, held.attempt)
        partial = bool(done.result.get("text"))
        self.slots.used(held.slot, used(done.result.get("usage")))
        if done.timings and not done.result.get("cached"):
            read, known = figure(done.timings, "prompt_n"), figure(done.timings, "cache_n")
            self.slots.warmth.read(held.slot, read, known, done.timings.get("prompt_ms"))
        last = DONE, orjson.dumps(done.entry())
        try:
            result = self._result_of(done)
            owned = await self._close_at_once(held, result, last, stream)
            if not owned:
                if trouble := await self._trouble_with(stream):
                    done.result["warnings"] = [*done.result.get("warnings", ()), trouble]
                    result, last = self._result_of(done), (DONE, orjson.dumps(done.entry()))
                owned = await self._close_in_steps(held, result, last, stream)
        except (EngineRefusedError, ResultTooLargeError) as error:
            return await self.failed(held, error, stream, partial=partial)
        except ResponseError as error:
            refused = ResultTooLargeError if _TOO_LARGE in str(error) else InternalError
            reason = refused(f"Redis does not take the result of {len(written(done.result))} bytes: {error}")
            return await self.failed(held, reason, stream, partial=partial)
        if owned:
            outcome = "cancelled" if done.finish_reason == "cancelled" else "done"
            JOBS.labels(held.type or UNKNOWN, outcome).inc()
        return owned

    def _result_of(self, done: Done) -> bytes:
        """Write a result; raises EngineRefusedError if that cannot be, ResultTooLargeError if it is too large."""
        result = written(done.result)
        if len(result) > self._largest:
            raise ResultTooLargeError(
                f"The result has {len(result)} bytes; MAX_RESULT_BYTES allows {self._largest}: ask for less."
            )
        return result

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
        stream = stream or self.publisher.open(held.job_id, held.attempt)
        last = ERROR, orjson.dumps(error.entry(partial=partial))
        owned = await self._close(held, orjson.dumps(error.result()), last, stream, bury=bury)
        if owned:
            JOBS.labels(held.type or UNKNOWN, error.code).inc()
        return owned

    async def shut_out(self, held: Held, stream: JobStream, *, partial: bool) -> JobError | None:
        """End an attempt whose entries the stream does not take any more; None if another attempt owns the job.

        If none does, whatever stands in the stream behind its own entries was written by no worker: that is the error.
        """
        error = BadJobError(await self._trouble_with(stream))
        return error if await self.failed(held, error, stream, partial=partial, bury=str(error)) else None

    async def answer(self, slot: Slot, payload: bytes, trouble: Exception) -> None:
        """End a job that could not be handled, as far as its keys let that be; it goes to the dead letters as well."""
        job_id = job_id_in(payload)
        reason = _sentence(trouble)
        if job_id is not None:
            try:
                reason = await self.claims.foreign_key(job_id) or reason
                error = InternalError(f"The job could not be handled: {reason}.")
                if await self.claims.answer_unclaimed(job_id, slot, orjson.dumps(error.result())):
                    JOBS.labels(UNKNOWN, error.code).inc()
                    await self.publisher.conclude(job_id, ERROR, orjson.dumps(error.entry(partial=False)))
            except ResponseError as error:
                log.warning(f"the job could not be answered: {error}", action="job_unanswered")
        await self.slots.bury(slot, payload, f"the worker could not handle it: {reason}")

    async def hand_back(self, held: Held, stream: JobStream, *, in_good_order: bool, suspect: bool = False) -> None:
        """Put a job back, with all that was made of it; see :meth:`velesio_worker.queue.claims.Claims.hand_back`."""
        with suppress(VelesioError):  # what its stream does not take is made again
            await stream.flushed()
        await self.claims.hand_back(held, in_good_order=in_good_order, suspect=suspect)
        HANDED_BACK.labels(held.type or UNKNOWN).inc()

    async def drop(self, held: Held) -> None:
        """Forget an attempt that another one has taken the place of."""
        await self.slots.ack(held.slot, held.payload)

    async def _close(
        self, held: Held, result: bytes, last: tuple[str, bytes], stream: JobStream, *, bury: str = ""
    ) -> bool:
        """End a job with its result; False if another attempt owns it, or has to end it."""
        if not bury and await self._close_at_once(held, result, last, stream):
            return True
        return await self._close_in_steps(held, result, last, stream, bury=bury)

    async def _close_at_once(self, held: Held, result: bytes, last: tuple[str, bytes], stream: JobStream) -> bool:
        """End a job in one step, as most do; False if nothing was done: the steps then say what is the matter."""
        if not self.claims.at_once:
            return False
        closed = False
        try:
            if await stream.leave_rest():
                closed = await self.claims.close(held, result, stream.first_waiting, stream.rest(*last))
        finally:
            if closed:
                stream.over()
            else:
                stream.take_rest()
        return closed

    async def _close_in_steps(
        self, held: Held, result: bytes, last: tuple[str, bytes], stream: JobStream, *, bury: str = ""
    ) -> bool:
        await self._trouble_with(stream)
        if isinstance(stream.failure, StreamLostError):
            await self.hand_back(held, stream, in_good_order=True)
            return False
        trouble: str | None = None
        while trouble is None:
            began = time.monotonic()
            if not await self.claims.finish(held, result) and not await self._is_nobodys(held, result):
                return False
            trouble = await self._say(held, last, stream, began)
        if bury := trouble or bury:
            await self.slots.bury(held.slot, held.payload, bury)
        else:
            await self.drop(held)
        return True

    async def _is_nobodys(self, held: Held, result: bytes) -> bool:
        """Store the result of an attempt that is not in the job's hash though nobody else has the job; False if so."""
        if not await self.is_anothers(held):
            log.warning(f"{job_key(held.job_id)} was written by others: nobody has the job", action="foreign_key")
            if await self.claims.answer_unclaimed(held.job_id, held.slot, result):
                return True
        await self.fenced(held)
        return False

    async def is_anothers(self, held: Held) -> bool:
        """Whether a job that Redis says is not this attempt's any more really is somebody else's, or over."""
        return await self.claims.standing(held) is not Standing.NOBODYS

    async def fenced(self, held: Held) -> None:
        """Forget an attempt that another one has taken the place of; a job that is over goes where that is seen to."""
        log.warning("another attempt owns the job", action="job_fenced")
        FENCED.inc()
        if await self.claims.standing(held) is Standing.OVER:
            await self.slots.hand_back(held.slot)
        else:
            await self.drop(held)

    async def _trouble_with(self, stream: JobStream) -> str:
        """Wait until a stream is written; returns why it cannot be, if others keep it from that.

        Whatever becomes of the stream, the result is owed; if another attempt owns the job, the claim says so.
        """
        try:
            await stream.flushed()
        except FencedError:
            return f"{stream.key} has entries that no worker wrote: delete it, or use another id."
        except InternalError as error:
            return str(error)
        except (AbandonedError, StreamLostError):
            pass
        return ""

    async def _say(self, held: Held, last: tuple[str, bytes], stream: JobStream, result_at: float) -> str | None:
        """Write the last entry; returns why that cannot be, if it cannot, and None if the result is to be stored first.

        ``result_at`` is before which moment the result was on its way, in monotonic seconds.
        """
        try:
            if not await stream.end(*last, result_at):
                return None
        except AbandonedError:
            log.warning("no terminal entry: the stream was deleted", action="stream_lost")
        except (FencedError, InternalError, StreamLostError):
            if self.claims.may_have_lost(result_at):
                return None
            try:
                await self.publisher.conclude(held.job_id, *last)
            except ResponseError as error:
                log.warning(f"no terminal entry: {error}", action="stream_lost")
                return f"{stream.key} takes no entries: {await self.claims.foreign_key(held.job_id) or error}"
        return ""


def _sentence(trouble: Exception) -> str:
    """Say what went wrong without quoting a job: Redis's own words, else the kind of mistake."""
    if isinstance(trouble, ResponseError):
        return words(trouble)
    return f"the worker made a mistake ({type(trouble).__name__}); its log has the details"


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

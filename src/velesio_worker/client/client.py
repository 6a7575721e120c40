"""What a gateway imports: submit jobs, follow their streams, fetch their results, cancel them."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from functools import partial
from typing import Any, Literal, Self, TypedDict, Unpack

import anyio
import orjson
from redis.asyncio import Redis

from velesio_worker.client.fleet import FleetReader, FleetView, QueueDepths, WorkerInfo
from velesio_worker.client.stalled import StallWatch
from velesio_worker.client.standing import Standing, standing_of
from velesio_worker.client.subscriber import subscribe
from velesio_worker.queue.connection import connect
from velesio_worker.queue.control import request_cancel, request_drain
from velesio_worker.queue.keys import Keys, preview_key, result_key
from velesio_worker.queue.outage import Outage, until_done
from velesio_worker.wire.errors import BadJobError, JobError, VelesioError, job_error
from velesio_worker.wire.events import ERROR, START, StreamEvent, read_result
from velesio_worker.wire.payload import is_job_id


class JobOptions(TypedDict, total=False):
    """What may be said of a job beside its parameters (wire protocol, section 1).

    Attributes:
        timeout: the longest that the job may run, in seconds.
        expires_at: Unix time at which a job that still waits is given up.
        max_attempts: how often the job may be lost with its worker or its engine.
        on_crash: what is to happen when it is: ``continue`` where that is sound, ``restart``, or ``fail``.
        unread_timeout: cancel the job once nobody has read its stream for so many seconds; whoever follows it through
            :meth:`Client.events`, :meth:`Client.text` or :meth:`Client.result` counts as a reader.
        worker: the one worker that may take the job.
        tenant: for whom the job is; the prompt cache gives it answers of jobs of the same tenant alone.
        priority: ``high``, ``normal`` or ``low``: while all wait, 16 of ``high`` are begun for 4 of ``normal`` and 1 of
            ``low``; None is ``normal``.
        session: which conversation the job belongs to.
        traceparent: the W3C trace context of whoever asks.
        cache: whether the answer may come from the prompt cache, and is kept there; None leaves that to the worker.
    """

    timeout: float | None
    expires_at: float | None
    max_attempts: int | None
    on_crash: Literal["continue", "restart", "fail"] | None
    unread_timeout: float | None
    worker: str | None
    tenant: str | None
    priority: Literal["high", "normal", "low"] | None
    session: str | None
    traceparent: str | None
    cache: bool | None


class JobRestartedError(VelesioError):
    """The job began again after a crash: the text so far is void. Use events() to deal with that."""


class Client:
    """Submits jobs and follows them. An async context manager.

    Args:
        redis_url: where Redis is.
        queue_name: the list that the workers take jobs from (their ``QUEUE_NAME``).
        max_connections: the most connections to Redis at a time (None: no limit); each job that is followed takes one.
    """

    def __init__(
        self,
        redis_url: str = "redis://localhost:6379",
        *,
        queue_name: str = "llama_queue",
        max_connections: int | None = None,
    ) -> None:
        self._redis: Redis = connect(redis_url, name="velesio-client", max_connections=max_connections)
        self._commands: Any = self._redis
        self._keys = Keys(queue_name)
        self._outage = Outage(redis_url)
        self._fleet = FleetReader(self._redis, self._keys)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._redis.aclose()

    async def submit(
        self, job_type: str, data: Mapping[str, Any], *, job_id: str | None = None, **options: Unpack[JobOptions]
    ) -> str:
        """Submit a job; returns its id.

        Args:
            job_type: ``completion``, ``chat_completion``, …
            data: the parameters of that type.
            job_id: 1 to 128 of ``A-Z a-z 0-9 . _ : -``; drawn at random by default. The same id again, while the
                job's result lives, does not run the job again.
            options: see :class:`JobOptions`.

        Raises:
            BadJobError: the id is no id, or the job is no JSON.
            TypeError: there is no such option.
            redis.exceptions.RedisError: Redis did not take the job.
        """
        if unknown := options.keys() - JobOptions.__annotations__.keys():
            raise TypeError(f"submit() has no option {', '.join(sorted(unknown))}")
        job_id = uuid.uuid4().hex if job_id is None else job_id
        if not is_job_id(job_id):
            raise BadJobError(f"{job_id!r} is no job id: 1 to 128 of A-Z a-z 0-9 . _ : -")
        job = {"id": job_id, "type": job_type, "created_at": round(time.time(), 3), "data": dict(data)}
        job |= {name: value for name, value in options.items() if value is not None}
        try:
            payload = orjson.dumps(job)
        except TypeError as error:
            raise BadJobError(f"The job cannot be written as JSON: {error}") from None
        await self._commands.lpush(self._keys.incoming, payload)
        return job_id

    def events(
        self, job_id: str, after: str = "0-0", *, stall_timeout: float | None = None, reads: bool = True
    ) -> AsyncGenerator[StreamEvent, None]:
        """Follow a job's stream to its terminal entry, and count as its reader meanwhile.

        Waits for a stream that is not there yet, and goes on where it was after Redis was away.

        Args:
            job_id: the job.
            after: the id of the last entry that is known already, to resume from.
            stall_timeout: how long the job may give no sign, in seconds: no entry, and no living worker that has it;
                None: it is waited for without end.
            reads: whether that counts as reading; a job with ``unread_timeout`` does not go on for who only looks on.

        Raises:
            JobStalledError: it gave none for so long.
        """
        stall = None
        if stall_timeout is not None:
            stall = StallWatch(self._redis, self._keys, job_id, stall_timeout, self._outage)
        return subscribe(self._redis, job_id, after=after, outage=self._outage, stall=stall, reads=reads)

    async def text(self, job_id: str, *, stall_timeout: float | None = None) -> AsyncGenerator[str, None]:
        """Yield a text job's output, piece by piece as it is made; a job that is not streamed in one piece.

        An attempt that continues a text goes on with the next piece.

        Args:
            job_id: the job.
            stall_timeout: as :meth:`events` has it.

        Raises:
            JobError: the job failed.
            JobRestartedError: the job began again after pieces had been yielded.
            JobStalledError: the job gave no sign for too long.
        """
        begun = False
        async with aclosing(self.events(job_id, stall_timeout=stall_timeout)) as events:
            async for event in events:
                if event.event == START and begun and event.data.get("mode") == "restart":
                    raise JobRestartedError
                if event.event == ERROR:
                    raise job_error(str(event.data.get("code", "")), str(event.data.get("error", "The job failed.")))
                if piece := event.text:
                    begun = True
                    yield piece
        if not begun:
            result = await self.result(job_id, stall_timeout=stall_timeout)
            if text := result.get("text"):
                yield text

    async def result(
        self,
        job_id: str,
        *,
        timeout: float | None = None,  # noqa: ASYNC109
        stall_timeout: float | None = None,
    ) -> dict[str, Any]:
        """Wait for a job's result.

        Args:
            job_id: the job.
            timeout: the longest wait, in seconds.
            stall_timeout: as :meth:`events` has it.

        Raises:
            JobError: the job failed, or its result has expired.
            JobStalledError: the job gave no sign for too long.
            TimeoutError: there is no result yet.
        """
        with anyio.fail_after(timeout):
            stored = await self._stored(job_id)
            if stored is None:
                async for _ in self.events(job_id, stall_timeout=stall_timeout):
                    pass
                stored = await self._stored(job_id)
        if stored is None:
            raise JobError(f"The result of {job_id} has expired.")
        result = read_result(stored)
        if "error" in result:
            raise job_error(result.get("code", ""), result["error"])
        return result

    async def _stored(self, job_id: str) -> bytes | None:
        return await until_done(self._outage, partial(self._commands.get, result_key(job_id)), writes=False)

    async def stored_result(self, job_id: str) -> dict[str, Any] | None:
        """Return a job's result as it is stored, an error as ``{"error", "code"}``; None if there is none."""
        stored: bytes | None = await self._commands.get(result_key(job_id))
        return None if stored is None else read_result(stored)

    async def standing(self, job_id: str) -> Standing:
        """Return how a job stands, without waiting for anything. Raises redis.exceptions.RedisError."""
        return await standing_of(self._redis, job_id)

    async def workers(self) -> tuple[WorkerInfo, ...]:
        """Return the workers that live, with their engines and the models that jobs may name.

        What is damaged in Redis, or no worker's, is passed over.

        Raises:
            redis.exceptions.RedisError: Redis does not answer, or refuses.
        """
        return await self._fleet.workers()

    async def queue_depths(self) -> QueueDepths:
        """Return how many jobs wait in each list and since when, and how many run; else as :meth:`workers`."""
        return await self._fleet.depths()

    async def look(self) -> FleetView:
        """Return workers and queue at once, with the running jobs, GPUs and token counts that workers tell.

        Two round trips, whatever there is; else as :meth:`workers`.
        """
        return await self._fleet.look()

    async def drain(self, worker: str) -> None:
        """Ask a worker to end: it takes no more jobs, lets those that run end (its ``DRAIN_SECONDS``), and is gone."""
        await request_drain(self._redis, self._keys, worker)

    async def cancel(self, job_id: str) -> None:
        """Ask that a job be stopped; its result is then what it has so far. No effect on a job that has ended."""
        await request_cancel(self._redis, self._keys, job_id)

    async def preview(self, job_id: str) -> bytes | None:
        """Return the latest picture of a running image job, a small JPEG; None if there is none."""
        return await self._commands.get(preview_key(job_id))

"""The client with as few connections as a gateway of ten thousand viewers may have; it takes back what is in doubt."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, Self, Unpack

from anyio import CapacityLimiter, create_task_group, move_on_after, sleep
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from velesio_worker.client import Client, JobOptions, QueueDepths, WorkerInfo
from velesio_worker.client.standing import Standing
from velesio_worker.core.logs import get_logger
from velesio_worker.queue.remedies import passes

CONNECTIONS: Final = 2

TURN_SECONDS: Final = 5.0
"""How long a command waits for its turn: if Redis hangs, who comes last is told so as soon as who came first."""


_MOST_IN_DOUBT: Final = 10_000
"""So many jobs are remembered that Redis may have got; of more the oldest are left to run."""

_AGAIN_SECONDS: Final = 1.0
"""After so long Redis is asked again to take a cancel."""

log = get_logger(__name__)


class QueueClient(Client):
    """A client whose commands wait for their turn, so that it never has more than two connections (to a node).

    redis-py would open another one for each command that comes while others are under way.

    A job that Redis did not say that it took may be in the queue all the same. Who submitted it was told that it is
    not, so it is cancelled as soon as Redis answers.
    """

    def __init__(self, redis_url: str, *, queue_name: str) -> None:
        super().__init__(redis_url, queue_name=queue_name)
        self._turns = CapacityLimiter(CONNECTIONS)
        self._in_doubt: dict[str, None] = {}
        self._taking_back = False
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._stack.push_async_callback(super().__aexit__)
        self._tasks = await self._stack.enter_async_context(create_task_group())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._tasks.cancel_scope.cancel()
        await self._stack.aclose()
        if self._in_doubt:
            log.warning(f"{len(self._in_doubt)} jobs may run that clients were told are not", action="jobs_in_doubt")

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None, None]:
        """Wait for a turn. Raises redis.exceptions.TimeoutError: those before take too long."""
        turn = object()
        with move_on_after(TURN_SECONDS) as waiting:
            await self._turns.acquire_on_behalf_of(turn)
        if waiting.cancelled_caught:
            raise RedisTimeoutError(f"{TURN_SECONDS:g} s went by while others waited for Redis")
        try:
            yield
        finally:
            self._turns.release_on_behalf_of(turn)

    async def submit(
        self, job_type: str, data: Mapping[str, Any], *, job_id: str | None = None, **options: Unpack[JobOptions]
    ) -> str:
        """Submit a job; one that fails for want of an answer does not run later."""
        job_id = uuid.uuid4().hex if job_id is None else job_id
        async with self._turn():
            try:
                return await super().submit(job_type, data, job_id=job_id, **options)
            except RedisError as error:
                if not isinstance(error, ResponseError):
                    self._take_back_later(job_id)
                raise

    def _take_back_later(self, job_id: str) -> None:
        if len(self._in_doubt) >= _MOST_IN_DOUBT:
            del self._in_doubt[next(iter(self._in_doubt))]
        self._in_doubt[job_id] = None
        if not self._taking_back:
            self._taking_back = True
            self._tasks.start_soon(self._take_back)

    async def _take_back(self) -> None:
        while self._in_doubt:
            job_id = next(iter(self._in_doubt))
            try:
                await self.cancel(job_id)
            except RedisError as error:
                if passes(error):
                    await sleep(_AGAIN_SECONDS)
                    continue
                log.warning(f"a job could not be cancelled: {error}", action="cancel_failed", job_id=job_id)
            else:
                log.info("a job that Redis may have got is cancelled", action="job_taken_back", job_id=job_id)
            self._in_doubt.pop(job_id, None)
        self._taking_back = False

    async def stored_result(self, job_id: str) -> dict[str, Any] | None:
        """Return a job's result as it is stored."""
        async with self._turn():
            return await super().stored_result(job_id)

    async def standing(self, job_id: str) -> Standing:
        """Return how a job stands."""
        async with self._turn():
            return await super().standing(job_id)

    async def cancel(self, job_id: str) -> None:
        """Ask that a job be stopped."""
        async with self._turn():
            await super().cancel(job_id)

    async def workers(self) -> tuple[WorkerInfo, ...]:
        """Return the workers that live."""
        async with self._turn():
            return await super().workers()

    async def queue_depths(self) -> QueueDepths:
        """Return how much waits."""
        async with self._turn():
            return await super().queue_depths()

    async def preview(self, job_id: str) -> bytes | None:
        """Return the latest picture of a running image job."""
        async with self._turn():
            return await super().preview(job_id)

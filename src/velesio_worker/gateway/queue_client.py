"""The client with as few connections as a gateway of ten thousand viewers may have."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Unpack

from anyio import CapacityLimiter, move_on_after
from redis.exceptions import TimeoutError as RedisTimeoutError

from velesio_worker.client import Client, JobOptions, QueueDepths, WorkerInfo
from velesio_worker.client.standing import Standing

CONNECTIONS: Final = 2

TURN_SECONDS: Final = 5.0
"""How long a command waits for its turn: if Redis hangs, who comes last is told so as soon as who came first."""


class QueueClient(Client):
    """A client whose commands wait for their turn, so that it never has more than two connections (to a node).

    redis-py would open another one for each command that comes while others are under way.
    """

    def __init__(self, redis_url: str, *, queue_name: str) -> None:
        super().__init__(redis_url, queue_name=queue_name)
        self._turns = CapacityLimiter(CONNECTIONS)

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
        """Submit a job."""
        async with self._turn():
            return await super().submit(job_type, data, job_id=job_id, **options)

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

"""The client with as few connections as a gateway of ten thousand viewers may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Unpack

from anyio import CapacityLimiter

from velesio_worker.client import Client, JobOptions, QueueDepths, WorkerInfo
from velesio_worker.client.standing import Standing

CONNECTIONS: Final = 2


class QueueClient(Client):
    """A client whose commands wait for their turn, so that it never has more than two connections (to a node).

    redis-py would open another one for each command that comes while others are under way.
    """

    def __init__(self, redis_url: str, *, queue_name: str) -> None:
        super().__init__(redis_url, queue_name=queue_name)
        self._turns = CapacityLimiter(CONNECTIONS)

    async def submit(
        self, job_type: str, data: Mapping[str, Any], *, job_id: str | None = None, **options: Unpack[JobOptions]
    ) -> str:
        """Submit a job."""
        async with self._turns:
            return await super().submit(job_type, data, job_id=job_id, **options)

    async def stored_result(self, job_id: str) -> dict[str, Any] | None:
        """Return a job's result as it is stored."""
        async with self._turns:
            return await super().stored_result(job_id)

    async def standing(self, job_id: str) -> Standing:
        """Return how a job stands."""
        async with self._turns:
            return await super().standing(job_id)

    async def cancel(self, job_id: str) -> None:
        """Ask that a job be stopped."""
        async with self._turns:
            await super().cancel(job_id)

    async def workers(self) -> tuple[WorkerInfo, ...]:
        """Return the workers that live."""
        async with self._turns:
            return await super().workers()

    async def queue_depths(self) -> QueueDepths:
        """Return how much waits."""
        async with self._turns:
            return await super().queue_depths()

"""The client without ``async``: the same methods, for scripts and for servers with threads."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, Self, TypeVar, Unpack

import anyio.from_thread

from velesio_worker.client.client import Client, JobOptions
from velesio_worker.client.fleet import FleetView, QueueDepths, WorkerInfo
from velesio_worker.wire.events import StreamEvent

T = TypeVar("T")


class SyncClient:
    """Submits jobs and follows them, without asyncio. A context manager; its threads may share it.

    It runs a :class:`velesio_worker.client.Client` in a thread of its own, and each method is that client's method of
    the same name: what they take, return and raise is told there. Entries and texts come from generators; one that is
    left half read is to be closed, which leaving the context does as well.

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
        self._make = partial(Client, redis_url, queue_name=queue_name, max_connections=max_connections)
        self._stack = ExitStack()
        self._open: dict[AsyncGenerator[Any, None], None] = {}

    def __enter__(self) -> Self:
        self._portal = self._stack.enter_context(anyio.from_thread.start_blocking_portal("asyncio"))
        self._client = self._stack.enter_context(self._portal.wrap_async_context_manager(self._portal.call(self._make)))
        return self

    def __exit__(self, *_: object) -> None:
        for generator in tuple(self._open):
            self._close(generator)
        self._stack.close()

    def submit(
        self, job_type: str, data: Mapping[str, Any], *, job_id: str | None = None, **options: Unpack[JobOptions]
    ) -> str:
        """Submit a job; returns its id."""
        return self._portal.call(partial(self._client.submit, job_type, data, job_id=job_id, **options))

    def events(
        self, job_id: str, after: str = "0-0", *, stall_timeout: float | None = None, reads: bool = True
    ) -> Generator[StreamEvent, None, None]:
        """Yield a job's stream to its terminal entry, and count as its reader meanwhile."""
        return self._generated(self._client.events(job_id, after, stall_timeout=stall_timeout, reads=reads))

    def text(self, job_id: str, *, stall_timeout: float | None = None) -> Generator[str, None, None]:
        """Yield a text job's output, piece by piece as it is made; a job that is not streamed in one piece."""
        return self._generated(self._client.text(job_id, stall_timeout=stall_timeout))

    def result(
        self, job_id: str, *, timeout: float | None = None, stall_timeout: float | None = None
    ) -> dict[str, Any]:
        """Wait for a job's result."""
        return self._portal.call(partial(self._client.result, job_id, timeout=timeout, stall_timeout=stall_timeout))

    def stored_result(self, job_id: str) -> dict[str, Any] | None:
        """Return a job's result as it is stored, an error as ``{"error", "code"}``; None if there is none."""
        return self._portal.call(self._client.stored_result, job_id)

    def workers(self) -> tuple[WorkerInfo, ...]:
        """Return the workers that live, with their engines and the models that jobs may name."""
        return self._portal.call(self._client.workers)

    def queue_depths(self) -> QueueDepths:
        """Return how many jobs wait in each list and since when, and how many run."""
        return self._portal.call(self._client.queue_depths)

    def look(self) -> FleetView:
        """Return workers and queue at once, with the running jobs, GPUs and token counts that workers tell."""
        return self._portal.call(self._client.look)

    def drain(self, worker: str) -> None:
        """Ask a worker to end: it takes no more jobs, lets those that run end, and is gone."""
        self._portal.call(self._client.drain, worker)

    def cancel(self, job_id: str) -> None:
        """Ask that a job be stopped; its result is then what it has so far."""
        self._portal.call(self._client.cancel, job_id)

    def _generated(self, generator: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """Yield what an asynchronous generator yields."""
        self._open[generator] = None
        try:
            while True:
                try:
                    yield self._portal.call(generator.__anext__)
                except StopAsyncIteration:
                    return
        finally:
            self._close(generator)

    def _close(self, generator: AsyncGenerator[Any, None]) -> None:
        """End a generator that is read no more; unless that has been done."""
        if generator in self._open:
            del self._open[generator]
            self._portal.call(generator.aclose)

"""Writers of many jobs' entries at a pace: as the worker publishes them, and to nchan."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final, Protocol, Self

import anyio

from velesio_worker.core.metrics import PUBLISH_DELAY
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.ids import new_job_id
from velesio_worker.gateway.tokens import Tokens
from velesio_worker.job_stream import JobStream
from velesio_worker.queue.connection import connect
from velesio_worker.queue.keys import Keys
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import Outage
from velesio_worker.stream import Publisher

_TICK_SECONDS: Final = 0.001


class Writer(Protocol):
    """What writes entries; the first of a job is its ``start``, number 0."""

    def took(self) -> tuple[float, float]:
        """Return how long pieces took to be written in all, in seconds, and how many there were; 0 where unknown."""
        ...

    async def begin(self, jobs: Sequence[str]) -> None:
        """Write each job's first entry."""
        ...

    def put(self, job: str, event: str) -> None:
        """Write a job's next entry, without waiting for it."""
        ...

    async def end(self, jobs: Sequence[str]) -> None:
        """Write each job's last entry, and wait until all is written."""
        ...


async def write(writer: Writer, jobs: Sequence[str], *, rate: float, seconds: float) -> int:
    """Write as many tokens of each job, evenly spread over the time; returns how many in all.

    Args:
        writer: writes them.
        jobs: the jobs.
        rate: tokens a second of each.
        seconds: for how long.
    """
    count, pace = int(rate * seconds) * len(jobs), 1 / (rate * len(jobs))
    began, written = time.monotonic(), 0
    while written < count:
        due = min(count, int((time.monotonic() - began) / pace) + 1)
        for number in range(written, due):
            writer.put(jobs[number % len(jobs)], "token")
        written = due
        await anyio.sleep(_TICK_SECONDS)
    return count


def job_ids(count: int) -> list[str]:
    """Make ids as the gateway makes them where nobody is asked for a token."""
    return [new_job_id(Caller(None, Tokens.open_key)) for _ in range(count)]


def data_of(number: int) -> bytes:
    """Return an entry's data, as long as a token's: its number, and when it was made."""
    choice = b'{"text":" word","index":0,"finish_reason":null}'
    return b'{"choices":[%b],"n":%d,"at":%d}' % (choice, number, time.monotonic_ns())


class StreamWriter:
    """Publishes as the worker does. An async context manager.

    Args:
        redis_url: where Redis is.
    """

    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self._streams: dict[str, JobStream] = {}
        self._numbers: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        self._client: Any = connect(self._url, name="bench")
        self._publisher = Publisher(Link(self._client, Keys("llama_queue"), Outage(self._url)), ttl=600)
        self._group = await anyio.create_task_group().__aenter__()
        self._group.start_soon(self._publisher.run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(kind, error, at)
        await self._client.aclose()

    def took(self) -> tuple[float, float]:
        found = {sample.name: sample.value for metric in PUBLISH_DELAY.collect() for sample in metric.samples}
        return next((found[name], found[name[:-4] + "_count"]) for name in found if name.endswith("_sum"))

    async def begin(self, jobs: Sequence[str]) -> None:
        for job in jobs:
            self._streams[job] = self._publisher.open(job, 1)
            self._numbers[job] = 0
            self.put(job, "start")

    def put(self, job: str, event: str) -> None:
        number = self._numbers[job]
        self._numbers[job] = number + 1
        self._streams[job].put(event, data_of(number))

    async def end(self, jobs: Sequence[str]) -> None:
        for job in jobs:
            self.put(job, "done")
        for job in jobs:
            await self._streams.pop(job).flushed()


class NchanWriter:
    """Publishes to nchan by HTTP, over one connection on which requests follow each other without waiting.

    Args:
        port: nginx's.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._numbers: dict[str, int] = {}

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._answers = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._answers.cancel()
        self._writer.close()

    async def _read(self) -> None:
        while await self._reader.read(65536):
            pass

    def took(self) -> tuple[float, float]:
        return 0.0, 0.0

    async def begin(self, jobs: Sequence[str]) -> None:
        for job in jobs:
            self._numbers[job] = 0
            self.put(job, "start")

    def put(self, job: str, event: str) -> None:
        number = self._numbers[job]
        self._numbers[job] = number + 1
        body = data_of(number)
        head = f"POST /publish/{job} HTTP/1.1\r\nHost: bench\r\nX-EventSource-Event: {event}\r\n"
        self._writer.write(head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    async def end(self, jobs: Sequence[str]) -> None:
        for job in jobs:
            self.put(job, "done")
        await self._writer.drain()

"""The writing end of streams: one publisher for all jobs of a worker.

Entries carry explicit ids, ``<attempt>-<sequence>``. Redis refuses an id that is not above the last one, which
does three things at once: an entry that is sent again after a lost reply is not there twice, a former owner of the
job can write nothing once a newer attempt has begun, and any id is a point to resume from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Final

import anyio
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from velesio_worker.errors import AbandonedError, FencedError, InternalError, StoppedError, VelesioError
from velesio_worker.events import TERMINAL
from velesio_worker.queue.connection import Backoff, Outage, passes, until_done
from velesio_worker.queue.keys import stream_key
from velesio_worker.subscriber import is_outdated, last_entry, split_id

FLUSH_ENTRIES: Final = 512
"""The most entries in one round trip."""

JOB_ENTRIES: Final = 256
JOB_BYTES: Final = 1024 * 1024
"""What one job may have waiting before the reading of its engine pauses."""


class JobStream:
    """The writing end of one attempt's stream. Made by :meth:`Publisher.open`."""

    def __init__(self, publisher: Publisher, job_id: str, attempt: int) -> None:
        self.key = stream_key(job_id)
        self.attempt = attempt
        self.next_sequence = 0
        self.expire_at = 0.0
        self.failure: VelesioError | None = None
        self._publisher = publisher
        self._entries = 0
        self._bytes = 0
        self._moved: anyio.Event | None = None

    def put(self, event: str, data: bytes) -> None:
        """Queue an entry; it leaves with the next flush.

        Args:
            event: the entry's event.
            data: the entry's data, JSON.
        """
        if self.failure is not None:
            return
        self._entries += 1
        self._bytes += len(data)
        self._publisher.add(Entry(self, self.next_sequence, event, data))
        self.next_sequence += 1

    async def room(self) -> None:
        """Wait until less than the job's bound is waiting.

        Raises:
            FencedError: another attempt owns the job.
            AbandonedError: the stream was deleted.
            InternalError: Redis refuses the stream's entries.
            StoppedError: the publisher has stopped.
        """
        while self.failure is None and (self._entries >= JOB_ENTRIES or self._bytes >= JOB_BYTES):
            await self._next_move()
        if self.failure is not None:
            raise self.failure

    async def flushed(self) -> None:
        """Wait until all that was put is in Redis. Raises as :meth:`room` does."""
        while self.failure is None and self._entries:
            await self._next_move()
        if self.failure is not None:
            raise self.failure

    async def _next_move(self) -> None:
        if self._moved is None:
            self._moved = anyio.Event()
        await self._moved.wait()

    def _has_moved(self) -> None:
        if self._moved is not None:
            self._moved.set()
            self._moved = None

    def sent(self, size: int) -> None:
        """Take note that an entry is in Redis; ``size`` is its data's, in bytes."""
        self._entries -= 1
        self._bytes -= size
        self._has_moved()

    def fail(self, failure: VelesioError) -> None:
        """Take note that no entry of this attempt gets into Redis any more."""
        if self.failure is None:
            self.failure = failure
        self._has_moved()


class Entry:
    """One entry on its way to Redis."""

    __slots__ = ("data", "event", "sequence", "stream")

    def __init__(self, stream: JobStream, sequence: int, event: str, data: bytes) -> None:
        self.stream = stream
        self.sequence = sequence
        self.event = event
        self.data = data

    @property
    def id(self) -> str:
        """The entry's id."""
        return f"{self.stream.attempt}-{self.sequence}"


class Publisher:
    """Writes the entries of all jobs of a worker, in order, one round trip at a time.

    While a flush is under way the next entries gather; so the first entry leaves at once, and under load batches
    grow by themselves. A transaction makes each flush all or nothing: a job's stream never has a gap.

    Args:
        redis: a client of its own, which repeats nothing by itself.
        outage: whom to tell when Redis does not answer.
        ttl: how long a stream is kept after its terminal entry, in seconds.
        longest: how long a job may run without an entry, in seconds; its stream is kept that much longer.
    """

    def __init__(self, redis: Redis, outage: Outage, *, ttl: int, longest: float = 0) -> None:
        self._redis = redis
        self._outage = outage
        self._ttl = ttl
        self._running_ttl = ttl + math.ceil(longest)
        self._pending: list[Entry] = []
        self._batch: list[Entry] = []
        self._ended = False
        self._wake = anyio.Event()

    def open(self, job_id: str, attempt: int) -> JobStream:
        """Return the writing end of an attempt's stream."""
        return JobStream(self, job_id, attempt)

    def add(self, entry: Entry) -> None:
        """Queue an entry for the next flush."""
        if self._ended:
            entry.stream.fail(StoppedError())
            return
        self._pending.append(entry)
        self._wake.set()

    async def run(self) -> None:
        """Flush for ever. To be run once, in a task group; what was put and flushed before its end is in Redis."""
        try:
            while True:
                await self._wake.wait()
                self._wake = anyio.Event()
                while self._pending:
                    self._batch, self._pending = self._pending[:FLUSH_ENTRIES], self._pending[FLUSH_ENTRIES:]
                    await self._flush(self._batch)
        finally:
            self._ended = True
            for entry in (*self._batch, *self._pending):
                entry.stream.fail(StoppedError())

    async def _flush(self, batch: Sequence[Entry]) -> None:
        backoff = Backoff(first=0.05, longest=2.0)
        while live := [entry for entry in batch if entry.stream.failure is None]:
            try:
                replies = await self._send(live)
            except RedisError as error:
                if not passes(error):
                    raise
                self._outage.noticed(error)
                await backoff.pause()
                continue
            self._outage.over()
            for entry, reply in zip(live, replies, strict=True):
                await self._settle(entry, reply)
            return

    async def _send(self, entries: Sequence[Entry]) -> list[Any]:
        """Send entries in one transaction; returns Redis's replies to the XADDs, errors among them."""
        now = time.monotonic()
        replies_at: list[int] = []
        pipe: Any = self._redis.pipeline(transaction=True)
        async with pipe:
            for entry in entries:
                stream = entry.stream
                replies_at.append(len(pipe))
                options = () if entry.sequence == 0 else ("NOMKSTREAM",)
                pipe.execute_command("XADD", stream.key, *options, entry.id, "event", entry.event, "data", entry.data)
                terminal = entry.event in TERMINAL
                if terminal or now >= stream.expire_at:
                    pipe.execute_command("EXPIRE", stream.key, self._ttl if terminal else self._running_ttl)
                    stream.expire_at = now + self._ttl / 4
            try:
                replies = await pipe.execute(raise_on_error=False)
            except RedisError:
                for entry in entries:
                    entry.stream.expire_at = 0.0
                raise
        return [replies[index] for index in replies_at]

    async def _settle(self, entry: Entry, reply: object) -> None:
        stream = entry.stream
        if stream.failure is not None:
            return
        if reply is None:
            stream.fail(AbandonedError())
        elif not isinstance(reply, ResponseError):
            stream.sent(len(entry.data))
        elif is_outdated(reply):
            if await self._is_mine(entry):
                stream.sent(len(entry.data))
            else:
                stream.fail(FencedError())
        else:
            stream.fail(InternalError(f"Redis refuses the entries of {stream.key}: {reply}"))

    async def _is_mine(self, entry: Entry) -> bool:
        """Whether a refused entry is there already: its reply was lost, and no newer attempt has begun."""
        last = await until_done(self._outage, lambda: last_entry(self._redis, entry.stream.key))
        if last is None:
            return False
        attempt, sequence = split_id(last.id)
        return attempt == entry.stream.attempt and sequence >= entry.sequence

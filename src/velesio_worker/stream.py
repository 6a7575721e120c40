"""The writing end of streams: one publisher for all jobs of a worker.

Entries carry explicit ids, ``<attempt>-<sequence>``, and one script per stream and flush adds them (``publish.lua``).
Each id may follow only upon the one before it, which does four things at once: an entry that is sent again after a
lost reply is not there twice, a former owner of the job can write nothing once a newer attempt has begun, entries
that Redis acknowledged and then lost in a failover are noticed and written again, and any id is a point to resume from.
"""

from __future__ import annotations

import math
import time
from collections import deque
from itertools import islice
from typing import Any, Final

import anyio
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import PUBLISH_BATCH, PUBLISH_DELAY, STREAM_ENTRIES
from velesio_worker.queue.clients import execute, forget_topology
from velesio_worker.queue.keys import stream_key
from velesio_worker.queue.outage import Backoff, Outage, passes
from velesio_worker.queue.scripts import PublishReply, PublishStatus, Scripts, publish_reply
from velesio_worker.wire.errors import (
    AbandonedError,
    FencedError,
    InternalError,
    StoppedError,
    StreamLostError,
    VelesioError,
)
from velesio_worker.wire.events import TERMINAL, StreamEvent, parse_entry

FLUSH_ENTRIES: Final = 512
FLUSH_BYTES: Final = 1024 * 1024
"""The most in one round trip, over all jobs."""

FLUSH_SECONDS: Final = 3.0
"""How long the reply to a flush may take; it is small and safe to repeat, and readers wait for it."""

JOB_ENTRIES: Final = 256
JOB_BYTES: Final = 1024 * 1024
"""What one job may have waiting before the reading of its engine pauses."""

RECENT_ENTRIES: Final = 1024
RECENT_BYTES: Final = 1024 * 1024
"""What is kept of a job after Redis acknowledged it, should a failover lose it."""

log = get_logger(__name__)


class Entry:
    """One entry of a stream."""

    __slots__ = ("at", "data", "event", "sequence")

    def __init__(self, sequence: int, event: str, data: bytes) -> None:
        self.at = time.monotonic()
        self.sequence = sequence
        self.event = event
        self.data = data


class JobStream:
    """The writing end of one attempt's stream. Made by :meth:`Publisher.open`."""

    def __init__(self, publisher: Publisher, job_id: str, attempt: int) -> None:
        self.key = stream_key(job_id)
        self.attempt = attempt
        self.opened_at = time.monotonic()
        self.expire_at = 0.0
        self.failure: VelesioError | None = None
        self._publisher = publisher
        self.next_sequence = 0
        self._waiting: deque[Entry] = deque()
        self._recent: deque[Entry] = deque()
        self._bytes = 0
        self._recent_bytes = 0
        self._moved: anyio.Event | None = None

    def put(self, event: str, data: bytes) -> None:
        """Queue an entry; it leaves with the next flush.

        Args:
            event: the entry's event.
            data: the entry's data, JSON.
        """
        if self.failure is not None:
            return
        self._waiting.append(Entry(self.next_sequence, event, data))
        self._bytes += len(data)
        self.next_sequence += 1
        self._publisher.has_entries(self)

    @property
    def waiting(self) -> deque[Entry]:
        """The entries that are not in Redis yet, in order."""
        return self._waiting

    async def room(self) -> None:
        """Wait until less than the job's bound is waiting.

        Raises:
            FencedError: another attempt owns the job.
            AbandonedError: the stream was deleted.
            StreamLostError: Redis lost more of the stream than can be written again.
            InternalError: Redis refuses the stream's entries.
            StoppedError: the publisher has stopped.
        """
        while self.failure is None and (len(self._waiting) >= JOB_ENTRIES or self._bytes >= JOB_BYTES):
            await self._next_move()
        if self.failure is not None:
            raise self.failure

    async def flushed(self) -> None:
        """Wait until all that was put is in Redis. Raises as :meth:`room` does."""
        while self.failure is None and self._waiting:
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

    def written(self, at: int) -> None:
        """Take note that the entries up to the sequence ``at`` are in Redis."""
        while self._waiting and self._waiting[0].sequence <= at:
            entry = self._waiting.popleft()
            self._bytes -= len(entry.data)
            self._recent.append(entry)
            self._recent_bytes += len(entry.data)
        while len(self._recent) > RECENT_ENTRIES or self._recent_bytes > RECENT_BYTES:
            self._recent_bytes -= len(self._recent.popleft().data)
        self._has_moved()

    def rewind(self, at: int) -> bool:
        """Queue again all that is kept; False if that is not all that follows upon the sequence ``at``.

        From the ``start`` on, if that is kept: so it shows whether the stream is this attempt's own.
        """
        while self._recent:
            entry = self._recent.pop()
            self._recent_bytes -= len(entry.data)
            self._bytes += len(entry.data)
            self._waiting.appendleft(entry)
        return bool(self._waiting) and self._waiting[0].sequence <= at + 1

    def fail(self, failure: VelesioError) -> None:
        """Take note that no entry of this attempt gets into Redis any more."""
        if self.failure is None:
            self.failure = failure
        self._waiting.clear()
        self._recent.clear()
        self._has_moved()


class Publisher:
    """Writes the entries of all jobs of a worker, in order, one round trip at a time.

    While a flush is under way the next entries gather; so the first entry leaves at once, and under load batches
    grow by themselves.

    Args:
        redis: a client of its own, which repeats nothing by itself.
        outage: whom to tell when Redis does not answer.
        ttl: how long a stream is kept after its terminal entry, in seconds.
        longest: how long a job may run without an entry, in seconds; its stream is kept that much longer.
    """

    def __init__(self, redis: Redis, outage: Outage, *, ttl: int, longest: float = 0) -> None:
        self._redis = redis
        self._scripts = Scripts(redis)
        self._outage = outage
        self._ttl = ttl
        self._running_ttl = ttl + math.ceil(longest)
        self._dirty: dict[JobStream, None] = {}
        self._batch: list[tuple[JobStream, list[Entry]]] = []
        self._oldest = math.inf
        self._backoff = Backoff(first=0.05, longest=2.0)
        self._ended = False
        self._wake = anyio.Event()

    def open(self, job_id: str, attempt: int) -> JobStream:
        """Return the writing end of an attempt's stream."""
        return JobStream(self, job_id, attempt)

    def has_entries(self, stream: JobStream) -> None:
        """Have the stream's entries leave with the next flush."""
        if self._ended:
            stream.fail(StoppedError())
            return
        self._dirty[stream] = None
        self._wake.set()

    async def run(self) -> None:
        """Flush for ever. To be run once, in a task group; what was put and flushed before its end is in Redis."""
        try:
            while True:
                await self._wake.wait()
                self._wake = anyio.Event()
                while self._dirty:
                    self._batch = self._next_batch()
                    await self._flush()
        finally:
            self._ended = True
            for stream in self._dirty.keys() | {stream for stream, _ in self._batch}:
                stream.fail(StoppedError())

    def _next_batch(self) -> list[tuple[JobStream, list[Entry]]]:
        """Take what fits into one round trip; a stream that is left over comes first in the next."""
        batch: list[tuple[JobStream, list[Entry]]] = []
        room, size = FLUSH_ENTRIES, 0
        self._oldest = math.inf
        while self._dirty and room > 0 and size < FLUSH_BYTES:
            stream = next(iter(self._dirty))
            del self._dirty[stream]
            entries: list[Entry] = []
            for entry in islice(stream.waiting, room):
                entries.append(entry)
                size += len(entry.data)
                if size >= FLUSH_BYTES:
                    break
            if entries:
                self._oldest = min(self._oldest, entries[0].at)
                batch.append((stream, entries))
                room -= len(entries)
        return batch

    async def _flush(self) -> None:
        if not self._batch:
            return
        try:
            replies = await self._send()
        except RedisError as error:
            replies: list[Any] = [error] * len(self._batch)
        trouble: RedisError | None = None
        for (stream, entries), reply in zip(self._batch, replies, strict=True):
            if isinstance(reply, RedisError):
                if isinstance(reply, NoScriptError) or passes(reply):
                    trouble = reply
                    stream.expire_at = 0.0
                else:
                    stream.fail(InternalError(f"Redis refuses the entries of {stream.key}: {reply}"))
            elif stream.failure is None:
                self._settle(stream, entries, publish_reply(reply))
            if stream.waiting:
                self._dirty[stream] = None
        sent = sum(len(entries) for _, entries in self._batch)
        self._batch = []
        if trouble is None:
            PUBLISH_DELAY.observe(time.monotonic() - self._oldest)
            PUBLISH_BATCH.observe(sent)
            self._outage.over()
            self._backoff.reset()
        else:
            await self._wait_out(trouble)

    async def _send(self) -> list[Any]:
        """Send the batch in one round trip; returns Redis's replies, errors among them."""
        now = time.monotonic()
        pipe: Any = self._redis.pipeline(transaction=False)
        async with pipe:
            for stream, entries in self._batch:
                parts: list[str | bytes] = []
                for entry in entries:
                    parts += (entry.event, entry.data)
                life = None
                if entries[-1].event in TERMINAL:
                    life = self._ttl
                elif now >= stream.expire_at:
                    life = self._running_ttl
                    stream.expire_at = now + self._ttl / 4
                self._scripts.publish_with(pipe, stream.key, stream.attempt, entries[0].sequence, life, parts)
            return await execute(pipe, raise_on_error=False)

    async def _wait_out(self, trouble: RedisError) -> None:
        """Wait before what did not get through is sent again."""
        if isinstance(trouble, NoScriptError):
            try:
                await self._scripts.load_publish()
            except RedisError as error:
                if not passes(error):
                    raise
                trouble = error
            else:
                await self._backoff.pause()
                return
        self._outage.noticed(trouble)
        await self._backoff.pause(self._outage)
        await forget_topology(self._redis)

    def _settle(self, stream: JobStream, entries: list[Entry], reply: PublishReply) -> None:
        match reply.status:
            case PublishStatus.WRITTEN:
                stream.written(entries[-1].sequence)
                STREAM_ENTRIES.count += len(entries)
            case PublishStatus.BEHIND:
                self._repair(stream, reply.at)
            case PublishStatus.GONE if self._outage.away_since(stream.opened_at):
                self._repair(stream, -1)
            case PublishStatus.GONE:
                stream.fail(AbandonedError())
            case PublishStatus.FENCED:
                stream.fail(FencedError())
            case PublishStatus.TAKEN:
                stream.fail(StreamLostError())

    def _repair(self, stream: JobStream, at: int) -> None:
        """Write again what Redis had acknowledged and does not have any more: a failover lost it."""
        if stream.rewind(at):
            log.warning(
                "entries that Redis had lost are written again", action="stream_repaired", stream=stream.key, after=at
            )
        else:
            stream.fail(StreamLostError())


READ_ENTRIES: Final = 512


async def last_entry(redis: Redis, key: str) -> StreamEvent | None:
    """Return the newest entry of a stream; None if there is none."""
    commands: Any = redis
    entries = await commands.xrevrange(key, count=1)
    return parse_entry(*entries[0]) if entries else None

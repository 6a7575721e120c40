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
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from velesio_worker.core.bell import Bell
from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import PUBLISH_BATCH, PUBLISH_DELAY, STREAM_ENTRIES
from velesio_worker.queue.claims import Beginning
from velesio_worker.queue.clients import execute, forget_topology
from velesio_worker.queue.keys import stream_key
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import Backoff, Outage
from velesio_worker.queue.packed import Packed, PackedCommands
from velesio_worker.queue.remedies import passes
from velesio_worker.queue.scripts import PublishReply, PublishStatus, packed_publish, publish_with
from velesio_worker.wire.errors import AbandonedError, FencedError, InternalError, StoppedError, StreamLostError
from velesio_worker.wire.events import START, TERMINAL, StreamEvent, parse_entry

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

READ_ENTRIES: Final = 512

log = get_logger(__name__)


PublishCommand = tuple[str, int, int, int | None, Sequence[str | bytes]]
"""The arguments of :func:`velesio_worker.queue.scripts.packed_publish`."""

_WRITTEN: Final = PublishStatus.WRITTEN.value.encode()


class Batch(NamedTuple):
    """What goes of one stream into one flush.

    Attributes:
        stream: the stream.
        parts: events and data in turn.
        size: of the data, in bytes.
    """

    stream: JobStream
    parts: Sequence[str | bytes]
    size: int


def _count(entries: int, oldest_at: float) -> None:
    """Count entries that got into Redis beside the publisher's flushes, the oldest of them made at that moment."""
    STREAM_ENTRIES.count += entries
    PUBLISH_DELAY.observe(time.monotonic() - oldest_at)
    PUBLISH_BATCH.observe(entries)


class JobStream:
    """The writing end of one attempt's stream. Made by :meth:`Publisher.open`.

    What waits is kept as it is sent: events and data in turn, so that a token costs no object of its own.

    Attributes:
        oldest_at: when the oldest of the entries that wait was put, in monotonic seconds.
        expire_at: when its life in Redis is to be set again, in monotonic seconds.
        failure: why no entry gets into Redis any more; None while they do.
    """

    def __init__(self, publisher: Publisher, job_id: str, attempt: int) -> None:
        self.key = stream_key(job_id)
        self.attempt = attempt
        self.next_sequence = 0
        self.oldest_at = self._next_oldest_at = self.opened_at = time.monotonic()
        self.expire_at = 0.0
        self.failure: Exception | None = None
        self._publisher = publisher
        self._waiting: list[str | bytes] = []
        self._under_way = 0
        self._left, self._rest_at = False, 0.0
        self._recent: deque[str | bytes] = deque()
        self._bytes = 0
        self._recent_bytes = 0
        self._moved = Bell()
        self._result_at = math.inf

    async def end(self, event: str, data: bytes, result_at: float) -> bool:
        """Put the last entry and wait until all is in Redis; False if that may have lost the result behind it.

        The result is readable before the last entry is, also where a failover loses what was stored: so that entry
        goes out only while Redis has answered all the time, and is taken back otherwise.

        Args:
            event: ``done`` or ``error``.
            data: JSON.
            result_at: before which moment, in monotonic seconds, the job's result was on its way to Redis.

        Raises: as :meth:`room` does.
        """
        self._result_at = result_at
        self.put(event, data)
        await self.flushed()
        return self._result_at < math.inf

    def begin(self, beginning: Beginning, fresh: float) -> None:
        """Take note that the ``start`` entry is in Redis already, and the stream's life set for ``fresh`` seconds."""
        self.next_sequence = 1
        self._recent += (START, beginning.data)
        self._recent_bytes = len(beginning.data)
        self.expire_at = self.opened_at + fresh
        _count(1, beginning.made_at)

    async def leave_rest(self) -> bool:
        """Have the publisher leave what waits to the caller, who ends the job; False if there is a failure."""
        self._left, self._rest_at = True, time.monotonic()
        while self.failure is None and self._under_way:
            await self._moved.wait()
        return self.failure is None

    def rest(self, event: str, data: bytes) -> Sequence[str | bytes]:
        """Return what was left, and behind it the last entry."""
        return [*self._waiting, event, data]

    def over(self) -> None:
        """Take note that the rest is in Redis, and so is the last entry."""
        _count(len(self._waiting) // 2 + 1, self.oldest_at if self._waiting else self._rest_at)
        self._waiting.clear()
        self._recent.clear()

    def take_rest(self) -> None:
        """Have the publisher go on with what was left."""
        self._left = False
        if self._waiting:
            self._publisher.has_entries(self)

    def take_back(self, outage: Outage) -> None:
        """Take the last entry back if Redis was away since the result was stored."""
        if self._waiting and self._result_at < math.inf and outage.away_since(self._result_at):
            *_, last = self._waiting
            self._bytes -= len(last)
            del self._waiting[-2:]
            self.next_sequence -= 1
            self._under_way = 0
            self._result_at = math.inf
            self._moved.ring()

    def put(self, event: str, data: bytes) -> None:
        """Queue an entry, its data being JSON; it leaves with the next flush."""
        if self.failure is not None:
            return
        if len(self._waiting) == self._under_way:
            self._next_oldest_at = time.monotonic()
            if not self._waiting:
                self.oldest_at = self._next_oldest_at
        self._waiting += (event, data)
        self._bytes += len(data)
        self.next_sequence += 1
        self._publisher.has_entries(self)

    @property
    def waits(self) -> bool:
        """Whether anything is not in Redis yet."""
        return bool(self._waiting)

    @property
    def first_waiting(self) -> int:
        """The sequence of the first entry that is not in Redis yet."""
        return self.next_sequence - len(self._waiting) // 2

    @property
    def has_room(self) -> bool:
        """Whether less than the job's bound is waiting, and anybody wants more."""
        return len(self._waiting) < 2 * JOB_ENTRIES and self._bytes < JOB_BYTES and self.failure is None

    async def room(self) -> None:
        """Wait until less than the job's bound is waiting.

        Raises:
            FencedError: another attempt owns the job.
            AbandonedError: the stream was deleted.
            StreamLostError: Redis lost more of the stream than can be written again.
            InternalError: Redis refuses the stream's entries.
            StoppedError: the publisher has stopped.
        """
        while self.failure is None and not self.has_room:
            await self._moved.wait()
        if self.failure is not None:
            raise self.failure

    async def flushed(self) -> None:
        """Wait until all that was put is in Redis. Raises as :meth:`room` does."""
        while self.failure is None and self._waiting:
            await self._moved.wait()
        if self.failure is not None:
            raise self.failure

    def batch(self, entries: int, size: int) -> Batch:
        """Return what goes into the next flush: so many ``entries`` at most, none further from ``size`` bytes on."""
        if self._left:
            self._under_way = 0
            self._moved.ring()
            return Batch(self, (), 0)
        parts, held = self._waiting[: 2 * entries], self._bytes
        if held >= size or len(parts) < len(self._waiting):
            held = 0
            for at in range(1, len(parts), 2):
                held += len(parts[at])
                if held >= size:
                    del parts[at + 1 :]
                    break
        self._under_way = len(parts)
        self._next_oldest_at = self.oldest_at
        return Batch(self, parts, held)

    def written(self, batch: Batch) -> None:
        """Take note that what went into a flush is in Redis."""
        del self._waiting[: len(batch.parts)]
        self._under_way = 0
        self.oldest_at = self._next_oldest_at
        self._bytes -= batch.size
        recent = self._recent
        recent += batch.parts
        self._recent_bytes += batch.size
        while len(recent) > 2 * RECENT_ENTRIES or self._recent_bytes > RECENT_BYTES:
            recent.popleft()
            self._recent_bytes -= len(recent.popleft())
        self._moved.ring()

    def rewind(self, at: int) -> bool:
        """Queue again all that is kept; False if that is not all that follows upon the sequence ``at``.

        From the ``start`` on, if that is kept: so it shows whether the stream is this attempt's own.
        """
        self._waiting[:0] = self._recent
        self._bytes += self._recent_bytes
        self._recent.clear()
        self._recent_bytes = 0
        return bool(self._waiting) and self.first_waiting <= at + 1

    def fail(self, failure: Exception) -> None:
        """Take note that no entry of this attempt gets into Redis any more."""
        self.failure = self.failure or failure
        self._waiting.clear()
        self._recent.clear()
        self._moved.ring()


class Publisher:
    """Writes the entries of all jobs of a worker, in order, one round trip at a time, by a link of its own.

    While a flush is under way the next entries gather; so the first entry leaves at once, and under load batches
    grow by themselves.

    Args:
        ttl: how long a stream is kept after its terminal entry, in seconds.
        longest: how long a job may run without an entry, in seconds; its stream is kept that much longer.
    """

    def __init__(self, link: Link, *, ttl: int, longest: float = 0) -> None:
        self._link = link
        self._ttl = ttl
        self._running_ttl = ttl + math.ceil(longest)
        self._dirty: dict[JobStream, None] = {}
        self._flushed: list[Batch] = []
        self._backoff = Backoff(first=0.05, longest=2.0)
        self._ended = False
        self._wake = Bell()
        self._packed = PackedCommands(link.redis, FLUSH_SECONDS)

    def open(self, job_id: str, attempt: int, begun: Beginning | None = None) -> JobStream:
        """Return the writing end of an attempt's stream; ``begun``: its ``start`` entry, if that is in Redis."""
        stream = JobStream(self, job_id, attempt)
        if begun is not None:
            stream.begin(begun, self._ttl / 4)
        return stream

    @property
    def running_life(self) -> int:
        """How long a stream is kept while its job runs, in seconds, from its latest entries on."""
        return self._running_ttl

    def has_entries(self, stream: JobStream) -> None:
        """Have the stream's entries leave with the next flush."""
        if self._ended:
            stream.fail(StoppedError())
        else:
            self._dirty[stream] = None
            self._wake.ring()

    async def conclude(self, job_id: str, event: str, data: bytes) -> None:
        """Add the last entry to a stream that cannot be gone on with: others have written into it.

        Raises:
            redis.exceptions.RedisError: the key cannot be used at all.
        """
        await self._link.done(partial(self._link.scripts.conclude, stream_key(job_id), event, data, self._ttl))

    async def run(self) -> None:
        """Flush for ever. To be run once, in a task group; what was put and flushed before its end is in Redis."""
        try:
            while True:
                while not self._dirty:
                    await self._wake.wait()
                self._flushed = self._next_batch()
                if self._flushed:
                    await self._flush()
        finally:
            self._ended = True
            await self._packed.close()
            for stream in self._dirty.keys() | {batch.stream for batch in self._flushed}:
                stream.fail(StoppedError())

    def _next_batch(self) -> list[Batch]:
        """Take what fits into one round trip; a stream that is left over comes first in the next."""
        flush: list[Batch] = []
        entries, size = FLUSH_ENTRIES, FLUSH_BYTES
        while self._dirty and entries > 0 and size > 0:
            stream = next(iter(self._dirty))
            del self._dirty[stream]
            stream.take_back(self._link.outage)
            batch = stream.batch(entries, size)
            if batch.parts:
                flush.append(batch)
                entries -= len(batch.parts) // 2
                size -= batch.size
        return flush

    async def _flush(self) -> None:
        flush = self._flushed
        oldest = min([batch.stream.oldest_at for batch in flush])
        try:
            replies = await self._send(flush)
        except RedisError as error:
            replies: list[Any] = [error] * len(flush)
        trouble: RedisError | None = None
        sent = 0
        for batch, reply in zip(flush, replies, strict=True):
            stream = batch.stream
            sent += len(batch.parts) // 2
            if isinstance(reply, RedisError) and passes(reply):
                trouble = reply
                stream.expire_at = 0.0
            elif isinstance(reply, RedisError):
                stream.fail(InternalError(f"Redis refuses the entries of {stream.key}: {reply}"))
            elif stream.failure is None:
                self._settle(batch, reply)
            if stream.waits:
                self._dirty[stream] = None
        self._flushed = []
        if trouble is None:
            PUBLISH_DELAY.observe(time.monotonic() - oldest)
            PUBLISH_BATCH.observe(sent)
            self._link.outage.over()
            self._backoff.reset()
            return
        if isinstance(trouble, NoScriptError):
            await self._link.asked(self._link.scripts.load_publish)
        else:
            self._link.outage.noticed(trouble)
        await self._backoff.pause(self._link.outage)
        await forget_topology(self._link.redis)

    async def _send(self, flush: Sequence[Batch]) -> list[Any]:
        """Send a flush in one round trip; returns Redis's replies, errors among them.

        If there is an error among them, it is sent once more in redis-py's way, which knows them all.
        """
        now = time.monotonic()
        commands: list[PublishCommand] = []
        packed: list[Packed] = []
        for stream, parts, _ in flush:
            life = None
            if now >= stream.expire_at or parts[-2] in TERMINAL:
                life = self._ttl if parts[-2] in TERMINAL else self._running_ttl
                stream.expire_at = now + self._ttl / 4
            command = stream.key, stream.attempt, stream.first_waiting, life, parts
            commands.append(command)
            packed.append((stream.key, packed_publish(*command)))
        replies = await self._packed.send(packed)
        for reply in replies:
            if isinstance(reply, Exception):
                break
        else:
            return replies
        await self._packed.close()
        pipe: Any = self._link.redis.pipeline(transaction=False)
        async with pipe:
            for command in commands:
                publish_with(pipe, *command)
            return await execute(pipe, raise_on_error=False)

    def _settle(self, batch: Batch, reply: list[Any]) -> None:
        stream = batch.stream
        if reply[0] == _WRITTEN:
            stream.written(batch)
            STREAM_ENTRIES.count += len(batch.parts) // 2
            return
        answer = PublishReply.read(reply)
        match answer.status:
            case PublishStatus.BEHIND:
                self._repair(stream, answer.at)
            case PublishStatus.GONE if self._link.outage.away_since(stream.opened_at):
                self._repair(stream, -1)
            case PublishStatus.GONE:
                stream.fail(AbandonedError())
            case PublishStatus.FENCED:
                stream.fail(FencedError())
            case _:
                stream.fail(StreamLostError())

    def _repair(self, stream: JobStream, at: int) -> None:
        """Write again what Redis had acknowledged and does not have any more: a failover lost it."""
        what = "entries that Redis had lost are written again"
        if stream.rewind(at):
            log.warning(what, action="stream_repaired", stream=stream.key, after=at)
        else:
            stream.fail(StreamLostError())


async def last_entry(redis: Redis, key: str) -> StreamEvent | None:
    """Return the newest entry of a stream; None if there is none."""
    entries: Any = await redis.xrevrange(key, count=1)  # pyright: ignore[reportUnknownMemberType]
    return parse_entry(*entries[0]) if entries else None

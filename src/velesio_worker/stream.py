"""The writing end of streams: one publisher for all jobs of a worker.

Entries carry explicit ids, ``<attempt>-<sequence>``, and one script per stream and flush adds them (``publish.lua``).
Each id may follow only upon the one before it, which does four things at once: an entry that is sent again after a
lost reply is not there twice, a former owner of the job can write nothing once a newer attempt has begun, entries
that Redis acknowledged and then lost in a failover are noticed and written again, and any id is a point to resume from.

XADD without the script would take Redis half the time for a token (6 in place of 12 microseconds), and refuses what is
old or there as well. But it does not see a gap, and a failover need not cost the connection: some proxies keep
their clients' connections, as those of managed services do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

from velesio_worker.core.bell import Bell
from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import PUBLISH_BATCH, PUBLISH_DELAY, STREAM_ENTRIES
from velesio_worker.job_stream import Batch, JobStream
from velesio_worker.queue.claims import Beginning
from velesio_worker.queue.clients import execute, forget_topology
from velesio_worker.queue.keys import stream_key
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import Backoff
from velesio_worker.queue.packed import Packed, PackedCommands
from velesio_worker.queue.remedies import passes
from velesio_worker.queue.scripts import PublishReply, PublishStatus, packed_publish, publish_with
from velesio_worker.wire.errors import AbandonedError, FencedError, InternalError, StoppedError, StreamLostError
from velesio_worker.wire.events import TERMINAL, StreamEvent, parse_entry

FLUSH_ENTRIES: Final = 512
FLUSH_BYTES: Final = 1024 * 1024
"""The most in one round trip, over all jobs."""

FLUSH_SECONDS: Final = 3.0
"""How long the reply to a flush may take; it is small and safe to repeat, and readers wait for it."""

READ_ENTRIES: Final = 512

log = get_logger(__name__)


PublishCommand = tuple[str, int, int, int | None, Sequence[str | bytes]]
"""The arguments of :func:`velesio_worker.queue.scripts.packed_publish`."""

_WRITTEN: Final = PublishStatus.WRITTEN.value.encode()


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
        stream = JobStream(self.has_entries, job_id, attempt)
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

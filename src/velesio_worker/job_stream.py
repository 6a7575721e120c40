"""One attempt's stream, as its job writes it: what waits, what is under way, what Redis may still lose."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from velesio_worker.core.bell import Bell
from velesio_worker.core.metrics import PUBLISH_BATCH, PUBLISH_DELAY, STREAM_ENTRIES
from velesio_worker.queue.claims import Beginning
from velesio_worker.queue.keys import stream_key
from velesio_worker.queue.outage import Outage
from velesio_worker.wire.events import START

JOB_ENTRIES: Final = 256
JOB_BYTES: Final = 1024 * 1024
"""What one job may have waiting before the reading of its engine pauses."""

RECENT_ENTRIES: Final = 1024
RECENT_BYTES: Final = 1024 * 1024
"""What is kept of a job after Redis acknowledged it, should a failover lose it."""


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
    """The writing end of one attempt's stream. Made by :meth:`velesio_worker.stream.Publisher.open`.

    What waits is kept as it is sent: events and data in turn, so that a token costs no object of its own.

    Args:
        has_entries: has its entries leave with the next flush.
        job_id: the job's id.
        attempt: the attempt, counted from 1.

    Attributes:
        oldest_at: when the oldest of the entries that wait was put, in monotonic seconds.
        expire_at: when its life in Redis is to be set again, in monotonic seconds.
        failure: why no entry gets into Redis any more; None while they do.
    """

    def __init__(self, has_entries: Callable[[JobStream], None], job_id: str, attempt: int) -> None:
        self.key = stream_key(job_id)
        self.attempt = attempt
        self.next_sequence = 0
        self.oldest_at = self._next_oldest_at = self.opened_at = time.monotonic()
        self.expire_at = 0.0
        self.failure: Exception | None = None
        self._has_entries = has_entries
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
            self._has_entries(self)

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
        self._has_entries(self)

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

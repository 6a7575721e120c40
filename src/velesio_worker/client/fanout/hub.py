"""The hub: where viewers come in."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from typing import Final, Self

import anyio
from redis.asyncio import Redis

from velesio_worker.client.fanout.bounds import Bounds, Counters
from velesio_worker.client.fanout.frames import Entry, EntryId, read_entry_id
from velesio_worker.client.fanout.lines import Lines
from velesio_worker.client.fanout.pump import Pump
from velesio_worker.client.fanout.reader import Reader
from velesio_worker.client.fanout.tails import Tail
from velesio_worker.client.fanout.viewers import EndReason, Send, ViewEnd, Viewer
from velesio_worker.queue.connection import connect
from velesio_worker.queue.outage import Outage
from velesio_worker.wire.errors import VelesioError
from velesio_worker.wire.events import StreamEvent

TICK_SECONDS: Final = 0.025

_LAST_FRAME_SECONDS: Final = 1.0
"""How long a viewer that is given up may take to take its last frame."""


class HubClosedError(VelesioError):
    """The hub has been closed: follow the job through another one."""


class _Watcher:
    """One who takes entries at its own pace."""

    def __init__(self) -> None:
        self.position = 0
        self.busy = False


class Hub:
    """Shows any number of jobs to any number of viewers, over four connections to Redis (to each node of a Cluster).

    An async context manager; leaving it ends all views. One for a process.

    Args:
        redis_url: where Redis is.
        tick: the longest that a job's new entry waits to be read while others are, in seconds.
        bounds: what is kept, and how long whom is waited for.

    Attributes:
        counters: what it has done, for metrics.
    """

    def __init__(self, redis_url: str, *, tick: float = TICK_SECONDS, bounds: Bounds | None = None) -> None:
        self._url = redis_url
        self._tick = tick
        self._bounds = bounds or Bounds()
        self._tails: dict[str, Tail] = {}
        self._stack = AsyncExitStack()
        self._closed = True
        self.counters = Counters()

    async def __aenter__(self) -> Self:
        redis = connect(self._url, name="velesio-fanout")
        self._stack.push_async_callback(_close, redis)
        outage = Outage(self._url)
        self._lines = Lines(redis, outage)
        self._group = await self._stack.enter_async_context(anyio.create_task_group())
        self._pump = Pump(self._group, self._bounds, self.counters, self._wake)
        self._reader = Reader(
            self._lines, outage, self._tails, pump=self._pump, counters=self.counters, tick=self._tick
        )
        self._group.start_soon(self._reader.run, name="velesio-fanout-reader")
        self._group.start_soon(self._reader.wait_for_silent, name="velesio-fanout-silent")
        self._group.start_soon(self._reader.care, name="velesio-fanout-care")
        self._group.start_soon(self._pump.run, name="velesio-fanout-sweep")
        self._closed = False
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closed = True
        self.dismiss()
        for tail in self._tails.values():
            self._reader.fail(tail, HubClosedError())
        self._group.cancel_scope.cancel()
        await self._stack.aclose()

    def _wake(self) -> None:
        self._reader.wake()

    def dismiss(self) -> None:
        """End all that is shown; each viewer's last frame names where it may resume. Who watches goes on watching."""
        self._pump.dismiss()

    async def watch(self, job_id: str, after: str = "0-0") -> AsyncGenerator[Sequence[StreamEvent], None]:
        """Yield what is new in a job's stream, in batches, to its terminal entry; waits for a stream that is not there.

        Args:
            job_id: the job.
            after: the id of the last entry that is known already.

        Raises:
            ValueError: ``after`` is no entry's id.
            HubClosedError: the hub was closed meanwhile.
            redis.exceptions.RedisError: the stream cannot be read at all.
        """
        known = read_entry_id(after)
        tail, watcher = self._take(job_id, known), _Watcher()
        try:
            while entries := await self._next(tail, watcher, known):
                known = entries[-1].id
                yield [entry.event() for entry in entries]
                if entries[-1].terminal:
                    return
        finally:
            tail.followers.pop(watcher, None)
            self._let_go(tail)

    async def _next(self, tail: Tail, watcher: _Watcher, known: EntryId) -> Sequence[Entry]:
        """Wait for what follows an entry; empty if nothing does any more."""
        while True:
            position = tail.position_after(known)
            if position is None:
                if isinstance(tail.failure, HubClosedError):
                    raise tail.failure
                if entries := await self._past(tail, known):
                    return entries
                known = tail.start
                continue
            watcher.position = tail.end
            tail.followers[watcher] = None
            if tail.held:
                self._wake()
            if entries := tail.entries(position):
                return entries
            if tail.failure is not None:
                raise tail.failure
            if tail.over:
                return ()
            await tail.news.wait()

    async def show(self, job_id: str, after: str, send: Send) -> ViewEnd:
        """Have a job's entries sent as server-sent events, from after one that is known, to the terminal entry.

        Cancel it when the viewer is gone.

        Args:
            job_id: the job.
            after: the id of the last entry that the viewer has; ``0-0``: none.
            send: takes bytes, and waits while the socket takes no more; None: there is nothing to wait for.

        Returns:
            Why it ended, and where the viewer may resume.

        Raises:
            ValueError: ``after`` is no entry's id.
            HubClosedError: the hub is closed.
            redis.exceptions.RedisError: the stream cannot be read at all.
            Exception: what ``send`` raised.
        """
        viewer = Viewer(send, read_entry_id(after), time.monotonic())
        tail = self._take(job_id, viewer.after)  # no context manager: it takes half a kilobyte of each viewer
        try:
            self._pump.add(viewer)
            await self._catch_up(viewer, tail)
            while viewer.goes_on:
                await viewer.moved.wait()
            with anyio.move_on_after(_LAST_FRAME_SECONDS):
                while viewer.busy:
                    await viewer.moved.wait()
        finally:
            self._pump.remove(viewer)
            self._let_go(tail)
        if viewer.end is None:
            raise viewer.failure or HubClosedError
        return viewer.end

    async def _catch_up(self, viewer: Viewer, tail: Tail) -> None:
        """Send a viewer what the tail has not any more, at the viewer's own pace, until it can follow the tail."""
        while viewer.goes_on:
            position = tail.position_after(viewer.after)
            if position is not None:
                self._pump.join(viewer, tail, position)
                return
            entries = await self._past(tail, viewer.after)
            if not entries:
                viewer.after = tail.start
            while viewer.busy and viewer.goes_on:
                await viewer.moved.wait()
            if entries and viewer.goes_on:
                data = b"".join([entry.frame for entry in entries])
                self._pump.send(viewer, data, len(entries), 0, entries[-1].id)
                while viewer.busy and viewer.goes_on:
                    await viewer.moved.wait()
                if entries[-1].terminal and viewer.goes_on:
                    self._pump.finish(viewer, EndReason.ENDED)

    async def _past(self, tail: Tail, after: EntryId) -> Sequence[Entry]:
        """Read what comes before what a tail has; empty if Redis has it no more."""
        self.counters.late_reads += 1
        entries = await self._lines.past(tail.job_id, after)
        for at, entry in enumerate(entries):
            if entry.terminal:
                return entries[: at + 1]
        return entries

    def _take(self, job_id: str, after: EntryId) -> Tail:
        """Lend the tail of a job; it is kept as long as somebody has it."""
        if self._closed:
            raise HubClosedError
        tail = self._tails.get(job_id)
        if tail is None:
            tail = self._tails[job_id] = Tail(job_id, after, time.monotonic(), self._bounds)
            self.counters.tails += 1
            self._reader.has_new()
        if tail.reach_back(after):
            self._wake()
        tail.users += 1
        self.counters.viewers += 1
        return tail

    def _let_go(self, tail: Tail) -> None:
        self.counters.viewers -= 1
        tail.users -= 1
        if not tail.users:
            self.counters.tails -= 1
            del self._tails[tail.job_id]


async def _close(redis: Redis) -> None:
    """Close a client's connections, also where this task is being cancelled."""
    with anyio.CancelScope(shield=True):
        await redis.aclose()

"""The pump: hands what is new to every viewer, and waits for none.

A server's send waits only while a socket's buffer is above its high-water mark. So the pump runs the first step of a
send itself, which mostly is all there is; what waits goes on in a task of its own, and its viewer is passed over
until it is through. A task per viewer would cost half as much again (measured with uvicorn, 2,000 viewers).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import anyio.abc
import anyio.lowlevel

from velesio_worker.client.fanout.bounds import Bounds, Counters
from velesio_worker.client.fanout.frames import KEEP_ALIVE, EntryId, closing_frame, entry_name
from velesio_worker.client.fanout.tails import Tail
from velesio_worker.client.fanout.viewers import EndReason, ViewEnd, Viewer

_SWEEP_SECONDS: Final = 3.0
_TURN: Final = 256
"""How many viewers are looked after before others have a turn."""


class Pump:
    """Feeds viewers.

    Args:
        group: for sends that wait.
        bounds: how long they may.
        counters: what is counted.
        wake: called when a tail may be read on that was held.
    """

    def __init__(
        self, group: anyio.abc.TaskGroup, bounds: Bounds, counters: Counters, wake: Callable[[], None]
    ) -> None:
        self._group = group
        self._bounds = bounds
        self._counters = counters
        self._wake = wake
        self._viewers: dict[Viewer, None] = {}

    def add(self, viewer: Viewer) -> None:
        """Look after a viewer from now on."""
        self._viewers[viewer] = None

    def remove(self, viewer: Viewer) -> None:
        """Look after it no more; a send that waits is given up."""
        self._viewers.pop(viewer, None)
        if viewer.tail is not None:
            viewer.tail.followers.pop(viewer, None)
        if viewer.scope is not None:
            viewer.scope.cancel()

    def join(self, viewer: Viewer, tail: Tail, position: int) -> None:
        """Have a viewer that has caught up follow the tail."""
        viewer.tail, viewer.position, viewer.ahead = tail, position, viewer.after >= tail.last
        tail.followers[viewer] = None
        self.feed(viewer)

    def deliver(self, tail: Tail) -> None:
        """Hand what is new to all who follow a tail."""
        for follower in tuple(tail.followers):
            if isinstance(follower, Viewer) and not follower.busy:
                self.feed(follower)

    def feed(self, viewer: Viewer) -> None:
        """Hand a viewer what it has not had yet, as far as it takes it."""
        tail = viewer.tail
        if tail is not None and viewer.ahead:
            viewer.position = tail.position_after(viewer.after) or viewer.position
            viewer.ahead = viewer.after >= tail.last
        while tail is not None and not viewer.busy and viewer.end is None and viewer.failure is None:
            position = viewer.position
            if position < tail.base:
                self._give_up(viewer)
            elif position < tail.end:
                data, upto, after = tail.chunk(position)
                self.send(viewer, data, upto - position, upto, after)
            else:
                if tail.over or tail.held or tail.failure is not None:
                    self._took_all(viewer, tail)
                return

    def _took_all(self, viewer: Viewer, tail: Tail) -> None:
        if tail.failure is not None:
            viewer.failure = tail.failure
            viewer.moved.ring()
        elif tail.over:
            self.finish(viewer, EndReason.ENDED)
        elif tail.held:
            self._wake()

    def send(self, viewer: Viewer, data: bytes, frames: int, upto: int, after: EntryId) -> None:
        """Begin to send a viewer data; what waits goes on by itself.

        Args:
            viewer: who is free.
            data: the bytes.
            frames: how many frames they are.
            upto: its position once they are sent.
            after: the last entry that it has then.
        """
        viewer.since = time.monotonic()
        try:
            waits = viewer.begin(data)
        except Exception as error:  # noqa: BLE001 (the viewer's own, whose task raises it)
            viewer.failure = error
            viewer.moved.ring()
            return
        counters = self._counters
        counters.sends += 1
        counters.frames += frames
        counters.sent_bytes += len(data)
        if waits is None:
            viewer.position, viewer.after = upto, after
            return
        viewer.busy, viewer.scope = True, anyio.CancelScope()
        self._counters.lagging += 1
        self._group.start_soon(self._finish_send, viewer, waits, upto, after, name="velesio-slow-viewer")

    async def _finish_send(self, viewer: Viewer, waits: Awaitable[None], upto: int, after: EntryId) -> None:
        assert viewer.scope is not None  # noqa: S101 (set by whoever starts this)
        try:
            with viewer.scope:
                await waits
                viewer.position, viewer.after = upto, after
        except Exception as error:  # noqa: BLE001 (as above)
            viewer.failure = error
        finally:
            viewer.busy, viewer.scope = False, None
            viewer.since = time.monotonic()
            self._counters.lagging -= 1
            viewer.moved.ring()
        if viewer in self._viewers:
            self.feed(viewer)

    def finish(self, viewer: Viewer, reason: EndReason) -> None:
        """Take note that a view ends."""
        if viewer.goes_on:
            viewer.end = ViewEnd(reason, entry_name(viewer.after))
            viewer.moved.ring()

    def _give_up(self, viewer: Viewer) -> None:
        """End the view of one that is too slow, and tell it so if it takes that."""
        self._counters.dropped += 1
        self._close(viewer, EndReason.TOO_SLOW)

    def _close(self, viewer: Viewer, reason: EndReason) -> None:
        """End a view with a last frame that names its resume point, if there is room for that."""
        if not viewer.busy:
            frame = closing_frame(reason, viewer.after)
            self.send(viewer, frame, 0, viewer.position, viewer.after)
        self.finish(viewer, reason)

    def dismiss(self) -> None:
        """End all views, and tell each where it may resume: this process ends."""
        for viewer in tuple(self._viewers):
            if viewer.goes_on:
                self._close(viewer, EndReason.STOPPED)

    async def run(self) -> None:
        """Keep idle viewers' connections alive, and give up those that take nothing; for ever."""
        while True:
            await anyio.sleep(min(_SWEEP_SECONDS, self._bounds.stall_seconds / 4, self._bounds.keep_alive_seconds / 4))
            now = time.monotonic()
            stalled, idle = now - self._bounds.stall_seconds, now - self._bounds.keep_alive_seconds
            latest, turn = max(stalled, idle), 0
            for viewer in tuple(self._viewers):
                if viewer.since > latest or viewer not in self._viewers or not viewer.goes_on:
                    continue
                if viewer.busy and viewer.since <= stalled:
                    self._give_up(viewer)
                elif not viewer.busy and viewer.since <= idle:
                    self.send(viewer, KEEP_ALIVE, 0, viewer.position, viewer.after)
                turn += 1
                if turn % _TURN == 0:
                    await anyio.lowlevel.checkpoint()

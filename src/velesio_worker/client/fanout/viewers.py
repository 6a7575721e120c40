"""Viewers: who is sent a tail's frames, and how a send that waits is left to itself."""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import anyio

from velesio_worker.client.fanout.frames import EntryId
from velesio_worker.client.fanout.tails import Tail
from velesio_worker.core.bell import Bell

Send = Callable[[bytes], Awaitable[None] | None]
"""Takes bytes for a viewer's socket; returns what waits while that takes no more, or None where there is nothing to
wait for. The first step of what waits is run by the pump: it uses no cancel scopes and asks for no current task before
it first waits."""


class EndReason(StrEnum):
    """Why a view ended."""

    ENDED = "ended"
    TOO_SLOW = "too_slow"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ViewEnd:
    """How a view ended.

    Attributes:
        reason: ``ended``: the viewer has the last entry; ``too_slow``: it took what it was sent too slowly;
            ``stopped``: this process ends.
        after: the id of the last entry that it was sent: where it may resume.
    """

    reason: EndReason
    after: str


class Viewer:
    """One who is sent frames.

    Args:
        send: takes them.
        after: the last entry that it has.
        now: the time, in monotonic seconds.

    Attributes:
        tail: what it follows; None until it has caught up.
        position: of the entry in the tail that it is sent next.
        after: the last entry that it was sent.
        ahead: whether that may be an entry which the tail has not read yet.
        busy: whether a send waits.
        since: since when, or else when it was last sent anything; in monotonic seconds.
        end: how it ended; None while it goes on.
        failure: what its send raised.
        moved: is rung when a send that waited is through, and when it ends.
    """

    __slots__ = (
        *("_send", "after", "ahead", "busy", "end", "failure"),
        *("moved", "position", "scope", "since", "tail"),
    )

    def __init__(self, send: Send, after: EntryId, now: float) -> None:
        self._send = send
        self.tail: Tail | None = None
        self.position = 0
        self.after = after
        self.ahead = False
        self.busy = False
        self.since = now
        self.end: ViewEnd | None = None
        self.failure: Exception | None = None
        self.moved = Bell()
        self.scope: anyio.CancelScope | None = None

    def begin(self, data: bytes) -> Awaitable[None] | None:
        """Have data sent as far as that goes without waiting; returns what is left to be awaited, if anything."""
        waits = self._send(data)
        if waits is None:
            return None
        steps: Generator[Any, Any, None] = waits.__await__()
        try:
            first = next(steps)
        except StopIteration:
            return None
        return _rest(steps, first)

    @property
    def goes_on(self) -> bool:
        """Whether it has neither ended nor failed."""
        return self.end is None and self.failure is None


@types.coroutine
def _rest(steps: Generator[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:  # noqa: ANN401 (a Future)
    """Go on, in whichever task awaits this, with what was begun elsewhere and waits for something."""
    while True:
        try:
            value = yield waits_for
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:  # noqa: BLE001 (it goes where it would have gone)
            step = partial(steps.throw, error)
        else:
            step = partial(steps.send, value)
        try:
            waits_for = step()
        except StopIteration:
            return

"""What the task that owns an engine is asked for and told."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import anyio

from velesio_worker.engines.base import Spec
from velesio_worker.engines.supervision.decisions import Condition
from velesio_worker.wire.errors import EngineStartError


@dataclass(frozen=True, slots=True)
class Load:
    """Somebody wants a model loaded, now."""

    spec: Spec


@dataclass(frozen=True, slots=True)
class Loaded:
    """It is loaded, and the default from now on."""


@dataclass(slots=True, eq=False)
class Unload:
    """Somebody wants the engine unloaded, and waits until that is ``done``; ``error`` says why it is not."""

    done: anyio.Event = field(default_factory=anyio.Event)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Whoever wanted that wants it no longer."""

    unload: Unload


@dataclass(frozen=True, slots=True)
class Started:
    """The engine serves."""

    spec: Spec


@dataclass(frozen=True, slots=True)
class Rested:
    """It has let go of the GPU's memory; ``refusal`` says why it has not."""

    refusal: str


@dataclass(frozen=True, slots=True)
class Found:
    """Something is wrong with the engine that serves."""

    condition: Condition
    why: str


@dataclass(frozen=True, slots=True)
class Ended:
    """There is no engine any more.

    Attributes:
        spec: what it was started with.
        error: why it did not start.
        lost: what happened to it; empty if it was stopped.
        reason: why it was stopped.
        steady: whether what happened before its start does not count any more.
    """

    spec: Spec
    error: EngineStartError | None = None
    lost: str = ""
    reason: str = ""
    steady: bool = False


Request = Load | Loaded | Unload | Withdrawn | Started | Rested | Found | Ended


class Inbox:
    """Requests for one task, in the order in which they came."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque()
        self._news = anyio.Event()

    def post(self, request: Request) -> None:
        """Leave a request, and wake the task."""
        self._requests.append(request)
        self._news.set()

    def wake(self) -> None:
        """Wake the task: something has changed that it sees by itself."""
        self._news.set()

    def take(self) -> Iterator[Request]:
        """Yield what has come, and take it out."""
        while self._requests:
            yield self._requests.popleft()

    async def news(self) -> None:
        """Wait until the task is woken; returns at once if it was since the last time."""
        await self._news.wait()
        self._news = anyio.Event()

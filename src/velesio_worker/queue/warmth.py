"""Where a conversation goes on: what this engine has read, and jobs that are kept for whoever has read theirs."""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import anyio

from velesio_worker.core.bell import Bell
from velesio_worker.core.metrics import WARM
from velesio_worker.queue.keys import Slot
from velesio_worker.queue.link import Link
from velesio_worker.wire.jobs import Job, Kind
from velesio_worker.wire.share import prompt_tokens

LONGEST_PATIENCE: Final = 0.5
"""For so long a job is kept at most for the worker that has read its conversation, in seconds."""

SHORTEST_PATIENCE: Final = 0.02
"""What saves less than so many seconds is not waited for."""

_FIRST_SPEED: Final = 500.0
"""So many tokens of a prompt an engine is taken to read in a second before it has read any."""

_MEASURED: Final = 32
"""In prompts of fewer tokens the speed of reading does not show."""

_SMOOTHING: Final = 8
_LATE: Final = 0.002
"""By so many seconds a job is let go after its moment, so that Redis's clock says so, too."""


class Warmth:
    """What is known of what this worker's engine has read."""

    def __init__(self) -> None:
        self._promised: set[str] = set()
        self._held: dict[str, bool] = {}
        self._sessions: dict[str, str] = {}
        self._speed = 0.0

    def promise(self, slot: Slot) -> None:
        """Take note that the job in a slot was taken because the engine should hold what it begins with."""
        self._promised.add(slot.key)

    def belongs(self, slot: Slot, session: str) -> None:
        """Take note to which session the job in a slot belongs; empty: to none."""
        self._sessions[slot.key] = session

    def read(self, slot: Slot, read: int, held: int, milliseconds: Any = None) -> None:  # noqa: ANN401 (any JSON)
        """Take note how many tokens of the prompt of the job in a slot the engine read, and how many it held before.

        A job that was taken since the engine should hold them is a hit if it held half of them at least. How long the
        reading took says how fast it is.
        """
        hit, promised = held >= read, slot.key in self._promised
        self._held[slot.key] = hit or not promised
        if promised:
            WARM.labels("hit" if hit else "miss").inc()
        if read >= _MEASURED and isinstance(milliseconds, float | int) and 0 < milliseconds < math.inf:
            speed = read * 1000 / milliseconds
            self._speed += (speed - self._speed) / (_SMOOTHING if self._speed else 1)

    def outcome(self, slot: Slot) -> tuple[bool | None, str]:
        """Return whether the engine holds what the session of the job in a slot begins with, and that session."""
        return self._held.get(slot.key), self._sessions.get(slot.key, "")

    def emptied(self, slot: Slot) -> None:
        """Take note that a slot has been emptied."""
        self._promised.discard(slot.key)
        self._held.pop(slot.key, None)
        self._sessions.pop(slot.key, None)

    def patience(self, job: Job) -> float:
        """Return for how many seconds a job may be kept: so long its prompt would be read; or 0."""
        seconds = min(LONGEST_PATIENCE, prompt_tokens(job) / (self._speed or _FIRST_SPEED))
        return seconds if seconds >= SHORTEST_PATIENCE else 0.0


class Summons:
    """Calls whoever waits for any job back from that, since one is kept for this worker.

    Attributes:
        rung: how often it has been rung.
    """

    def __init__(self) -> None:
        self.rung = 0
        self._waiting: list[anyio.CancelScope] = []

    def ring(self) -> None:
        """Call back all who wait."""
        self.rung += 1
        for scope in self._waiting:
            scope.cancel()

    @contextmanager
    def heeded(self, rung: int) -> Generator[bool]:
        """Cancel what is awaited within as soon as it has rung more often; yields False if it has already."""
        with anyio.CancelScope() as scope:
            self._waiting.append(scope)
            try:
                yield self.rung == rung
            finally:
                self._waiting.remove(scope)


class LettingGo:
    """Has jobs that were kept for a worker wait for whoever comes, once their moment is over.

    Should this worker be lost meanwhile, whoever takes jobs next does so (``scripts/kept.lua``).
    """

    def __init__(self, link: Link) -> None:
        self._link = link
        self._kept: list[tuple[float, Kind, str]] = []
        self._noted = Bell()

    def due(self, kind: Kind, worker: str, seconds: float) -> None:
        """Take note that a job is kept for a worker for so many seconds from now on."""
        heapq.heappush(self._kept, (time.monotonic() + seconds + _LATE, kind, worker))
        self._noted.ring()

    async def run(self) -> None:
        """Let go for ever."""
        while True:
            left = self._kept[0][0] - time.monotonic() if self._kept else math.inf
            if left > 0:
                with anyio.move_on_after(left):
                    await self._noted.wait()
                continue
            _, kind, worker = heapq.heappop(self._kept)
            await self._link.done(partial(self._link.scripts.let_go, self._link.keys, kind, worker))

"""What a job's engine tells, on its way to the job's stream: the one step between the two."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

from velesio_worker.core.metrics import SSE_EVENTS
from velesio_worker.execution.cache import MOST_PIECES
from velesio_worker.execution.run import Run
from velesio_worker.wire.events import (
    PROGRESS,
    TOKEN,
    Begun,
    EngineEvent,
    Preparing,
    Progress,
    Queued,
    written,
)


class Relay:
    """The sink of one run's generation (:class:`velesio_worker.engines.base.Sink`).

    Args:
        run: the run.
        keep_preview: keeps a picture of a job's, and returns where; None if that cannot be.
    """

    def __init__(self, run: Run, keep_preview: Callable[[str, bytes], Awaitable[str | None]]) -> None:
        self._run = run
        self._keep_preview = keep_preview
        self._stream, self._answer, self._times = run.stream, run.answer, run.times
        self._streamed = run.job.streamed
        self._begun_before = run.answer.before.begun
        self._counted = not run.answer.cached
        self._pictures: list[Progress] = []

    def token(self, choice: dict[str, Any], *, has_output: bool) -> None:
        """Queue a piece of output. Runs for each token."""
        answer = self._answer
        answer.tokens += has_output
        SSE_EVENTS.count += self._counted
        data = {"choices": [choice]}
        if answer.cache_key is not None:
            answer.collect(data, MOST_PIECES)
        if self._streamed and (has_output or not self._begun_before):  # the role was said by whoever began
            self._stream.put(TOKEN, written(data))

    def tell(self, event: EngineEvent) -> None:
        """Take whatever else happens."""
        SSE_EVENTS.count += self._counted
        match event:
            case Progress() if event.preview is None and not self._pictures:
                self._stream.put(PROGRESS, written(event.data))
            case Progress():
                self._pictures.append(event)  # what comes behind one waits with it, so that none goes back
            case Preparing():
                self._run.clock.count()
            case Queued():
                self._run.clock.pause()
            case Begun():
                self._run.at_work = True
                self._run.request.sent()
                self._run.clock.start()

    def heard(self) -> bool:
        """Take note that the engine is at work; False if the stream has no room for more. Runs for each read."""
        times = self._times
        now = times.waiting_since = time.monotonic()
        if times.first_token_at is None and self._answer.tokens:
            times.first_token_at = now
            self._run.request.answered()
        return self._stream.has_room and not self._pictures

    async def room(self) -> None:
        """Wait until the stream has room; a run that waits for its readers does not wait for its engine."""
        self._times.waiting_since = math.inf
        await self.show()
        await self._stream.room()
        self._times.waiting_since = time.monotonic()

    async def show(self) -> None:
        """Keep the pictures that came with progress, and queue what points to them."""
        for event in self._pictures:
            key = None if event.preview is None else await self._keep_preview(self._run.job.id, event.preview)
            self._stream.put(PROGRESS, written(event.data | ({} if key is None else {"preview": key})))
        self._pictures.clear()

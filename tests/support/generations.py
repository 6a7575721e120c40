"""Generations run for tests: what they tell, in batches as the engine's reads brought it, and doubles that tell it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

from velesio_worker.core.bell import Bell
from velesio_worker.engines.base import Generation, Sink
from velesio_worker.wire.events import Done, EngineEvent, has_output


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of output that was told.

    Attributes:
        choice: the choice of its ``token`` entry.
    """

    choice: dict[str, Any]

    @property
    def has_output(self) -> bool:
        return has_output(self.choice)


Told = Token | EngineEvent | Done


class Recorder:
    """A sink that keeps what it is told, in batches: one for each time that the engine was heard."""

    def __init__(self) -> None:
        self.batches: list[list[Told]] = []
        self.moved = Bell()
        self._batch: list[Told] = []

    def token(self, choice: dict[str, Any], *, has_output: bool) -> None:
        token = Token(choice)
        assert token.has_output == has_output
        self._batch.append(token)

    def tell(self, event: EngineEvent) -> None:
        self._batch.append(event)

    def heard(self) -> bool:
        self.batches.append(self._batch)
        self._batch = []
        self.moved.ring()
        return True

    async def room(self) -> None:
        """Have room at once."""

    def end(self, done: Done | None) -> None:
        """Take the end of a run; None: it has none."""
        self._batch += [] if done is None else [done]
        if self._batch:
            self.heard()


async def events_of(generation: Generation) -> AsyncGenerator[Sequence[Told], None]:
    """Yield what a generation tells, its end as the last; closing this cancels the run."""
    recorder = Recorder()

    async def run() -> None:
        done = None
        try:
            done = await generation.run(recorder)
        finally:
            recorder.end(done)
            recorder.moved.ring()

    task = asyncio.ensure_future(run())
    try:
        while True:
            if recorder.batches:
                yield recorder.batches.pop(0)
            elif task.done():
                break
            else:
                await recorder.moved.wait()
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def tell_all(events: AsyncGenerator[Sequence[EngineEvent | Done], None], sink: Sink) -> Done:
    """Tell a sink what a double yields, as an engine does; returns the end."""
    async for batch in events:
        for event in batch:
            if isinstance(event, Done):
                return event
            sink.tell(event)
        if not sink.heard():
            await sink.room()
    raise AssertionError("a double that yields no end")

"""What an engine is to the rest of the worker."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from velesio_worker.events import Done, EngineEvent
from velesio_worker.jobs import Parameters


class Generation(Protocol):
    """One job on an engine."""

    def events(self) -> AsyncGenerator[Sequence[EngineEvent], None]:
        """Yield what happens, as many events at a time as one read brought; a :class:`Done` is the last.

        An empty batch says that the engine is at work.

        Closing the generator before its end stops the engine's work on the job.

        Raises:
            JobError: the job failed.
        """
        ...

    def cut_short(self, finish_reason: str = "cancelled") -> Done:
        """Return the end of a job that stops where it is, with what it has so far."""
        ...


class Engine(Protocol):
    """Something that runs jobs of one kind."""

    @property
    def model(self) -> str:
        """The name of the model that is loaded."""
        ...

    def generate(self, parameters: Parameters, after: str = "", pieces: int = 0) -> Generation:
        """Return one job's run, not begun yet.

        Args:
            parameters: the job's.
            after: text that an earlier attempt made: the run goes on from its end, and its result has all of it.
            pieces: in how many pieces that came; it has at least so many tokens.
        """
        ...


class EngineSource(Protocol):
    """Whoever knows the engine of one kind of job."""

    def using(self) -> AbstractContextManager[Engine]:
        """Use the engine; raises EngineUnavailableError if it is not ready, EngineCrashedError if it goes away."""
        ...

    async def lost(self) -> None:
        """Take note that a request found the engine gone, before anybody asks for it again."""
        ...

    async def stalled(self, reason: str) -> None:
        """Take note that the engine hangs, and replace it where that can be done."""
        ...

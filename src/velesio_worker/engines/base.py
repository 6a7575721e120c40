"""What an engine is to the rest of the worker."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from velesio_worker.events import Done, EngineEvent
from velesio_worker.jobs import Parameters


class Generation(Protocol):
    """One job on an engine."""

    def events(self) -> AsyncGenerator[Sequence[EngineEvent], None]:
        """Yield what happens, as many events at a time as one read brought; a :class:`Done` is the last.

        Closing the generator before its end stops the engine's work on the job.

        Raises:
            JobError: the job failed.
        """
        ...

    def cut_short(self) -> Done:
        """Return the end of a job that was cancelled: what it has so far, with ``finish_reason`` ``cancelled``."""
        ...


class Engine(Protocol):
    """Something that runs jobs of one kind."""

    @property
    def model(self) -> str:
        """The name of the model that is loaded."""
        ...

    def generate(self, parameters: Parameters) -> Generation:
        """Return one job's run, not begun yet."""
        ...

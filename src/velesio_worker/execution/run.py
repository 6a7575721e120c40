"""A job that runs: what is known of it, and how it ended."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import anyio

from velesio_worker.engines.base import PLAIN, Generation, Traits
from velesio_worker.engines.requests import EngineRequest
from velesio_worker.execution.published import NOTHING, Published
from velesio_worker.job_stream import JobStream
from velesio_worker.queue.claims import Claim
from velesio_worker.wire.errors import EngineCrashedError, EngineStalledError, FencedError, JobError, StreamLostError
from velesio_worker.wire.events import Done
from velesio_worker.wire.jobs import Job

BATCH_SECONDS: Final = 2.0
"""How long a job waits for those that were taken with it; one may have to wait for another model."""


_HAIR: Final = 1e-6


class Halt(StrEnum):
    """Why a run is stopped before its end."""

    HANDED_BACK = "handed_back"
    CANCELLED = "cancelled"
    FENCED = "fenced"
    STALLED = "stalled"


Outcome = Done | JobError | FencedError | StreamLostError | None
"""How a run ended; None: it was stopped, and the job is to be handed back."""


class Clock:
    """Stops a job that runs too long. While it stands in its engine's own line its time stands still: it may expire.

    Args:
        limit: how long it may run, in seconds.
        expires_at: when it need not begin any more, in Unix time; None: never, or it has begun.
    """

    def __init__(self, limit: float, expires_at: float | None = None) -> None:
        self.limit = limit
        self._left = limit
        self.expires_at = expires_at
        self._since: float | None = None
        self._scope = anyio.CancelScope()

    @property
    def expired(self) -> bool:
        """Whether it was stopped because it had not begun in time, rather than because it ran too long."""
        return self.expires_at is not None and self._left > _HAIR

    @contextlib.contextmanager
    def watched(self, *, running: bool) -> Generator[None, None, None]:
        """Stop what is done in the context once its time is over; what it ran before counts, too.

        Args:
            running: whether it runs at once; else from :meth:`start` on.
        """
        try:
            with anyio.CancelScope() as self._scope:
                if running:
                    self.start()
                else:
                    self.pause()
                yield
        finally:
            self._stand_still()

    def start(self) -> None:
        """Take note that the job has begun."""
        self.expires_at = None
        self.count()

    def count(self) -> None:
        """Have its time run: somebody works on it, though it may not have begun."""
        if self._since is None:
            self._since = anyio.current_time()
        self._set_deadline()

    def pause(self) -> None:
        """Have its time stand still."""
        self._stand_still()
        self._set_deadline()

    def _stand_still(self) -> None:
        if self._since is not None:
            self._left -= anyio.current_time() - self._since
            self._since = None

    def _set_deadline(self) -> None:
        now = anyio.current_time()
        over = math.inf if self._since is None else self._since + self._left
        expires = math.inf if self.expires_at is None else now + self.expires_at - time.time()
        self._scope.deadline = min(over, expires)


class BatchMember:
    """The place of one job among those that were taken together, to be run as one."""

    def __init__(self, missing: set[BatchMember], complete: anyio.Event, patience: float) -> None:
        self._missing = missing
        self._complete = complete
        self._patience = patience
        missing.add(self)

    async def arrive(self) -> None:
        """Wait until all are here, or have given up, or a moment is over."""
        self.give_up()
        with anyio.move_on_after(self._patience):
            await self._complete.wait()

    def give_up(self) -> None:
        """Have nobody wait for this one (any more)."""
        self._missing.discard(self)
        if not self._missing:
            self._complete.set()


def batch_of(size: int, *, patience: float = BATCH_SECONDS) -> list[BatchMember]:
    """Return the places of so many jobs that were taken together."""
    missing, complete = set[BatchMember](), anyio.Event()
    return [BatchMember(missing, complete, patience) for _ in range(size)]


@dataclass(slots=True)
class Stop:
    """Whether and how a run is stopped.

    Attributes:
        scope: cancelled to stop it.
        ending: the scope of what is still to be done then.
        halted: why it was stopped, if it was.
    """

    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ending: anyio.CancelScope = field(default_factory=lambda: anyio.CancelScope(shield=True))
    halted: Halt | None = None

    def halt(self, why: Halt) -> None:
        """Stop the run; the first reason stands."""
        if self.halted is None:
            self.halted = why
        self.scope.cancel()


@dataclass(slots=True)
class Timeline:
    """When what happened to a run, in monotonic seconds; None where it has not.

    Attributes:
        began: when it began.
        granted_at: when it got its engine.
        waiting_since: since when it has waited for the engine to send something; infinite while it does not.
        first_token_at: when the first token came.
        made_at: when its outcome was known.
    """

    began: float = field(default_factory=time.monotonic)
    granted_at: float | None = None
    waiting_since: float = math.inf
    first_token_at: float | None = None
    made_at: float | None = None


@dataclass(slots=True)
class Answer:
    """What a run has of its job's output.

    Attributes:
        generation: makes it, once that has begun.
        before: what earlier attempts published that it goes on from.
        tokens: how many tokens were sent.
        cached: whether it comes from the cache.
        cache_key: where it is to be kept; None if it is not.
        pieces: the data of its ``token`` entries, if it is to be kept.
    """

    generation: Generation | None = None
    before: Published = NOTHING
    tokens: int = 0
    cached: bool = False
    cache_key: str | None = None
    pieces: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def collect(self, data: dict[str, Any], most: int) -> None:
        """Collect a piece that is to be kept; more than ``most`` of them are not."""
        self.pieces.append(data)
        if len(self.pieces) > most:
            self.cache_key = None
            self.pieces.clear()


@dataclass(slots=True, eq=False)
class Run:
    """A job that runs.

    Attributes:
        claim: the job.
        stream: where its entries go.
        member: its place among the jobs that were taken together with it.
        clock: limits how long it runs.
        traits: what its engine is like.
        request: what its engine is asked.
        at_work: whether its engine works on it; else it waits for that.
        mode: how the attempt began, as its last ``start`` says; empty before that.
        model: the name of the model that it runs on, once that is known.
        outcome: how it ended, once that is known.
        ended: whether this attempt wrote the job's result.
        stop: whether and how it is stopped.
        times: when what happened.
        answer: what it has of the output.
    """

    claim: Claim
    stream: JobStream
    member: BatchMember | None = None
    clock: Clock = field(default_factory=lambda: Clock(math.inf))
    traits: Traits = PLAIN
    request: EngineRequest = field(default_factory=EngineRequest)
    at_work: bool = False
    mode: str = ""
    model: str | None = None
    outcome: Outcome = None
    ended: bool = False
    stop: Stop = field(default_factory=Stop)
    times: Timeline = field(default_factory=Timeline)
    answer: Answer = field(default_factory=Answer)

    @property
    def job(self) -> Job:
        """The job."""
        return self.claim.job

    @property
    def goes_on(self) -> bool:
        """Whether it was lost with its engine and is followed by another attempt."""
        return isinstance(self.outcome, EngineCrashedError | EngineStalledError) and not self.claim.last

    def entry(self, utilisation: int | None) -> dict[str, Any]:
        """Return what ``metrics:<second>`` is to hold of the job, which has just ended (wire protocol, section 5).

        Args:
            utilisation: how much the GPU works, 0 to 100; None if that is not known.
        """
        return {
            "job_type": self.job.type,
            "duration": round(time.monotonic() - self.times.began, 3),
            "success": isinstance(self.outcome, Done),
            "timestamp": round(time.time(), 3),
            "gpu_utilization": utilisation,
        }

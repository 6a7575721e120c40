"""One claimed job, from its ``start`` entry to its terminal one."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import anyio
import orjson

from velesio_worker.closing import Closer
from velesio_worker.engines.base import Engine, Generation
from velesio_worker.errors import (
    AbandonedError,
    EngineCrashedError,
    EngineUnavailableError,
    FencedError,
    InternalError,
    JobError,
    JobTimeoutError,
    NoCapacityError,
    StoppedError,
)
from velesio_worker.events import PROGRESS, START, TOKEN, Done, EngineEvent, Progress, Token, start_entry
from velesio_worker.jobs import Kind
from velesio_worker.logs import get_logger
from velesio_worker.queue.claims import Claim, Claims
from velesio_worker.queue.slots import Slots
from velesio_worker.stream import JobStream, Publisher

LAST_SECONDS: Final = 10.0
"""How long the end of a job may take once the worker is ending, should Redis not answer."""

log = get_logger(__name__)


class EngineSource(Protocol):
    """Whoever knows the engine of one kind of job."""

    def using(self) -> AbstractContextManager[Engine]:
        """Use the engine; raises EngineUnavailableError if it is not ready, EngineCrashedError if it goes away."""
        ...

    async def lost(self) -> None:
        """Take note that a request found the engine gone, before anybody asks for it again."""
        ...


@dataclass(slots=True, eq=False)
class Run:
    """A job that runs.

    Attributes:
        claim: the job.
        stream: where its entries go.
        scope: cancelled to stop it; the job is then handed back.
        ending: the scope of what is still to be done then.
        cancelled: whether somebody asked that it be stopped for good.
        generation: its run on the engine, once that has begun.
        began: when it began, in monotonic seconds.
        tokens: how many tokens the engine has sent.
        first_token_at: when the first of them came, in monotonic seconds.
    """

    claim: Claim
    stream: JobStream
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    ending: anyio.CancelScope = field(default_factory=lambda: anyio.CancelScope(shield=True))
    cancelled: bool = False
    generation: Generation | None = None
    began: float = field(default_factory=time.monotonic)
    tokens: int = 0
    first_token_at: float | None = None


Outcome = Done | JobError | FencedError | None
"""How a run ended; None: it was stopped, and the job is to be handed back."""


class Executor:
    """Runs claimed jobs. Every way out of :meth:`run` ends the job or hands it back, and frees its slot.

    Args:
        worker: the worker's id.
        engines: the engines that there are, by kind.
        capacity: how many jobs of a kind may be on its engine at a time.
        publisher: writes the streams.
        claims: hands jobs back.
        slots: this worker's slots.
        closer: ends jobs.
        longest: the longest that a job may run, in seconds (``WORKER_TIMEOUT``).
    """

    def __init__(
        self,
        worker: str,
        engines: Mapping[Kind, EngineSource],
        capacity: Mapping[Kind, anyio.Semaphore],
        publisher: Publisher,
        claims: Claims,
        slots: Slots,
        closer: Closer,
        *,
        longest: float,
    ) -> None:
        self._worker = worker
        self._engines = engines
        self._capacity = capacity
        self._publisher = publisher
        self._claims = claims
        self._slots = slots
        self._closer = closer
        self._longest = longest
        self._runs: dict[Run, None] = {}
        self._stop_by = math.inf
        self._changed = anyio.Event()

    @property
    def running(self) -> int:
        """How many jobs run now."""
        return len(self._runs)

    async def idle(self) -> None:
        """Wait until no job runs."""
        while self._runs:
            await self._changed.wait()

    def stop(self, *, within: float) -> None:
        """Stop all jobs that run, and any that begins later, and hand them back.

        Args:
            within: how long that may take, should Redis not answer, in seconds.
        """
        self._stop_by = anyio.current_time() + within
        for run in reversed(list(self._runs)):  # so that the oldest is at the front of its list again
            self._stop(run)

    def running_ids(self) -> list[str]:
        """The ids of the jobs that run now."""
        return [run.claim.job.id for run in self._runs]

    def cancel(self, job_id: str) -> None:
        """Stop a job for good, if it runs here: its result is what it has so far."""
        for run in self._runs:
            if run.claim.job.id == job_id and not run.cancelled:
                run.cancelled = True
                run.scope.cancel()

    def _stop(self, run: Run) -> None:
        run.scope.cancel()
        run.ending.deadline = self._stop_by

    async def run(self, claim: Claim) -> None:
        """Run a job to its end, or hand it back if the run is stopped or cancelled."""
        run = Run(claim, self._publisher.open(claim.job.id, claim.held.attempt))
        self._runs[run] = None
        outcome: Outcome = None
        try:
            with run.scope:
                if self._stop_by < math.inf:
                    self._stop(run)
                outcome = await self._outcome(run)
            if outcome is None and run.cancelled and run.generation is not None:
                outcome = run.generation.cut_short()  # else it goes back, and is ended when it is claimed again
        except anyio.get_cancelled_exc_class():
            run.ending.deadline = min(run.ending.deadline, anyio.current_time() + LAST_SECONDS)
            raise
        finally:
            try:
                with run.ending:
                    await self._end(run, outcome)
                _report(run, outcome)
            finally:
                del self._runs[run]
                self._changed.set()
                self._changed = anyio.Event()

    async def _outcome(self, run: Run) -> Outcome:
        job = run.claim.job
        limit = min(job.timeout or self._longest, self._longest)
        try:
            if job.type.kind not in self._engines:
                raise NoCapacityError(f"The worker {self._worker} runs no {job.type.kind} jobs.")  # noqa: TRY301
            async with self._capacity[job.type.kind]:
                with anyio.move_on_after(limit):
                    return await self._generate(run)
            return JobTimeoutError(f"The job ran longer than {limit:g} s: raise its timeout or WORKER_TIMEOUT.")
        except AbandonedError:
            return run.generation.cut_short() if run.generation else None
        except StoppedError:
            return None
        except (JobError, FencedError) as error:
            return error
        except Exception as error:
            log.exception("a job failed through a mistake of the worker's", action="job_broken", job_id=job.id)
            return InternalError(f"The worker made a mistake ({type(error).__name__}); its log has the details.")

    async def _generate(self, run: Run) -> Done:
        job = run.claim.job
        with self._engines[job.type.kind].using() as engine:
            return await self._generate_on(engine, run)
        raise EngineCrashedError

    async def _generate_on(self, engine: Engine, run: Run) -> Done:
        job, held = run.claim.job, run.claim.held
        mode = "fresh" if run.claim.first else "restart"
        start = start_entry(job.type, held.attempt, self._worker, engine.model, mode)
        run.stream.put(START, orjson.dumps(start))
        if not run.claim.first:
            await run.stream.flushed()  # from here on an earlier attempt can write nothing
        run.generation = engine.generate(job.parameters)
        async with aclosing(run.generation.events()) as batches:
            async for batch in batches:
                done = self._publish(run, batch)
                if done is not None:
                    return done
                await run.stream.room()
        raise EngineCrashedError

    def _publish(self, run: Run, batch: Sequence[EngineEvent]) -> Done | None:
        """Queue what one read brought; no await in here, since it runs for every token."""
        streamed = run.claim.job.streamed
        for event in batch:
            match event:
                case Token():
                    run.tokens += event.has_output
                    if streamed:
                        run.stream.put(TOKEN, orjson.dumps(event.data))
                case Progress():
                    run.stream.put(PROGRESS, orjson.dumps(event.data))
                case Done():
                    return event
        if run.first_token_at is None and run.tokens:
            run.first_token_at = time.monotonic()
        return None

    async def _end(self, run: Run, outcome: Outcome) -> None:
        job, held = run.claim.job, run.claim.held
        if isinstance(outcome, EngineCrashedError | EngineUnavailableError):
            await self._engines[job.type.kind].lost()
        match outcome:
            case None:
                await self._claims.hand_back(held, in_good_order=True)
            case FencedError():
                await self._slots.ack(held.slot, held.payload)
            case EngineCrashedError() if job.on_crash != "fail":
                await self._claims.hand_back(held, in_good_order=False)
            case EngineUnavailableError():
                await self._claims.hand_back(held, in_good_order=True)
            case JobError():
                await self._closer.failed(held, outcome, run.stream, partial=job.streamed and run.tokens > 0)
            case Done():
                await self._closer.done(held, outcome, run.stream)


def _report(run: Run, outcome: Outcome) -> None:
    """Log how a run ended: one line per run."""
    if run.ending.cancelled_caught:
        log.error(
            "Redis did not answer in time: the job stays in its slot",
            action="job_left",
            job_id=run.claim.job.id,
            slot=run.claim.held.slot.name,
        )
        return
    fields: dict[str, Any] = {
        "job_id": run.claim.job.id,
        "attempt": run.claim.held.attempt,
        "type": run.claim.job.type.value,
        "duration_ms": round((time.monotonic() - run.began) * 1000),
        "tokens": run.tokens,
    }
    if run.first_token_at is not None:
        fields["first_token_ms"] = round((run.first_token_at - run.began) * 1000)
    match outcome:
        case Done():
            log.info("job done", action="job_done", finish_reason=outcome.finish_reason, **fields)
        case None:
            log.info("job handed back", action="job_handed_back", **fields)
        case FencedError():
            log.warning("another attempt owns the job", action="job_fenced", **fields)
        case EngineUnavailableError():
            log.warning(f"job handed back: {outcome}", action="job_handed_back", **fields)
        case EngineCrashedError() if run.claim.job.on_crash != "fail":
            log.warning(f"job handed back: {outcome}", action="job_handed_back", **fields)
        case JobError():
            log.warning(f"job failed: {outcome}", action="job_failed", code=outcome.code, **fields)

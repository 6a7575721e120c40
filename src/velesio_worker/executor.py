"""One claimed job, from its ``start`` entry to its terminal one."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

import anyio
import orjson

from velesio_worker.closing import Closer
from velesio_worker.engines.base import Engine, EngineSource
from velesio_worker.errors import (
    AbandonedError,
    BadJobError,
    ContextExceededError,
    EngineCrashedError,
    EngineRefusedError,
    EngineStalledError,
    EngineUnavailableError,
    FencedError,
    InternalError,
    JobError,
    JobTimeoutError,
    NoCapacityError,
    StoppedError,
    StreamLostError,
)
from velesio_worker.events import PROGRESS, START, TOKEN, Done, EngineEvent, Progress, Token, start_entry
from velesio_worker.jobs import Kind
from velesio_worker.logs import get_logger
from velesio_worker.queue.claims import Claim, Claims
from velesio_worker.runs import Halt, Limits, Outcome, Run, report
from velesio_worker.stream import Publisher
from velesio_worker.subscriber import NOTHING, Published

LAST_SECONDS: Final = 10.0
"""How long the end of a job may take once the worker is ending, should Redis not answer."""

WATCH_SECONDS: Final = 1.0
"""How often it is looked for engines that send nothing."""

ReadPublished = Callable[[str], Awaitable[Published]]

log = get_logger(__name__)


class Executor:
    """Runs claimed jobs. Every way out of :meth:`run` ends the job or hands it back, and frees its slot.

    Args:
        worker: the worker's id.
        engines: the engines that there are, by kind.
        capacity: how many jobs of a kind may be on its engine at a time.
        publisher: writes the streams.
        claims: hands jobs back.
        closer: ends jobs.
        published: reads what a job's stream holds, by the job's id.
        limits: how long what may take.
    """

    def __init__(
        self,
        worker: str,
        engines: Mapping[Kind, EngineSource],
        capacity: Mapping[Kind, anyio.Semaphore],
        publisher: Publisher,
        claims: Claims,
        closer: Closer,
        published: ReadPublished,
        limits: Limits,
    ) -> None:
        self._worker = worker
        self._engines = engines
        self._capacity = capacity
        self._publisher = publisher
        self._claims = claims
        self._closer = closer
        self._published = published
        self._limits = limits
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

    def claims(self) -> list[Claim]:
        """The jobs that run now."""
        return [run.claim for run in self._runs if run.halted is None]

    def cancel(self, job_id: str) -> None:
        """Stop a job for good, if it runs here: its result is what it has so far."""
        self._halt(Halt.CANCELLED, job_id)

    def fence(self, job_id: str, attempt: int) -> None:
        """Stop an attempt that is not this worker's any more; what it still had to say is void."""
        self._halt(Halt.FENCED, job_id, attempt)

    def _halt(self, why: Halt, job_id: str, attempt: int | None = None) -> None:
        for run in self._runs:
            if run.claim.job.id == job_id and attempt in {None, run.claim.held.attempt}:
                run.halt(why)

    async def watch(self) -> None:
        """Look for ever for engines that send nothing, and stop their runs."""
        while True:
            await anyio.sleep(min(WATCH_SECONDS, self._limits.stall / 2))
            too_long = time.monotonic() - self._limits.stall
            for run in self._runs:
                if run.waiting_since < too_long:
                    run.halt(Halt.STALLED)

    def _stop(self, run: Run) -> None:
        run.halt(Halt.HANDED_BACK)
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
            if outcome is None:
                outcome = self._halted(run)
        except anyio.get_cancelled_exc_class():
            run.ending.deadline = min(run.ending.deadline, anyio.current_time() + LAST_SECONDS)
            raise
        finally:
            try:
                with run.ending:
                    await self._end(run, outcome)
                report(run, outcome)
            finally:
                del self._runs[run]
                self._changed.set()
                self._changed = anyio.Event()

    def _halted(self, run: Run) -> Outcome:
        """How a run ended that was stopped."""
        match run.halted:
            case Halt.CANCELLED if run.generation is not None:
                return run.generation.cut_short()  # else it goes back, and is ended when it is claimed again
            case Halt.FENCED:
                return FencedError()
            case Halt.STALLED:
                return EngineStalledError(f"The engine sent nothing for {self._limits.stall:g} s (STALL_SECONDS).")
            case _:
                return None

    async def _outcome(self, run: Run) -> Outcome:
        job = run.claim.job
        limit = min(job.timeout or self._limits.job, self._limits.job)
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
        except (JobError, FencedError, StreamLostError) as error:
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
        job = run.claim.job
        mode = "fresh" if run.claim.first else job.mode_after_loss
        self._announce(engine, run, mode)
        if not run.claim.first:
            await run.stream.flushed()  # from here on an earlier attempt can write nothing
        if mode == "continue":
            done = await self._continue(engine, run)
            if done is not None:
                return done
            self._announce(engine, run, "restart")
        return await self._generate_after(NOTHING, engine, run)

    def _announce(self, engine: Engine, run: Run, mode: str) -> None:
        job, held = run.claim.job, run.claim.held
        start = start_entry(job.type, held.attempt, self._worker, engine.model, mode)
        run.stream.put(START, orjson.dumps(start))

    async def _continue(self, engine: Engine, run: Run) -> Done | None:
        """Go on from the text that is published; None if there is no going on from it."""
        published = await self._published(run.claim.job.id)
        if not published.plain:
            return None
        run.before = published
        try:
            return await self._generate_after(published, engine, run)
        except ContextExceededError:
            if not run.before.text or run.tokens or run.generation is None:
                raise
            return run.generation.cut_short("length")  # the text so far is all that the context holds
        except (BadJobError, EngineRefusedError) as error:
            if not run.before.text or run.tokens:
                raise
            log.info(f"beginning anew: {error}", action="job_not_continued", job_id=run.claim.job.id)
            run.before = NOTHING
            return None

    async def _generate_after(self, before: Published, engine: Engine, run: Run) -> Done:
        run.generation = engine.generate(run.claim.job.parameters, before.text, before.pieces)
        try:
            run.waiting_since = time.monotonic()
            async with aclosing(run.generation.events()) as batches:
                async for batch in batches:
                    run.waiting_since = math.inf
                    done = self._publish(run, batch)
                    if done is not None:
                        return done
                    await run.stream.room()
                    run.waiting_since = time.monotonic()
        finally:
            run.waiting_since = math.inf
        raise EngineCrashedError

    def _publish(self, run: Run, batch: Sequence[EngineEvent]) -> Done | None:
        """Queue what one read brought; no await in here, since it runs for every token."""
        streamed = run.claim.job.streamed
        for event in batch:
            match event:
                case Token():
                    run.tokens += event.has_output
                    if streamed and (event.has_output or not run.before.begun):  # the role was said by whoever began
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
        if isinstance(outcome, EngineStalledError):
            await self._engines[job.type.kind].stalled(f"sent nothing for {self._limits.stall:g} s")
        match outcome:
            case None | StreamLostError() | EngineUnavailableError():
                await self._claims.hand_back(held, in_good_order=True)
            case FencedError():
                await self._closer.drop(held)
            case JobError() if run.goes_on(outcome):
                await self._claims.hand_back(held, in_good_order=False)
            case JobError():
                partial = await self._is_partial(run)
                await self._closer.failed(
                    held, outcome, run.stream, partial=partial, bury=_reason_to_bury(run, outcome)
                )
            case Done():
                await self._closer.done(held, outcome, run.stream)

    async def _is_partial(self, run: Run) -> bool:
        """Whether the job's stream holds some of its output."""
        if run.tokens or run.claim.first or not run.claim.job.streamed:
            return run.claim.job.streamed and run.tokens > 0
        return bool((await self._published(run.claim.job.id)).text)


def _reason_to_bury(run: Run, error: JobError) -> str:
    """Why a job is to go to the dead letters; empty if it is not."""
    lost = isinstance(error, EngineCrashedError | EngineStalledError)
    if not lost or run.claim.job.on_crash == "fail":
        return ""
    allowed = run.claim.job.attempts_allowed
    return f"{error} {'It was the only attempt' if allowed == 1 else f'It was the last of {allowed} attempts'}."

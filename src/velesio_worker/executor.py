"""One claimed job, from its ``start`` entry to its terminal one."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final, Protocol

import anyio
import orjson

from velesio_worker.cache import Kept, PromptCache, cache_key
from velesio_worker.closing import Closer
from velesio_worker.engines.base import Engine, EngineSource, EngineState
from velesio_worker.errors import (
    AbandonedError,
    BadJobError,
    ContextExceededError,
    EngineCrashedError,
    EngineFailedError,
    EngineRefusedError,
    EngineStalledError,
    EngineUnavailableError,
    FencedError,
    InternalError,
    JobError,
    JobTimeoutError,
    ModelUnavailableError,
    NoCapacityError,
    StoppedError,
    StreamLostError,
)
from velesio_worker.events import PROGRESS, START, TOKEN, Done, EngineEvent, Progress, Token, start_entry
from velesio_worker.jobs import Job, Kind
from velesio_worker.logs import get_logger
from velesio_worker.parameters import AnswerParameters
from velesio_worker.queue.claims import Claim
from velesio_worker.runs import Halt, Limits, Outcome, Run, report
from velesio_worker.stream import Publisher
from velesio_worker.subscriber import NOTHING, Published

LAST_SECONDS: Final = 10.0
"""How long the end of a job may take once the worker is ending, should Redis not answer."""

WATCH_SECONDS: Final = 1.0
"""How often it is looked for engines that send nothing."""

ReadPublished = Callable[[str], Awaitable[Published]]

log = get_logger(__name__)


class ManagementRuns(Protocol):
    """Runs jobs that look after models."""

    async def run(self, job: Job, on_wait: Callable[[EngineState], None]) -> dict[str, Any]:
        """Run a job; returns its result."""
        ...


class Executor:
    """Runs claimed jobs. Every way out of :meth:`run` ends the job or hands it back, and frees its slot.

    Args:
        engines: the engines that there are, by kind.
        management: runs jobs that look after models.
        cache: keeps answers.
        publisher: writes the streams.
        closer: ends jobs, or hands them back.
        published: reads what a job's stream holds, by the job's id.
        elsewhere: whether another worker may run jobs of a kind.
        limits: how long what may take.
    """

    def __init__(
        self,
        engines: Mapping[Kind, EngineSource],
        management: ManagementRuns,
        cache: PromptCache,
        publisher: Publisher,
        closer: Closer,
        published: ReadPublished,
        elsewhere: Callable[[Kind], Awaitable[bool]],
        limits: Limits,
    ) -> None:
        self._engines = engines
        self._management = management
        self._cache = cache
        self._elsewhere = elsewhere
        self._publisher = publisher
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
            if run.job.id == job_id and attempt in {None, run.claim.held.attempt}:
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
                await self._keep(run, outcome)
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
        try:
            return await self._run(run)
        except AbandonedError:
            return run.generation.cut_short() if run.generation else None
        except StoppedError:
            return None
        except (JobError, FencedError, StreamLostError) as error:
            return error
        except Exception as error:
            log.exception("a job failed through a mistake of the worker's", action="job_broken", job_id=run.job.id)
            return InternalError(f"The worker made a mistake ({type(error).__name__}); its log has the details.")

    async def _run(self, run: Run) -> Done | JobError:
        job = run.job
        if job.kind is Kind.MANAGE:
            self._announce(run, "fresh" if run.claim.first else "restart")
            return await self._in_time(run, self._manage)
        if job.kind not in self._engines:
            raise NoCapacityError(f"The worker {run.claim.held.slot.worker} runs no {job.kind} jobs.")
        source = self._engines[job.kind]
        kept = await self._from_cache(source, run)
        if kept is not None:
            return kept
        mode = "fresh" if run.claim.first else job.mode_after_loss
        self._announce(run, mode)
        async with source.ensure(job.model, on_wait=partial(self._waits, run)) as engine:
            return await self._in_time(run, lambda run: self._generate(engine, run, mode))
        raise EngineCrashedError

    async def _in_time(self, run: Run, work: Callable[[Run], Awaitable[Done]]) -> Done | JobError:
        limit = min(run.job.timeout or self._limits.job, self._limits.job)
        with anyio.move_on_after(limit):
            return await work(run)
        return JobTimeoutError(f"The job ran longer than {limit:g} s: raise its timeout or WORKER_TIMEOUT.")

    async def _manage(self, run: Run) -> Done:
        return Done(await self._management.run(run.job, partial(self._waits, run)), "stop")

    def _waits(self, run: Run, state: EngineState) -> None:
        """Tell the stream that the job waits for its engine; for a free slot is not worth an entry."""
        if state is not EngineState.READY:
            waited = round(time.monotonic() - run.began, 1)
            progress = {"stage": "loading", "processed": waited, "total": None, "state": state.value}
            run.stream.put(PROGRESS, orjson.dumps(progress))

    async def _from_cache(self, source: EngineSource, run: Run) -> Done | None:
        """Answer from the cache, in the pieces that it came in at first; None if there is nothing."""
        if not run.claim.first or not self._cache.wants(run.job):
            return None
        identity = await source.identity(run.job.model)
        if identity is None:
            return None
        run.cache_key = cache_key(run.job, identity)
        kept = await self._cache.find(run.cache_key)
        if kept is None:
            return None
        run.cached = True
        self._announce(run, "fresh", kept.model)
        for data in kept.tokens if run.job.streamed else ():
            self._publish(run, [Token(data)])
            await run.stream.room()
        return kept.done

    async def _generate(self, engine: Engine, run: Run, mode: str) -> Done:
        if not run.claim.first:
            await run.stream.flushed()  # from here on an earlier attempt can write nothing
        if mode == "continue":
            done = await self._continue(engine, run)
            if done is not None:
                return done
            self._announce(run, "restart")
        return await self._generate_after(NOTHING, engine, run)

    def _announce(self, run: Run, mode: str, model: str | None = None) -> None:
        job, held = run.job, run.claim.held
        if model is None and job.kind in self._engines:
            model = job.model.removesuffix(".gguf") if job.model else self._engines[job.kind].model
        start = start_entry(job.type, held.attempt, run.claim.held.slot.worker, model, mode)
        run.stream.put(START, orjson.dumps(start))

    async def _continue(self, engine: Engine, run: Run) -> Done | None:
        """Go on from the text that is published; None if there is no going on from it."""
        published = await self._published(run.job.id)
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
            log.info(f"beginning anew: {error}", action="job_not_continued", job_id=run.job.id)
            run.before = NOTHING
            return None

    async def _generate_after(self, before: Published, engine: Engine, run: Run) -> Done:
        run.generation = engine.generate(run.job.parameters, before.text, before.pieces)
        patient = math.inf if isinstance(run.job.parameters, AnswerParameters) else 0.0  # one answer, no sign before it
        try:
            run.waiting_since = time.monotonic() + patient
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
        streamed = run.job.streamed
        for event in batch:
            match event:
                case Token():
                    run.tokens += event.has_output
                    if run.cache_key is not None:
                        run.pieces.append(event.data)
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
        job, held = run.job, run.claim.held
        source = self._engines.get(job.kind)
        final = isinstance(outcome, EngineFailedError | ModelUnavailableError)
        if source is not None and isinstance(outcome, EngineCrashedError | EngineUnavailableError) and not final:
            await source.lost()
        if source is not None and isinstance(outcome, EngineStalledError):
            await source.stalled(f"sent nothing for {self._limits.stall:g} s")
        if isinstance(outcome, EngineFailedError) and job.worker is None and await self._elsewhere(job.kind):
            await self._closer.hand_back(held, in_good_order=True)
            return
        match outcome:
            case EngineFailedError() | ModelUnavailableError():
                await self._closer.failed(held, outcome, run.stream, partial=await self._is_partial(run))
            case None | StreamLostError() | EngineUnavailableError():
                await self._closer.hand_back(held, in_good_order=True)
            case FencedError():
                await self._closer.drop(held)
            case JobError() if run.goes_on(outcome):
                await self._closer.hand_back(held, in_good_order=False)
            case JobError():
                partial = await self._is_partial(run)
                await self._closer.failed(
                    held, outcome, run.stream, partial=partial, bury=_reason_to_bury(run, outcome)
                )
            case Done():
                await self._closer.done(held, outcome, run.stream)

    async def _keep(self, run: Run, outcome: Outcome) -> None:
        """Keep an answer that is whole and was made in one go."""
        whole = isinstance(outcome, Done) and outcome.finish_reason != "cancelled" and run.halted is None
        if run.cache_key and not run.cached and whole and isinstance(outcome, Done):
            model = self._engines[run.job.kind].model or ""
            await self._cache.keep(run.cache_key, Kept(model, run.pieces, outcome))

    async def _is_partial(self, run: Run) -> bool:
        """Whether the job's stream holds some of its output."""
        if run.tokens or run.claim.first or not run.job.streamed:
            return run.job.streamed and run.tokens > 0
        return bool((await self._published(run.job.id)).text)


def _reason_to_bury(run: Run, error: JobError) -> str:
    """Why a job is to go to the dead letters; empty if it is not."""
    lost = isinstance(error, EngineCrashedError | EngineStalledError)
    if not lost or run.job.on_crash == "fail":
        return ""
    allowed = run.job.attempts_allowed
    return f"{error} {'It was the only attempt' if allowed == 1 else f'It was the last of {allowed} attempts'}."

"""What a job does on its engine, and what its stream tells of that."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import PurePosixPath
from typing import Any, Final, cast

import orjson

from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import CACHE, SSE_EVENTS
from velesio_worker.engines.base import Engine, EngineSource, EngineState, Generation
from velesio_worker.engines.requests import EngineRequest
from velesio_worker.execution.cache import Kept, PromptCache, Replay, cache_key
from velesio_worker.execution.published import NOTHING, Published
from velesio_worker.execution.relay import Relay
from velesio_worker.execution.results.images import ImageOutput
from velesio_worker.execution.run import Clock, Run
from velesio_worker.wire.errors import (
    BadJobError,
    ContextExceededError,
    EngineCrashedError,
    EngineRefusedError,
    EngineStalledError,
    EngineUnavailableError,
    ExpiredError,
    JobError,
    JobTimeoutError,
    NoCapacityError,
    OutOfMemoryError,
)
from velesio_worker.wire.events import PROGRESS, START, Done, start_entry
from velesio_worker.wire.jobs import Job, Kind
from velesio_worker.wire.parameters import AnswerParameters

_EXPIRED: Final = "The job's expires_at passed while it waited for its engine."

ManagementRun = Callable[[Job, Callable[[EngineState], None]], Awaitable[dict[str, Any]]]
ReadPublished = Callable[[str], Awaitable[Published]]

log = get_logger(__name__)


class Performer:
    """Runs jobs on engines, or takes their answers from the cache.

    Args:
        engines: the engines that there are, by kind.
        manage: runs jobs that look after models, and tells the state of the engine that it waits for.
        cache: keeps answers.
        output: keeps what image jobs make beside their results.
        published: reads what a job's stream holds, by the job's id.
        longest: how long a job may run, in seconds.
    """

    def __init__(
        self,
        engines: Mapping[Kind, EngineSource],
        manage: ManagementRun,
        cache: PromptCache,
        output: ImageOutput,
        published: ReadPublished,
        *,
        longest: float,
    ) -> None:
        self.engines = engines
        self._manage_models = manage
        self._cache = cache
        self._output = output
        self.published = published
        self._longest = longest

    async def perform(self, run: Run) -> Done | JobError:
        """Run a job to its end, publishing what happens; returns how it ended.

        Raises:
            JobError: it failed.
            FencedError, AbandonedError, StreamLostError, StoppedError: its stream takes no more.
        """
        job = run.job
        run.clock = Clock(min(job.timeout or self._longest, self._longest), job.expires_at)
        if job.kind in {Kind.MANAGE, Kind.MANAGE_IMAGE}:
            self._announce(run, "fresh" if run.claim.first else "restart")
            return await self._in_time(run, self._manage)
        if job.kind not in self.engines:
            raise NoCapacityError(f"The worker {run.claim.held.slot.worker} runs no {job.kind} jobs.")
        source = self.engines[job.kind]
        run.traits = source.traits
        kept = await self._from_cache(source, run)
        if kept is not None:
            return kept
        mode = "fresh" if run.claim.first else job.mode_after_loss
        self._announce(run, mode)
        try:
            return await self._on_engine(source, run, mode)
        except OutOfMemoryError as error:
            if not run.traits.leaks:
                raise
            log.warning(f"once more on a new engine: {error.public}", action="job_tried_again")
            source.renew("it ran out of memory, which it may not have freed")
        if run.at_work:
            self._announce(run, "restart")  # its progress begins anew
        try:
            return await self._on_engine(source, run, mode)
        except OutOfMemoryError:
            source.renew("it ran out of memory, which it may not have freed")
            raise

    async def _on_engine(self, source: EngineSource, run: Run, mode: str) -> Done | JobError:
        job = run.job
        outcome: Done | JobError | None = None
        run.at_work = False
        run.request = EngineRequest(alone=run.claim.suspect)
        try:
            async with source.ensure(job.model, on_wait=partial(self._waits, run), request=run.request) as engine:
                if run.member is not None:
                    await run.member.arrive()
                run.at_work = not run.traits.queues
                if run.clock.expires_at is not None and run.clock.expires_at < time.time():
                    return ExpiredError(_EXPIRED)
                run.times.granted_at, run.model = time.monotonic(), engine.model
                if engine.model != self._model(job):
                    self._announce(run, mode, engine.model)
                if run.answer.cache_key is not None:  # the default model may have changed while the job waited
                    identity = await source.identity(job.model)
                    run.answer.cache_key = None if identity is None else cache_key(job, identity)
                outcome = await self._in_time(run, lambda run: self._generate(engine, run, mode))
                if isinstance(outcome, Done):
                    run.request.over()
        except (EngineCrashedError, EngineStalledError) as error:
            if run.at_work:
                raise
            raise EngineUnavailableError(f"{error} The job only waited for it.") from None  # so it costs no attempt
        if isinstance(outcome, Done):
            return await self._output.place(run.claim.held, outcome)
        return outcome or EngineCrashedError()

    async def _in_time(self, run: Run, work: Callable[[Run], Awaitable[Done]]) -> Done | JobError:
        with run.clock.watched(running=not run.traits.queues):  # else the engine says when it begins
            return await work(run)
        if run.clock.expired:
            return ExpiredError(_EXPIRED)
        limit = run.clock.limit
        return JobTimeoutError(f"The job ran longer than {limit:g} s: raise its timeout or WORKER_TIMEOUT.")

    async def _manage(self, run: Run) -> Done:
        return Done(await self._manage_models(run.job, partial(self._waits, run)), "stop")

    def _waits(self, run: Run, state: EngineState) -> None:
        """Tell the stream that the job waits for its engine; for a free slot is not worth an entry."""
        if state is not EngineState.READY:
            waited = round(time.monotonic() - run.times.began, 1)
            progress = {"stage": "loading", "processed": waited, "total": None, "state": state.value}
            run.stream.put(PROGRESS, orjson.dumps(progress))

    async def _from_cache(self, source: EngineSource, run: Run) -> Done | JobError | None:
        """Answer from the cache; None if there is nothing."""
        if not run.claim.first or not self._cache.wants(run.job):
            return None
        identity = await source.identity(run.job.model)
        if identity is None:
            return None
        run.answer.cache_key = cache_key(run.job, identity)
        kept = await self._cache.find(run.answer.cache_key)
        CACHE.labels("miss" if kept is None else "hit").inc()
        if kept is None:
            return None
        run.answer.cached, run.answer.cache_key, run.model, run.at_work = True, None, kept.model, True
        self._announce(run, "fresh", kept.model)
        run.answer.generation = Replay(kept)
        return await self._in_time(run, self._follow)

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
        job, held, begun = run.job, run.claim.held, run.claim.begun
        model = model or self._model(job)
        said = begun is not None and not run.mode and (begun.model, "fresh") == (model, mode)
        run.mode = mode
        if not said:
            start = start_entry(job.type, held.attempt, held.slot.worker, model, mode)
            run.stream.put(START, orjson.dumps(start))

    def announced(self, job: Job, worker: str) -> dict[str, Any] | None:
        """Return the ``start`` entry's data of a job's first attempt; None if it is not known before it is claimed."""
        managed = job.kind in {Kind.MANAGE, Kind.MANAGE_IMAGE}
        if not managed and (job.kind not in self.engines or self._cache.wants(job)):
            return None
        return start_entry(job.type, 1, worker, self._model(job), "fresh")

    def _model(self, job: Job) -> str | None:
        """The name of the model that a job runs on."""
        if job.model is not None:
            return PurePosixPath(job.model).name.removesuffix(".gguf")
        source = self.engines.get(job.kind)
        return source.model if source is not None else None

    async def _continue(self, engine: Engine, run: Run) -> Done | None:
        """Go on from the text that is published; None if there is no going on from it."""
        published = await self.published(run.job.id)
        if not published.plain:
            return None
        run.answer.before = published
        try:
            return await self._generate_after(published, engine, run)
        except ContextExceededError:
            if not run.answer.before.text or run.answer.tokens or run.answer.generation is None:
                raise
            return run.answer.generation.cut_short("length")  # the text so far is all that the context holds
        except (BadJobError, EngineRefusedError) as error:
            if not run.answer.before.text or run.answer.tokens:
                raise
            log.info(f"beginning anew: {error.public}", action="job_not_continued")
            run.answer.before = NOTHING
            return None

    async def _generate_after(self, before: Published, engine: Engine, run: Run) -> Done:
        run.answer.generation = engine.generate(run.job.parameters, before.text, before.pieces)
        return await self._follow(run)

    async def _follow(self, run: Run) -> Done:
        """Publish what a run's generation tells, to its end."""
        generation = cast("Generation", run.answer.generation)
        if not run.traits.queues:  # else the engine says when it begins
            run.request.sent()
        patient = math.inf if isinstance(run.job.parameters, AnswerParameters) else 0.0  # one answer, no sign before it
        try:
            run.times.waiting_since = time.monotonic() + patient
            relay = Relay(run, self._output.keep_preview)
            done = await generation.run(relay)
            await relay.show()
            SSE_EVENTS.count += not run.answer.cached
            return done
        finally:
            run.times.waiting_since = math.inf

    async def keep(self, run: Run) -> None:
        """Keep an answer that is whole and was made in one go."""
        key, outcome, in_one_go = run.answer.cache_key, run.outcome, run.stop.halted is None
        if key is None or not in_one_go or not isinstance(outcome, Done) or outcome.finish_reason == "cancelled":
            return
        if not run.traits.foreign or await self._is_by_whom_it_was_asked(run):
            await self._cache.keep(key, Kept(run.model or "", run.answer.pieces, outcome))

    async def _is_by_whom_it_was_asked(self, run: Run) -> bool:
        """Whether an engine that somebody else runs is after the job what it was before it."""
        try:
            identity = await self.engines[run.job.kind].identity(run.job.model)
        except JobError:
            return False
        return identity is not None and cache_key(run.job, identity) == run.answer.cache_key

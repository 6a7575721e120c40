"""The whole worker, composed: Redis, engines, intake, consumers, and how they begin and end together."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.abc
from redis.exceptions import RedisError

from velesio_worker import __version__
from velesio_worker.core.bell import Bell
from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import REGISTRY, count_jobs
from velesio_worker.core.secrets import hide_password
from velesio_worker.core.settings import Settings
from velesio_worker.engines.gpu import Gpus
from velesio_worker.execution.cache import PromptCache
from velesio_worker.execution.capacity import check_engine_set, make_engine_set
from velesio_worker.execution.consumers import ConsumerFactory
from velesio_worker.execution.executor import LAST_SECONDS, Executor
from velesio_worker.execution.handler import JobHandler
from velesio_worker.execution.management import ImageModels, TextModels, manage
from velesio_worker.execution.performer import Performer
from velesio_worker.execution.published import Published, read_published
from velesio_worker.execution.redis_side import Clients, RedisSide
from velesio_worker.execution.results.images import ImageOutput, open_store
from velesio_worker.execution.told import tell_gpus, tell_jobs
from velesio_worker.observability.gauges import Gauges, shown
from velesio_worker.observability.health import Health, Stage
from velesio_worker.observability.monitor import LOOK_SECONDS, Monitor, loop_watched
from velesio_worker.observability.server import served
from velesio_worker.queue.connection import wait_for_redis
from velesio_worker.queue.control import Control
from velesio_worker.queue.keys import new_worker_id
from velesio_worker.queue.permitted import forbidden
from velesio_worker.queue.remedies import RIGHTS, known_remedy
from velesio_worker.queue.risks import warn_of_risks
from velesio_worker.queue.survey import Survey
from velesio_worker.wire.errors import RedisUnusableError, StoppedError, VelesioError
from velesio_worker.wire.jobs import JobType

log = get_logger(__name__)


class Worker:
    """One worker process. :meth:`run` is its whole life."""

    def __init__(self, settings: Settings) -> None:
        self.id = new_worker_id()
        self._settings = settings
        self._changed = Bell()
        clients = Clients.connected(settings.redis_url, self.id)
        self._redis = RedisSide(clients, settings, self.id, facts=self._facts, changed=self._changed)
        gpus = Gpus(settings.cuda_visible_devices)
        self._engines = make_engine_set(settings, self._redis.fleet, gpus, self._changed.ring)
        survey = Survey(self._redis.link, seconds=LOOK_SECONDS)
        self._monitor = Monitor(survey, gpus, self._redis.link.outage, settings.redis_url)
        self._health = Health(self.id, self._engines.supervisors, self._monitor)
        self._output = ImageOutput(clients.commands, open_store(settings), inline_bytes=settings.result_inline_bytes)
        self._executor = self._make_executor()
        closer, admission = self._redis.closer, self._redis.admission
        handler = JobHandler(closer, admission, self._executor, self._redis.fleet, self._monitor)
        self._consumers = ConsumerFactory(self._redis, settings, handler)
        self._stopping = anyio.Event()
        self._began = time.time()
        self._failure: VelesioError | None = None

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT; then let running jobs end (``DRAIN_SECONDS``) and hand the rest back.

        Raises:
            SettingsError: the settings leave nothing to do.
            RedisUnusableError: Redis cannot serve this worker.
        """
        check_engine_set(self._settings, self._engines)
        try:
            async with self._redis, self._observed(), anyio.create_task_group() as side:
                side.start_soon(self._stop_on_signals)
                if await self._redis_is_there():
                    side.start_soon(self._redis.publisher.run)
                    async with self._enrolled():
                        await self._serve(side)
                side.cancel_scope.cancel()
        except* RedisError as errors:
            first = _first(errors)
            why = known_remedy(first) or f"refuses what the worker needs: {first}"
            self._failure = RedisUnusableError(f"Redis at {hide_password(self._settings.redis_url)} {why}")
        except* StoppedError:
            log.info("jobs that could not be ended are handed back", action="jobs_returned")
        if self._failure is not None:
            raise self._failure
        log.info("the worker has stopped", action="worker_stopped")

    def stop(self) -> None:
        """Stop as a signal does: the first time gently, the second time at once."""
        self._health.stage = Stage.STOPPING
        self._changed.ring()
        if self._stopping.is_set():
            self._executor.stop(within=LAST_SECONDS)
        self._stopping.set()
        for engine in self._engines.gates:
            engine.release()

    async def _stop_on_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info(f"{signal.Signals(number).name}: stopping", action="worker_stopping")
                self.stop()

    @asynccontextmanager
    async def _observed(self) -> AsyncGenerator[None, None]:
        """Say how the worker is to whoever asks, from its first moment to its last."""
        settings = self._settings
        count_jobs(job_type for job_type in JobType if job_type.kind in self._engines.kinds)
        gauges = Gauges(self._health, self._executor.running_by_kind)
        must = bool({"health_host", "health_port"} & settings.model_fields_set)
        serving = served(self._health, REGISTRY, host=settings.health_host, port=settings.health_port, must=must)
        with shown(gauges), loop_watched(lambda: self._monitor.stuck_for):
            async with serving, anyio.create_task_group() as watching:
                for watch in (self._monitor.beat, self._monitor.watch_queue, self._monitor.watch_gpus):
                    watching.start_soon(watch)
                yield
                watching.cancel_scope.cancel()

    async def _redis_is_there(self) -> bool:
        """Wait for Redis; False if the worker was stopped meanwhile, or Redis can't be used."""
        async with anyio.create_task_group() as group:

            async def give_up() -> None:
                await self._stopping.wait()
                group.cancel_scope.cancel()

            group.start_soon(give_up)
            try:
                link, url = self._redis.link, self._settings.redis_url
                await wait_for_redis(link.redis, url)
                if lacking := await link.asked(partial(forbidden, link.redis, link.keys)):
                    raise RedisUnusableError(f"Redis at {hide_password(url)} {lacking}: {RIGHTS} prints the rights")  # noqa: TRY301
                await link.asked(partial(warn_of_risks, link.redis, url))
            except RedisUnusableError as error:
                self._failure = error
            group.cancel_scope.cancel()
        return not self._stopping.is_set() and self._failure is None

    @asynccontextmanager
    async def _enrolled(self) -> AsyncGenerator[None, None]:
        """Be in the list of workers that live; on leaving nothing of this worker is left."""
        try:
            async with anyio.create_task_group() as beating:
                beating.start_soon(self._redis.lease.keep)
                beating.start_soon(self._redis.reaper.run)
                log.info(f"worker {self.id} {__version__} is up", action="worker_up", pid=os.getpid())
                yield
                beating.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(LAST_SECONDS, shield=True):
                if left := await self._redis.leave():
                    log.info("put back what was left of this worker's jobs", action="slots_returned", jobs=left)

    async def _serve(self, side: anyio.abc.TaskGroup) -> None:
        """Take jobs until stopped; returns when the last one has ended or was handed back."""
        if not self._stopping.is_set():
            self._health.stage = Stage.WORKING
        async with anyio.create_task_group() as jobs, anyio.create_task_group() as images:
            side.start_soon(self._executor.watch)
            side.start_soon(self._redis.fleet.keep_notes)
            side.start_soon(self._control().run)
            side.start_soon(self._redis.slots.letting_go.run)
            for engine in self._engines.gates:
                side.start_soon(engine.run)
            jobs.start_soon(self._consumers.intake().run, self._stopping)
            for manager in self._consumers.managers(self._engines.kinds):
                jobs.start_soon(manager.run, self._stopping)
            if self._engines.text is None:
                jobs.start_soon(self._consumers.health_checks().run, self._stopping)
            else:
                side.start_soon(self._engines.text.watch)
                jobs.start_soon(self._take_text_jobs, self._engines.text)
            if self._engines.image is not None:
                side.start_soon(self._output.look_at_store)
                images.start_soon(self._say_when_images_can_be_made, self._engines.image)
                for consumer in self._consumers.images(self._engines.image):
                    images.start_soon(consumer.run, self._stopping)
            await self._stopping.wait()
            await self._drain()
            for group in (jobs, images):
                group.cancel_scope.deadline = anyio.current_time() + LAST_SECONDS

    async def _take_text_jobs(self, text: TextModels) -> None:
        """Take text jobs: one at first, which wakes the engine or says why it fails; then as many as it runs."""
        async with anyio.create_task_group() as consumers:
            started = slots = 0
            while not self._stopping.is_set():
                for number in range(started, max(slots, 1)):
                    consumers.start_soon(self._consumers.text(text, number).run, self._stopping)
                started = max(started, slots, 1)
                if slots:
                    log.info(f"taking text jobs, {slots} at a time", action="worker_ready")
                    self._changed.ring()
                await text.gate.resized(slots)
                slots = text.gate.slots

    async def _say_when_images_can_be_made(self, images: ImageModels) -> None:
        await images.gate.resized(0)
        if not self._stopping.is_set():
            log.info(f"taking image jobs, {self._settings.sd_concurrency} at a time", action="images_ready")
            self._changed.ring()

    async def _drain(self) -> None:
        """Let running jobs end, for ``DRAIN_SECONDS`` at most; the rest goes back."""
        executor = self._executor
        executor.stop_waiting(within=LAST_SECONDS)
        with anyio.move_on_after(self._settings.drain_seconds):
            await executor.idle()
        if executor.running:
            log.warning("handing back the jobs that still run", action="drain_over", jobs=executor.running)
        executor.stop(within=LAST_SECONDS)

    def _control(self) -> Control:
        blocking, link = self._redis.clients.blocking, self._redis.link
        summons = self._redis.slots.summons
        return Control(blocking, link, jobs=self._executor, worker=self.id, drain=self._drain_once, summons=summons)

    def _drain_once(self) -> None:
        """End as at a first signal; whoever asks for that again changes nothing."""
        if not self._stopping.is_set():
            self.stop()

    def _make_executor(self) -> Executor:
        settings, redis = self._settings, self._redis
        performer = Performer(
            self._engines.supervisors,
            partial(manage, self._engines.models, self._health),
            PromptCache(redis.link.redis, settings.cache_mode),
            self._output,
            self._published,
            longest=settings.worker_timeout,
        )
        redis.admission.announced = performer.announced
        redis.admission.arrivals.expected = self._engines.expect
        return Executor(
            performer,
            redis.closer,
            redis.fleet.serves,
            stall=settings.stall_seconds,
            log_prompts=settings.log_prompts,
        )

    async def _published(self, job_id: str) -> Published:
        return await self._redis.link.asked(partial(read_published, self._redis.link.redis, job_id))

    def _facts(self) -> Mapping[str, str | int]:
        """What the worker is and does now, for its hash in Redis."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": f"{self._began:.3f}",
            "kinds": ",".join(self._engines.kinds),
            **self._engines.facts(),
            "running": self._executor.running,
            "at": f"{time.time():.3f}",
            "stage": self._health.stage.value,
            "tokens": self._executor.tokens,
            "jobs": tell_jobs(self._executor.runs),
            "gpus": tell_gpus(self._monitor.gpus),
        }


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first exception in a group of groups."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error  # pyright: ignore[reportUnknownArgumentType]

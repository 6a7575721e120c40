"""The whole worker, composed: Redis, engines, intake, consumers, and how they begin and end together."""

from __future__ import annotations

import math
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
from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import REGISTRY, count_jobs
from velesio_worker.core.settings import Settings
from velesio_worker.engines.base import EngineSource
from velesio_worker.engines.gpu import Gpus
from velesio_worker.execution.admission import Admission
from velesio_worker.execution.cache import PromptCache
from velesio_worker.execution.capacity import ImageCapacity, TextCapacity, check_engine_set, make_engine_set
from velesio_worker.execution.closing import Closer
from velesio_worker.execution.consumers import ConsumerFactory
from velesio_worker.execution.executor import LAST_SECONDS, Executor
from velesio_worker.execution.handler import JobHandler
from velesio_worker.execution.management import ImageModels, Management, Models, TextModels
from velesio_worker.execution.performer import Performer
from velesio_worker.execution.published import Published, read_published
from velesio_worker.execution.report import Report
from velesio_worker.execution.results.images import ImageOutput, open_store
from velesio_worker.execution.run import RunLimits
from velesio_worker.observability.gauges import Gauges, shown
from velesio_worker.observability.health import Health, Stage
from velesio_worker.observability.loop_watch import loop_watched
from velesio_worker.observability.monitor import LOOK_SECONDS, Monitor
from velesio_worker.observability.server import served
from velesio_worker.queue.claims import Claims
from velesio_worker.queue.connection import PAYLOAD_SECONDS, connect, wait_for_redis
from velesio_worker.queue.control import Control
from velesio_worker.queue.fleet import Fleet
from velesio_worker.queue.keys import Keys, new_worker_id
from velesio_worker.queue.lease import Lease
from velesio_worker.queue.outage import Outage, until_done
from velesio_worker.queue.reaper import Reaper
from velesio_worker.queue.risks import warn_of_risks
from velesio_worker.queue.slots import Slots
from velesio_worker.queue.survey import Survey
from velesio_worker.stream import FLUSH_SECONDS, Publisher
from velesio_worker.wire.errors import RedisUnusableError, StoppedError, VelesioError
from velesio_worker.wire.jobs import JobType, Kind

log = get_logger(__name__)


class Worker:
    """One worker process. :meth:`run` is its whole life.

    Args:
        settings: the settings.
    """

    def __init__(self, settings: Settings) -> None:
        self.id = new_worker_id()
        self._settings = settings
        self._keys = Keys(settings.queue_name)
        self._outage = Outage(settings.redis_url)
        self._commands = connect(settings.redis_url, name=self.id)
        self._publishing = connect(settings.redis_url, name=self.id, socket_timeout=FLUSH_SECONDS)
        self._blocking = connect(settings.redis_url, name=self.id, socket_timeout=PAYLOAD_SECONDS)
        self._lease = Lease(
            self._commands,
            self._keys,
            self.id,
            seconds=settings.lease_seconds,
            facts=self._facts,
            outage=self._outage,
        )
        self._slots = Slots(self._blocking, self._commands, self._keys, self._lease, self._outage)
        self._claims = Claims(
            self._commands,
            self._slots,
            self._outage,
            result_ttl=settings.result_ttl,
            job_ttl=settings.stream_ttl + 2 * math.ceil(settings.worker_timeout),
        )
        self._publisher = Publisher(
            self._publishing, self._outage, ttl=settings.stream_ttl, longest=settings.worker_timeout
        )
        self._closer = Closer(self._claims, self._slots, self._publisher)
        self._admission = Admission(
            self._commands,
            self._claims,
            self._slots,
            self._closer,
            self._publisher,
            self._outage,
            max_bytes=settings.max_job_bytes,
            stream_ttl=settings.stream_ttl,
        )
        self._reaper = Reaper(
            self._commands, self._keys, self.id, lease_seconds=settings.lease_seconds, outage=self._outage
        )
        self._fleet = Fleet(self._commands, self._keys, self.id, self._outage)
        self._gpus = Gpus(settings.cuda_visible_devices)
        self._sides = make_engine_set(settings, self._fleet, self._gpus, self._lease.nudge)
        self._stopping = anyio.Event()
        self._began = time.time()
        self._output = ImageOutput(self._commands, open_store(settings), inline_bytes=settings.result_inline_bytes)
        survey = Survey(self._commands, self._keys, seconds=LOOK_SECONDS)
        self._monitor = Monitor(survey, self._gpus, self._outage, settings.redis_url)
        supervisors = {service.kind: service.supervisor for service in self._sides.services}
        count_jobs(job_type for job_type in JobType if job_type.kind in supervisors)
        self._health = Health(self.id, supervisors, self._monitor)
        self._executor = self._make_executor()
        self._gauges = Gauges(self.id, self._health, self._monitor, supervisors, self._executor.running_by_kind)
        self._desk = JobHandler(self._slots, self._admission, self._executor, self._fleet, self._monitor)
        self._takers = ConsumerFactory(self.id, settings, self._keys, self._slots, self._desk)
        self._failure: VelesioError | None = None

    async def run(self) -> None:
        """Work until SIGTERM or SIGINT; then let running jobs end (``DRAIN_SECONDS``) and hand the rest back.

        Raises:
            SettingsError: the settings leave nothing to do.
            RedisUnusableError: Redis cannot serve this worker.
        """
        check_engine_set(self._settings, self._sides)
        try:
            async with self._connections(), self._observed(), anyio.create_task_group() as side:
                side.start_soon(self._stop_on_signals)
                if await self._redis_is_there():
                    side.start_soon(self._publisher.run)
                    async with self._enrolled():
                        await self._serve(side)
                side.cancel_scope.cancel()
        except* RedisError as errors:
            self._failure = RedisUnusableError(f"Redis refuses what the worker needs: {_first(errors)}")
        except* StoppedError:
            log.info("jobs that could not be ended are handed back", action="jobs_returned")
        if self._failure is not None:
            raise self._failure
        log.info("the worker has stopped", action="worker_stopped")

    def stop(self) -> None:
        """Stop as a signal does: the first time gently, the second time at once."""
        self._health.stage = Stage.STOPPING
        if self._stopping.is_set():
            self._executor.stop(within=LAST_SECONDS)
        self._stopping.set()
        for service in self._sides.services:
            service.release()

    async def _stop_on_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info(f"{signal.Signals(number).name}: stopping", action="worker_stopping")
                self.stop()

    @asynccontextmanager
    async def _observed(self) -> AsyncGenerator[None, None]:
        """Say how the worker is to whoever asks, from its first moment to its last."""
        settings = self._settings
        must = bool({"health_host", "health_port"} & settings.model_fields_set)
        serving = served(self._health, REGISTRY, host=settings.health_host, port=settings.health_port, must=must)
        with shown(self._gauges), loop_watched(lambda: self._monitor.stuck_for):
            async with serving, anyio.create_task_group() as watching:
                for watch in (self._monitor.beat, self._monitor.watch_queue, self._monitor.watch_gpus):
                    watching.start_soon(watch)
                yield
                watching.cancel_scope.cancel()

    @asynccontextmanager
    async def _connections(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                for client in (self._blocking, self._publishing, self._commands):
                    await client.aclose()

    async def _redis_is_there(self) -> bool:
        """Wait for Redis; False if the worker was stopped meanwhile, or Redis can't be used."""
        async with anyio.create_task_group() as group:

            async def give_up() -> None:
                await self._stopping.wait()
                group.cancel_scope.cancel()

            group.start_soon(give_up)
            try:
                await wait_for_redis(self._commands, self._settings.redis_url)
                await until_done(
                    self._outage, partial(warn_of_risks, self._commands, self._settings.redis_url), writes=False
                )
            except RedisUnusableError as error:
                self._failure = error
            group.cancel_scope.cancel()
        return not self._stopping.is_set() and self._failure is None

    @asynccontextmanager
    async def _enrolled(self) -> AsyncGenerator[None, None]:
        """Be in the list of workers that live; on leaving nothing of this worker is left."""
        try:
            async with anyio.create_task_group() as beating:
                beating.start_soon(self._lease.keep)
                beating.start_soon(self._reaper.run)
                log.info(f"worker {self.id} {__version__} is up", action="worker_up", pid=os.getpid())
                yield
                beating.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(LAST_SECONDS, shield=True):
                await self._claims.give_up(self._lease.slots)
                if left := await self._lease.end():
                    log.info("put back what was left of this worker's jobs", action="slots_returned", jobs=left)

    async def _serve(self, side: anyio.abc.TaskGroup) -> None:
        """Take jobs until stopped; returns when the last one has ended or was handed back."""
        if not self._stopping.is_set():
            self._health.stage = Stage.WORKING
        async with anyio.create_task_group() as jobs, anyio.create_task_group() as images:
            side.start_soon(self._executor.watch)
            side.start_soon(self._control(self._executor).run)
            for service in self._sides.services:
                side.start_soon(service.run)
            jobs.start_soon(self._takers.intake(self._admission.arrivals).run, self._stopping)
            for consumer in self._takers.managers(self._sides.kinds):
                jobs.start_soon(consumer.run, self._stopping)
            if self._sides.text is None:
                jobs.start_soon(self._takers.health_checks().run, self._stopping)
            if self._sides.text is not None:
                jobs.start_soon(self._take_text_jobs, self._sides.text)
            if self._sides.image is not None:
                side.start_soon(self._output.look_at_store)
                images.start_soon(self._say_when_images_can_be_made, self._sides.image)
                for taker in self._takers.images(self._sides.image):
                    images.start_soon(taker.run, self._stopping)
            await self._stopping.wait()
            await self._drain(self._executor)
            for group in (jobs, images):
                group.cancel_scope.deadline = anyio.current_time() + LAST_SECONDS

    async def _take_text_jobs(self, side: TextCapacity) -> None:
        """Take text jobs: one at first, which wakes the engine or says why it fails; then as many as it runs."""
        async with anyio.create_task_group() as takers:
            started = slots = 0
            while not self._stopping.is_set():
                for number in range(started, max(slots, 1)):
                    takers.start_soon(self._takers.text(side, number).run, self._stopping)
                started = max(started, slots, 1)
                if slots:
                    log.info(f"taking text jobs, {slots} at a time", action="worker_ready")
                    self._lease.nudge()
                await side.service.resized(slots)
                slots = side.service.slots

    async def _say_when_images_can_be_made(self, side: ImageCapacity) -> None:
        await side.service.resized(0)
        if not self._stopping.is_set():
            log.info(f"taking image jobs, {self._settings.sd_concurrency} at a time", action="images_ready")
            self._lease.nudge()

    async def _drain(self, executor: Executor) -> None:
        """Let running jobs end, for ``DRAIN_SECONDS`` at most; the rest goes back."""
        executor.stop_waiting(within=LAST_SECONDS)
        with anyio.move_on_after(self._settings.drain_seconds):
            await executor.idle()
        if executor.running:
            log.warning("handing back the jobs that still run", action="drain_over", jobs=executor.running)
        executor.stop(within=LAST_SECONDS)

    def _control(self, executor: Executor) -> Control:
        return Control(
            self._blocking,
            self._commands,
            self._keys,
            jobs=executor,
            outage=self._outage,
        )

    def _make_executor(self) -> Executor:
        settings, sides = self._settings, self._sides
        engines: dict[Kind, EngineSource] = {}
        models: dict[Kind, Models] = {}
        if sides.text is not None:
            engines[Kind.TEXT] = sides.text.service.supervisor
            models[Kind.MANAGE] = TextModels(sides.text.service.supervisor, sides.text.launcher)
        if sides.image is not None:
            engines[Kind.IMAGE] = sides.image.service.supervisor
            models[Kind.MANAGE_IMAGE] = ImageModels(sides.image.service.supervisor, sides.image.launcher)
        performer = Performer(
            engines,
            Management(models, self._health),
            PromptCache(self._commands, settings.cache_mode),
            self._output,
            self._published,
            longest=settings.worker_timeout,
        )
        return Executor(
            engines,
            performer,
            self._publisher,
            self._closer,
            self._published,
            self._fleet.serves,
            RunLimits(job=settings.worker_timeout, stall=settings.stall_seconds),
            Report(log_prompts=settings.log_prompts),
        )

    async def _published(self, job_id: str) -> Published:
        return await until_done(self._outage, partial(read_published, self._commands, job_id), writes=False)

    def _facts(self) -> Mapping[str, str | int]:
        """What the worker is and does now, for its hash in Redis."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "started": f"{self._began:.3f}",
            "kinds": ",".join(self._sides.kinds),
            **{name: value for service in self._sides.services for name, value in service.facts().items()},
            "running": self._executor.running,
        }


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first exception in a group of groups."""
    error = errors.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error  # pyright: ignore[reportUnknownArgumentType]

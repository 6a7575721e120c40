"""The gateway's side of jobs: who may submit how many, and how they are followed."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, Unpack

import anyio
from redis.exceptions import RedisError

from velesio_worker.client import Client, JobOptions, QueueDepths, Waiting, WorkerInfo
from velesio_worker.gateway.caller import Caller
from velesio_worker.gateway.errors import RETRY_SECONDS, ApiError, queue_is_away
from velesio_worker.wire.errors import BadJobError, JobError, job_error
from velesio_worker.wire.events import ERROR, StreamEvent
from velesio_worker.wire.jobs import JobType, Kind

_FRESH_SECONDS: Final = 1.0
"""How old what is known of the fleet may be."""

_FULL_SECONDS: Final = 0.02
"""How old where it says that too many jobs wait, and no job was submitted since that may run by now."""

_AWAY_SECONDS: Final = 1.0
"""For so long after Redis did not answer it is not asked again how the fleet is."""

_LONGEST_RETRY: Final = 60

MOST_JOBS: Final = 1024
"""Into so many jobs one request may fall: each costs a task, and a place in the line."""

UNREAD_SECONDS: Final = 30
"""A job whose client waits for it is cancelled once nobody has read it for so long: its gateway was lost."""


class Watched(Protocol):
    """What follows streams: :class:`velesio_worker.client.fanout.Hub`."""

    def watch(self, job_id: str, after: str = "0-0") -> AsyncGenerator[Sequence[StreamEvent], None]:
        """Yield what is new in a job's stream, to its terminal entry."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """A model that jobs may name.

    Attributes:
        name: its name.
        kind: ``text`` or ``image``.
        default: whether a worker takes it for jobs that name none.
        context: how many tokens a job may use; None where that is not known.
    """

    name: str
    kind: str
    default: bool = False
    context: int | None = None


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers and what waits for them, as they were a moment ago.

    Attributes:
        workers: what the workers that live say of themselves.
        depths: how many jobs wait, and for how long.
        models: the models that jobs may name, defaults first, each once.
    """

    workers: tuple[WorkerInfo, ...]
    depths: QueueDepths
    models: tuple[Model, ...]

    def has_more(self, kind: str) -> bool:
        """Whether there are models of a kind that are not listed: there are too many."""
        return any(engine.more for worker in self.workers for of, engine in worker.engines.items() if of == kind)

    def model(self, name: str, kind: str) -> Model | None:
        """Return the model of this name."""
        return next((model for model in self.models if model.name == name and model.kind == kind), None)

    def default(self, kind: str) -> Model | None:
        """Return the model that jobs get which name none, as far as that is known."""
        return next((model for model in self.models if model.kind == kind), None)


class Jobs:
    """Submits jobs for callers and follows them.

    Args:
        client: for submitting, results and cancels.
        hub: for streams.
        max_queue: how many jobs may wait for one kind of worker.
        new_id: makes a job's id for a caller.
    """

    def __init__(self, client: Client, hub: Watched, *, max_queue: int, new_id: Callable[[Caller], str]) -> None:
        self._client = client
        self._hub = hub
        self._max_queue = max_queue
        self._new_id = new_id
        self._fleet: Fleet | None = None
        self._looked_at = self._failed_at = -math.inf
        self._looking = anyio.Lock(fast_acquire=True)
        self._on_their_way = self._landed = 0

    async def submit(
        self, caller: Caller, job_type: str, data: Mapping[str, Any], **options: Unpack[JobOptions]
    ) -> str:
        """Submit a job for a caller; returns its id.

        Raises:
            ApiError: too many jobs wait (429), nobody lives who could take it, or Redis does not take it (503).
        """
        await self._admit(_kind(job_type, data))
        job_id = self._new_id(caller)
        envelope: JobOptions = {
            "tenant": caller.name,
            "session": caller.session,
            "traceparent": caller.traceparent,
            "priority": caller.priority,
        }
        self._on_their_way += 1
        try:
            await self._client.submit(job_type, data, job_id=job_id, **{**envelope, **options})
            self._landed += 1
        except BadJobError as error:
            raise ApiError(400, "invalid_request", str(error)) from None
        except RedisError as error:
            raise queue_is_away() from error
        finally:
            self._on_their_way -= 1
        return job_id

    async def _admit(self, kind: Kind | None) -> None:
        """Refuse a job that would find nobody, or too long a line."""
        if kind is None:
            return  # of a type that nobody knows, which a worker says best
        fleet = await self.fleet()
        if not any(kind.engine in worker.kinds for worker in fleet.workers):
            raise ApiError(
                503,
                "no_worker",
                f"No worker that takes {kind.engine} jobs is running: start one, or try again later.",
                retry_after=RETRY_SECONDS,
            )
        if self._waiting(fleet, kind) >= self._max_queue and self._may_be_over():
            self._looked_at = -math.inf
            fleet = await self.fleet()  # some may run by now
        if (waiting := self._waiting(fleet, kind)) >= self._max_queue:
            raise ApiError(
                429,
                "queue_full",
                f"{waiting} jobs wait already, and MAX_QUEUE allows {self._max_queue}: try again later.",
                retry_after=_until_some_are_served(max(each.oldest for each in _lines(fleet, kind))),
            )

    def _waiting(self, fleet: Fleet, kind: Kind) -> int:
        """How many jobs wait: those that Redis told of, and those that were submitted here since."""
        return sum(line.jobs for line in _lines(fleet, kind)) + self._landed + self._on_their_way

    async def events(self, job_id: str, after: str = "0-0") -> AsyncGenerator[StreamEvent, None]:
        """Yield a job's entries, to the terminal one."""
        async for batch in self._hub.watch(job_id, after):
            for event in batch:
                yield event

    def watch(self, job_id: str, after: str = "0-0") -> AsyncGenerator[Sequence[StreamEvent], None]:
        """Yield a job's entries in batches, to the terminal one."""
        return self._hub.watch(job_id, after)

    async def result(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's result. Raises JobError if it failed."""
        async for batch in self._hub.watch(job_id):
            if batch[-1].event == ERROR:
                data = batch[-1].data
                raise job_error(str(data.get("code", "")), str(data.get("error", "")))
        result = await self._client.stored_result(job_id)
        if result is None:
            raise JobError(f"The result of {job_id} has expired.")
        return result

    async def cancel(self, job_id: str) -> None:
        """Ask that a job be stopped."""
        await self._client.cancel(job_id)

    async def preview(self, job_id: str) -> bytes | None:
        """Return the latest picture of a running image job, a small JPEG; None if there is none, or Redis is away."""
        try:
            return await self._client.preview(job_id)
        except RedisError:
            return None

    async def fleet(self) -> Fleet:
        """Return what is known of the workers and the queue, not older than a second.

        Raises:
            ApiError: Redis does not answer (503).
        """
        if self._fleet is not None and not self._is_stale():
            return self._fleet
        async with self._looking:  # of those who ask at the same time one asks for all
            if self._fleet is None or self._is_stale():
                self._fleet = await self._look()
            return self._fleet

    def _may_be_over(self) -> bool:
        """Whether a line that seemed to be full may have room by now."""
        return self._landed > 0 or time.monotonic() - self._looked_at > _FULL_SECONDS

    def _is_stale(self) -> bool:
        return time.monotonic() - self._looked_at > _FRESH_SECONDS

    async def _look(self) -> Fleet:
        if time.monotonic() - self._failed_at < _AWAY_SECONDS:
            raise queue_is_away()
        landed = self._landed
        try:
            fleet = _fleet_of(await self._client.workers(), await self._client.queue_depths())
        except RedisError as error:
            self._failed_at = time.monotonic()
            raise queue_is_away() from error
        self._landed -= landed  # which are among those that Redis tells of, or are taken
        self._looked_at = time.monotonic()
        return fleet


def _kind(job_type: str, data: Mapping[str, Any]) -> Kind | None:
    """Return what kind of worker takes such a job; None if there is no such type."""
    try:
        named = JobType(job_type)
    except ValueError:
        return None
    usual = "image" if named is JobType.SWITCH_MODEL else "text"
    of_images = named.kind is Kind.MANAGE and (data.get("kind") or usual) == "image"
    return Kind.MANAGE_IMAGE if of_images else named.kind


def _lines(fleet: Fleet, kind: Kind) -> tuple[Waiting, Waiting]:
    """Return the lines that a job of a kind waits in."""
    return fleet.depths.waiting["incoming"], fleet.depths.waiting[kind]


def _until_some_are_served(oldest: float) -> int:
    """Return in how many seconds a tenth of the line is served, if it is as fast as it was for its oldest job."""
    return max(1, min(_LONGEST_RETRY, math.ceil(oldest / 10)))


def _fleet_of(workers: tuple[WorkerInfo, ...], depths: QueueDepths) -> Fleet:
    models: dict[tuple[str, str], Model] = {}
    for worker in workers:
        for kind, engine in worker.engines.items():
            for name in dict.fromkeys([*filter(None, [engine.default]), *engine.models]):
                known = models.get((kind, name))
                default = name == engine.default or (known is not None and known.default)
                contexts = [count for count in (engine.context, known and known.context) if count and default]
                models[kind, name] = Model(name, kind, default, min(contexts, default=None))
    return Fleet(workers, depths, tuple(sorted(models.values(), key=lambda model: (not model.default, model.name))))

"""Control: how a job is cancelled (wire protocol, section 6), waiting or running, and how a reader shows itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, Final, Protocol

import anyio
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from velesio_worker.core.logs import get_logger
from velesio_worker.queue.claims import Claim, Held
from velesio_worker.queue.clients import execute
from velesio_worker.queue.connection import BLOCK_SECONDS, REPLY_SECONDS
from velesio_worker.queue.keys import Keys, cancel_key, count_in_redis, job_key, reader_key
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import within
from velesio_worker.queue.remedies import FOREIGN, NO_RIGHT, kind_of, words
from velesio_worker.queue.warmth import Summons
from velesio_worker.wire.jobs import Kind
from velesio_worker.wire.limits import CONTROL_ENTRIES
from velesio_worker.wire.payload import is_job_id

FLAG_SECONDS: Final = 86400
"""How long a request to cancel a job is kept, in seconds."""

DRAIN_FLAG_SECONDS: Final = 3600
"""How long a request to drain a worker is kept, in seconds."""

log = get_logger(__name__)


async def request_cancel(redis: Redis, keys: Keys, job_id: str) -> None:
    """Ask that a job be stopped: the flag is the truth, the control entry the doorbell. One that has ended is left."""
    commands: Any = redis
    await commands.set(cancel_key(job_id), 1, ex=FLAG_SECONDS)
    await commands.xadd(keys.control, {"cancel": job_id}, maxlen=CONTROL_ENTRIES, approximate=True)


async def request_drain(redis: Redis, keys: Keys, worker: str) -> None:
    """Ask that a worker take no more jobs, let those that run end, and be gone; flag and doorbell as with a job.

    The flag has a key of its own, so that who may cancel jobs may not stop workers.
    """
    commands: Any = redis
    await commands.set(keys.drain(worker), 1, ex=DRAIN_FLAG_SECONDS)
    await commands.xadd(keys.control, {"drain": worker}, maxlen=CONTROL_ENTRIES, approximate=True)


class RunningJobs(Protocol):
    """Whoever runs jobs, and can stop them."""

    def claims(self) -> Sequence[Claim]:
        """The jobs that run now."""
        ...

    def cancel(self, job_id: str) -> None:
        """Stop a job for good."""

    def fence(self, job_id: str, attempt: int) -> None:
        """Stop an attempt that is not this worker's any more."""


def _nothing() -> None:
    """Do nothing."""


class Control:
    """Hears of jobs that are to be stopped: cancelled, read by nobody, or taken over by another worker.

    Also of jobs that are kept for this worker, so that whoever waits here for any job takes those.

    Args:
        blocking: the client for blocking reads; the link is for everything else.
        jobs: the jobs that run here.
        worker: this worker.
        drain: called when somebody wants this worker to end.
        summons: rung when a job of its kind is kept for this worker.
    """

    def __init__(
        self,
        blocking: Redis,
        link: Link,
        *,
        jobs: RunningJobs,
        worker: str = "",
        drain: Callable[[], None] = _nothing,
        summons: Mapping[Kind, Summons] = MappingProxyType({}),
    ) -> None:
        self._blocking: Any = blocking
        self._link = link
        self._jobs = jobs
        self._worker = worker
        self._drain = drain
        self._rings = {kind.encode(): one.ring for kind, one in summons.items()}
        self._bell = link.keys.bell(worker) if worker and summons else ""
        self._looked_at = -math.inf
        self._unread: dict[str, float] = {}
        self._foreign: set[str] = set()

    async def run(self) -> None:
        """Listen for ever: to the doorbell at once, and once a second to the truth, should it not have rung."""
        after: dict[str, str] = {}
        while True:
            try:
                if self._link.keys.control not in after:
                    after = await self._link.asked(self._newest)
                    await self._look_for_drain()  # it may have rung while nobody listened
                elif self._bell and self._bell not in after:
                    after = await self._link.asked(self._newest) | after
                for stream, entries in await self._link.asked(partial(self._next, after)) or ():
                    for entry_id, fields in entries:
                        after[stream.decode()] = entry_id.decode()
                        await self._heard(stream.decode(), fields)
            except ResponseError as error:
                await self._passed_over(error)
                after = {}
                await anyio.sleep(BLOCK_SECONDS)
            if time.monotonic() - self._looked_at >= BLOCK_SECONDS:
                try:
                    await self._link.asked(self.look)
                except ResponseError as error:
                    await self._passed_over(error)

    async def _heard(self, stream: str, fields: Mapping[bytes, bytes]) -> None:
        if stream == self._bell:
            self._rings.get(fields.get(b"kept", b""), _nothing)()
            return
        if self._worker and fields.get(b"drain") == self._worker.encode():
            await self._look_for_drain()
        await self._rung(fields.get(b"cancel", b"").decode(errors="replace"))

    async def _passed_over(self, error: ResponseError) -> None:
        """Say what is the matter with a key that others wrote; only missing rights are no matter of that."""
        if kind_of(error) == NO_RIGHT:
            raise error
        streams = dict.fromkeys(filter(None, (self._link.keys.control, self._bell)), "stream")
        self._link.outage.noticed(await self._link.foreign(streams, error) or error)

    async def _rung(self, job_id: str) -> None:
        """Stop a job if its flag says so: it may have ended since, and the next one of that id may run."""
        if not is_job_id(job_id):
            return
        try:
            flagged = await self._link.done(partial(self._link.scripts.cancelled, job_id))
        except ResponseError as error:  # a key of the job's is somebody else's; there is no flag in it
            if kind_of(error) == NO_RIGHT:
                raise
            log.warning(f"a cancel cannot be looked at: {job_key(job_id)}: {words(error)}", action="foreign_key")
            return
        if flagged:
            self._jobs.cancel(job_id)

    async def _look_for_drain(self) -> None:
        """End this worker in good order if its flag says so, once."""
        if self._worker and await self._link.asked(
            partial(self._link.commands.exists, self._link.keys.drain(self._worker))
        ):
            log.info("somebody wants this worker to end", action="worker_drained")
            self._worker = ""
            self._drain()

    async def _next(self, after: dict[str, str]) -> Any:  # noqa: ANN401 (redis-py's)
        read = self._blocking.xread(after, block=int(BLOCK_SECONDS * 1000))
        return await within(BLOCK_SECONDS + REPLY_SECONDS, read)

    async def _newest(self) -> dict[str, str]:
        """Return the last entry of each stream that is listened to; of a bell that somebody else uses nothing."""
        newest: dict[str, str] = {}
        for stream in filter(None, (self._link.keys.control, self._bell)):
            try:
                entries = await self._link.commands.xrevrange(stream, count=1)
            except ResponseError as error:
                if stream != self._bell or kind_of(error) != FOREIGN:
                    raise
                continue
            newest[stream] = entries[0][0].decode() if entries else "0-0"
        return newest

    async def look(self) -> None:
        """Look once at what is true of each job that runs here, and stop those that are to be stopped."""
        now = time.monotonic()
        passed = min(now - self._looked_at, 2 * BLOCK_SECONDS)  # while Redis was away no reader could show itself
        self._looked_at = now
        claims = self._jobs.claims()
        if not claims:
            return
        async with self._link.commands.pipeline(transaction=False) as pipe:
            for claim in claims:
                pipe.hmget(job_key(claim.job.id), "cancel", "owner", "attempt")
                pipe.exists(cancel_key(claim.job.id))
                pipe.exists(reader_key(claim.job.id))
            replies = await execute(pipe, raise_on_error=False)
        self._foreign &= {claim.held.job_id for claim in claims}
        unread, self._unread = self._unread, dict[str, float]()
        for claim, known, flagged, read in zip(claims, replies[::3], replies[1::3], replies[2::3], strict=True):
            held = claim.held
            flag, owner, attempt = self._read(held.job_id, known)
            for reply in (flagged, read):
                if isinstance(reply, RedisError):
                    raise reply
            if flagged or flag == b"1":
                self._jobs.cancel(held.job_id)
            elif _is_anothers(held, owner, attempt):
                self._jobs.fence(held.job_id, held.attempt)
            elif claim.job.unread_timeout is not None and not read:
                self._unread[held.job_id] = unread.get(held.job_id, -passed) + passed  # from 0 on when it is first seen
                if self._unread[held.job_id] > claim.job.unread_timeout:
                    log.info("nobody reads the job's stream", action="job_unread", job_id=held.job_id)
                    self._jobs.cancel(held.job_id)

    def _read(self, job_id: str, known: Sequence[bytes | None] | RedisError) -> Sequence[bytes | None]:
        """Return flag, owner and attempt as a job's hash has them; nothing of one that is no hash."""
        if not isinstance(known, RedisError):
            return known
        if kind_of(known) != FOREIGN:
            raise known
        if job_id not in self._foreign:
            self._foreign.add(job_id)
            log.warning(
                f"{job_key(job_id)} is no hash: the job cannot be cancelled", action="foreign_key", job_id=job_id
            )
        return None, None, None


def _is_anothers(held: Held, owner: bytes | None, attempt: bytes | None) -> bool:
    """Whether somebody else has the job; an attempt that is older than ours shows a claim that a failover lost."""
    latest = count_in_redis(attempt)
    if latest is None or latest < held.attempt:
        return False
    return latest > held.attempt or owner != held.slot.worker.encode()

"""Control: how a job is cancelled (wire protocol, section 6), waiting or running, and how a reader shows itself."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Protocol

import anyio
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from velesio_worker.core.logs import get_logger
from velesio_worker.queue.claims import Claim, Held
from velesio_worker.queue.clients import execute
from velesio_worker.queue.connection import BLOCK_SECONDS, REPLY_SECONDS
from velesio_worker.queue.keys import Keys, job_key, reader_key
from velesio_worker.queue.link import Link
from velesio_worker.queue.outage import within
from velesio_worker.queue.remedies import FOREIGN, kind_of, words
from velesio_worker.queue.scripts import Scripts
from velesio_worker.wire.fields import count_of
from velesio_worker.wire.limits import CONTROL_ENTRIES
from velesio_worker.wire.payload import is_job_id

log = get_logger(__name__)


async def request_cancel(redis: Redis, keys: Keys, job_id: str) -> None:
    """Ask that a job be stopped: the flag is the truth, the control entry the doorbell. One that has ended is left."""
    if await Scripts(redis).cancel(job_id, ask=True):
        commands: Any = redis
        await commands.xadd(keys.control, {"cancel": job_id}, maxlen=CONTROL_ENTRIES, approximate=True)


class RunningJobs(Protocol):
    """Whoever runs jobs, and can stop them."""

    def claims(self) -> Sequence[Claim]:
        """The jobs that run now."""
        ...

    def cancel(self, job_id: str) -> None:
        """Stop a job for good."""

    def fence(self, job_id: str, attempt: int) -> None:
        """Stop an attempt that is not this worker's any more."""


class Control:
    """Hears of jobs that are to be stopped: cancelled, read by nobody, or taken over by another worker.

    Args:
        blocking: the client for blocking reads; the link is for everything else.
        jobs: the jobs that run here.
    """

    def __init__(self, blocking: Redis, link: Link, *, jobs: RunningJobs) -> None:
        self._blocking: Any = blocking
        self._link = link
        self._jobs = jobs
        self._looked_at = -math.inf
        self._unread: dict[str, float] = {}
        self._foreign: set[str] = set()

    async def run(self) -> None:
        """Listen for ever: to the doorbell at once, and once a second to the truth, should it not have rung."""
        after = ""
        while True:
            try:
                after = after or await self._link.asked(self._newest)
                reply = await self._link.asked(partial(self._next, after))
            except ResponseError as error:
                foreign = await self._link.foreign({self._link.keys.control: "stream"}, error)
                if foreign is None:
                    raise
                self._link.outage.noticed(foreign)
                after, reply = "", None
                await anyio.sleep(BLOCK_SECONDS)
            for entry_id, fields in reply[0][1] if reply else ():
                after = entry_id.decode()
                await self._rung(fields.get(b"cancel", b"").decode(errors="replace"))
            if time.monotonic() - self._looked_at >= BLOCK_SECONDS:
                await self._link.asked(self.look)

    async def _rung(self, job_id: str) -> None:
        """Stop a job if its flag says so: it may have ended since, and the next one of that id may run."""
        if not is_job_id(job_id):
            return
        try:
            flagged = await self._link.done(partial(self._link.scripts.cancel, job_id, ask=False))
        except ResponseError as error:  # a key of the job's is somebody else's; there is no flag in it
            log.warning(f"a cancel cannot be looked at: {job_key(job_id)}: {words(error)}", action="foreign_key")
            return
        if flagged:
            self._jobs.cancel(job_id)

    async def _next(self, after: str) -> Any:  # noqa: ANN401 (redis-py's)
        read = self._blocking.xread({self._link.keys.control: after}, block=int(BLOCK_SECONDS * 1000))
        return await within(BLOCK_SECONDS + REPLY_SECONDS, read)

    async def _newest(self) -> str:
        entries = await self._link.commands.xrevrange(self._link.keys.control, count=1)
        return entries[0][0].decode() if entries else "0-0"

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
                pipe.exists(reader_key(claim.job.id))
            replies = await execute(pipe, raise_on_error=False)
        self._foreign &= {claim.held.job_id for claim in claims}
        unread, self._unread = self._unread, dict[str, float]()
        for claim, known, read in zip(claims, replies[::2], replies[1::2], strict=True):
            held = claim.held
            flag, owner, attempt = self._read(held.job_id, known)
            if isinstance(read, RedisError):
                raise read
            if flag == b"1":
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
    theirs = count_of(attempt)
    if theirs is None or theirs < held.attempt:
        return False
    return theirs > held.attempt or owner != held.slot.worker.encode()

"""The reading end of streams: follow a job, look up what was published, complete what was left open."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from velesio_worker.client.stalled import StallWatch
from velesio_worker.queue.keys import reader_key, result_key, stream_key
from velesio_worker.queue.outage import Outage, until_done
from velesio_worker.stream import READ_ENTRIES, last_entry
from velesio_worker.wire.events import StreamEvent, parse_entry, read_result, split_id, terminal_of

READER_SECONDS: Final = 15
SHOW_SECONDS: Final = 2
"""How long a reader counts as reading after it has shown itself, and how often it does so."""

BLOCK_MS: Final = 2000
"""How long a read of a quiet stream waits before it is asked whether the job is over."""


class Presence:
    """Shows that somebody reads a job's stream, for as long as :meth:`show` is called again and again."""

    def __init__(self, redis: Redis, job_id: str, *, shown: bool = True) -> None:
        self._commands: Any = redis
        self._key = reader_key(job_id)
        self._next = -math.inf if shown else math.inf

    async def show(self) -> None:
        """Show it, as well as that goes, if the last time is a while ago."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + SHOW_SECONDS
        try:
            await self._commands.set(self._key, 1, ex=READER_SECONDS)
        except NoPermissionError:  # a user that may only read
            self._next = math.inf
        except RedisError:  # no writes just now, which need not keep anybody from reading
            return


async def subscribe(
    redis: Redis,
    job_id: str,
    *,
    after: str = "0-0",
    outage: Outage,
    stall: StallWatch | None = None,
    reads: bool = True,
) -> AsyncGenerator[StreamEvent, None]:
    """Yield a job's stream from its beginning, or from after an entry, to its terminal entry; show that it is read.

    Waits for a stream that is not there yet, and goes on where it was after Redis was away. A job whose stream is
    gone while its result is still there gets the terminal entry that belongs to the result.

    Args:
        redis: a client whose socket time-out is above the block time.
        job_id: the job.
        after: the id of the last entry that is known already.
        outage: whom to tell when Redis does not answer.
        stall: bounds the wait for a job that gives no sign; None: it is waited for without end.
        reads: whether to show that it is read.

    Raises:
        JobStalledError: that bound was reached.
    """
    commands: Any = redis
    key = stream_key(job_id)
    presence = Presence(redis, job_id, shown=reads)  # wire protocol: ``unread_timeout``
    block: int | None = None  # what is over already is said at once
    while True:
        await presence.show()
        reply = await until_done(outage, partial(commands.xread, {key: after}, count=READ_ENTRIES, block=block))
        block = BLOCK_MS
        if reply:
            if stall is not None:
                stall.seen()
            for entry_id, fields in reply[0][1]:
                event = parse_entry(entry_id, fields)
                yield event
                if event.terminal:
                    return
                after = event.id
                await presence.show()  # a slow reader is one, too
        else:
            ended, final = await until_done(outage, partial(_ended, redis, job_id, after))
            if final is not None:
                yield final
            if ended:
                return
            if stall is not None:
                await stall.check()
                block = max(1, min(BLOCK_MS, math.ceil(stall.left * 1000)))


async def _ended(redis: Redis, job_id: str, after: str) -> tuple[bool, StreamEvent | None]:
    """Whether nothing follows ``after`` any more, and the terminal entry that stands in for a stream that is gone."""
    commands: Any = redis
    stored: bytes | None = await commands.get(result_key(job_id))
    last = await last_entry(redis, stream_key(job_id))  # asked first, one of a job that then begins and ends seems gone
    if last is not None:
        return last.terminal and split_id(last.id) <= split_id(after), None
    if stored is None:
        return False, None
    attempt, sequence = split_id(after)
    event, data = terminal_of(read_result(stored))
    return True, StreamEvent(f"{max(attempt, 1)}-{sequence + 1}", event, data)

"""The reading end of streams: follow a job, look up what was published, complete what was left open."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import orjson
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from velesio_worker.errors import InternalError, job_error
from velesio_worker.events import DONE, ERROR, START, TOKEN, Done, StreamEvent
from velesio_worker.queue.connection import Outage, until_done
from velesio_worker.queue.keys import reader_key, result_key, stream_key
from velesio_worker.queue.scripts import Scripts

READ_ENTRIES: Final = 512
READER_SECONDS: Final = 15
SHOW_SECONDS: Final = 2
"""How long a reader counts as reading after it has shown itself, and how often it does so."""

BLOCK_MS: Final = 2000
"""How long a read of a quiet stream waits before it is asked whether the job is over."""


def split_id(entry_id: str) -> tuple[int, int]:
    """Return attempt and sequence of an entry's id."""
    attempt, _, sequence = entry_id.partition("-")
    return int(attempt), int(sequence or 0)


def terminal_of(result: dict[str, Any], *, partial: bool = False) -> tuple[str, dict[str, Any]]:
    """Return the terminal entry, event and data, that belongs to a stored result.

    Args:
        result: the result.
        partial: whether tokens were published before.
    """
    if "error" in result:
        return ERROR, job_error(result.get("code", InternalError.code), result["error"]).entry(partial=partial)
    reason = result.get("finish_reason", "stop")
    return DONE, Done(result, reason, result.get("usage"), result.get("timings")).entry()


async def complete_stream(redis: Redis, job_id: str, *, attempt: int, ttl: int) -> None:
    """Make sure that the stream of a job whose result is stored has its terminal entry.

    Args:
        redis: a client.
        job_id: the job.
        attempt: the job's latest attempt; names the entry if nothing is left of the stream.
        ttl: how long the stream is kept, in seconds.
    """
    commands: Any = redis
    key = stream_key(job_id)
    last = await last_entry(redis, key)
    if last is not None and last.terminal:
        return
    stored: bytes | None = await commands.get(result_key(job_id))
    if stored is None:
        return
    result: dict[str, Any] = orjson.loads(stored)
    partial = "error" in result and (await published(redis, job_id)).has_output
    event, data = terminal_of(result, partial=partial)
    attempt, sequence = (attempt, -1) if last is None else split_id(last.id)  # the id that the owner would use, too
    # Whatever else this comes to than written: the owner was faster.
    await Scripts(redis).publish(key, max(attempt, 1), sequence + 1, ttl, [(event, orjson.dumps(data))])


@dataclass(frozen=True, slots=True)
class Published:
    """What a job's stream holds of its output.

    Attributes:
        text: the text of all tokens since the attempt that began it anew.
        pieces: how many entries made it.
        begun: whether there is any ``token`` entry: a chat's first says the role alone.
        plain: whether the text is all that there is: no reasoning, no tool calls.
    """

    text: str
    pieces: int
    begun: bool
    plain: bool

    @property
    def has_output(self) -> bool:
        """Whether there is any output: text, reasoning or tool calls."""
        return bool(self.text) or not self.plain


NOTHING: Final = Published("", 0, begun=False, plain=True)


async def published(redis: Redis, job_id: str) -> Published:
    """Return the output that a job's stream holds so far."""
    commands: Any = redis
    pieces: list[str] = []
    plain, begun = True, False
    after = "-"
    while entries := await commands.xrange(stream_key(job_id), min=after, count=READ_ENTRIES):
        for entry_id, fields in entries:
            event = _parsed(entry_id, fields)
            if event.event == START and event.data.get("mode") != "continue":
                pieces.clear()
                plain, begun = True, False
            if event.text:
                pieces.append(event.text)
            plain = plain and event.plain
            begun = begun or event.event == TOKEN
        after = f"({entries[-1][0].decode()}"
    return Published("".join(pieces), len(pieces), begun, plain)


async def last_entry(redis: Redis, key: str) -> StreamEvent | None:
    """Return the newest entry of a stream; None if there is none."""
    commands: Any = redis
    entries = await commands.xrevrange(key, count=1)
    return _parsed(*entries[0]) if entries else None


def _parsed(entry_id: bytes, fields: dict[bytes, bytes]) -> StreamEvent:
    return StreamEvent(entry_id.decode(), fields[b"event"].decode(), orjson.loads(fields[b"data"]))


class Presence:
    """Shows that somebody reads a job's stream, for as long as :meth:`show` is called again and again.

    Args:
        redis: a client.
        job_id: the job.
    """

    def __init__(self, redis: Redis, job_id: str) -> None:
        self._commands: Any = redis
        self._key = reader_key(job_id)
        self._next = -math.inf

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
    redis: Redis, job_id: str, *, after: str = "0-0", outage: Outage, show: bool = False
) -> AsyncGenerator[StreamEvent, None]:
    """Yield a job's stream from its beginning, or from after an entry, to its terminal entry.

    Waits for a stream that is not there yet, and goes on where it was after Redis was away. A job whose stream is
    gone while its result is still there gets the terminal entry that belongs to the result.

    Args:
        redis: a client whose socket time-out is above the block time.
        job_id: the job.
        after: the id of the last entry that is known already.
        outage: whom to tell when Redis does not answer.
        show: whether to show that somebody reads (wire protocol: ``unread_timeout``).
    """
    commands: Any = redis
    key = stream_key(job_id)
    presence = Presence(redis, job_id) if show else None
    block: int | None = None  # what is over already is said at once
    while True:
        if presence is not None:
            await presence.show()
        reply = await until_done(outage, partial(commands.xread, {key: after}, count=READ_ENTRIES, block=block))
        block = BLOCK_MS
        if reply:
            for entry_id, fields in reply[0][1]:
                event = _parsed(entry_id, fields)
                yield event
                if event.terminal:
                    return
                after = event.id
                if presence is not None:  # a slow reader is one, too
                    await presence.show()
        else:
            ended, final = await until_done(outage, partial(_ended, redis, job_id, after))
            if final is not None:
                yield final
            if ended:
                return


async def _ended(redis: Redis, job_id: str, after: str) -> tuple[bool, StreamEvent | None]:
    """Whether nothing follows ``after`` any more, and the terminal entry that stands in for a stream that is gone."""
    last = await last_entry(redis, stream_key(job_id))
    if last is not None:
        return last.terminal and split_id(last.id) <= split_id(after), None
    commands: Any = redis
    stored: bytes | None = await commands.get(result_key(job_id))
    if stored is None:
        return False, None
    attempt, sequence = split_id(after)
    event, data = terminal_of(orjson.loads(stored))
    return True, StreamEvent(f"{max(attempt, 1)}-{sequence + 1}", event, data)

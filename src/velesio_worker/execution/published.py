"""What a job's stream holds of its output; the terminal entry of a stream that was left without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson
from redis.asyncio import Redis

from velesio_worker.queue.keys import result_key, stream_key
from velesio_worker.queue.scripts import PublishStatus, Scripts
from velesio_worker.stream import READ_ENTRIES, last_entry
from velesio_worker.wire.events import START, TOKEN, foreign_result, parse_entry, sound_result, split_id, terminal_of


async def complete_stream(redis: Redis, job_id: str, *, attempt: int, ttl: int) -> bool:
    """Make sure that the stream of a job whose result is stored has its terminal entry, for ``ttl`` seconds more.

    If nothing is left of the stream, the job's latest ``attempt`` names the entry.

    Returns:
        False if the result is none that a worker wrote.
    """
    commands: Any = redis
    key = stream_key(job_id)
    stored: bytes | None = await commands.get(result_key(job_id))
    last = await last_entry(redis, key)
    result = None if stored is None else sound_result(stored)
    sound = stored is None or result is not None
    if stored is None or (last is not None and last.terminal):
        return sound
    result = result or foreign_result()
    partial = "error" in result and (await read_published(redis, job_id)).has_output
    event, data = terminal_of(result, partial=partial)
    attempt, sequence = (attempt, -1) if last is None else split_id(last.id)  # the id that the owner would use, too
    scripts, entry = Scripts(redis), orjson.dumps(data)
    reply = await scripts.publish(key, max(attempt, 1), sequence + 1, ttl, (event, entry))
    if reply.status is not PublishStatus.WRITTEN:  # the owner was faster, or others have written into the stream
        await scripts.conclude(key, event, entry, ttl)
    return sound


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


async def read_published(redis: Redis, job_id: str) -> Published:
    """Return the output that a job's stream holds so far."""
    commands: Any = redis
    pieces: list[str] = []
    plain, begun = True, False
    after = "-"
    while entries := await commands.xrange(stream_key(job_id), min=after, count=READ_ENTRIES):
        for entry_id, fields in entries:
            event = parse_entry(entry_id, fields)
            if event.event == START and event.data.get("mode") != "continue":
                pieces.clear()
                plain, begun = True, False
            if event.text:
                pieces.append(event.text)
            plain = plain and event.plain
            begun = begun or event.event == TOKEN
        after = f"({entries[-1][0].decode()}"
    return Published("".join(pieces), len(pieces), begun, plain)

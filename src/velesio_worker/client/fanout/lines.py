"""What the fan-out asks of Redis, over four connections: two that read what comes, two for everything else.

All of it is reading, but for the key that says that somebody reads; so it takes the rights of a reader alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import anyio
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, RedisError

from velesio_worker.client.fanout.frames import Entry, EntryId, entry_name, entry_of, terminal_entry
from velesio_worker.client.fanout.tails import Tail
from velesio_worker.client.subscriber import READER_SECONDS
from velesio_worker.queue.clients import execute, execute_raw, forget_topology, is_cluster
from velesio_worker.queue.keys import reader_key, result_key, stream_key
from velesio_worker.queue.outage import Outage, until_done
from velesio_worker.queue.remedies import passes
from velesio_worker.stream import READ_ENTRIES
from velesio_worker.wire.events import read_result, terminal_of

_KEYS: Final = 512
"""How many streams one read has at most: Redis does nothing else meanwhile."""

_ASIDE: Final = 2
"""How many connections there are beside the reader's two."""

_COMMANDS: Final = 1024
"""How many commands one round trip has at most."""


class News(NamedTuple):
    """What a read brought of one tail: the entries behind a certain one, or why it cannot be read."""

    tail: Tail
    after: EntryId
    entries: Sequence[Entry]
    error: RedisError | None = None


class Look(NamedTuple):
    """What a silent stream turned out to be: over, with the entry that stands in for its last one if it is gone."""

    tail: Tail
    over: bool
    last: Entry | None = None


class Lines:
    """Asks Redis.

    Args:
        redis: a client that repeats nothing by itself.
        outage: whom to tell when Redis does not answer.
    """

    def __init__(self, redis: Redis, outage: Outage) -> None:
        self._redis = redis
        self._commands: Any = redis
        self._outage = outage
        self._aside = anyio.Semaphore(_ASIDE)
        self._may_show = True
        self.is_cluster = is_cluster(redis)

    async def news(self, tails: Sequence[Tail], block: int | None = None) -> list[News]:
        """Read what is new in some tails; in those of a Cluster without waiting. Those with nothing new are left out.

        Args:
            tails: which.
            block: how long to wait for the first entry if there is none, in milliseconds; None: not at all.

        Raises:
            redis.exceptions.RedisError: Redis does not answer; that passes.
        """
        if self.is_cluster:
            return await self._each(tails)
        news: list[News] = []
        for at in range(0, len(tails), _KEYS):
            some = tails[at : at + _KEYS]
            asked = {tail.name: (tail, tail.last) for tail in some}
            streams = *asked, *[tail.last_name for tail in some]
            waits = () if block is None else ("BLOCK", block)
            try:
                reply = await execute_raw(self._redis, "XREAD", "COUNT", READ_ENTRIES, *waits, "STREAMS", *streams)
            except RedisError as error:
                if passes(error):
                    raise
                return await self._each(tails)  # one of them is none, and that fails the others' reads, too
            news += [News(*asked[key], _raw_entries(entries)) for key, entries in reply or ()]
        return news

    async def news_aside(self, tails: Sequence[Tail]) -> list[News]:
        """The same beside the reader's connection."""
        async with self._aside:
            return await self.news(tails)

    async def _each(self, tails: Sequence[Tail]) -> list[News]:
        """Read tails one by one, all in one round trip to each node."""
        asked = [(tail, tail.last) for tail in tails]
        replies = await self._piped([("XREAD", tail.key, tail.last_name) for tail in tails])
        news: list[News] = []
        trouble: RedisError | None = None
        for (tail, after), reply in zip(asked, replies, strict=True):
            if isinstance(reply, RedisError):
                if passes(reply):
                    trouble = reply
                else:
                    news.append(News(tail, after, (), reply))
            elif entries := _entries(reply):
                news.append(News(tail, after, entries))
        if trouble is not None:
            await forget_topology(self._redis)
            if not news:
                raise trouble
        return news

    async def _piped(self, commands: Sequence[tuple[str, str, Any]]) -> list[Any]:
        """Send commands in few round trips; returns the replies, errors among them."""
        replies: list[Any] = []
        for at in range(0, len(commands), _COMMANDS):
            pipe = self._commands.pipeline(transaction=False)
            async with pipe:
                for command, key, value in commands[at : at + _COMMANDS]:
                    if command == "XREAD":
                        pipe.xread({key: value}, count=READ_ENTRIES)
                    elif command == "XREVRANGE":
                        pipe.xrevrange(key, count=1)
                    elif command == "GET":
                        pipe.get(key)
                    else:
                        pipe.set(key, 1, ex=value)
                try:
                    replies += await execute(pipe, raise_on_error=False)
                except RedisError:
                    await forget_topology(self._redis)
                    raise
        return replies

    async def past(self, job_id: str, after: EntryId) -> list[Entry]:
        """Read what a stream has behind an entry, a few hundred entries at most, however long Redis is away.

        Raises:
            redis.exceptions.RedisError: Redis answered with an error that waiting does not mend.
        """
        read = partial(self._commands.xread, {stream_key(job_id): entry_name(after)}, count=READ_ENTRIES)
        async with self._aside:
            reply = await until_done(self._outage, read)
        return _entries(reply)

    async def look(self, tails: Sequence[Tail]) -> list[Look]:
        """Look which of some silent streams are over: by their last entry, or by the result if they are gone.

        Raises:
            redis.exceptions.RedisError: Redis does not answer; that passes.
        """
        known = [(tail, tail.last) for tail in tails]
        async with self._aside:
            newest = await self._piped([("XREVRANGE", tail.key, None) for tail in tails])
            gone = [tail for tail, reply in zip(tails, newest, strict=True) if reply == []]
            results = await self._piped([("GET", result_key(tail.job_id), None) for tail in gone])
            stored = {tail.key: result for tail, result in zip(gone, results, strict=True) if isinstance(result, bytes)}
            again = await self._piped([("XREVRANGE", key, None) for key in stored])
        # one that only now has entries was not gone: its job began and ended meanwhile
        stored = {key: result for (key, result), reply in zip(stored.items(), again, strict=True) if reply == []}
        looks: list[Look] = []
        for (tail, last), reply in zip(known, newest, strict=True):
            if tail.last != last:  # it has been read meanwhile
                looks.append(Look(tail, over=False))
            elif reply and not isinstance(reply, RedisError):
                entry = entry_of(*reply[0])
                looks.append(Look(tail, over=entry.terminal and entry.id <= last))
            elif tail.key in stored:
                ended = terminal_of(read_result(stored[tail.key]))
                looks.append(Look(tail, over=True, last=terminal_entry(last, *ended)))
            else:
                looks.append(Look(tail, over=False))
        return looks

    async def show(self, job_ids: Sequence[str]) -> None:
        """Say that somebody reads these jobs (wire protocol: ``unread_timeout``), as well as that goes."""
        if not self._may_show:
            return
        async with self._aside:
            try:
                replies = await self._piped([("SET", reader_key(job_id), READER_SECONDS) for job_id in job_ids])
            except RedisError:  # no writes just now, which need not keep anybody from reading
                return
        self._may_show = not any(isinstance(reply, NoPermissionError) for reply in replies)


def _entries(reply: Any) -> list[Entry]:  # noqa: ANN401 (redis-py's)
    """Return the entries that a read of one stream brought."""
    return [entry_of(*entry) for _, entries in reply or () for entry in entries]


def _raw_entries(entries: Any) -> list[Entry]:  # noqa: ANN401 (Redis's)
    """Return entries whose fields and values are one list, as Redis has them."""
    return [entry_of(entry_id, dict(zip(fields[::2], fields[1::2], strict=True))) for entry_id, fields in entries]

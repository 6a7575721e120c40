"""Commands sent packed: one write for each node, and replies parsed in bulk, on connections that redis-py makes.

redis-py connects, so that TLS, users, Sentinels and a Cluster's nodes are its own matter. What a pipeline of its costs
per command - objects, retries, a task switch and a time-out for each reply - takes several times what the rest of a
token's way does.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Final, cast

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from velesio_worker.queue.clients import ODD, is_cluster

Packed = tuple[str, bytes]
"""A key, and a command on it as the Redis protocol has it (``hiredis.pack_command``)."""

REPLIES_BYTES: Final = 16 * 1024 * 1024
"""The most that the replies to one write may have; those to what is sent here have some hundred bytes each."""

_NOT_YET: Final = object()


class _Line(asyncio.Protocol):
    """A connection of redis-py's, taken over: what is read goes to the parser at once."""

    def __init__(self, connection: AbstractConnection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._parser = hiredis.Reader(notEnoughData=_NOT_YET)
        self._replies: list[Any] = []
        self._missing = self._read = 0
        self._late_at = math.inf
        self._watch: asyncio.TimerHandle | None = None
        self._done: asyncio.Future[list[Any]] | None = None
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast("Any", connection)._writer.transport  # noqa: SLF001 (it has no other)
        self._former = self._transport.get_protocol()
        self._transport.set_protocol(self)

    @property
    def usable(self) -> bool:
        """Whether commands can be sent."""
        return self._done is None and not self._transport.is_closing()

    def send(self, packed: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send so many commands; returns what will be their replies, errors among them.

        Raises:
            redis.exceptions.ConnectionError: it was lost meanwhile.
        """
        if not self.usable:
            raise RedisConnectionError("the connection was lost before it was used")
        self._replies, self._missing, self._read = [], count, 0
        self._done = self._loop.create_future()
        self._late_at = self._loop.time() + self._seconds
        if self._watch is None:
            self._watch = self._loop.call_later(self._seconds, self._look)
        self._transport.write(packed)
        return self._done

    def _look(self) -> None:
        """See whether a reply is late. One timer does for all: it is set anew when it is over, not with each write."""
        self._watch = None
        left = self._late_at - self._loop.time()
        if self._done is None:
            return
        if left > 0:
            self._watch = self._loop.call_later(left, self._look)
        else:
            self._fail(RedisTimeoutError(f"no reply in {self._seconds:g} s"))

    def data_received(self, data: bytes) -> None:
        if self._done is None:
            self._fail(RedisConnectionError("Redis said what nobody had asked for"))
            return
        parser, replies = self._parser, self._replies
        self._read += len(data)
        try:
            parser.feed(data)
            while (reply := parser.gets()) is not _NOT_YET:
                replies.append(reply)
        except hiredis.ProtocolError as error:
            self._fail(RedisConnectionError(f"what answers is no Redis ({error})"))
        if len(replies) > self._missing:
            self._fail(RedisConnectionError("Redis said what nobody had asked for"))
        elif len(replies) == self._missing:
            done, self._done = self._done, None
            if not done.done():
                done.set_result(replies)
        elif self._read > REPLIES_BYTES:
            self._fail(RedisConnectionError(f"the replies have more than {REPLIES_BYTES} bytes"))

    def eof_received(self) -> None:
        self._fail(RedisConnectionError("the connection was lost (Redis closed it)"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(RedisConnectionError(f"the connection was lost ({exc or 'Redis closed it'})"))
        cast("asyncio.Protocol", self._former).connection_lost(exc)

    def _fail(self, error: RedisError) -> None:
        self._end()
        if self._done is not None and not self._done.done():
            self._done.set_exception(error)

    def _end(self) -> None:
        self._transport.abort()  # also what is lost already: asyncio's TLS says of that else that it is not closing
        if self._watch is not None:
            self._watch.cancel()

    async def close(self) -> None:
        self._end()
        if self._done is not None:
            self._done.cancel()  # else its error would be nobody's
        await self._connection.disconnect(nowait=True)


class PackedCommands:
    """The connections for packed commands of one client; for one task at a time.

    Args:
        redis: the client, for any topology.
        seconds: how long the replies to a write may take.
    """

    def __init__(self, redis: Redis, seconds: float) -> None:
        self._redis: Any = redis
        self._of_cluster = is_cluster(redis)
        self._seconds = seconds
        self._lines: dict[Any, _Line] = {}

    async def send(self, commands: Sequence[Packed]) -> list[Any]:
        """Send commands, one write for each node; returns the replies in order, errors among them.

        Raises:
            redis.exceptions.RedisError: a connection was lost, or the replies did not come in time; whatever was sent
                may have been done or not.
        """
        try:
            if not self._of_cluster:
                line = await self._line(self._redis.connection_pool)
                return await line.send(b"".join([packed for _, packed in commands]), len(commands))
            return await self._send_to_nodes(commands)
        except ODD as error:
            await self.close()
            raise RedisConnectionError(f"the connection was lost ({error})") from error
        except BaseException:  # a reply that nobody waits for must not be taken for the next one's
            await self.close()
            raise

    async def _send_to_nodes(self, commands: Sequence[Packed]) -> list[Any]:
        await self._redis.initialize()
        by_node: dict[Any, list[int]] = {}
        for at, (key, _) in enumerate(commands):
            node = self._redis.nodes_manager.get_node_from_slot(self._redis.keyslot(key))
            by_node.setdefault(node, []).append(at)
        lines = [await self._line(node) for node in by_node]
        sent = [
            line.send(b"".join([commands[at][1] for at in places]), len(places))
            for line, places in zip(lines, by_node.values(), strict=True)
        ]
        replies: list[Any] = [None] * len(commands)
        for places, of_node in zip(by_node.values(), await asyncio.gather(*sent), strict=True):
            for at, reply in zip(places, of_node, strict=True):
                replies[at] = reply
        return replies

    async def _line(self, source: Any) -> _Line:  # noqa: ANN401 (a pool, or a Cluster's node)
        line = self._lines.get(source)
        if line is not None and line.usable:
            return line
        if line is not None:
            del self._lines[source]
            await line.close()
        if self._of_cluster:
            connection = source.connection_class(**source.connection_kwargs)
        else:
            connection = source.make_connection()
        try:
            await connection.connect()
            line = self._lines[source] = _Line(connection, self._seconds)
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return line

    async def close(self) -> None:
        """End the connections; the next commands go over new ones."""
        lines = list(self._lines.values())
        self._lines.clear()
        for line in lines:
            await line.close()

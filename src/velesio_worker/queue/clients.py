"""Clients for each way of running Redis, with the one set of methods that redis-py gives them all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, cast

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError

from velesio_worker.core.redis_url import RedisURL, Topology
from velesio_worker.queue.exchange import exchange, raised
from velesio_worker.queue.remedies import FOREIGN, kind_of

ODD: Final = (RedisClusterException, AttributeError, RuntimeError)
"""What comes instead of a RedisError when a connection breaks at an odd moment: the first of a Cluster that lacks a
node, the second when one task closes idle connections while another has just taken one of them, the third from
uvloop's transports (``the handler is closed``)."""

Command = Sequence[str | int | bytes]
"""A command of Redis in its words."""


class _Single(Redis):
    """A client of one server, whose commands go their own, shorter way where redis-py has nothing to add."""

    async def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 (redis-py's own signature)
        options.pop("keys", None)  # for redis-py's cache
        try:
            if options or self.connection is not None or " " in args[0]:
                return await super().execute_command(*args, **options)  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
        except ODD as error:
            raise RedisConnectionError(f"the connection was lost ({error})") from error
        return _read(self, args, await execute_raw(self, *args))

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:  # noqa: FBT001, FBT002 (redis-py's own signature)
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _Pipeline(Pipeline):
    """Several commands at once, which go the shorter way, too, if each has its own reply or error."""

    async def execute(self, raise_on_error: bool = True) -> list[Any]:  # noqa: FBT001, FBT002 (redis-py's own signature)
        stack: list[Any] = list(self.command_stack)
        together = raise_on_error or self.is_transaction or self.explicit_transaction or self.watching or self.scripts
        if together or not stack or any(" " in words[0] for words, _ in stack):
            return await super().execute(raise_on_error)
        self.command_stack = []
        replies = await exchange(self.connection_pool, [words for words, _ in stack])
        return [
            reply if isinstance(reply, Exception) else _read(self, words, reply, **options)
            for (words, options), reply in zip(stack, replies, strict=True)
        ]


def _read(client: Redis, words: Any, reply: Any, *, keys: object = None, **options: Any) -> Any:  # noqa: ANN401, ARG001 (as redis-py does)
    """Return a reply as redis-py gives it to who called the command's method."""
    read = client.response_callbacks.get(words[0])
    return reply if read is None else read(reply, **options)


class _Primary(_Single):
    """A client of whichever server the Sentinels call the primary; asks them for each new connection."""

    watchers: tuple[Redis, ...] = ()

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 (redis-py's own signature)
        await super().aclose(close_connection_pool)
        for watcher in self.watchers:
            await watcher.aclose()


class _Cluster(RedisCluster):
    """A client of a Cluster whose troubles are RedisErrors, so that they are waited out like any others."""

    async def initialize(self, *args: Any, **kwargs: Any) -> RedisCluster:  # noqa: ANN401 (redis-py's own signature)
        try:
            return await super().initialize(*args, **kwargs)
        except ODD as error:
            raise RedisConnectionError(str(error)) from error

    async def aclose(self) -> None:
        await super().aclose()
        await self.nodes_manager.aclose("startup_nodes")  # left open by an initialisation that was cancelled halfway

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (redis-py's own signature)
        try:
            return await super().execute_command(*args, **kwargs)
        except ODD as error:
            await forget_topology(self)
            raise RedisConnectionError(f"the connection was lost ({error})") from error

    async def _determine_slot(self, command: str, *args: Any) -> int:  # noqa: ANN401 (redis-py's own signature)
        if command == "XREAD":  # else a node, which may be the one that is lost, is asked each time where the keys are
            return self.keyslot(args[args.index(b"STREAMS") + 1])
        return await super()._determine_slot(command, *args)


def make_client(url: RedisURL, options: dict[str, Any]) -> Redis:
    """Make a client of one server, of the primary that Sentinels watch over, or of a Cluster."""
    if url.topology is Topology.STANDALONE:
        if url.plain.startswith("unix:"):  # such a connection has no keepalive, and redis-py none for it
            options = {name: value for name, value in options.items() if name != "socket_keepalive"}
        return _Single.from_url(url.plain, **options)  # pyright: ignore[reportUnknownMemberType]
    parsed: dict[str, Any] = dict(parse_url(url.plain))
    tls = parsed.pop("connection_class", None) is SSLConnection
    for name in ("host", "port"):
        parsed.pop(name, None)
    if url.topology is Topology.CLUSTER:
        parsed.pop("db", None)
        nodes = [ClusterNode(host, port) for host, port in url.hosts]
        of_nodes: dict[str, Any] = {**options, **parsed, "ssl": tls}
        return cast("Redis", _Cluster(startup_nodes=nodes, **of_nodes))
    ours = {name: value for name, value in options.items() if name != "max_connections"}
    theirs = {name: value for name, value in parsed.items() if name.startswith("ssl_")}
    of_sentinels: dict[str, Any] = {**ours, **theirs, **url.sentinel_auth, "ssl": tls}
    of_primary: dict[str, Any] = {**options, **parsed, "ssl": tls}
    sentinel = Sentinel(list(url.hosts), sentinel_kwargs=of_sentinels, **of_primary)
    client = cast("_Primary", sentinel.master_for(url.service, redis_class=_Primary))  # pyright: ignore[reportUnknownMemberType]
    client.watchers = tuple(sentinel.sentinels)
    return client


async def execute_raw(redis: Redis, *words: str | bytes | float) -> Any:  # noqa: ANN401 (as Redis answers)
    """Execute a command on one server; returns the reply as Redis gives it.

    Raises:
        redis.exceptions.RedisError: Redis does not answer, or with an error.
    """
    try:
        (reply,) = await exchange(redis.connection_pool, (words,))
    except ODD as error:
        raise RedisConnectionError(f"the connection was lost ({error})") from error
    return raised(reply)


async def execute(pipe: Any, *, raise_on_error: bool = True) -> list[Any]:  # noqa: ANN401 (a pipeline of any client)
    """Execute a pipeline whose commands may belong to different nodes; its troubles are RedisErrors."""
    try:
        replies: list[Any] = await pipe.execute(raise_on_error=raise_on_error)
    except ODD as error:
        raise RedisConnectionError(f"the connection was lost ({error})") from error
    return [_in_order(reply) for reply in replies]


def _in_order(reply: object) -> object:
    if isinstance(reply, Exception) and not isinstance(reply, RedisError):
        return RedisConnectionError(f"the connection was lost ({reply})")
    return reply


async def ask(redis: Redis, commands: Sequence[Command]) -> list[Any]:
    """Return the replies to commands that change nothing; None from a key of another type.

    On a Cluster whose slots have moved they are asked one by one, by which the client learns where they are.

    Raises:
        redis.exceptions.RedisError: Redis does not answer, or refuses.
    """
    if not commands:
        return []
    client: Any = redis
    try:
        async with client.pipeline(transaction=False) as pipe:
            for words in commands:
                pipe.execute_command(*words)
            return [_told(reply) for reply in await execute(pipe, raise_on_error=False)]
    except RedisError:
        if not is_cluster(redis):
            raise
    return [await _ask_one(client, words) for words in commands]


async def _ask_one(client: Any, words: Command) -> Any:  # noqa: ANN401 (as Redis answers)
    try:
        return await client.execute_command(*words)
    except RedisError as error:
        return _told(error)


def _told(reply: Any) -> Any:  # noqa: ANN401 (as Redis answers)
    if isinstance(reply, RedisError):
        if kind_of(reply) == FOREIGN:
            return None
        raise reply
    return reply


def count_of(reply: object) -> int:
    """Return a reply that is a number; 0 in place of any other."""
    return reply if isinstance(reply, int) else 0


async def forget_topology(redis: Redis | RedisCluster) -> None:
    """Have a client of a Cluster ask anew which node serves what; its pipelines do not do so by themselves."""
    if isinstance(redis, RedisCluster):
        with suppress(RedisError, *ODD):  # what closes badly is closed all the same
            await redis.aclose()


def is_cluster(redis: Redis) -> bool:
    """Whether the client is one of a Cluster."""
    return isinstance(redis, RedisCluster)

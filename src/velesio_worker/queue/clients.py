"""Clients for each way of running Redis, with the one set of methods that redis-py gives them all."""

from __future__ import annotations

from typing import Any, Final, cast

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.connection import SSLConnection, parse_url
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException

from velesio_worker.redis_url import RedisURL

_CLUSTER_HAS_NO: Final = ("host", "port", "db", "connection_class")


class _Primary(Redis):
    """A client of whichever server the Sentinels call the primary; asks them for each new connection."""

    watchers: tuple[Redis, ...] = ()

    async def aclose(self, close_connection_pool: bool | None = None) -> None:  # noqa: FBT001 (redis-py's own signature)
        await super().aclose(close_connection_pool)
        for watcher in self.watchers:
            await watcher.aclose()


class _Cluster(RedisCluster):
    """A client of a Cluster whose troubles are all RedisErrors, so that they are waited out like any others."""

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 (redis-py's own signature)
        try:
            return await super().execute_command(*args, **kwargs)
        except RedisClusterException as error:
            await self.aclose()  # so that the next command asks anew who serves what
            raise RedisConnectionError(str(error)) from error


def single(url: RedisURL, options: dict[str, Any]) -> Redis:
    """Make a client of one server."""
    return Redis.from_url(url.plain, **options)  # pyright: ignore[reportUnknownMemberType]


def primary(url: RedisURL, options: dict[str, Any]) -> Redis:
    """Make a client of the primary that Sentinels watch over."""
    parsed: dict[str, Any] = dict(parse_url(url.plain))
    for name in ("host", "port"):
        parsed.pop(name, None)
    tls = parsed.pop("connection_class", None) is SSLConnection
    ours = {name: value for name, value in options.items() if name != "max_connections"}
    sentinel = Sentinel(
        list(url.hosts),
        sentinel_kwargs={**ours, **url.sentinel_auth, "ssl": tls},
        **ours,
        **parsed,
        ssl=tls,
        max_connections=options["max_connections"],
    )
    client = cast("_Primary", sentinel.master_for(url.service, redis_class=_Primary))  # pyright: ignore[reportUnknownMemberType]
    client.watchers = tuple(sentinel.sentinels)
    return client


def cluster(url: RedisURL, options: dict[str, Any]) -> Redis:
    """Make a client of a Cluster."""
    parsed: dict[str, Any] = dict(parse_url(url.plain))
    tls = parsed.get("connection_class") is SSLConnection
    for name in _CLUSTER_HAS_NO:
        parsed.pop(name, None)
    nodes = [ClusterNode(host, port) for host, port in url.hosts]
    client = _Cluster(startup_nodes=nodes, ssl=tls, **options, **parsed)
    return cast("Redis", client)


async def forget_topology(redis: Redis) -> None:
    """Have a client of a Cluster ask anew which node serves what; its pipelines do not do so by themselves."""
    if isinstance(redis, RedisCluster):
        await redis.aclose()


def is_cluster(redis: Redis) -> bool:
    """Whether the client is one of a Cluster."""
    return isinstance(redis, RedisCluster)

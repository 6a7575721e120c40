"""Redis's own settings, as far as jobs may be lost by them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from velesio_worker.logs import get_logger
from velesio_worker.queue.clients import is_cluster
from velesio_worker.queue.connection import passes
from velesio_worker.settings import hide_password

_SAFE_POLICY: Final = "noeviction"
_FOR_GOOD: Final = "(and in redis.conf, or in the settings of your provider)"
_SETTINGS: Final = ("maxmemory-policy", "appendonly", "save")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Node:
    """One server to ask.

    Attributes:
        name: what to call it in the log.
        cli: the redis-cli command that talks to it.
        target: the arguments that have a client of a Cluster ask it.
    """

    name: str
    cli: str
    target: dict[str, Any]


async def warn_of_risks(redis: Redis, url: str) -> None:
    """Warn in the log of settings by which Redis may delete jobs, or lose them when it restarts.

    Args:
        redis: a client; every primary of a Cluster is asked.
        url: where Redis is.

    Raises:
        redis.exceptions.RedisError: Redis does not answer. That it does not tell its settings is no error.
    """
    unknown: set[str] = set()
    for node in await _nodes(redis, url):
        policy, persistent = await _policy_and_persistence(redis, node)
        if policy is None:
            unknown.add("maxmemory-policy")
        elif policy != _SAFE_POLICY:
            _warn_of_eviction(node, policy)
        if persistent is None:
            unknown.add("appendonly")
        elif not persistent:
            _warn_of_restarts(node)
    if unknown:
        log.info(
            f"Redis at {hide_password(url)} does not tell {' and '.join(sorted(unknown))}: see to it that its "
            f"maxmemory-policy is {_SAFE_POLICY} and that it keeps its data when it restarts (appendonly yes)",
            action="redis_settings_unknown",
        )


def _warn_of_eviction(node: _Node, policy: str) -> None:
    victims = "results and streams" if policy.startswith("volatile-") else "jobs and results"
    log.warning(
        f"{node.name} has maxmemory-policy {policy}: it will delete {victims} when its memory is full. "
        f"To change that: {node.cli} CONFIG SET maxmemory-policy {_SAFE_POLICY} {_FOR_GOOD}",
        action="redis_evicts",
        policy=policy,
    )


def _warn_of_restarts(node: _Node) -> None:
    log.warning(
        f"{node.name} keeps no data on disk: all jobs are lost when it restarts. "
        f"To change that: {node.cli} CONFIG SET appendonly yes {_FOR_GOOD}",
        action="redis_not_persistent",
    )


async def _nodes(redis: Redis, url: str) -> list[_Node]:
    if not is_cluster(redis):
        return [_Node(f"Redis at {hide_password(url)}", "redis-cli", {})]
    cluster: Any = redis
    await cluster.execute_command("PING")  # only then it knows its nodes
    return [
        _Node(f"the Redis node {node.name}", f"redis-cli -h {node.host} -p {node.port}", {"target_nodes": node})
        for node in cluster.get_primaries()
    ]


async def _policy_and_persistence(redis: Redis, node: _Node) -> tuple[str | None, bool | None]:
    """Return a node's maxmemory-policy and whether it keeps its data; None for what it does not tell.

    CONFIG is not to be had on many managed services; INFO tells nearly as much: not whether snapshots are taken.
    """
    commands: Any = redis
    config: dict[str, str] = {}
    for name in _SETTINGS:  # one by one: Redis 6 takes no more
        config |= await _answer(commands.config_get(name, **node.target))
    policy = config.get("maxmemory-policy")
    if policy is None:
        memory = await _answer(commands.info("memory", **node.target))
        policy = memory.get("maxmemory_policy")
    if "appendonly" in config and "save" in config:
        return policy, config["appendonly"] == "yes" or config["save"] != ""
    persistence = await _answer(commands.info("persistence", **node.target))
    return policy, True if persistence.get("aof_enabled") == 1 else None


async def _answer(command: Any) -> dict[str, Any]:  # noqa: ANN401 (redis-py's commands are untyped)
    """Return the reply to a command; an empty one if Redis does not have it, or not for this user."""
    try:
        return await command
    except ResponseError as error:
        if passes(error):
            raise
        return {}

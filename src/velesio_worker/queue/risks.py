"""Redis's own settings, as far as jobs may be lost by them, and how it is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from velesio_worker.core.logs import get_logger
from velesio_worker.core.secrets import hide_password
from velesio_worker.queue.clients import is_cluster
from velesio_worker.queue.remedies import passes

_SAFE_POLICY: Final = "noeviction"
_FOR_GOOD: Final = "(and in redis.conf, or in the settings of your provider)"
_KEEPS: Final = "that it keeps its data when it restarts (appendonly yes)"
_PINGS: Final = 5
_SETTINGS: Final = ("maxmemory-policy", "appendonly", "save")

log = get_logger(__name__)


class _Node(NamedTuple):
    """One server to ask, by the arguments that have a client of a Cluster ask it; ``cli`` is how redis-cli does."""

    name: str
    cli: str
    target: dict[str, Any]


class Risk(NamedTuple):
    """Something by which Redis may lose jobs: what is the matter and what to do about it, for people.

    Attributes:
        action: what it is called in the log.
        facts: more of it, for programs.
        certain: False where Redis does not tell, so that nothing may be the matter.
    """

    action: str
    what: str
    remedy: str
    facts: Mapping[str, Any] = MappingProxyType({})
    certain: bool = True


class Reading(NamedTuple):
    """What one server tells of itself; None stands for what it does not tell.

    Attributes:
        name: what to call it.
        version: such as ``8.2.1``.
        round_trip: how long a PING takes, in seconds; the median of some.
        ahead: how much its clock is ahead of this host's, in seconds.
        used: the memory that it uses, in bytes.
        limit: the most that it may use (``maxmemory``), in bytes; 0 for no limit.
    """

    name: str
    version: str | None
    round_trip: float
    ahead: float | None
    used: int | None
    limit: int | None


async def warn_of_risks(redis: Redis, url: str) -> None:
    """Warn in the log of what :func:`risks` finds, and raise as it does."""
    for risk in await risks(redis, url):
        if risk.certain:
            log.warning(f"{risk.what}. To change that: {risk.remedy}", action=risk.action, **risk.facts)
        else:
            log.info(f"{risk.what}: {risk.remedy}", action=risk.action, **risk.facts)


async def risks(redis: Redis, url: str) -> list[Risk]:
    """Return the settings by which Redis, every primary of a Cluster, may delete jobs, or lose them when it restarts.

    Raises:
        redis.exceptions.RedisError: Redis does not answer. That it does not tell its settings is no error.
    """
    found: list[Risk] = []
    unknown: set[str] = set()
    for node in await _nodes(redis, url):
        policy, persistent = await _policy_and_persistence(redis, node)
        if policy is None:
            unknown.add("maxmemory-policy")
        elif policy != _SAFE_POLICY:
            victims = "results and streams" if policy.startswith("volatile-") else "jobs and results"
            what = f"{node.name} has maxmemory-policy {policy}: it will delete {victims} when its memory is full"
            remedy = f"{node.cli} CONFIG SET maxmemory-policy {_SAFE_POLICY} {_FOR_GOOD}"
            found.append(Risk("redis_evicts", what, remedy, {"policy": policy}))
        if persistent is None:
            unknown.add("appendonly")
        elif not persistent:
            what = f"{node.name} keeps no data on disk: all jobs are lost when it restarts"
            found.append(Risk("redis_not_persistent", what, f"{node.cli} CONFIG SET appendonly yes {_FOR_GOOD}"))
    if unknown:
        what = f"Redis at {hide_password(url)} does not tell {' and '.join(sorted(unknown))}"
        remedy = f"see to it that its maxmemory-policy is {_SAFE_POLICY} and {_KEEPS}"
        found.append(Risk("redis_settings_unknown", what, remedy, certain=False))
    return found


async def readings(redis: Redis, url: str) -> list[Reading]:
    """Return what Redis tells of itself: one reading for a single server, one for each primary of a Cluster.

    Raises:
        redis.exceptions.RedisError: Redis does not answer. What it does not tell is no error.
    """
    return [await _reading(redis, node) for node in await _nodes(redis, url)]


async def _reading(redis: Redis, node: _Node) -> Reading:
    commands: Any = redis
    server = await _answer(commands.info("server", **node.target))
    memory = await _answer(commands.info("memory", **node.target))
    trips: list[float] = []
    for _ in range(_PINGS):
        began = time.perf_counter()
        await commands.execute_command("PING", **node.target)
        trips.append(time.perf_counter() - began)
    return Reading(
        node.name,
        server.get("redis_version"),
        statistics.median(trips),
        await _ahead(commands, node),
        memory.get("used_memory"),
        memory.get("maxmemory"),
    )


async def _ahead(commands: Any, node: _Node) -> float | None:  # noqa: ANN401 (redis-py's commands are untyped)
    """Compare the clocks; the reply is taken to be made halfway between question and answer."""
    before = time.time()
    reply = await _answer(commands.time(**node.target))
    if not reply:
        return None
    seconds, micros = reply
    return seconds + micros / 1_000_000 - (before + time.time()) / 2


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


async def _answer(command: Any) -> Any:  # noqa: ANN401 (redis-py's commands are untyped)
    """Return the reply to a command; an empty one if Redis does not have it, or not for this user."""
    try:
        return await command
    except ResponseError as error:
        if passes(error):
            raise
        return {}

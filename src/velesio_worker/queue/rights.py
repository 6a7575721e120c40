"""The rights of Redis users: what each party of a queue has to be allowed, and nothing beyond."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple

from velesio_worker.core.redis_url import Topology
from velesio_worker.queue.keys import (
    LAST_JOB_TIME,
    LINED,
    Keys,
    cancel_key,
    job_key,
    preview_key,
    reader_key,
    result_key,
    stream_key,
)
from velesio_worker.wire.jobs import Kind


class Party(StrEnum):
    """Who uses a queue's Redis, each as a user of its own."""

    PRODUCER = "producer"
    READER = "reader"
    CANCELLER = "canceller"
    GATEWAY = "gateway"
    OPERATOR = "operator"
    WORKER = "worker"


class Rights(NamedTuple):
    """What a user may do: key patterns as Redis's ACL has them, and commands."""

    keys: tuple[str, ...]
    commands: tuple[str, ...]

    def rules(self) -> list[str]:
        """Return the rules that allow this and nothing else."""
        return ["resetkeys", "resetchannels", "-@all", *self.keys, *(f"+{command}" for command in self.commands)]


_CONNECTING: Final = ("client|setinfo", "client|setname", "hello", "ping")
_IN_A_CLUSTER: Final = ("cluster|slots", "command")
_WATCHING: Final = ("client|list", "config|get", "info", "time")
"""What a worker does without where it may not: it notices lost workers later, and warns of nothing."""

_MOVING: Final = ("blmove", "del", "lindex", "llen", "lmove", "lpush", "lrem", "ltrim", "type")
_ENROLLED: Final = (
    "hdel",
    "hget",
    "hincrby",
    "hmget",
    "hscan",
    "hset",
    "ttl",
    "zadd",
    "zcard",
    "zrangebyscore",
    "zrem",
    "zscore",
)
_ANSWERING: Final = (
    *("append", "exists", "expire", "get", "hexists", "incrby", "rename", "set", "setex", "strlen"),
    *("xadd", "xrange", "xread", "xrevrange", "xtrim"),
)
_SCRIPTS: Final = ("evalsha", "script|load")
_OF_WORKER: Final = tuple(sorted({*_CONNECTING, *_WATCHING, *_MOVING, *_ENROLLED, *_ANSWERING, *_SCRIPTS}))

SENTINEL: Final = ("+auth", "+client|setinfo", "+client|setname", "+hello", "+ping", "+sentinel|masters")
"""The rules of a user of the Sentinels, from whom clients hear where the primary is."""


def rights_of(party: Party, queue: str, topology: Topology = Topology.STANDALONE) -> Rights:
    """Return what a party of the queue of this name has to be allowed, where Redis is run like this."""
    keys = Keys(queue)
    push = Rights((f"%W~{queue}",), ("lpush",))
    read = Rights(
        (
            *(f"%R~{key}" for key in (stream_key("*"), result_key("*"), preview_key("*"))),
            f"%W~{reader_key('*')}",
        ),
        ("get", "set", "xrange", "xread", "xrevrange"),
    )
    lines = [key for kind in LINED for key in (keys.share(kind), keys.lines(kind))]
    by_priority = [f"{keys.lines(kind)}:*" for kind in LINED]
    lists = (*keys.waiting.values(), *lines, keys.suspects, keys.dead, keys.only("*"))
    looked_at = (*lists, *by_priority, keys.workers, keys.worker("*"))
    look = Rights(tuple(f"%R~{key}" for key in looked_at), ("hmget", "lindex", "llen", "pttl", "zcard", "zrevrange"))
    cancel = Rights((f"%W~{cancel_key('*')}", f"%W~{keys.control}"), ("set", "xadd"))
    drain = Rights((f"%W~{keys.drain('*')}",), ("set",))
    line_up = [
        key
        for kind in LINED
        for key in (keys.running(kind), f"{keys.share(kind)}:*", f"{keys.lines(kind)}:*", keys.line(kind, "*", "*"))
    ]
    sorting = Rights(
        tuple(f"~{key}" for key in (*map(keys.ready, Kind), *lines, *line_up)),
        (
            *("evalsha", "hget", "hincrby", "hscan", "hset", "lindex", "llen", "lmove", "lpush", "lrange", "lrem"),
            *("script|load", "time", "zadd", "zrange", "zrangebyscore", "zrem", "zscore"),
        ),
    )
    parts = {
        Party.PRODUCER: [push],
        Party.READER: [read],
        Party.CANCELLER: [cancel],
        Party.GATEWAY: [push, read, cancel, look],
        Party.OPERATOR: [read, cancel, look, drain, sorting],
    }
    of_party = [_of_worker(keys)] if party is Party.WORKER else parts[party]
    commands = {command for rights in of_party for command in rights.commands} | set(_CONNECTING)
    if topology is Topology.CLUSTER:
        commands |= set(_IN_A_CLUSTER)
    return Rights(tuple(key for rights in of_party for key in rights.keys), tuple(sorted(commands)))


def _of_worker(keys: Keys) -> Rights:
    queue = keys.workers.removesuffix("workers") + "*"
    parts = job_key("*").removesuffix("job") + "parts:*"
    mine = (keys.incoming, queue, stream_key("*"), result_key("*"), job_key("*"), cancel_key("*"), parts)
    return Rights(
        (
            *(f"~{key}" for key in (*mine, "prompt_cache:*")),
            f"%R~{reader_key('*')}",
            *(f"%W~{key}" for key in (preview_key("*"), "metrics:*", LAST_JOB_TIME)),
        ),
        _OF_WORKER,
    )

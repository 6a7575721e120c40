"""What a worker has to be allowed to do in Redis, so that it does not find out in the middle of a job."""

from __future__ import annotations

from typing import Final

from redis.asyncio import Redis

from velesio_worker.queue.keys import Keys
from velesio_worker.queue.scripts import Scripts

_ABSENT: Final = "doctor"
_SHOWN: Final = 3


def _needed(keys: Keys) -> list[list[str]]:
    """Return one command, as it may be sent, for each that a worker runs on keys of a pattern; first the key's name."""
    own, stream, result = f"{{{keys.incoming}}}:{_ABSENT}", f"stream:{_ABSENT}", f"result:{_ABSENT}"
    state, parts = f"{{{result}}}:job", f"{{{result}}}:parts:1"
    by_key = {
        keys.incoming: ("llen", "lpush v", "lindex 0", "lrem 0 v"),
        own: (
            *("llen", "lpush v", "lindex 0", "lrem 0 v", "ltrim 0 0", "exists", "del", "expire 1"),
            *("hset f v", "hget f", "hscan 0", "hmget f", "hdel f", "hincrby f 1", "zadd 1 v", "zrangebyscore 0 0"),
            *("zcard", "zrem v", "zscore v", "xadd * f v", "xrevrange + -", "xtrim maxlen 0", "incrby 1", "ttl"),
            *("type", "get", "set v"),
        ),
        stream: ("exists", "expire 1", "xadd * f v", "xrange - +", "xrevrange + -"),
        result: ("exists", "expire 1", "get", "set v", "setex 1 v"),
        state: ("hset f v", "hmget f", "hdel f", "hincrby f 1", "expire 1"),
        parts: ("append v", "strlen", "expire 1", "del"),
    }
    single = [
        [words[0], key, *words[1:]] for key, many in by_key.items() for words in (command.split() for command in many)
    ]
    moves = [["blmove", keys.incoming, own, "right", "left", "1"], ["lmove", own, own, "right", "left"]]
    return [*single, *moves, ["rename", parts, result], ["xread", "streams", own, "0"], ["time"]]


async def forbidden(redis: Redis, keys: Keys) -> str:
    """Say what of all that the user may not do; empty where that is nothing, or Redis, below 7, does not tell.

    Raises:
        redis.exceptions.RedisError: Redis does not answer, or not even that may be asked.
    """
    needed = _needed(keys)
    places = await Scripts(redis).forbidden(needed)
    if not places:
        return ""
    missing = [needed[place - 1] for place in places]
    some = ", ".join(" ".join(words[:2]) for words in missing[:_SHOWN])
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    return f"refuses what the worker does: the user may not run {some}{more}"

"""Connections to Redis, and what to do while there are none.

redis-py's defaults repeat commands whose reply was lost; that claims two jobs or writes an entry twice. So no
client here repeats anything by itself: :func:`until_done` repeats what is safe to repeat, and says so in the log.
"""

from __future__ import annotations

import time
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from velesio_worker.core.logs import get_logger
from velesio_worker.core.redis_url import parse_redis_url
from velesio_worker.core.secrets import hide_password
from velesio_worker.queue.clients import is_cluster, make_client
from velesio_worker.queue.outage import Backoff
from velesio_worker.queue.remedies import kind_of, known_remedy, passes, remedy
from velesio_worker.wire.errors import RedisUnusableError

BLOCK_SECONDS: Final = 1.0
"""How long a blocking read waits: the longest that a consumer takes to notice that it shall stop."""

REPLY_SECONDS: Final = 4.0
"""How long any reply may take beyond what its command waits for on purpose."""

PAYLOAD_SECONDS: Final = 60.0
"""How long a read that may carry a large payload waits for its reply at most."""

CONNECT_SECONDS: Final = 3.0

REMIND_SECONDS: Final = 60.0
"""How often a worker that waits for Redis to begin with says so again."""

_NO_LIMIT: Final = 2**31 - 1
OLDEST_REDIS: Final = (6, 2)

_FINAL: Final = frozenset({"NOAUTH", "NODB", "NOPERM", "PROTOCOL"})
"""Troubles that no patience mends, so that a worker does not begin with them; while it runs they are waited for."""

log = get_logger(__name__)


def connect(url: str, *, name: str, socket_timeout: float = 5.0, max_connections: int | None = None) -> Redis:
    """Make a client, for any topology, that never repeats a command by itself; it connects when it is first used.

    Args:
        url: where Redis is, and how it is run (:func:`velesio_worker.core.redis_url.parse_redis_url`).
        name: the client name that its connections carry.
        socket_timeout: the longest wait for a reply, in seconds; above the block time for blocking reads.
        max_connections: the most connections at a time; None: no limit (redis-py's own default is 100).

    Raises:
        ValueError: the URL is none.
    """
    return make_client(
        parse_redis_url(url),
        {
            "client_name": name,
            "protocol": 2,
            "socket_timeout": socket_timeout,
            "socket_connect_timeout": CONNECT_SECONDS,
            "socket_keepalive": True,
            "retry": Retry(NoBackoff(), 0),
            "max_connections": max_connections or _NO_LIMIT,
        },
    )


_OTHER_SCHEMES: Final = {
    "cluster": "that is a node of a Redis Cluster: write redis+cluster://host:port,host:port",
    "sentinel": "that is a Sentinel: write redis+sentinel://host:port,host:port/service",
}
_SIGNS: Final = {
    "Cluster mode is not enabled": "that is no Redis Cluster: write redis://host:port",
    "unknown command 'SENTINEL'": "that is no Sentinel: write redis://host:port",
}
"""What servers, and redis-py, say of a URL with a wrong scheme, and what to write instead."""


async def wait_for_redis(redis: Redis, url: str, remind: float = REMIND_SECONDS) -> None:
    """Wait until Redis answers, however long that takes, and say so while it does not; else as :func:`check_redis`.

    The same trouble is told once more after ``remind`` seconds.
    """
    backoff, told, told_at = Backoff(first=0.5, longest=10.0), "", 0.0
    while True:
        try:
            await check_redis(redis, url)
            break
        except RedisError as error:
            if kind_of(error) != told or time.monotonic() - told_at >= remind or not told_at:
                told, told_at = kind_of(error), time.monotonic()
                log.warning(f"{remedy(error, url)}; trying again", action="redis_absent")
            await backoff.pause()


async def check_redis(redis: Redis, url: str) -> None:
    """Find out whether Redis answers, and whether a worker can use it.

    Raises:
        RedisUnusableError: Redis answers, but refuses the credentials, is too old, or is run in another way than
            the URL says.
        redis.exceptions.RedisError: it does not answer now; that passes.
    """
    try:
        await redis.execute_command("PING")  # pyright: ignore[reportUnknownMemberType]
        await _check_server(redis, url)
    except RedisError as error:
        mistake = next((meant for sign, meant in _SIGNS.items() if sign in str(error)), "")
        kind = kind_of(error)
        if passes(error) and not mistake and kind not in _FINAL:
            raise
        if kind == "NOAUTH":
            mistake = f"Redis refuses the user or password ({error})"
        known = f"Redis {known_remedy(error) or f'answers {error}'}"
        raise RedisUnusableError(f"REDIS_URL={hide_password(url)!r}: {mistake or known}") from None


async def _check_server(redis: Redis, url: str) -> None:
    """Find out that the server is none that the worker can use, where it tells."""
    try:
        info: Any = await redis.info("server")  # pyright: ignore[reportUnknownMemberType]
    except ResponseError as error:
        if passes(error):
            raise
        return  # no right to ask, or no such command: a wrong server then shows at its first BLMOVE
    node = info if "redis_version" in info else next(iter(info.values()))  # a Cluster's: by node
    mode = node.get("redis_mode")
    if mode in _OTHER_SCHEMES and not (mode == "cluster" and is_cluster(redis)):
        raise RedisUnusableError(f"REDIS_URL={hide_password(url)!r}: {_OTHER_SCHEMES[mode]}")
    version = str(node.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST_REDIS:
        raise RedisUnusableError(f"Redis {version} is too old: the worker needs 6.2 or newer (it has no BLMOVE)")

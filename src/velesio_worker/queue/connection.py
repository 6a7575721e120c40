"""Connections to Redis, and what to do while there are none.

redis-py's defaults repeat commands whose reply was lost; that claims two jobs or writes an entry twice. So no
client here repeats anything by itself: :func:`until_done` repeats what is safe to repeat, and says so in the log.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterDownError,
    ExecAbortError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
)
from redis.exceptions import (
    TimeoutError as RedisTimeoutError,
)

from velesio_worker.errors import RedisUnusableError
from velesio_worker.logs import get_logger
from velesio_worker.settings import hide_password

BLOCK_SECONDS: Final = 1.0
"""How long a blocking read waits: the longest that a consumer takes to notice that it shall stop."""

OLDEST_REDIS: Final = (6, 2)

TRANSIENT: Final = (
    RedisConnectionError,
    RedisTimeoutError,
    BusyLoadingError,
    ClusterDownError,
    ExecAbortError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
"""What passes by itself, or once an operator mends Redis: wait and repeat."""

_REFUSED: Final = (AuthenticationError, AuthorizationError, NoPermissionError)

T = TypeVar("T")
log = get_logger(__name__)


def connect(url: str, *, name: str, socket_timeout: float = 5.0, max_connections: int | None = None) -> Redis:
    """Make a client that never repeats a command by itself; it connects when it is first used.

    Args:
        url: where Redis is.
        name: the client name that its connections carry.
        socket_timeout: the longest wait for a reply, in seconds; above the block time for blocking reads.
        max_connections: the most connections at a time.
    """
    return Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url,
        client_name=name,
        protocol=2,
        socket_timeout=socket_timeout,
        socket_connect_timeout=5.0,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
        max_connections=max_connections,
    )


def _remedy(error: Exception, url: str) -> str:
    where = hide_password(url)
    match error:
        case OutOfMemoryError():
            return f"Redis at {where} is out of memory: raise its maxmemory or remove keys"
        case ReadOnlyError():
            return f"Redis at {where} is a read-only replica: point REDIS_URL at the primary"
        case BusyLoadingError():
            return f"Redis at {where} is loading its data"
        case _:
            return f"Redis at {where} does not answer ({error}): check REDIS_URL and that Redis runs"


class Backoff:
    """Growing pauses with jitter: ``first`` seconds, doubled each time up to ``longest``."""

    def __init__(self, first: float = 0.1, longest: float = 5.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    async def pause(self) -> None:
        """Sleep the next pause."""
        delay = self._next
        self._next = min(self._next * 2, self._longest)
        await asyncio.sleep(delay * random.uniform(0.75, 1.25))  # noqa: S311 (jitter, no secret)

    def reset(self) -> None:
        """Begin again with the first pause."""
        self._next = self._first


class Outage:
    """Says once that Redis is lost and once that it is back, however many tasks notice.

    One for a whole worker.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._lost = False

    def noticed(self, error: Exception) -> None:
        """Take note of a command that failed for a reason that passes."""
        if not self._lost:
            self._lost = True
            log.warning(_remedy(error, self._url), action="redis_lost")

    def over(self) -> None:
        """Take note of a command that went through."""
        if self._lost:
            self._lost = False
            log.info("Redis answers again", action="redis_back")


async def until_done(outage: Outage, operation: Callable[[], Awaitable[T]]) -> T:
    """Run an operation that is safe to repeat until Redis answers it.

    Raises:
        redis.exceptions.RedisError: Redis answered with an error that waiting does not mend.
    """
    backoff = Backoff()
    while True:
        try:
            result = await operation()
        except TRANSIENT as error:
            outage.noticed(error)
            await backoff.pause()
        else:
            outage.over()
            return result


async def wait_for_redis(redis: Redis, url: str) -> None:
    """Wait until Redis answers, however long that takes, and say so while it does not.

    Raises:
        RedisUnusableError: Redis answers, but refuses the credentials or is too old.
    """
    backoff = Backoff(first=0.5, longest=10.0)
    while True:
        try:
            await redis.execute_command("PING")  # pyright: ignore[reportUnknownMemberType]
            break
        except _REFUSED as error:
            raise RedisUnusableError(
                f"REDIS_URL={hide_password(url)!r}: Redis refuses the user or password ({error})"
            ) from None
        except TRANSIENT as error:
            log.warning(f"{_remedy(error, url)}; trying again", action="redis_absent")
            await backoff.pause()
        except ResponseError as error:
            raise RedisUnusableError(f"REDIS_URL={hide_password(url)!r}: Redis answers {error}") from None
    await _check_version(redis)


async def _check_version(redis: Redis) -> None:
    try:
        info: dict[str, Any] = await redis.info("server")  # pyright: ignore[reportUnknownMemberType]
    except ResponseError:
        return  # an ACL may forbid INFO; a too old server then shows at its first BLMOVE
    version = str(info.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < OLDEST_REDIS:
        raise RedisUnusableError(f"Redis {version} is too old: the worker needs 6.2 or newer (it has no BLMOVE)")

"""Connections to Redis, and what to do while there are none.

redis-py's defaults repeat commands whose reply was lost; that claims two jobs or writes an entry twice. So no
client here repeats anything by itself: :func:`until_done` repeats what is safe to repeat, and says so in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ClusterError,
    ExecAbortError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
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
from velesio_worker.metrics import RECONNECTS
from velesio_worker.queue.clients import cluster, is_cluster, primary, single
from velesio_worker.redis_url import Topology, parse_redis_url
from velesio_worker.settings import hide_password

BLOCK_SECONDS: Final = 1.0
"""How long a blocking read waits: the longest that a consumer takes to notice that it shall stop."""

OUTAGES_KEPT: Final = 100

REPLY_SECONDS: Final = 4.0
"""How long any reply may take beyond what its command waits for on purpose."""

PAYLOAD_SECONDS: Final = 60.0
"""How long a read that may carry a large payload waits for its reply at most."""

CONNECT_SECONDS: Final = 3.0

_NO_LIMIT: Final = 2**31 - 1
OLDEST_REDIS: Final = (6, 2)

_PASSING: Final = (RedisConnectionError, RedisTimeoutError, ClusterError, ExecAbortError, NoScriptError, TryAgainError)
_PASSING_REPLY: Final = re.compile(
    r"\b(BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOREPLICAS|OOM|READONLY|TRYAGAIN|UNBLOCKED)\b"
)
_WORDS: Final[dict[type[Exception], str]] = {
    BusyLoadingError: "LOADING",
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
}
"""redis-py cuts the first word off some replies and makes a class of it."""

_PIPELINE_PREFIX: Final = "caused error: "

_REFUSED: Final = (AuthenticationError, AuthorizationError, NoPermissionError)

T = TypeVar("T")
log = get_logger(__name__)


def connect(url: str, *, name: str, socket_timeout: float = 5.0, max_connections: int | None = None) -> Redis:
    """Make a client that never repeats a command by itself; it connects when it is first used.

    Args:
        url: where Redis is, and how it is run (:func:`velesio_worker.redis_url.parse_redis_url`).
        name: the client name that its connections carry.
        socket_timeout: the longest wait for a reply, in seconds; above the block time for blocking reads.
        max_connections: the most connections at a time; None: no limit (redis-py's own default is 100).

    Returns:
        a client of one server, of the primary that Sentinels watch over, or of a Cluster; it takes the commands that
        all of them have.

    Raises:
        ValueError: the URL is none.
    """
    where = parse_redis_url(url)
    make = {Topology.STANDALONE: single, Topology.SENTINEL: primary, Topology.CLUSTER: cluster}[where.topology]
    return make(
        where,
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


def passes(error: RedisError) -> bool:
    """Whether an error passes by itself, or once an operator mends Redis: then wait and repeat."""
    if isinstance(error, (*_PASSING, OutOfMemoryError, ReadOnlyError)):
        return True
    return isinstance(error, ResponseError) and _PASSING_REPLY.search(_reply(error)) is not None


def _reply(error: Exception) -> str:
    """Redis's own words; redis-py puts the command in front, and that may hold anything."""
    return str(error).rpartition(_PIPELINE_PREFIX)[2]


_REMEDIES: Final = {
    "LOADING": "is loading its data",
    "MISCONF": "cannot save its data and takes no writes: look at its log and its disk",
    "NOREPLICAS": "has too few replicas to take writes: check min-replicas-to-write",
    "OOM": "is out of memory: raise its maxmemory or remove keys",
    "READONLY": "is a read-only replica: point REDIS_URL at the primary",
}


def remedy(error: Exception, url: str) -> str:
    """Say what is the matter with Redis, and what to do about it."""
    where = f"Redis at {hide_password(url)}"
    if isinstance(error, MasterNotFoundError):
        return f"{where} has no primary now, or no Sentinel answers: check the addresses and the service in REDIS_URL"
    found = _PASSING_REPLY.search(_reply(error))
    word = _WORDS.get(type(error)) or (found.group() if found else "")
    if not word and not isinstance(error, ResponseError):
        return f"{where} does not answer ({error}): check REDIS_URL and that Redis runs"
    return f"{where} {_REMEDIES.get(word, f'takes no commands now ({error})')}"


_OTHER_SCHEMES: Final = {
    "cluster": "that is a node of a Redis Cluster: write redis+cluster://host:port,host:port",
    "sentinel": "that is a Sentinel: write redis+sentinel://host:port,host:port/service",
}
_SIGNS: Final = {
    "Cluster mode is not enabled": "that is no Redis Cluster: write redis://host:port",
    "unknown command 'SENTINEL'": "that is no Sentinel: write redis://host:port",
}
"""What servers, and redis-py, say of a URL with a wrong scheme, and what to write instead."""


class Backoff:
    """Growing pauses with jitter: ``first`` seconds, doubled each time up to ``longest``."""

    def __init__(self, first: float = 0.1, longest: float = 2.0) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    async def pause(self, outage: Outage | None = None) -> None:
        """Sleep the next pause, which ends early when somebody finds the outage over."""
        delay = self._next * random.uniform(0.75, 1.25)  # noqa: S311 (jitter, no secret)
        self._next = min(self._next * 2, self._longest)
        await asyncio.sleep(min(delay, self._first))
        if outage is not None:
            await outage.over_within(delay - self._first)
        elif delay > self._first:
            await asyncio.sleep(delay - self._first)

    def reset(self) -> None:
        """Begin again with the first pause."""
        self._next = self._first


class Outage:
    """Says once that Redis is lost and once that it is back, however many tasks notice, and remembers when that was.

    One for a whole worker.

    Attributes:
        past: when it was away, as (from, until) in monotonic seconds.
        trouble: what is the matter with it now and what to do, for people; empty if it answers.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._began: float | None = None
        self.past: deque[tuple[float, float]] = deque(maxlen=OUTAGES_KEPT)
        self._is_over = asyncio.Event()
        self.trouble = ""
        self._unconnected = False

    def noticed(self, error: Exception) -> None:
        """Take note of a command that failed for a reason that passes."""
        self.trouble = remedy(error, self._url)
        self._unconnected |= isinstance(error, (RedisConnectionError, RedisTimeoutError))
        if self._began is None:
            self._began = time.monotonic()
            self._is_over = asyncio.Event()
            log.warning(self.trouble, action="redis_lost")

    def over(self) -> None:
        """Take note of a command that went through."""
        if self._began is not None:
            self.past.append((self._began, time.monotonic()))
            self._began = None
            self.trouble = ""
            self._is_over.set()
            RECONNECTS.inc(int(self._unconnected))
            self._unconnected = False
            log.info("Redis answers again", action="redis_back")

    async def over_within(self, seconds: float) -> None:
        """Wait until the outage is over, or for so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(seconds, 0.0)):
                await self._is_over.wait()

    def away_since(self, moment: float) -> float:
        """How long Redis was away since a moment in monotonic seconds; in seconds."""
        now = time.monotonic()
        spans = [*self.past, (self._began, now)] if self._began is not None else self.past
        return sum(max(0.0, end - max(begin, moment)) for begin, end in spans)


async def until_done(outage: Outage, operation: Callable[[], Awaitable[T]], *, writes: bool = True) -> T:
    """Run an operation that is safe to repeat until Redis answers it.

    Args:
        outage: whom to tell when Redis does not answer.
        operation: what to do.
        writes: whether its success shows that Redis takes writes again.

    Raises:
        redis.exceptions.RedisError: Redis answered with an error that waiting does not mend.
    """
    backoff = Backoff()
    while True:
        try:
            result = await operation()
        except RedisError as error:
            if not passes(error):
                raise
            outage.noticed(error)
            await backoff.pause(outage)
        else:
            if writes:
                outage.over()
            return result


async def within(seconds: float, operation: Awaitable[T]) -> T:
    """Wait for an operation; a connection whose reply does not come in time is given up.

    Raises:
        redis.exceptions.TimeoutError: it took longer than ``seconds``.
    """
    try:
        async with asyncio.timeout(seconds):
            return await operation
    except TimeoutError:
        raise RedisTimeoutError(f"no reply in {seconds:g} s") from None


async def wait_for_redis(redis: Redis, url: str) -> None:
    """Wait until Redis answers, however long that takes, and say so while it does not.

    Raises:
        RedisUnusableError: Redis answers, but refuses the credentials or is too old.
    """
    backoff = Backoff(first=0.5, longest=10.0)
    while True:
        try:
            await check_redis(redis, url)
            break
        except RedisError as error:
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
    except _REFUSED as error:
        raise RedisUnusableError(
            f"REDIS_URL={hide_password(url)!r}: Redis refuses the user or password ({error})"
        ) from None
    except RedisError as error:
        mistake = next((meant for sign, meant in _SIGNS.items() if sign in str(error)), "")
        if passes(error) and not mistake:
            raise
        trouble = mistake or f"Redis answers {error}"
        raise RedisUnusableError(f"REDIS_URL={hide_password(url)!r}: {trouble}") from None


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

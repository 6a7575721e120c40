"""What to do while Redis does not answer: tell it once, wait, repeat what is safe to repeat."""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio
from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import (
    BusyLoadingError,
    ClusterError,
    ExecAbortError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import RECONNECTS
from velesio_worker.core.secrets import hide_password

log = get_logger(__name__)

OUTAGES_KEPT: Final = 100

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

T = TypeVar("T")


def passes(error: RedisError) -> bool:
    """Whether an error passes by itself, or once an operator mends Redis: then wait and repeat."""
    if isinstance(error, (*_PASSING, OutOfMemoryError, ReadOnlyError)):
        return True
    return isinstance(error, ResponseError) and _PASSING_REPLY.search(words(error)) is not None


def words(error: Exception) -> str:
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
    found = _PASSING_REPLY.search(words(error))
    word = _WORDS.get(type(error)) or (found.group() if found else "")
    if not word and not isinstance(error, ResponseError):
        return f"{where} does not answer ({error}): check REDIS_URL and that Redis runs"
    return f"{where} {_REMEDIES.get(word, f'takes no commands now ({error})')}"


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
        with anyio.move_on_after(max(seconds, 0.0)):
            await self._is_over.wait()

    def away_since(self, moment: float) -> float:
        """How long Redis was away since a moment in monotonic seconds; in seconds."""
        now = time.monotonic()
        spans = [*self.past, (self._began, now)] if self._began is not None else self.past
        return sum(max(0.0, end - max(begin, moment)) for begin, end in spans)


async def until_done(outage: Outage, operation: Callable[[], Awaitable[T]], *, writes: bool = True) -> T:
    """Run an operation that is safe to repeat until Redis answers it; unless it ``writes``, that ends no outage.

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

"""What to do while Redis does not answer: tell it once, wait, repeat what is safe to repeat."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import RECONNECTS
from velesio_worker.queue.remedies import FOREIGN, kind_of, passes, remedy, words

log = get_logger(__name__)

OUTAGES_KEPT: Final = 100

QUIET_SECONDS: Final = 30.0
"""What comes again within so many seconds after it was over is told no more: it comes and goes."""

_PARTIAL: Final = frozenset({"MAXCLIENTS", "NOAUTH", "FILES", FOREIGN})
"""What is refused to new connections alone, or for one key: that others go on does not show that it is over."""

T = TypeVar("T")


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
    """Says once that Redis is lost, and why, and once that it is back, however many tasks notice, and remembers when.

    What comes and goes is told once, too: its end is told when it has not come again for ``QUIET_SECONDS``.

    One for a whole worker.

    Args:
        url: where Redis is.
        clock: the time, in monotonic seconds.

    Attributes:
        past: when it was away, as (from, until) in monotonic seconds.
        trouble: what is the matter with it now and what to do, for people; empty if it answers.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        self._began: float | None = None
        self.past: deque[tuple[float, float]] = deque(maxlen=OUTAGES_KEPT)
        self._is_over = asyncio.Event()
        self.trouble = ""
        self._unconnected = False
        self._noticed_at = -math.inf
        self._told: set[str] = set()
        self._end_untold = False
        self._flaps = False

    def noticed(self, error: Exception) -> None:
        """Take note of a command that failed for a reason that passes."""
        now, begins = self._clock(), self._began is None
        self.trouble = remedy(error, self._url)
        self._unconnected |= isinstance(error, (RedisConnectionError, RedisTimeoutError))
        if begins:
            self._began = now
            self._is_over = asyncio.Event()
            if now - self._noticed_at >= QUIET_SECONDS:
                self._told.clear()
                self._flaps = False
        self._noticed_at = now
        self._tell(error, begins=begins)

    def _tell(self, error: Exception, *, begins: bool) -> None:
        """Say what is the matter, unless that was said a moment ago."""
        kind = kind_of(error)
        about = words(error) if kind == FOREIGN else kind  # of keys each is told
        if about not in self._told:
            self._told |= {kind, about}
            self._end_untold = True
            log.warning(self.trouble, action="redis_lost")
        elif begins and not self._end_untold:
            self._end_untold = self._flaps = True
            log.warning(f"{self.trouble}; it comes and goes", action="redis_lost")

    def over(self) -> None:
        """Take note of a command that went through."""
        if self._began is not None:
            self.past.append((self._began, self._clock()))
            self._began = None
            self.trouble = ""
            self._is_over.set()
            RECONNECTS.inc(int(self._unconnected))
            self._unconnected = False
        if self._end_untold and self._has_settled():
            self._end_untold = False
            log.info("Redis answers again", action="redis_back")

    def _has_settled(self) -> bool:
        """Whether what went through shows that it is over: not yet where it comes and goes."""
        comes_again = self._flaps or not self._told.isdisjoint(_PARTIAL)
        return not comes_again or self._clock() - self._noticed_at >= QUIET_SECONDS

    async def over_within(self, seconds: float) -> None:
        """Wait until the outage is over, or for so many seconds."""
        with anyio.move_on_after(max(seconds, 0.0)):
            await self._is_over.wait()

    def away_since(self, moment: float) -> float:
        """How long Redis was away since a moment in monotonic seconds; in seconds."""
        now = self._clock()
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

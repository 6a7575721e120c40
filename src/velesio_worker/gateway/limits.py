"""How much each token may ask for, counted in this process alone: with N processes it is N times as much."""

from __future__ import annotations

import math
import time
from collections import Counter
from typing import Final

from limits import RateLimitItem, parse_many
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import MovingWindowRateLimiter

from velesio_worker.gateway.errors import ApiError

_FULL_RETRY_SECONDS: Final = 1
"""Somebody's own requests end when they end; a second is as good a guess as any."""


class RateLimits:
    """Counts requests and refuses what is too much.

    Args:
        rate: requests per time, such as ``60/minute`` or several with ``;`` between them; None: any number.
        at_once: how many requests may run at a time; None: any number.
    """

    def __init__(self, rate: str | None, at_once: int | None) -> None:
        self._rates: list[RateLimitItem] = [] if rate is None else parse_many(rate)
        self._limiter = MovingWindowRateLimiter(MemoryStorage())
        self._at_once = at_once
        self._running: Counter[str] = Counter()

    async def admit(self, name: str) -> str:
        """Let one more request of a token in, and count it until :meth:`end`; returns the name.

        Raises:
            ApiError: there are too many (429), with the seconds after which another one is let in.
        """
        if self._at_once is not None and self._running[name] >= self._at_once:
            raise ApiError(
                429,
                "rate_limit_exceeded",
                f"{self._at_once} requests of this token run already, which is what CONCURRENCY_LIMIT allows.",
                retry_after=_FULL_RETRY_SECONDS,
            )
        self._running[name] += 1
        try:
            for rate in self._rates:
                await self._hit(rate, name)
        except BaseException:
            self.end(name)
            raise
        return name

    def end(self, name: str) -> None:
        """Take note that a request of a token has ended."""
        self._running[name] -= 1
        if not self._running[name]:
            del self._running[name]

    async def _hit(self, rate: RateLimitItem, name: str) -> None:
        if await self._limiter.hit(rate, name):
            return
        window = await self._limiter.get_window_stats(rate, name)
        raise ApiError(
            429,
            "rate_limit_exceeded",
            f"This token may ask {rate.amount} times in {_span(rate)}: try again later.",
            retry_after=max(1, math.ceil(window.reset_time - time.time())),
        )


def _span(rate: RateLimitItem) -> str:
    multiples = rate.multiples or 1
    return f"a {rate.GRANULARITY.name}" if multiples == 1 else f"{multiples} {rate.GRANULARITY.name}s"

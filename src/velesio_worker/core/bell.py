"""How one task wakes others."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import Any


class Ring:
    """One ring of a bell. Does as an event does, in a fraction of its memory: each viewer of a stream waits for one."""

    __slots__ = ("_rung", "_waiting")

    def __init__(self) -> None:
        self._rung = False
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self, at_most: float = math.inf) -> None:
        """Wait until it has rung, or for so many seconds: that ends by a timer alone, which costs less than a scope."""
        if self._rung:
            await asyncio.sleep(0)
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        timer = None if at_most == math.inf else loop.call_later(max(0.0, at_most), _wake, future)
        self._waiting.append(future)
        try:
            await future
        finally:
            if timer is not None:
                timer.cancel()
            if not self._rung:
                self._waiting.remove(future)

    def ring(self) -> None:
        """Wake all who wait."""
        self._rung = True
        for future in self._waiting:
            _wake(future)
        self._waiting.clear()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Bell:
    """Wakes whoever listens; each ring wakes all that listen by then, once.

    Whoever waits for a condition looks at it and, without an await in between, waits: ``while not done: await
    bell.wait()``. Whoever works between looking and waiting listens before it looks: ``rung = bell.listen()``, then
    ``await rung.wait()``. A bell that nobody listens to costs nothing.
    """

    __slots__ = ("_next",)

    def __init__(self) -> None:
        self._next: Ring | None = None

    def listen(self) -> Ring:
        """Return what is rung by the next ring."""
        if self._next is None:
            self._next = Ring()
        return self._next

    def wait(self) -> Coroutine[Any, Any, None]:
        """Wait for the next ring."""
        return self.listen().wait()

    def ring(self) -> None:
        """Wake whoever listens."""
        if self._next is not None:
            self._next.ring()
            self._next = None

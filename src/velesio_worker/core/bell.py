"""How one task wakes others."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class Ring:
    """One ring of a bell. Does as an event does, in a fraction of its memory: each viewer of a stream waits for one."""

    __slots__ = ("_rung", "_waiting")

    def __init__(self) -> None:
        self._rung = False
        self._waiting: list[asyncio.Future[None]] = []

    async def wait(self) -> None:
        """Wait until it has rung."""
        if self._rung:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            await future
        finally:
            if not self._rung:
                self._waiting.remove(future)

    def ring(self) -> None:
        """Wake all who wait."""
        self._rung = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)
        self._waiting.clear()


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

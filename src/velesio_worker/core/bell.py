"""How one task wakes others."""

from __future__ import annotations

import anyio


class Bell:
    """Wakes whoever listens; each ring wakes all that listen by then, once.

    Whoever waits for a condition looks at it and, without an await in between, waits: ``while not done: await
    bell.wait()``. Whoever works between looking and waiting listens before it looks: ``rung = bell.listen()``, then
    ``await rung.wait()``. A bell that nobody listens to costs nothing.
    """

    def __init__(self) -> None:
        self._next: anyio.Event | None = None

    def listen(self) -> anyio.Event:
        """Return what is set by the next ring."""
        if self._next is None:
            self._next = anyio.Event()
        return self._next

    async def wait(self) -> None:
        """Wait for the next ring."""
        await self.listen().wait()

    def ring(self) -> None:
        """Wake whoever listens."""
        if self._next is not None:
            self._next.set()
            self._next = None

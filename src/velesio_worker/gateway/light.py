"""What uvicorn has for each connection and request, in a fraction of the memory: two kilobytes less a viewer."""

from __future__ import annotations

from typing import Any, Literal

from velesio_worker.core.bell import Bell


class Event:
    """The event that a request has; asyncio's own has a queue for whoever waits."""

    __slots__ = ("_is_set", "_moved")

    def __init__(self) -> None:
        self._is_set = False
        self._moved = Bell()

    def set(self) -> None:
        """Wake whoever waits."""
        self._is_set = True
        self._moved.ring()

    def clear(self) -> None:
        """Have whoever waits wait for the next time."""
        self._is_set = False

    async def wait(self) -> Literal[True]:
        """Wait until it is set."""
        while not self._is_set:
            await self._moved.wait()
        return True


class Pipeline(list[Any]):
    """A connection's queue, which hardly ever has anything in it: an empty deque has room for 64."""

    __slots__ = ()

    def appendleft(self, item: Any) -> None:  # noqa: ANN401 (uvicorn's)
        """Add what is popped last."""
        self.insert(0, item)

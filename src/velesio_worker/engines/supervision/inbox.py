"""What the task that owns an engine is asked for and told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import anyio


class Inbox:
    """Requests for one task, in the order in which they came: what others want changed, which it does itself."""

    def __init__(self) -> None:
        self._requests: deque[Callable[[], None]] = deque()
        self._news = anyio.Event()

    def post(self, request: Callable[[], None]) -> None:
        """Leave a request, and wake the task."""
        self._requests.append(request)
        self._news.set()

    def wake(self) -> None:
        """Wake the task: something has changed that it sees by itself."""
        self._news.set()

    def handle(self) -> None:
        """Do what has been asked for."""
        while self._requests:
            self._requests.popleft()()

    async def news(self) -> None:
        """Wait until the task is woken; returns at once if it was since the last time."""
        await self._news.wait()
        self._news = anyio.Event()

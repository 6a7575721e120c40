"""Whose turn it is on a GPU that holds one engine at a time (``GPU_SHARING=exclusive``)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio

TURN_SECONDS: Final = 30.0
"""How long an engine that has work keeps the GPU while another one waits for it."""


class GpuTurns:
    """Lets one engine at a time hold the GPU, first come, first served."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()
        self._tell_holder: Callable[[], None] = lambda: None

    @property
    def wanted(self) -> bool:
        """Whether somebody waits for whoever has it now."""
        return self._lock.statistics().tasks_waiting > 0

    @asynccontextmanager
    async def turn(self, on_wanted: Callable[[], None]) -> AsyncGenerator[None, None]:
        """Wait for one's turn, and have it until the context is left.

        Args:
            on_wanted: called when somebody else begins to wait.
        """
        self._tell_holder()
        async with self._lock:
            self._tell_holder = on_wanted
            try:
                yield
            finally:
                self._tell_holder = lambda: None

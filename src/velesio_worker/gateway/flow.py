"""What a connection reads and writes while its client is slow, or is not heard."""

from __future__ import annotations

import asyncio
import select
from typing import Final

from uvicorn.protocols.http.flow_control import FlowControl

from velesio_worker.core.bell import Bell

_LOOK_SECONDS: Final = 0.5
"""How often it is looked whether a client is gone that is not read."""

_GONE: Final = getattr(select, "POLLRDHUP", 0)
"""Linux tells of an end behind what has not been read; others tell of a broken connection in any case."""


class Flow(FlowControl):
    """uvicorn's, which looks for the client while nothing is read of it: that is how an end would be noticed.

    It has a bell in place of an event, of which there is one a connection whether it is full or not.
    """

    _look: asyncio.TimerHandle | None = None

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.read_paused = False
        self.write_paused = False
        self._moved = Bell()

    async def drain(self) -> None:
        """Wait until the client takes something again."""
        while self.write_paused:
            await self._moved.wait()

    def pause_writing(self) -> None:
        """Take note that it takes nothing more."""
        self.write_paused = True

    def resume_writing(self) -> None:
        """Take note that it does."""
        self.write_paused = False
        self._moved.ring()

    def pause_reading(self) -> None:
        """Read no more for now."""
        super().pause_reading()
        if self._look is None:
            self._look_later()

    def resume_reading(self) -> None:
        """Read on."""
        self.forget()
        super().resume_reading()

    def forget(self) -> None:
        """Look no more whether the client is gone."""
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _look_later(self) -> None:
        self._look = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look_for_client)

    def _look_for_client(self) -> None:
        self._look = None
        if self._transport.is_closing():
            return
        waiting = select.poll()
        waiting.register(self._transport.get_extra_info("socket"), _GONE)
        if waiting.poll(0):
            self._transport.close()  # as if its end had been read
        else:
            self._look_later()

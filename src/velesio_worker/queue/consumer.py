"""Consumers: each takes one job at a time from a ready list into its own slot."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from velesio_worker.queue.keys import Slot
from velesio_worker.queue.slots import Slots

Process = Callable[[Slot, bytes], Awaitable[None]]


class Gate:
    """Holds consumers back while their engine cannot run jobs."""

    def __init__(self) -> None:
        self._open = anyio.Event()

    @property
    def is_open(self) -> bool:
        """Whether consumers may take jobs."""
        return self._open.is_set()

    def open(self) -> None:
        """Let consumers take jobs."""
        self._open.set()

    def close(self) -> None:
        """Hold consumers back."""
        if self._open.is_set():
            self._open = anyio.Event()

    async def wait(self) -> None:
        """Wait until consumers may take jobs."""
        await self._open.wait()


class Consumer:
    """Takes jobs from one list and has each processed before it takes the next.

    Args:
        slots: this worker's slots.
        source: the list to take jobs from.
        slot: this consumer's own slot.
        gate: whether the engine can run jobs.
        process: runs a job from its slot to its end; afterwards the slot is empty.
    """

    def __init__(self, slots: Slots, source: str, slot: Slot, gate: Gate, process: Process) -> None:
        self._slots = slots
        self._source = source
        self._slot = slot
        self._gate = gate
        self._process = process

    async def run(self, stopping: anyio.Event) -> None:
        """Process jobs until ``stopping`` is set; the one in hand is processed to its end."""
        while not stopping.is_set():
            await self._gate.wait()
            payload = await self._slots.take(self._source, self._slot)
            if payload is None:
                continue
            if stopping.is_set() or not self._gate.is_open:
                await self._slots.hand_back(self._slot)
            else:
                await self._process(self._slot, payload)

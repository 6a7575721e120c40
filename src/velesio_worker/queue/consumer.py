"""Consumers: each takes one job at a time from a ready list into its own slot."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum

import anyio

from velesio_worker.core.bell import Bell
from velesio_worker.queue.keys import Slot
from velesio_worker.queue.slots import Slots

Process = Callable[[Slot, bytes], Awaitable[None]]

Group = Sequence[tuple[Slot, bytes]]
"""Slots, and the jobs that lie in them."""


class Passage(StrEnum):
    """How far a gate is open."""

    OPEN = "open"
    AJAR = "ajar"
    CLOSED = "closed"


class Gate:
    """Holds consumers back while their engine cannot run jobs, and those for which it has no place.

    Open, it lets as many through as there are places, those with the lowest numbers. Ajar, it lets the first consumer
    through, number 0, for jobs that nobody else takes.
    """

    def __init__(self, passage: Passage = Passage.CLOSED, places: float = math.inf) -> None:
        self._passage = passage
        self._places = places
        self._moved = Bell()

    @property
    def passage(self) -> Passage:
        """How far it is open."""
        return self._passage

    def move(self, passage: Passage, places: float = math.inf) -> None:
        """Open or close it."""
        if (passage, places) != (self._passage, self._places):
            self._passage, self._places = passage, places
            self._moved.ring()

    def lets_through(self, number: int) -> bool:
        """Whether the consumer of this number, from 0, may take jobs."""
        return number < {Passage.OPEN: self._places, Passage.AJAR: 1, Passage.CLOSED: 0}[self._passage]

    async def wait(self, number: int) -> None:
        """Wait until the consumer of this number may take jobs."""
        while not self.lets_through(number):
            await self._moved.wait()


class Consumer:
    """Takes jobs from one list and has each processed before it takes the next.

    Args:
        slots: this worker's slots.
        source: the list to take jobs from.
        slot: this consumer's own slot.
        gate: whether the engine can run jobs.
        process: runs a job from its slot to its end; afterwards the slot is empty.
        number: which consumer it is, from 0: the gate lets the lowest through.
    """

    def __init__(self, slots: Slots, source: str, slot: Slot, gate: Gate, process: Process, *, number: int = 0) -> None:
        self._slots = slots
        self._source = source
        self._slot = slot
        self._gate = gate
        self._process = process
        self._number = number

    async def run(self, stopping: anyio.Event) -> None:
        """Process jobs until ``stopping`` is set; what is in hand is processed to its end."""
        while not stopping.is_set():
            await self._gate.wait(self._number)
            if stopping.is_set():  # the gate was opened so that this ends
                return
            if self._gate.passage is Passage.AJAR and not await self._slots.lingers(self._source):
                continue
            group = await self._take()
            if stopping.is_set() or not self._gate.lets_through(self._number):
                for slot, _ in reversed(group):
                    await self._slots.hand_back(slot)
            elif group:
                await self._handle(group)

    async def _take(self) -> Group:
        payload = await self._slots.take(self._source, self._slot)
        return [] if payload is None else [(self._slot, payload)]

    async def _handle(self, group: Group) -> None:
        for slot, payload in group:
            await self._process(slot, payload)

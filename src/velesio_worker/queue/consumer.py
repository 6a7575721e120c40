"""Consumers: each takes jobs from a list into its own slots, the next one, a certain one, or several together."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from typing import Protocol

import anyio

from velesio_worker.core.bell import Bell
from velesio_worker.queue.connection import BLOCK_SECONDS
from velesio_worker.queue.keys import Slot
from velesio_worker.queue.slots import Slots

Process = Callable[[Slot, bytes], Awaitable[None]]

Group = Sequence[tuple[Slot, bytes]]
"""Slots, and the jobs that lie in them."""

ProcessGroup = Callable[[Group], Awaitable[None]]


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
        source: the list.
        slot: this consumer's own slot.
        gate: whether the engine can run jobs.
        process: runs a job from its slot to its end; afterwards the slot is empty.
        number: which consumer it is, from 0: the gate lets the lowest through.
        turn: held while a job is waited for; those who share it wait one at a time, which costs Redis no more than one.
    """

    def __init__(
        self,
        slots: Slots,
        source: str,
        slot: Slot,
        gate: Gate,
        process: Process,
        *,
        number: int = 0,
        turn: anyio.Lock | None = None,
    ) -> None:
        self._slots = slots
        self._source = source
        self._slot = slot
        self._gate = gate
        self._process = process
        self._number = number
        self._turn = turn
        slots.expect(slot)

    async def run(self, stopping: anyio.Event) -> None:
        """Process jobs until ``stopping`` is set; what is in hand is processed to its end."""
        while not stopping.is_set():
            await self._gate.wait(self._number)
            if stopping.is_set():  # the gate was opened so that this ends
                return
            if self._gate.passage is Passage.AJAR and not await self._slots.lingers(self._source):
                continue
            group = await self._take_in_turn(stopping)
            if stopping.is_set() or not self._gate.lets_through(self._number):
                for slot, _ in reversed(group):
                    await self._slots.hand_back(slot)
            elif group:
                await self._handle(group)

    async def _take_in_turn(self, stopping: anyio.Event) -> Group:
        if self._turn is None or self._slots.may_hold(self._slot):
            return await self._take()
        async with self._turn:
            if stopping.is_set() or not self._gate.lets_through(self._number):
                return []
            return await self._take()

    async def _take(self) -> Group:
        payload = await self._slots.take(self._source, self._slot)
        return [] if payload is None else [(self._slot, payload)]

    async def _handle(self, group: Group) -> None:
        for slot, payload in group:
            await self._process(slot, payload)


class Picker(Consumer):
    """Takes certain jobs out of a list whose other jobs are left to other workers; it looks once a second.

    Args:
        slots, source, slot, process: as a :class:`Consumer` has them.
        choose: returns the job to take; None if there is none.
    """

    def __init__(
        self, slots: Slots, source: str, slot: Slot, choose: Callable[[Sequence[bytes]], bytes | None], process: Process
    ) -> None:
        super().__init__(slots, source, slot, Gate(Passage.OPEN), process)
        self._choose = choose

    async def _take(self) -> Group:
        chosen = self._choose(await self._slots.waiting(self._source))
        if chosen is not None and await self._slots.pick(self._source, self._slot, chosen):
            return [(self._slot, chosen)]
        await anyio.sleep(BLOCK_SECONDS)
        return []


class Choice(Protocol):
    """Chooses among the jobs that wait; each is a payload, the next one first, and empty if it is too large to read."""

    def first(self, waiting: Sequence[bytes]) -> bytes | None:
        """Return the job to take; None for the one that is next, whatever it is."""

    def has_mates(self, payload: bytes) -> bool:
        """Whether there may be others that are to be run together with a job that was taken."""
        ...

    def mates(self, payload: bytes, waiting: Sequence[bytes]) -> Sequence[bytes]:
        """Return those of the waiting jobs that are to be run together with one that was taken."""
        ...


class GroupConsumer(Consumer):
    """Takes a job from one list, and others that go with it, and has them processed before it takes the next.

    Args:
        slots, gate, number: as a :class:`Consumer` has them.
        own: this consumer's own slots, of which the list is the home; the first is for the job that is chosen, the
            others for those that go with it.
        choice: chooses.
        process: runs a group of jobs to their ends; afterwards their slots are empty.
    """

    def __init__(
        self, slots: Slots, own: Sequence[Slot], gate: Gate, choice: Choice, process: ProcessGroup, *, number: int = 0
    ) -> None:
        super().__init__(slots, own[0].home, own[0], gate, lambda slot, job: process([(slot, job)]), number=number)
        self._own = own
        self._choice = choice
        self._process_group = process

    async def _handle(self, group: Group) -> None:
        await self._process_group(group)

    async def _take(self) -> Group:
        left = [(slot, payload) for slot in self._own if (payload := await self._slots.left_in(slot)) is not None]
        if left:
            return left
        slot, *further = self._own
        payload = await self._take_first(slot)
        if payload is None:
            return []
        group = [(slot, payload)]
        if further and self._choice.has_mates(payload):
            mates = self._choice.mates(payload, await self._slots.waiting(self._source))
            for mate in mates[: len(further)]:
                free = further[len(group) - 1]
                if await self._slots.pick(self._source, free, mate):
                    group.append((free, mate))
        return group

    async def _take_first(self, slot: Slot) -> bytes | None:
        chosen = self._choice.first(await self._slots.waiting(self._source))
        if chosen is not None and await self._slots.pick(self._source, slot, chosen):
            return chosen
        return await self._slots.take(self._source, slot)

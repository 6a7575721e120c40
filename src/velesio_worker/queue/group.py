"""A consumer that may choose among the jobs that wait, and take several that go together."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import anyio

from velesio_worker.queue.connection import BLOCK_SECONDS
from velesio_worker.queue.consumer import Consumer, Gate, Group, Process
from velesio_worker.queue.keys import Slot
from velesio_worker.queue.slots import Slots

ProcessGroup = Callable[[Group], Awaitable[None]]


class Choice(Protocol):
    """Chooses among the jobs that wait; each is a payload, the next one first, and empty if it is too large to read."""

    def first(self, waiting: Sequence[bytes]) -> bytes | None:
        """Return the job to take; None for the one that is next, whatever it is."""
        ...

    def has_mates(self, payload: bytes) -> bool:
        """Whether there may be others that are to be run together with a job that was taken."""
        ...

    def mates(self, payload: bytes, waiting: Sequence[bytes]) -> Sequence[bytes]:
        """Return those of the waiting jobs that are to be run together with one that was taken."""
        ...


class GroupConsumer(Consumer):
    """Takes a job from one list, and others that go with it, and has them processed before it takes the next.

    Args:
        slots: this worker's slots.
        source: the list to take jobs from.
        own: this consumer's own slots; the first is for the job that is chosen, the others for those that go with it.
        gate: whether the engine can run jobs.
        choice: chooses.
        process: runs a group of jobs to their ends; afterwards their slots are empty.
        number: which consumer it is, from 0: the gate lets the lowest through.
    """

    def __init__(
        self,
        slots: Slots,
        source: str,
        own: Sequence[Slot],
        gate: Gate,
        choice: Choice,
        process: ProcessGroup,
        *,
        number: int = 0,
    ) -> None:
        super().__init__(slots, source, own[0], gate, self._alone, number=number)
        self._own = own
        self._choice = choice
        self._process_group = process

    async def _alone(self, slot: Slot, payload: bytes) -> None:
        await self._handle([(slot, payload)])

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


class Picker:
    """Takes certain jobs out of a list whose other jobs are left to other workers.

    Args:
        slots: this worker's slots.
        source: the list.
        slot: the picker's own slot.
        choose: returns the job to take; None if there is none.
        process: runs a job from its slot to its end; afterwards the slot is empty.
    """

    def __init__(
        self,
        slots: Slots,
        source: str,
        slot: Slot,
        choose: Callable[[Sequence[bytes]], bytes | None],
        process: Process,
    ) -> None:
        self._slots = slots
        self._source = source
        self._slot = slot
        self._choose = choose
        self._process = process

    async def run(self, stopping: anyio.Event) -> None:
        """Look once a second until ``stopping`` is set; a job in hand is processed to its end."""
        while not stopping.is_set():
            chosen = self._choose(await self._slots.waiting(self._source))
            if chosen is None or not await self._slots.pick(self._source, self._slot, chosen):
                with anyio.move_on_after(BLOCK_SECONDS):
                    await stopping.wait()
            elif stopping.is_set():
                await self._slots.hand_back(self._slot)
            else:
                await self._process(self._slot, chosen)

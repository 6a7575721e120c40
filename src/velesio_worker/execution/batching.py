"""Jobs that were taken together, so that they may be run as one: each waits a moment for the others."""

from __future__ import annotations

from typing import Final

import anyio

BATCH_SECONDS: Final = 2.0
"""How long a job waits for those that were taken with it; one may have to wait for another model."""


class BatchMember:
    """One job's place in a party."""

    def __init__(self, party: _Batch) -> None:
        self._party = party
        self._counted = False

    async def arrive(self) -> None:
        """Wait until all are here, or have given up, or a moment is over."""
        self.give_up()
        with anyio.move_on_after(BATCH_SECONDS):
            await self._party.complete.wait()

    def give_up(self) -> None:
        """Have nobody wait for this one (any more)."""
        if not self._counted:
            self._counted = True
            self._party.count()


class _Batch:
    def __init__(self, size: int) -> None:
        self._missing = size
        self.complete = anyio.Event()

    def count(self) -> None:
        self._missing -= 1
        if not self._missing:
            self.complete.set()


def batch_of(size: int) -> list[BatchMember]:
    """Return the places of so many jobs that were taken together."""
    party = _Batch(size)
    return [BatchMember(party) for _ in range(size)]

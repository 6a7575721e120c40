"""One kind of engine in the worker, and how far the gate to it is open for consumers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Generic

import anyio

from velesio_worker.core.bell import Bell
from velesio_worker.core.logs import fields_in_log
from velesio_worker.engines.base import E, EngineState
from velesio_worker.engines.supervision.supervisor import Supervisor
from velesio_worker.queue.consumer import Gate, Passage
from velesio_worker.queue.fleet import Fleet
from velesio_worker.wire.jobs import Kind

_PASSAGES: Final = {EngineState.READY: Passage.OPEN, EngineState.STOPPED: Passage.AJAR}
_LOOK_SECONDS: Final = 1.0
"""How often a worker whose engine failed looks whether another one can run its jobs."""


class EngineGate(Generic[E]):
    """Looks after the engine of one kind of job, and says when its consumers may take jobs.

    While the engine is ready as many may as it runs jobs at a time. While it is stopped one may, for a job that nobody
    else takes: that starts it. The same while it cannot be started and no other worker can run such jobs: they are told
    why. Else none may.

    Args:
        kind: the kind of job.
        supervise: makes the supervisor that owns the engine.
        fleet: knows the other workers.
        on_change: called when the engine's state has changed.

    Attributes:
        slots: how many jobs it runs at a time, or did when it last served; 0 until that is known.
    """

    def __init__(
        self, kind: Kind, supervise: Callable[..., Supervisor[E]], fleet: Fleet, on_change: Callable[[], None]
    ) -> None:
        self.kind = kind
        self._fleet = fleet
        self._on_change = on_change
        self._moved = Bell()
        self._released = False
        self.supervisor = supervise(on_state=self._engine_changed, may_rest=self._nothing_waits)
        self.gate = Gate()
        self.slots = 0

    async def run(self) -> None:
        """Look after the engine and the gate until cancelled; whatever is logged meanwhile says which engine it is."""
        with fields_in_log(engine=self.kind.value):
            async with anyio.create_task_group() as group:
                group.start_soon(self._tend_gate)
                await self.supervisor.run()

    def release(self) -> None:
        """Let all consumers through, since the worker stops: they take no more jobs, and end."""
        self._released = True
        self._moved.ring()
        self.gate.move(Passage.OPEN)

    async def resized(self, slots: int) -> None:
        """Wait until the engine runs more or fewer jobs at a time than ``slots``, or the worker stops."""
        while self.slots == slots and not self._released:
            await self._moved.wait()

    def facts(self) -> Mapping[str, str | int]:
        """What is known of the engine, for the worker's hash in Redis."""
        reason, facts = self.supervisor.reason, self.supervisor.facts()
        return {
            f"{self.kind}_state": EngineState.FAILED.value if reason else facts["state"],
            f"{self.kind}_slots": self.slots,
            f"{self.kind}_running": facts["running"],
            f"{self.kind}_model": facts["model"] or "",
            f"{self.kind}_reason": reason,
        }

    def _engine_changed(self, state: EngineState) -> None:
        serving = self.supervisor.serving
        if state is EngineState.READY and serving is not None:
            self.slots = serving.slots  # one that runs elsewhere may come back with others
        if not self.supervisor.reason:  # else the task that tends the gate decides, whatever model is loaded
            self._move_gate(_PASSAGES.get(state, Passage.CLOSED))
        elif self.gate.passage is Passage.OPEN:
            self._move_gate(Passage.CLOSED)
        self._moved.ring()
        self._on_change()

    def _move_gate(self, passage: Passage) -> None:
        if not self._released:
            self.gate.move(passage, self.slots)

    async def _tend_gate(self) -> None:
        """While the engine cannot be started, open the gate as far as other workers leave jobs to this one."""
        while True:
            moved = self._moved.listen()
            failed = bool(self.supervisor.reason)
            if failed:
                elsewhere = await self._fleet.serves(self.kind)
                failed = bool(self.supervisor.reason)
                if failed:
                    self._move_gate(Passage.CLOSED if elsewhere else Passage.AJAR)
            else:
                self._move_gate(_PASSAGES.get(self.supervisor.state, Passage.CLOSED))
            with anyio.move_on_after(_LOOK_SECONDS if failed else None):
                await moved.wait()

    async def _nothing_waits(self) -> bool:
        """Whether no job of the kind waits, so that the engine may rest."""
        return not await self._fleet.waiting(self.kind)

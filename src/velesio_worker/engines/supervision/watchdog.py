"""Notices an engine that hangs although its process lives and its health check answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Final

import anyio
import anyio.to_thread

from velesio_worker.core.logs import get_logger
from velesio_worker.engines.base import Serving
from velesio_worker.engines.supervision.leases import Leases
from velesio_worker.wire.errors import JobError

_LONGEST_PERIOD: Final = 5.0
_AGAIN_SECONDS: Final = 0.1
_SILENT_SECONDS: Final = 5.0
_MEMORY_SECONDS: Final = 1.0
_READING_SECONDS: Final = 0.25
"""How often the engine's memory is measured while it reads a request: that is when it grows fast."""

_GIBIBYTE: Final = 1024**3

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """What is borne of an engine; times are in seconds.

    Attributes:
        stall: how long it may show no sign of work while jobs run on it (STALL_SECONDS).
        probe: how long while none does, before it is asked for one (PROBE_SECONDS); 0: never.
        idle: how long it may have no job before it is stopped (IDLE_UNLOAD_SECONDS); 0: never.
        answer: how long it may take to make one token at most while no job runs on it.
        failures: so many in a row, none after a steady run, and it is given up.
        steady: how long a steady run is at least.
        retry: after how long one that was given up is tried again all the same.
        memory: how much of the host's memory it may take, in bytes (ENGINE_MEMORY_LIMIT).
    """

    stall: float
    probe: float = 0
    idle: float = 0
    answer: float = 30
    failures: int = 5
    steady: float = 60
    retry: float = 300
    memory: float = inf

    @property
    def silence(self) -> float:
        """How long it may answer nothing at all once a job on it was stopped."""
        return min(self.stall, max(_SILENT_SECONDS, self.stall / 6))


class Watchdog:
    """Watches one engine for as long as it serves.

    While jobs run, its own count of work must move, or a job must end. While none does it makes one token now and then.
    Once a job was stopped, it must answer. ``on_hang`` gets the reason when it hangs, ``on_growth`` when it takes more
    memory than it may.
    """

    def __init__(
        self,
        serving: Serving[Any],
        leases: Leases[Any],
        patience: Patience,
        on_hang: Callable[[str], None],
        on_growth: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._serving = serving
        self._leases = leases
        self._patience = patience
        self._on_hang = on_hang
        self._on_growth = on_growth
        self._stopped = anyio.Event()
        self._seen: tuple[float, int] | None = None
        self._sign_at = anyio.current_time()
        self._probing: anyio.CancelScope | None = None

    async def run(self) -> None:
        """Watch until cancelled."""
        self._leases.on_use = self._stop_probing
        self._leases.on_stop = self._note_stop
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch_stopped)
            if self._serving.memory is not None:
                tasks.start_soon(self._watch_memory, self._serving.memory)
            await self._watch_work()

    async def _watch_work(self) -> None:
        limits = [limit / 4 for limit in (self._patience.stall, self._patience.probe) if limit]
        period = min(_LONGEST_PERIOD, *limits)
        while True:
            await anyio.sleep(period)
            if self._leases.live:
                await self._watch_busy(grace=2 * period)
            else:
                self._seen = None
                await self._watch_idle()

    async def _watch_busy(self, grace: float) -> None:
        """Compare the engine's count with the one before; the grace lets a job's own limit end it first."""
        before, now = self._seen, anyio.current_time()
        try:
            moved = await self._serving.moved()
        except TimeoutError:
            count = before[0] if before else -1.0
        else:
            if moved is None:
                return
            count = moved
        self._seen = (count, self._leases.ended)
        if self._seen != before:
            self._sign_at = now
        elif now - self._sign_at > self._patience.stall + grace:
            self._sign_at = now
            self._on_hang(f"made nothing for {self._patience.stall:g} s (STALL_SECONDS) while jobs ran on it")

    async def _watch_idle(self) -> None:
        quiet = anyio.current_time() - max(self._sign_at, self._leases.quiet.since)
        if not self._patience.probe or quiet < self._patience.probe:
            return
        limit = min(self._patience.answer, self._patience.stall)
        with anyio.CancelScope() as self._probing:
            try:
                with anyio.fail_after(limit):
                    await self._serving.probe()
            except JobError:
                self._serving.report()
            except TimeoutError:
                self._on_hang(f"did not make one token in {limit:g} s while nothing ran on it")
            else:
                log.debug("the engine made a token", action="engine_probed")
        self._probing = None
        self._sign_at = anyio.current_time()

    def _note_stop(self) -> None:
        """A job was stopped: nobody new comes on the engine before it is known whether it has let go of it."""
        self._leases.held = True
        self._stopped.set()

    async def _watch_stopped(self) -> None:
        """Look, whenever a job was stopped, whether the engine answers: its loop may stand still on that job."""
        while True:
            await self._stopped.wait()
            self._stopped = anyio.Event()
            with anyio.move_on_after(self._patience.silence) as limit:
                await self._until_it_answers()
            if limit.cancelled_caught:
                self._on_hang(f"did not answer for {self._patience.silence:g} s after a job on it was stopped")
            elif not self._stopped.is_set():
                self._leases.resume()

    async def _until_it_answers(self) -> None:
        while True:
            try:
                told = await self._serving.moved() is not None
            except TimeoutError:
                await anyio.sleep(_AGAIN_SECONDS)
                continue
            if told:
                self._leases.acquit()
            return

    async def _watch_memory(self, measure: Callable[[], int]) -> None:
        while True:
            await anyio.sleep(_READING_SECONDS if self._leases.unread else _MEMORY_SECONDS)
            taken = await anyio.to_thread.run_sync(measure)
            if taken > self._patience.memory:
                has, may = taken / _GIBIBYTE, self._patience.memory / _GIBIBYTE
                self._on_growth(f"took {has:,.2f} GiB of memory; ENGINE_MEMORY_LIMIT allows {may:,.2f} GiB")
                return

    def _stop_probing(self) -> None:
        """A job came: it will show by itself whether the engine works."""
        if self._probing is not None:
            self._probing.cancel()

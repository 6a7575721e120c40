"""Who uses an engine, and who waits for it: first come, first served."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Generic

import anyio

from velesio_worker.core.bell import Bell
from velesio_worker.engines.base import E, Spec
from velesio_worker.engines.supervision.decisions import Quiet
from velesio_worker.wire.errors import EngineCrashedError, JobError

WAIT_SECONDS: Final = 5.0
"""How often those who wait for an engine hear of it."""

DISMISS_SECONDS: Final = 2.0
"""How long those who use an engine that is gone may take to notice."""


@dataclass(slots=True, eq=False)
class EngineLease(Generic[E]):
    """Somebody's use of an engine, or the wish for it.

    Attributes:
        spec: what is wanted; None for the default.
        scope: cancelled when the engine goes away.
        news: rings when there is an answer, or when the engine's state has changed.
        engine: the engine, once it is granted.
        error: why it is not granted, or was taken away again.
    """

    spec: Spec | None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    news: Bell = field(default_factory=Bell)
    engine: E | None = None
    error: JobError | None = None


class Leases(Generic[E]):
    """The leases of one engine; ``on_change`` is called whenever somebody comes or leaves.

    Attributes:
        default: what those get who want nothing in particular; it may change.
        ended: how many leases have ended.
        quiet: the time without leases that goes on, or the last one.
        on_use: called whenever a lease is granted.
    """

    def __init__(self, default: Spec, on_change: Callable[[], None]) -> None:
        self.default = default
        self.ended = 0
        self.quiet = Quiet()
        self.on_use: Callable[[], None] = lambda: None
        self._on_change = on_change
        self._waiting: deque[EngineLease[E]] = deque()
        self._live: set[EngineLease[E]] = set()
        self._open: tuple[E, Spec, int] | None = None
        self._left = Bell()

    @property
    def live(self) -> int:
        """How many use the engine now."""
        return len(self._live)

    @property
    def waiting(self) -> int:
        """How many wait for it."""
        return len(self._waiting)

    @property
    def wanted(self) -> Spec | None:
        """What the first who waits wants."""
        return self._wish(self._waiting[0]) if self._waiting else None

    @property
    def default_waited_for(self) -> bool:
        """Whether anybody waits for the default."""
        return any(self._wish(lease) == self.default for lease in self._waiting)

    def _wish(self, lease: EngineLease[E]) -> Spec:
        return lease.spec or self.default

    @asynccontextmanager
    async def lease(self, spec: Spec | None, on_wait: Callable[[], None]) -> AsyncGenerator[E, None]:
        """Queue for the engine and use it; see :meth:`velesio_worker.engines.base.EngineSource.ensure`."""
        lease = self.join(spec)
        try:
            while lease.engine is None:
                if lease.error is not None:
                    raise lease.error
                on_wait()
                with anyio.move_on_after(WAIT_SECONDS):
                    await lease.news.wait()
            with lease.scope:
                try:
                    yield lease.engine
                except EngineCrashedError:
                    if lease.error is not None:
                        raise lease.error from None
                    raise
            if lease.scope.cancelled_caught:
                raise lease.error or EngineCrashedError()
        finally:
            self.leave(lease)

    def join(self, spec: Spec | None) -> EngineLease[E]:
        """Queue for the engine."""
        lease: EngineLease[E] = EngineLease(spec)
        self._waiting.append(lease)
        self._grant()
        self._on_change()
        return lease

    def leave(self, lease: EngineLease[E]) -> None:
        """Leave the engine, or the queue for it."""
        if lease in self._live:
            self._live.discard(lease)
            self.ended += 1
            self.quiet = Quiet(anyio.current_time())
            self._left.ring()
        elif lease in self._waiting:
            self._waiting.remove(lease)
        self._grant()
        self._on_change()

    def open(self, engine: E, spec: Spec, slots: int) -> None:
        """Grant the engine to those who want ``spec``, up to ``slots`` at a time."""
        self._open = (engine, spec, slots)
        self._grant()

    def close(self) -> None:
        """Grant nothing any more; those who have the engine keep it."""
        self._open = None

    def _grant(self) -> None:
        if self._open is None:
            return
        engine, spec, slots = self._open
        while self._waiting and len(self._live) < slots and self.wanted == spec:
            lease = self._waiting.popleft()
            lease.engine = engine
            lease.news.ring()
            self._live.add(lease)
            self.on_use()

    def refuse(self, spec: Spec, error: type[JobError], text: str) -> None:
        """Refuse everybody who waits for ``spec``; each gets an error of their own."""
        for lease in [lease for lease in self._waiting if self._wish(lease) == spec]:
            self._waiting.remove(lease)
            lease.error = error(text)
            lease.news.ring()

    def tell(self) -> None:
        """Tell everybody who waits that the engine's state has changed."""
        for lease in self._waiting:
            lease.news.ring()

    def dismiss(self, error: type[JobError], text: str) -> None:
        """Take the engine away from everybody who has it."""
        for lease in self._live:
            lease.error = lease.error or error(text)
            lease.scope.cancel()

    async def all_left(self) -> None:
        """Wait until nobody uses the engine, for a while: a reader of a connection that is closed waits for ever."""
        with anyio.move_on_after(DISMISS_SECONDS, shield=True):
            while self._live:
                await self._left.wait()

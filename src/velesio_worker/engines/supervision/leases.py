"""Who uses an engine, and who waits for it: first come, first served; whose fault it is that the engine was lost."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Generic

import anyio

from velesio_worker.core.bell import Bell
from velesio_worker.engines.base import E, Spec
from velesio_worker.engines.requests import Blame, EngineRequest, Stage
from velesio_worker.engines.supervision.decisions import Quiet
from velesio_worker.wire.errors import EngineCrashedError, EngineStalledError, JobError

WAIT_SECONDS: Final = 5.0
"""How often those who wait for an engine hear of it."""

DISMISS_SECONDS: Final = 2.0
"""How long those who use an engine that is gone may take to notice."""

ALONE_SECONDS: Final = 10.0
"""How long a request that is to be read alone waits for others to end; then for those alone that are not read yet."""

LEFT_SECONDS: Final = 60.0
"""How long a request that was left in the middle may be what an engine is lost of, if the engine tells of no work."""


@dataclass(slots=True, eq=False)
class EngineLease(Generic[E]):
    """Somebody's use of an engine, or the wish for it.

    Attributes:
        spec: what is wanted; None for the default.
        request: what it is asked, and how far that has come.
        since: since when it is wanted.
        scope: cancelled when the engine goes away.
        news: rings when there is an answer, or when the engine's state has changed.
        engine: the engine, once it is granted.
        error: why it is not granted, or was taken away again.
    """

    spec: Spec | None
    request: EngineRequest = field(default_factory=EngineRequest)
    since: float = field(default_factory=anyio.current_time)
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
        on_stop: called whenever somebody leaves the engine in the middle of a request.
        held: whether nothing is granted for a moment.
    """

    def __init__(self, default: Spec, on_change: Callable[[], None]) -> None:
        self.default = default
        self.ended = 0
        self.quiet = Quiet()
        self.on_use: Callable[[], None] = lambda: None
        self.on_stop: Callable[[], None] = lambda: None
        self.held = False
        self._on_change = on_change
        self._waiting: deque[EngineLease[E]] = deque()
        self._live: set[EngineLease[E]] = set()
        self._open: tuple[E, Spec, int] | None = None
        self._left = Bell()
        self._left_unread: dict[EngineRequest, float] = {}

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
    async def lease(
        self, spec: Spec | None, on_wait: Callable[[], None], request: EngineRequest | None = None
    ) -> AsyncGenerator[E, None]:
        """Queue for the engine and use it; see :meth:`velesio_worker.engines.base.EngineSource.ensure`."""
        lease = self.join(spec, request)
        try:
            while lease.engine is None:
                if lease.error is not None:
                    raise lease.error
                on_wait()
                with anyio.move_on_after(WAIT_SECONDS):
                    await lease.news.wait()
                self._grant()  # one that is to be alone does not wait for ever
            with lease.scope:
                try:
                    yield lease.engine
                except EngineCrashedError:
                    if lease.error is not None:
                        raise lease.error from None
                    raise
                except EngineStalledError:
                    raise
                except JobError:
                    lease.request.over()
                    raise
            if lease.scope.cancelled_caught:
                raise lease.error or EngineCrashedError()
        finally:
            self.leave(lease)

    def join(self, spec: Spec | None, request: EngineRequest | None = None) -> EngineLease[E]:
        """Queue for the engine."""
        lease: EngineLease[E] = EngineLease(spec, request or EngineRequest())
        lease.request.on_answer = self._grant
        self._waiting.append(lease)
        self._grant()
        self._on_change()
        return lease

    def leave(self, lease: EngineLease[E]) -> None:
        """Leave the engine, or the queue for it."""
        if lease in self._live:
            self._live.discard(lease)
            self._note_end(lease.request)
            self.ended += 1
            self.quiet = Quiet(anyio.current_time())
            self._left.ring()
        elif lease in self._waiting:
            self._waiting.remove(lease)
        self._grant()
        self._on_change()

    @property
    def unread(self) -> list[EngineRequest]:
        """The requests that the engine reads, and those that were left before it had read them."""
        recent = anyio.current_time() - LEFT_SECONDS
        left = [request for request, since in self._left_unread.items() if since > recent]
        return [lease.request for lease in self._live if lease.request.stage is Stage.READ] + left

    def acquit(self) -> None:
        """Take note that the engine works: it is not lost of what was left before."""
        self._left_unread.clear()

    def begin(self) -> None:
        """Take note that another engine serves."""
        self.acquit()
        self.resume()

    def resume(self) -> None:
        """Grant the engine again, after ``held``."""
        self.held = False
        self._grant()

    def _note_end(self, request: EngineRequest) -> None:
        if request.stage is Stage.READ:
            now = anyio.current_time()
            recent = {left: since for left, since in self._left_unread.items() if since > now - LEFT_SECONDS}
            self._left_unread = recent | {request: now}
        unread = self.unread
        if request in unread:
            request.blame = Blame.OWN if request.alone or len(unread) == 1 else Blame.SHARED
        elif unread:
            request.blame = Blame.ANOTHERS
        if request.stopped:
            self.on_stop()

    def open(self, engine: E, spec: Spec, slots: int) -> None:
        """Grant the engine to those who want ``spec``, up to ``slots`` at a time."""
        self._open = (engine, spec, slots)
        self._grant()

    def close(self) -> None:
        """Grant nothing any more; those who have the engine keep it."""
        self._open = None

    def _grant(self) -> None:
        if self._open is None or self.held:
            return
        engine, spec, slots = self._open
        while self._waiting and len(self._live) < slots and self.wanted == spec and self._may_begin(self._waiting[0]):
            lease = self._waiting.popleft()
            lease.engine = engine
            lease.news.ring()
            self._live.add(lease)
            self.on_use()

    def _may_begin(self, lease: EngineLease[E]) -> bool:
        """Whether whoever is to be alone is."""
        unread = [other.request for other in self._live if other.request.stage in {Stage.UNSENT, Stage.READ}]
        if not lease.request.alone:
            return not any(request.alone for request in unread)
        return not self._live or (not unread and anyio.current_time() > lease.since + ALONE_SECONDS)

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

    def dismiss(self, error: type[JobError], text: str, *, unread: type[JobError] | None = None) -> None:
        """Take the engine away from everybody who has it; ``unread`` is the error of those that it has not read yet."""
        for lease in self._live:
            kind = unread if unread is not None and lease.request.stage is Stage.READ else error
            lease.error = lease.error or kind(text)
            lease.scope.cancel()

    async def all_left(self) -> None:
        """Wait until nobody uses the engine, for a while: a reader of a connection that is closed waits for ever."""
        with anyio.move_on_after(DISMISS_SECONDS, shield=True):
            while self._live:
                await self._left.wait()

"""The supervisor: what everybody else asks for an engine, and asks of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any, Final

import anyio
import anyio.to_thread

from velesio_worker.engines.base import E, EngineState, Serving, Spec
from velesio_worker.engines.supervision.leases import Lease
from velesio_worker.engines.supervision.lifecycle import Life
from velesio_worker.wire.errors import EngineCrashedError, EngineRefusedError, EngineUnavailableError, NoCapacityError

NOTICE_SECONDS: Final = 2.0
WAIT_SECONDS: Final = 5.0
"""How often those who wait for an engine hear of it."""


class Supervisor(Life[E]):
    """Keeps one engine serving; everybody asks it for a lease.

    Its own task (:meth:`velesio_worker.engines.supervision.lifecycle.Life.run`) is the only one that changes the
    engine's state; what is asked for here is noted, and that task is woken.
    """

    @property
    def state(self) -> EngineState:
        """Where the engine is in its life."""
        return self._state

    @property
    def reason(self) -> str:
        """Why the engine cannot be started with its default model; empty if it can, as far as is known."""
        return self._failures.reason

    @property
    def model(self) -> str | None:
        """The name of the default model; None where that is not known before the engine serves."""
        loaded = self._serving.engine.model if self._serving is not None else None
        return self._leases.default.name or loaded

    @property
    def default(self) -> Spec:
        """What jobs get that ask for no model."""
        return self._leases.default

    @property
    def serving(self) -> Serving[E] | None:
        """The engine, if it is ready."""
        return self._serving

    @property
    def loaded(self) -> Spec | None:
        """What is loaded, if the engine is ready."""
        return self._spec if self._serving is not None else None

    def facts(self) -> dict[str, Any]:
        """What is known of the engine, for health checks; may be asked from any thread."""
        serving, waited_for = self._serving, self._launcher.trouble if self._state is EngineState.STARTING else ""
        return {
            "state": self._state.value,
            "since": round(self._since, 3),
            "model": serving.engine.model if serving else None,
            "default_model": self._leases.default.name or None,
            "slots": serving.slots if serving else 0,
            "running": self._leases.live,
            "waiting": self._leases.waiting,
            "starts": self._starts,
            "restarts": self._failures.losses,
            "last_error": self._failures.last_error or self._failures.reason or waited_for or None,
        }

    @contextlib.asynccontextmanager
    async def ensure(
        self, model: str | None = None, *, on_wait: Callable[[EngineState], None] = lambda _: None
    ) -> AsyncGenerator[E, None]:
        """Lease the engine with a model loaded; see :meth:`velesio_worker.engines.base.EngineSource.ensure`."""
        spec = None if model is None else await self._launcher.resolve(model)
        async with self._leased(spec, on_wait) as engine:
            yield engine

    @contextlib.asynccontextmanager
    async def _leased(self, spec: Spec | None, on_wait: Callable[[EngineState], None]) -> AsyncGenerator[E, None]:
        lease = self._leases.join(spec)
        try:
            engine = await self._granted(lease, on_wait)
            with lease.scope:
                try:
                    yield engine
                except EngineCrashedError:
                    if lease.dismissal is not None:
                        raise lease.dismissal from None
                    raise
            if lease.scope.cancelled_caught:
                raise lease.dismissal or EngineCrashedError()
        finally:
            self._leases.leave(lease)

    async def _granted(self, lease: Lease[E], on_wait: Callable[[EngineState], None]) -> E:
        while not lease.answered:
            on_wait(self._state)
            lease.news = anyio.Event()
            with anyio.move_on_after(WAIT_SECONDS):
                await lease.news.wait()
        if lease.engine is None:
            raise lease.refusal or EngineUnavailableError()
        return lease.engine

    async def identity(self, model: str | None) -> str | None:
        """Return what tells a job's model from others, however it is called; None where that is not known.

        Args:
            model: a job's ``model``; None for the default one.

        Raises:
            JobError: there is no such model.
        """
        spec = self._leases.default if model is None else await self._launcher.resolve(model)
        return await anyio.to_thread.run_sync(self._launcher.identity, spec)

    async def load(self, model: str, *, on_wait: Callable[[EngineState], None] = lambda _: None) -> str:
        """Load a model, and have it be the default from now on; returns its name.

        Raises:
            JobError: there is no such model, or it cannot be loaded; then the default stays as it was.
        """
        spec = await self._launcher.resolve(model)
        if spec == self._leases.default:
            self._failures.reason = ""
        self._hurry.set()
        async with self._leased(spec, on_wait) as engine:  # at once: else the default would be tried before it
            self._leases.default = spec
            self._failures.forgive()
            return engine.model

    async def unload(self) -> None:
        """Stop the engine once the jobs on it have ended; the next job starts it again.

        Raises:
            NoCapacityError: it runs elsewhere, and cannot let go of its model.
            EngineRefusedError: it was asked to, and refused.
        """
        rests = self._serving is not None and self._serving.rest is not None
        if not self._launcher.owned and not rests:
            raise NoCapacityError(f"{self._launcher.name} is not this worker's own: unload its model there.")
        if not self._unload:
            self._unload = True
            self._unload_error = ""
            self._unloaded = anyio.Event()
        self._hurry.set()
        self._wake_up()
        self._unloading += 1
        try:
            await self._unloaded.wait()
        finally:
            self._unloading -= 1
            if not self._unloading and not self._unloaded.is_set():
                self._unload = False  # nobody wants it any more
                self._wake_up()
        if self._unload_error:
            raise EngineRefusedError(self._unload_error)

    async def lost(self) -> None:
        """Take note that a request found the engine gone.

        Returns once the state says so too, or after ``NOTICE_SECONDS``, should the engine serve others all the same.
        """
        if self._state not in {EngineState.READY, EngineState.DRAINING}:
            return
        if self._serving is not None:
            self._serving.report()
        changed = self._changed
        with anyio.move_on_after(NOTICE_SECONDS):
            await changed.wait()

    def renew(self, reason: str) -> None:
        """Have the engine end once the jobs on it have ended, and another started; not if it runs elsewhere."""
        if self._serving is not None and self._launcher.owned:
            self._renewal = reason
            self._leases.close()  # whoever comes now wants the next one
            self._wake_up()

    async def stalled(self, reason: str) -> None:
        """Take note that the engine hangs: the worker's own is killed and started again, another is looked at."""
        if self._serving is not None:  # else the one that hung is gone already
            self._hang = self._hang or reason
            self._wake_up()
        await self.lost()

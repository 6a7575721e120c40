"""The supervisor: one task that owns an engine, and what everybody else asks it for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final, Generic

import anyio
import anyio.abc
import anyio.to_thread

from velesio_worker.core.bell import Bell
from velesio_worker.core.logs import get_logger
from velesio_worker.engines.base import E, EngineState, Launcher, Serving, Spec, Traits
from velesio_worker.engines.requests import EngineRequest
from velesio_worker.engines.supervision import decisions
from velesio_worker.engines.supervision.decisions import Condition, Served, Situation, Step
from velesio_worker.engines.supervision.failures import Failures
from velesio_worker.engines.supervision.gpu_turns import GpuTurns
from velesio_worker.engines.supervision.inbox import Inbox
from velesio_worker.engines.supervision.leases import Leases
from velesio_worker.engines.supervision.lifecycle import SEEN_SECONDS, Ended, EngineRun
from velesio_worker.engines.supervision.watchdog import Patience
from velesio_worker.wire.errors import EngineFailedError, EngineRefusedError, NoCapacityError

ASK_SECONDS: Final = 1.0
"""How often it is asked whether an engine without jobs may rest."""

NOTICE_SECONDS: Final = 2.0

log = get_logger(__name__)


class Supervisor(Generic[E]):
    """Keeps one engine serving; everybody asks it for a lease.

    Its own task (:meth:`run`) is the only one that changes the engine's state: it takes requests, decides what is next
    (:func:`velesio_worker.engines.supervision.decisions.decide`), and does it.

    Args:
        launcher: starts the engine.
        patience: what is borne of it.
        on_state: called after each change of state.
        may_rest: whether the engine may be stopped when it has had no job for long; None: always.
        turns: whose turn it is on the GPU; None: engines share it.
        eager: whether the engine is started before anybody asks for it.

    Attributes:
        state: where the engine is in its life.
        traits: what the engine is like.
    """

    def __init__(
        self,
        launcher: Launcher[E],
        patience: Patience,
        *,
        on_state: Callable[[EngineState], None] = lambda _: None,
        may_rest: Callable[[], Awaitable[bool]] | None = None,
        turns: GpuTurns | None = None,
        eager: bool = True,
    ) -> None:
        self.state = EngineState.STOPPED
        self.traits: Traits = launcher.traits
        self._launcher = launcher
        self._on_state = on_state
        self._may_rest = may_rest
        self._turns = turns or GpuTurns()  # nobody else's
        self._inbox = Inbox()
        self._leases: Leases[E] = Leases(launcher.default(), self._inbox.wake)
        self._make = partial(EngineRun[E], launcher, self._leases, patience, self._inbox, self._started)
        self._engine: EngineRun[E] | None = None
        self._failures = Failures(launcher.name, launcher.kind, patience)
        self._warm = eager
        self._in_doubt = False
        self._exchanged = False
        self._unloads: set[asyncio.Future[str]] = set()
        self._since = time.time()
        self._changed = Bell()

    @property
    def reason(self) -> str:
        """Why the engine cannot be started with its default model; empty if it can, as far as is known."""
        return self._failures.reason

    @property
    def told(self) -> str:
        """The same for those who submit jobs: no folder of the host, nothing that the engine wrote."""
        return self._failures.told if self._failures.reason else ""

    @property
    def model(self) -> str | None:
        """The name of the default model; None where that is not known before the engine serves."""
        serving = self.serving
        name = self._leases.default.name or self._launcher.default_name
        return name or (None if serving is None else serving.engine.model)

    @property
    def default(self) -> Spec:
        """What jobs get that ask for no model."""
        return self._leases.default

    @property
    def serving(self) -> Serving[E] | None:
        """The engine, if it is ready."""
        return self._engine and self._engine.serving

    @property
    def loaded(self) -> Spec | None:
        """What is loaded, if the engine is ready."""
        facts = self._engine and self._engine.facts
        return facts.spec if isinstance(facts, Served) else None

    @property
    def memory(self) -> int | None:
        """How much of the host's memory the engine takes, in bytes; None if that is not known."""
        serving = self.serving
        return None if serving is None or serving.memory is None else serving.memory()

    def facts(self) -> dict[str, Any]:
        """What is known of the engine, for health checks; may be asked from any thread."""
        serving, waited_for = self.serving, self._launcher.trouble if self.state is EngineState.STARTING else ""
        return {
            "state": self.state.value,
            "since": round(self._since, 3),
            "model": serving.engine.model if serving and not serving.rests() else None,
            "default_model": self._leases.default.name or self._launcher.default_name or None,
            "slots": serving.slots if serving else 0,
            "running": self._leases.live,
            "waiting": self._leases.waiting,
            "starts": self._failures.starts,
            "restarts": self._failures.losses,
            "last_error": self._failures.last_error or self.told or waited_for or None,
        }

    @asynccontextmanager
    async def ensure(
        self,
        model: str | None = None,
        *,
        on_wait: Callable[[EngineState], None] = lambda _: None,
        request: EngineRequest | None = None,
    ) -> AsyncGenerator[E, None]:
        """Lease the engine with a model loaded; see :meth:`velesio_worker.engines.base.EngineSource.ensure`."""
        while True:
            await self.look(SEEN_SECONDS)
            spec = None if model is None else await self._launcher.resolve(model)
            async with self._leases.lease(spec, lambda: on_wait(self.state), request) as engine:
                if self._engine is None or await self._engine.look(SEEN_SECONDS) is not False:
                    yield engine
                    return

    def expect(self) -> None:
        """Take note that a job may come in a moment."""
        if self._engine is not None:
            self._engine.expect()

    async def look(self, age: float = 0.0) -> bool:
        """Have an engine that somebody else runs say what it is, unless it has ``age`` seconds ago at most.

        If it is another one now, whoever has noticed that, the other is waited for, ``NOTICE_SECONDS`` at most. Returns
        whether it says so.
        """
        engine = self._engine
        same = await engine.look(age) if engine is not None else True
        replaced = same is False or (engine is not None and engine.exchanged)
        if replaced or self._exchanged:
            same = False  # which is said, whether or not what was asked still serves
            with anyio.move_on_after(NOTICE_SECONDS):
                while self._exchanged or (replaced and self._engine is engine) or self.state is not EngineState.READY:
                    await self._changed.wait()
        return same is not None

    async def identity(self, model: str | None) -> str | None:
        """Return what tells a job's model from others; see :class:`velesio_worker.engines.base.EngineSource`."""
        if not await self.look():
            return None
        spec = self._leases.default if model is None else await self._launcher.resolve(model)
        return await anyio.to_thread.run_sync(self._launcher.identity, spec)

    async def load(self, model: str, *, on_wait: Callable[[EngineState], None] = lambda _: None) -> str:
        """Load a model, and have it be the default from now on; returns its name.

        Raises:
            JobError: there is no such model, or it cannot be loaded; then the default stays as it was.
        """
        spec = await self._launcher.resolve(model)
        self._inbox.post(partial(self._failures.retry, with_default=spec == self._leases.default))
        async with self._leases.lease(spec, lambda: on_wait(self.state)) as engine:  # at once, or the default is tried
            self._leases.default = spec
            self._inbox.post(self._failures.forgive)
            return engine.model

    async def unload(self) -> None:
        """Stop the engine once the jobs on it have ended; the next job starts it again.

        Raises:
            NoCapacityError: it runs elsewhere, and cannot let go of its model.
            EngineRefusedError: it was asked to, and refused.
        """
        serving = self.serving
        if not self._launcher.owned and (serving is None or serving.rest is None):
            raise NoCapacityError(f"{self._launcher.name} is not this worker's own: unload its model there.")
        unload: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._inbox.post(partial(self._unloads.add, unload))
        try:
            refusal = await unload
        finally:
            self._inbox.post(partial(self._unloads.discard, unload))
        if refusal:
            raise EngineRefusedError(refusal)

    async def lost(self) -> None:
        """Take note that a request found the engine gone.

        Returns once the state says so too, or after ``NOTICE_SECONDS``, should the engine serve others all the same.
        """
        engine = self._engine
        await self.look()
        if self._engine is not engine or self.state not in {EngineState.READY, EngineState.DRAINING}:
            return
        if self.serving is not None:
            self.serving.report()
        with anyio.move_on_after(NOTICE_SECONDS):
            await self._changed.wait()

    def renew(self, reason: str) -> None:
        """Have the engine end once the jobs on it have ended, and another started; not if it runs elsewhere."""
        if self._launcher.owned and self._complain(Condition.WORN, reason):
            self._leases.close()  # whoever comes now wants the next one

    async def stalled(self, reason: str) -> None:
        """Take note that the engine hangs: the worker's own is started again, another has to show that it works."""
        self._complain(Condition.HANGS, reason)
        await self.lost()

    def _complain(self, condition: Condition, why: str) -> bool:
        """Have what is wrong with the engine noted; False if none serves: the one that was meant is gone already."""
        if self._engine is None or self._engine.serving is None:
            return False
        self._inbox.post(partial(self._engine.find, condition, why))
        return True

    async def run(self) -> None:
        """Look after the engine until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                while True:
                    self._inbox.handle()
                    if self._failures.reason:
                        default = self._leases.default
                        fingerprint = await anyio.to_thread.run_sync(self._launcher.fingerprint, default)
                        self._failures.compare(fingerprint, anyio.current_time())
                        self._inbox.handle()
                    await self._do(decisions.decide(self._situation()), tasks)
        finally:
            self._turns.leave(self._inbox.wake)
            self._show(EngineState.STOPPED)

    async def _live(self, engine: EngineRun[E]) -> None:
        ended = await engine.live(in_doubt=self._in_doubt)
        self._inbox.post(partial(self._conclude, ended))

    def _started(self) -> None:
        self._warm = True
        self._in_doubt = self._exchanged = False
        self._failures.started(with_default=self.loaded == self._leases.default)

    def _conclude(self, ended: Ended) -> None:
        self._engine = None
        self._exchanged = ended.exchanged  # until the other one serves
        self._in_doubt = self._in_doubt or ended.hangs or ended.by_job  # until one has served
        self._turns.leave(self._inbox.wake)
        self._failures.conclude(ended, self._leases, now := anyio.current_time())
        if self._failures.pause_until > now:
            self._show(EngineState.BACKOFF)  # however short the pause is

    def _situation(self) -> Situation:
        return Situation(
            now=anyio.current_time(),
            default=self._leases.default,
            engine=None if self._engine is None else self._engine.facts,
            live=self._leases.live,
            quiet=self._leases.quiet,
            wanted=self._leases.wanted,
            default_waited_for=self._leases.default_waited_for,
            warm=self._warm,
            unload=bool(self._unloads),
            failed=bool(self._failures.reason),
            pause_until=self._failures.pause_until,
            turn=self._turns.turn_of(self._inbox.wake),
            turn_wanted=self._turns.wanted,
        )

    async def _do(self, action: decisions.Action, tasks: anyio.abc.TaskGroup) -> None:
        match action:
            case decisions.Stay(state, until):
                self._show(state)
                with anyio.move_on_after(until - anyio.current_time()):
                    await self._inbox.news()
            case decisions.Start(spec):
                self._show(EngineState.STARTING)
                wanted = self._leases.default if self._launcher.exchanges else spec
                self._engine = self._make(wanted)
                tasks.start_soon(self._live, self._engine)
            case Step.TAKE_TURN:
                self._turns.join(self._inbox.wake)
            case Step.LEAVE_TURN:
                self._turns.leave(self._inbox.wake)
            case Step.SAY_UNLOADED:
                self._warm, self._failures.pause_until = False, 0.0
                self._say_unloaded()
            case Step.REFUSE_DEFAULT:
                text = f"{self._launcher.name} cannot be started: {self._failures.told}"
                self._leases.refuse(self._leases.default, EngineFailedError, text)
            case change:
                if self._engine is not None:
                    await self._change(self._engine, change)

    async def _change(self, engine: EngineRun[E], change: decisions.Action) -> None:
        """Make something else of the engine, while no job runs on it; a mistake in that is its end."""
        try:
            match change:
                case decisions.Exchange(spec):
                    self._show(EngineState.STARTING)  # whoever comes for the old model meanwhile would get the new one
                    await engine.exchange(spec)
                case decisions.Rest(cold):
                    self._warm = self._warm and not cold
                    refusal = await engine.rest()
                    if refusal is not None:
                        self._say_unloaded(refusal)
                case decisions.Stop(reason, cold):
                    self._warm = self._warm and not cold
                    engine.stop(reason)
                case _:
                    quiet = self._leases.quiet
                    agreed = self._may_rest is None or await self._may_rest()
                    if self._leases.quiet is quiet:  # else a job has come and gone
                        not_before = 0.0 if agreed else anyio.current_time() + ASK_SECONDS
                        self._leases.quiet = replace(quiet, agreed=agreed, not_before=not_before)
        except Exception as error:
            log.exception(f"{self._launcher.name} failed through a mistake of the worker's", action="engine_broken")
            engine.find(Condition.GONE, f"was given up: the worker made a mistake ({type(error).__name__})")

    def _say_unloaded(self, error: str = "") -> None:
        for unload in self._unloads:
            if not unload.done():  # else nobody waits any more
                unload.set_result(error)
        self._unloads.clear()

    def _show(self, state: EngineState) -> None:
        """Be in a state; jobs are let on the engine in ``READY`` alone."""
        if state is EngineState.READY and self._engine is not None:
            self._engine.open()
        else:
            self._leases.close()
        if state is not self.state:
            self.state = state
            self._since = time.time()
            self._changed.ring()
            self._leases.tell()
            self._on_state(state)

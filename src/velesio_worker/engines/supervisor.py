"""The supervisor: one task that owns an engine, starts it, watches it, exchanges its model and starts it again."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Generic

import anyio
import anyio.to_thread

from velesio_worker.engines.base import TAIL, E, EngineState, Launcher, Serving, Spec
from velesio_worker.engines.leases import Lease, Leases
from velesio_worker.engines.turns import TURN_SECONDS, Turns
from velesio_worker.engines.watchdog import Patience, Watchdog
from velesio_worker.errors import (
    EngineCrashedError,
    EngineFailedError,
    EngineStalledError,
    EngineStartError,
    EngineUnavailableError,
    JobError,
    ModelUnavailableError,
    NoCapacityError,
    OutOfMemoryError,
)
from velesio_worker.logs import get_logger

FAILURES: Final = 5
"""So many failures in a row, none after a steady run, and the supervisor gives up."""

STEADY_SECONDS: Final = 60.0
LONGEST_DELAY: Final = 60.0
NOTICE_SECONDS: Final = 2.0
MENDED_SECONDS: Final = 2.0
"""How often an engine that failed is looked at: perhaps somebody put the missing file there."""

RETRY_SECONDS: Final = 300.0
"""After how long an engine that failed is tried again all the same."""

UNKILLABLE_SECONDS: Final = 30.0
WAIT_SECONDS: Final = 5.0
"""How often those who wait for an engine hear of it."""

log = get_logger(__name__)


async def _always() -> bool:
    return True


def _nothing(_: object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class _End:
    """Why an engine serves no longer: ``lost`` says what happened to it, ``reason`` why it is stopped."""

    lost: str = ""
    reason: str = ""
    steady: bool = False


class Supervisor(Generic[E]):
    """Keeps one engine serving, and is the only one that changes its state; everybody else asks for a lease.

    Args:
        launcher: starts the engine.
        patience: how long it may show no sign of work, or have none.
        on_state: called after each change of state.
        may_rest: whether the engine may be stopped when it has had no job for long.
        turns: whose turn it is on the GPU; None: engines share it.
        eager: whether the engine is started before anybody asks for it.
    """

    def __init__(
        self,
        launcher: Launcher[E],
        patience: Patience,
        *,
        on_state: Callable[[EngineState], None] = _nothing,
        may_rest: Callable[[], Awaitable[bool]] = _always,
        turns: Turns | None = None,
        eager: bool = True,
    ) -> None:
        self._launcher = launcher
        self._patience = patience
        self._on_state = on_state
        self._may_rest = may_rest
        self._turns = turns
        self._warm = eager
        self._state = EngineState.STOPPED
        self._since = time.time()
        self._changed = anyio.Event()
        self._wake = anyio.Event()
        self._hurry = anyio.Event()
        self._leases: Leases[E] = Leases(launcher.default(), self._wake_up)
        self._serving: Serving[E] | None = None
        self._spec: Spec | None = None
        self._gone = ""
        self._hang = ""
        self._unload = False
        self._unloaded = anyio.Event()
        self._unloading = 0
        self._failures = 0
        self._failed: str = ""
        self._mended: object = None
        self._retry_at = float("inf")
        self._last_error = ""
        self._losses = 0

    @property
    def state(self) -> EngineState:
        """Where the engine is in its life."""
        return self._state

    @property
    def reason(self) -> str:
        """Why the engine cannot be started with its default model; empty if it can, as far as is known."""
        return self._failed

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
        """What is known of the engine, for health checks."""
        return {
            "state": self._state.value,
            "since": round(self._since, 3),
            "model": self._serving.engine.model if self._serving else None,
            "default_model": self._leases.default.name or None,
            "slots": self._serving.slots if self._serving else 0,
            "running": self._leases.live,
            "waiting": self._leases.waiting,
            "restarts": self._losses,
            "last_error": self._last_error or self._failed or None,
        }

    @contextlib.asynccontextmanager
    async def ensure(
        self, model: str | None = None, *, on_wait: Callable[[EngineState], None] = _nothing
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

    async def load(self, model: str, *, on_wait: Callable[[EngineState], None] = _nothing) -> str:
        """Load a model, and have it be the default from now on; returns its name.

        Raises:
            JobError: there is no such model, or it cannot be loaded; then the default stays as it was.
        """
        spec = await self._launcher.resolve(model)
        if spec == self._leases.default:
            self._failed = ""
        self._hurry.set()
        async with self._leased(spec, on_wait) as engine:  # at once: else the default would be tried before it
            self._leases.default = spec
            self._failed = ""
            self._failures = 0
            return engine.model

    async def unload(self) -> None:
        """Stop the engine once the jobs on it have ended; the next job starts it again.

        Raises:
            NoCapacityError: it runs elsewhere.
        """
        if not self._launcher.owned:
            raise NoCapacityError(f"{self._launcher.name} is not this worker's own: unload its model there.")
        if not self._unload:
            self._unload = True
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

    async def stalled(self, reason: str) -> None:
        """Take note that the engine hangs: the worker's own is killed and started again, another is looked at."""
        if self._serving is not None:  # else the one that hung is gone already
            self._hang = self._hang or reason
            self._wake_up()
        await self.lost()

    async def run(self) -> None:
        """Look after the engine until cancelled."""
        try:
            while True:
                await self._until_wanted()
                async with self._turn():
                    spec = self._wish()  # once more: whoever wanted it may have left while it waited for its turn
                    after = await self._live(spec) if spec is not None else _done
                await after()
        finally:
            self._become(EngineState.STOPPED)

    def _wish(self) -> Spec | None:
        """With which model the engine is to be started; None if nobody wants it."""
        if self._unload:
            return None
        return self._leases.wanted or (self._leases.default if self._warm and not self._failed else None)

    async def _until_wanted(self) -> None:
        """Wait until somebody wants the engine."""
        while True:
            if self._unload:
                self._warm = self._unload = False
                self._unloaded.set()
            default = self._leases.default
            if self._failed:
                self._leases.refuse(default, self._refusal)
            if self._wish() is not None:
                return
            self._become(EngineState.FAILED if self._failed else EngineState.STOPPED)
            with anyio.move_on_after(MENDED_SECONDS if self._failed else None):
                await self._woken()
            await self._look_again()

    def _refusal(self) -> JobError:
        return EngineFailedError(f"{self._launcher.name} cannot be started: {self._failed}")

    async def _look_again(self) -> None:
        """See whether a default model that could not be started may be tried once more."""
        if self._failed and (anyio.current_time() > self._retry_at or await self._is_mended(self._leases.default)):
            self._failed = ""
            self._failures = 0

    async def _is_mended(self, spec: Spec) -> bool:
        return await anyio.to_thread.run_sync(self._launcher.fingerprint, spec) != self._mended

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None, None]:
        if self._turns is None:
            yield
            return
        self._become(EngineState.STARTING)
        async with self._turns.turn(self._wake_up):
            yield

    async def _live(self, spec: Spec) -> Callable[[], Awaitable[None]]:
        """Start the engine and have it serve to its end; returns what is to be done then."""
        self._become(EngineState.STARTING)
        self._hang = ""
        try:
            async with self._launcher.serve(spec) as serving:
                try:
                    end = await self._serve(serving, spec)
                    self._become(EngineState.STOPPING)
                finally:
                    self._serving = None
                    await self._dismiss()
        except EngineStartError as error:
            failure = error
            return lambda: self._did_not_start(spec, failure)
        except Exception as error:
            log.exception(f"{self._launcher.name} failed through a mistake of the worker's", action="engine_broken")
            mistake = EngineStartError(f"The worker made a mistake ({type(error).__name__}); its log has the details.")
            return lambda: self._did_not_start(spec, mistake)
        if end.lost:
            return lambda: self._was_lost(spec, end)
        log.info(f"{self._launcher.name} was stopped: {end.reason}", action="engine_stopped", model=spec.name)
        self._failures = 0
        return _done

    async def _serve(self, serving: Serving[E], spec: Spec) -> _End:
        began = anyio.current_time()
        self._serving, self._spec, self._gone, self._warm = serving, spec, "", True
        self._last_error = ""
        watchdog = Watchdog(serving, self._leases, self._patience, self._hangs, name=self._launcher.name)
        reason = ""
        async with anyio.create_task_group() as watching:
            watching.start_soon(self._note_end, serving)
            watching.start_soon(watchdog.run)
            self._leases.quiet_since = began
            reason = await self._until_over(serving, spec, began)
            watching.cancel_scope.cancel()
        return _End(self._gone, reason, steady=anyio.current_time() - began > STEADY_SECONDS)

    async def _note_end(self, serving: Serving[E]) -> None:
        self._gone = await serving.gone()
        self._wake_up()

    async def _until_over(self, serving: Serving[E], spec: Spec, began: float) -> str:
        """Grant leases until the engine is gone, or is to be stopped; returns why that is."""
        reason = ""
        while not self._gone:
            if self._hang and serving.kill is not None:
                await self._replace(serving.kill)
                break
            self._hang = ""
            reason = await self._reason_to_stop(spec, began)
            if reason and not self._leases.live:
                break
            if reason:
                self._leases.close()
                self._become(EngineState.DRAINING)
            else:
                self._leases.open(serving.engine, spec, serving.slots)
                self._become(EngineState.READY)
            with anyio.move_on_after(self._seconds_to_rest()):
                await self._woken()
            await self._look_again()
        self._leases.close()
        return reason

    async def _replace(self, kill: Callable[[], None]) -> None:
        """Kill an engine that hangs, and wait until it is gone."""
        self._leases.close()
        self._leases.dismiss(self._replaced)  # before their connections break, which would look like a crash
        self._become(EngineState.STOPPING)
        kill()
        while not self._gone:
            with anyio.move_on_after(UNKILLABLE_SECONDS) as limit:
                await self._woken()
            if limit.cancelled_caught and not self._gone:
                log.error(
                    f"{self._launcher.name} does not end after SIGKILL: most likely the GPU's driver hangs. "
                    "Look at dmesg; it may take a reset of the GPU or a restart of the host",
                    action="engine_unkillable",
                )
        self._gone = f"was replaced: it {self._hang}"

    async def _reason_to_stop(self, spec: Spec, began: float) -> str:
        if self._unload:
            return "it was asked to unload its model"
        if self._failed:
            self._leases.refuse(self._leases.default, self._refusal)
        wanted = self._leases.wanted
        if wanted is not None and wanted != spec:
            return f"{wanted.name or 'another model'} is wanted"
        idle = not self._leases.live and wanted is None
        if self._turns is not None and self._turns.wanted and (idle or anyio.current_time() - began > TURN_SECONDS):
            self._warm = False
            return "it is another engine's turn on the GPU"
        if idle and self._rests_in() <= 0:
            if await self._may_rest() and not self._leases.live and self._leases.wanted is None:
                self._warm = False
                return f"it had no job for {self._patience.idle:g} s (IDLE_UNLOAD_SECONDS)"
            self._leases.quiet_since = anyio.current_time() - self._patience.idle + 1
        return ""

    def _rests_in(self) -> float:
        """In how many seconds an engine that gets no job is to be stopped."""
        if not self._patience.idle or not self._launcher.owned:
            return float("inf")
        return self._leases.quiet_since + self._patience.idle - anyio.current_time()

    def _seconds_to_rest(self) -> float | None:
        """How long there is nothing to do unless something happens; None: for ever."""
        seconds = min(
            self._rests_in() if not self._leases.live else float("inf"),
            1.0 if self._turns is not None and self._turns.wanted else float("inf"),
            MENDED_SECONDS if self._failed else float("inf"),
        )
        return None if seconds == float("inf") else max(seconds, 0.05)

    def _hangs(self, reason: str) -> None:
        """Have the engine replaced: the watchdog found that it does nothing for anybody."""
        self._leases.dismiss(lambda: EngineStalledError(f"{self._launcher.name} {reason}."))
        self._hang = reason
        if self._serving is not None:
            self._serving.report()
        self._wake_up()

    async def _dismiss(self) -> None:
        """End every use of the engine before its connections are closed: a reader would wait on those for ever."""
        self._leases.close()
        self._leases.dismiss(self._replaced if self._hang else self._crashed)
        await self._leases.all_left()

    def _replaced(self) -> JobError:
        return EngineUnavailableError(f"{self._launcher.name} was replaced while the job ran: it {self._hang}.")

    def _crashed(self) -> JobError:
        return EngineCrashedError(f"{self._launcher.name} went away while the job ran.")

    async def _did_not_start(self, spec: Spec, error: EngineStartError) -> None:
        self._last_error = str(error)
        if spec != self._leases.default:
            log.error(str(error), action="model_failed", model=spec.name)
            kind = OutOfMemoryError if error.out_of_memory else ModelUnavailableError
            self._leases.refuse(spec, lambda: kind(f"The model {spec.name} cannot be loaded: {error}"))
            return
        await self._failed_again(str(error), shown=str(error), final=error.final)

    async def _was_lost(self, spec: Spec, end: _End) -> None:
        lost = _brief(f"{self._launcher.name} {end.lost}")
        self._last_error = lost
        self._losses += 1
        if end.steady:
            self._failures = 0
        if spec != self._leases.default and self._failures + 1 >= FAILURES:
            self._failures = 0
            self._leases.refuse(spec, lambda: ModelUnavailableError(f"With the model {spec.name} {lost}"))
            return
        await self._failed_again(lost, shown=f"{self._launcher.name} {end.lost}")

    async def _failed_again(self, reason: str, *, shown: str, final: bool = False) -> None:
        """Wait for the next try, longer each time, or give up; ``shown`` is the reason for the log, with details."""
        self._failures += 1
        if final or self._failures >= FAILURES:
            often = "" if final else f"it failed {self._failures} times in a row; the last time: "
            self._failed = often + reason
            self._retry_at = anyio.current_time() + RETRY_SECONDS
            self._mended = await anyio.to_thread.run_sync(self._launcher.fingerprint, self._leases.default)
            log.critical(f"{self._launcher.name} cannot be started: {often}{shown}", action="engine_failed")
            self._become(EngineState.FAILED)
            return
        self._hurry = anyio.Event()
        if self._unload:
            self._hurry.set()  # it was asked for while the engine started
        self._become(EngineState.BACKOFF)
        delay = min(LONGEST_DELAY, 2.0 ** (self._failures - 1)) * random.uniform(0.75, 1.25)  # noqa: S311 (jitter)
        log.error(
            shown,
            action="engine_lost",
            failures=self._failures,
            retry_seconds=round(delay, 1),
        )
        with anyio.move_on_after(delay):
            await self._hurry.wait()

    def _wake_up(self) -> None:
        self._wake.set()

    async def _woken(self) -> None:
        """Wait until something has happened."""
        await self._wake.wait()
        self._wake = anyio.Event()

    def _become(self, state: EngineState) -> None:
        if state is not self._state:
            self._state = state
            self._since = time.time()
            self._changed.set()
            self._changed = anyio.Event()
            self._leases.tell()
            self._on_state(state)


def _brief(reason: str) -> str:
    """Return what happened without the engine's last lines: those of one that has run jobs may quote them."""
    return reason.partition(TAIL)[0].rstrip()


async def _done() -> None:
    return None

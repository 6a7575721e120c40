"""The life of an engine: one task that owns it, starts it, watches it, exchanges its model and starts it again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Generic

import anyio
import anyio.to_thread

from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import LOAD, RESTARTS, START_FAILURES, STARTS, count_engines
from velesio_worker.engines.base import TAIL, E, EngineState, Launcher, Serving, Spec
from velesio_worker.engines.supervision.failures import Failures
from velesio_worker.engines.supervision.gpu_turns import TURN_SECONDS, GpuTurns
from velesio_worker.engines.supervision.leases import Leases
from velesio_worker.engines.supervision.watchdog import Patience, Watchdog
from velesio_worker.wire.errors import (
    BadJobError,
    EngineCrashedError,
    EngineFailedError,
    EngineStalledError,
    EngineStartError,
    EngineUnavailableError,
    JobError,
    ModelUnavailableError,
    OutOfMemoryError,
)

STEADY_SECONDS: Final = 60.0
MENDED_SECONDS: Final = 2.0
"""How often an engine that failed is looked at: perhaps somebody put the missing file there."""

UNKILLABLE_SECONDS: Final = 30.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _End:
    """Why an engine serves no longer: ``lost`` says what happened to it, ``reason`` why it is stopped."""

    lost: str = ""
    reason: str = ""
    steady: bool = False


@dataclass(frozen=True, slots=True)
class _Change:
    """What is to become of an engine once no job runs on it.

    Attributes:
        reason: why, for people.
        model: what it is to serve instead, without an end, if it can do that.
        rest: whether it is enough that it lets go of the GPU's memory, if it can do that.
    """

    reason: str
    model: Spec | None = None
    rest: bool = False


async def _always() -> bool:
    return True


class Life(Generic[E]):
    """Runs one engine, and is the only one that changes its state.

    Args:
        launcher: starts the engine.
        patience: how long it may show no sign of work, or have none.
        on_state: called after each change of state.
        may_rest: whether the engine may be stopped when it has had no job for long.
        turns: whose turn it is on the GPU; None: engines share it.
        eager: whether the engine is started before anybody asks for it.
        kind: the kind of its jobs, for the metrics.
    """

    def __init__(
        self,
        launcher: Launcher[E],
        patience: Patience,
        *,
        on_state: Callable[[EngineState], None] = lambda _: None,
        may_rest: Callable[[], Awaitable[bool]] = _always,
        turns: GpuTurns | None = None,
        eager: bool = True,
        kind: str = "engine",
    ) -> None:
        self._kind = kind
        count_engines(kind)
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
        self._pardoned = False
        self._unload = False
        self._unloaded = anyio.Event()
        self._unloading = 0
        self._rested_at: float | None = None
        self._unload_error = ""
        self._renewal = ""
        self._failures = Failures()
        self._start_began = 0.0
        self._starts = 0

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
        return self._leases.wanted or (self._leases.default if self._warm and not self._failures.reason else None)

    async def _until_wanted(self) -> None:
        """Wait until somebody wants the engine."""
        while True:
            if self._unload:
                self._warm = self._unload = False
                self._unloaded.set()
            default = self._leases.default
            if self._failures.reason:
                self._leases.refuse(default, self._refusal)
            if self._wish() is not None:
                return
            self._become(EngineState.FAILED if self._failures.reason else EngineState.STOPPED)
            with anyio.move_on_after(MENDED_SECONDS if self._failures.reason else None):
                await self._woken()
            await self._look_again()

    def _refusal(self) -> JobError:
        return EngineFailedError(f"{self._launcher.name} cannot be started: {self._failures.reason}")

    async def _look_again(self) -> None:
        """See whether a default model that could not be started may be tried once more."""
        if self._failures.reason and self._failures.is_mended(await self._fingerprint()):
            self._failures.forgive()

    async def _fingerprint(self) -> object:
        return await anyio.to_thread.run_sync(self._launcher.fingerprint, self._leases.default)

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
        if self._launcher.exchanges:
            spec = self._leases.default
        self._become(EngineState.STARTING)
        self._hang = self._renewal = ""
        self._pardoned = False
        self._start_began = anyio.current_time()
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
        self._failures.count = 0
        return _done

    async def _serve(self, serving: Serving[E], spec: Spec) -> _End:
        began = anyio.current_time()
        self._starts += 1
        STARTS.labels(self._kind).inc()
        LOAD.labels(self._kind).observe(began - self._start_began)
        self._serving, self._spec, self._gone, self._warm, self._rested_at = serving, spec, "", True, None
        self._failures.last_error = ""
        watchdog = Watchdog(serving, self._leases, self._patience, self._hangs, name=self._launcher.name)
        reason = ""
        async with anyio.create_task_group() as watching:
            watching.start_soon(self._note_end, serving)
            watching.start_soon(watchdog.run)
            self._leases.quiet_since = began
            reason = await self._until_over(serving, began)
            watching.cancel_scope.cancel()
        steady = self._pardoned or serving.excused() or anyio.current_time() - began > STEADY_SECONDS
        return _End(self._gone, reason, steady=steady)

    async def _note_end(self, serving: Serving[E]) -> None:
        self._gone = await serving.gone()
        self._wake_up()

    async def _until_over(self, serving: Serving[E], began: float) -> str:
        """Grant leases until the engine is gone, or is to be stopped; returns why that is."""
        reason = ""
        while not self._gone:
            if self._hang and serving.kill is not None:
                await self._replace(serving.kill)
                break
            self._hang = ""
            change = await self._wanted_change(began)
            if change is not None and not self._leases.live:
                if await self._changed_in_place(serving, change):
                    continue
                reason = change.reason
                break
            if change is not None:
                self._leases.close()
                self._become(EngineState.DRAINING)
            else:
                self._open(serving)
            with anyio.move_on_after(self._seconds_to_rest()):
                await self._woken()
            await self._look_again()
        self._leases.close()
        return reason

    def _open(self, serving: Serving[E]) -> None:
        self._leases.open(serving.engine, self._spec or self._leases.default, serving.slots + serving.spare)
        self._become(EngineState.READY)

    async def _changed_in_place(self, serving: Serving[E], change: _Change) -> bool:
        """Make a change without ending the engine; False if it has to end."""
        if change.model is not None and serving.exchange is not None:
            self._leases.close()  # whoever comes for the old model meanwhile would get the new one
            self._become(EngineState.STARTING)
            await self._exchange(serving, serving.exchange, change.model)
            return True
        if not change.rest or serving.rest is None:
            return False
        self._leases.close()
        try:
            await serving.rest()
        except JobError as error:
            log.warning(f"{self._launcher.name} does not let go of the GPU's memory: {error}", action="no_rest")
            if self._launcher.owned:
                return False
            self._unload_error = str(error)
        self._rested_at = self._leases.quiet_since
        if self._unload:
            self._unload = False
            self._unloaded.set()
        return True

    async def _exchange(self, serving: Serving[E], exchange: Callable[[Spec], Awaitable[None]], wanted: Spec) -> None:
        began = anyio.current_time()
        try:
            await exchange(wanted)
        except OutOfMemoryError as error:
            text = str(error)
            self._leases.refuse(wanted, lambda: OutOfMemoryError(text))
            self._hang = f"ran out of memory when it was to load {wanted.name or 'its default model'}"
            self._pardoned = True  # else jobs with a model that is too large would end everybody's engine
        except EngineUnavailableError as error:
            kind, text = type(error), str(error)
            self._leases.refuse(wanted, lambda: kind(text))
            serving.report()
        except BadJobError as error:
            text = str(error)
            self._leases.refuse(wanted, lambda: BadJobError(text))
        except JobError as error:
            text = f"The model {wanted.name} cannot be loaded: {error}"
            self._leases.refuse(wanted, lambda: ModelUnavailableError(text))
        else:
            self._spec = wanted
            LOAD.labels(self._kind).observe(anyio.current_time() - began)

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

    async def _wanted_change(self, began: float) -> _Change | None:
        if self._unload:
            return _Change("it was asked to unload its model", rest=True)
        if self._renewal:
            return _Change(self._renewal)
        if self._failures.reason:
            self._leases.refuse(self._leases.default, self._refusal)
        wanted = self._leases.wanted
        if wanted is not None and wanted != self._spec:
            return _Change(f"{wanted.name or 'another model'} is wanted", model=wanted)
        idle = not self._leases.live and wanted is None
        if self._turns is not None and self._turns.wanted and (idle or anyio.current_time() - began > TURN_SECONDS):
            self._warm = False
            return _Change("it is another engine's turn on the GPU")
        if idle and self._rests_in() <= 0:
            if await self._may_rest() and not self._leases.live and self._leases.wanted is None:
                self._warm = False
                return _Change(f"it had no job for {self._patience.idle:g} s (IDLE_UNLOAD_SECONDS)", rest=True)
            self._leases.quiet_since = anyio.current_time() - self._patience.idle + 1
        return None

    def _rests_in(self) -> float:
        """In how many seconds an engine that gets no job is to be stopped."""
        rests = self._launcher.owned or (self._serving is not None and self._serving.rest is not None)
        if not self._patience.idle or not rests or self._rested_at == self._leases.quiet_since:
            return float("inf")
        return self._leases.quiet_since + self._patience.idle - anyio.current_time()

    def _seconds_to_rest(self) -> float | None:
        """How long there is nothing to do unless something happens; None: for ever."""
        seconds = min(
            self._rests_in() if not self._leases.live else float("inf"),
            1.0 if self._turns is not None and self._turns.wanted else float("inf"),
            MENDED_SECONDS if self._failures.reason else float("inf"),
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
        self._failures.last_error = str(error)
        START_FAILURES.labels(self._kind).inc()
        if spec != self._leases.default:
            log.error(str(error), action="model_failed", model=spec.name)
            kind = OutOfMemoryError if error.out_of_memory else ModelUnavailableError
            self._leases.refuse(spec, lambda: kind(f"The model {spec.name} cannot be loaded: {error}"))
            return
        await self._failed_again(str(error), shown=str(error), final=error.final)

    async def _was_lost(self, spec: Spec, end: _End) -> None:
        lost = _brief(f"{self._launcher.name} {end.lost}")
        self._failures.last_error = lost
        self._failures.losses += 1
        RESTARTS.labels(self._kind).inc()
        if end.steady:
            self._failures.count = 0
        if spec != self._leases.default and self._failures.near_the_end:
            self._failures.count = 0
            self._leases.refuse(spec, lambda: ModelUnavailableError(f"With the model {spec.name} {lost}"))
            return
        await self._failed_again(lost, shown=f"{self._launcher.name} {end.lost}")

    async def _failed_again(self, reason: str, *, shown: str, final: bool = False) -> None:
        """Wait for the next try, longer each time, or give up; ``shown`` is the reason for the log, with details."""
        often = self._failures.add(reason, final=final)
        if often is not None:
            self._failures.remember(await self._fingerprint())
            log.critical(f"{self._launcher.name} cannot be started: {often}{shown}", action="engine_failed")
            self._become(EngineState.FAILED)
            return
        self._hurry = anyio.Event()
        if self._unload:
            self._hurry.set()  # it was asked for while the engine started
        self._become(EngineState.BACKOFF)
        delay = self._failures.delay()
        log.error(
            shown,
            action="engine_lost",
            failures=self._failures.count,
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

"""One engine from its start to its end: it is started, watched, given another model, and ended."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from math import inf
from typing import Final, Generic

import anyio

from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import LOAD, STARTS
from velesio_worker.engines.base import E, Launcher, Serving, Spec
from velesio_worker.engines.supervision.decisions import (
    AskToRest,
    Change,
    Condition,
    Exchange,
    Phase,
    Quiet,
    Rest,
    Served,
    Stop,
)
from velesio_worker.engines.supervision.inbox import Ended, Found, Inbox, Rested, Started
from velesio_worker.engines.supervision.leases import Leases
from velesio_worker.engines.supervision.watchdog import Patience, Watchdog
from velesio_worker.wire.errors import (
    BadJobError,
    EngineCrashedError,
    EngineStalledError,
    EngineStartError,
    EngineUnavailableError,
    JobError,
    ModelUnavailableError,
    OutOfMemoryError,
)

STEADY_SECONDS: Final = 60.0
UNKILLABLE_SECONDS: Final = 30.0
ASK_SECONDS: Final = 1.0
"""How often it is asked whether an engine without jobs may rest."""

log = get_logger(__name__)


class EngineRun(Generic[E]):
    """One engine from its start to its end. A task of its own starts, watches and ends it (:meth:`live`).

    Args:
        launcher: starts the engine.
        leases: who uses it.
        patience: how long it may show no sign of work, or have none.
        inbox: is told when it serves, when something is wrong with it, and when it has ended.
        may_rest: whether it may rest when it has had no job for long; None: always.
        kind: the kind of its jobs, for the metrics.
        spec: what it is started with.
    """

    def __init__(
        self,
        launcher: Launcher[E],
        leases: Leases[E],
        patience: Patience,
        inbox: Inbox,
        may_rest: Callable[[], Awaitable[bool]] | None,
        kind: str,
        spec: Spec,
    ) -> None:
        self._launcher = launcher
        self._leases = leases
        self._patience = patience
        self._inbox = inbox
        self._may_rest = may_rest
        self._kind = kind
        self._spec = spec
        self._serving: Serving[E] | None = None
        self._served = Served(spec)
        self._pardoned = False
        self._gone = anyio.Event()
        self._over = anyio.Event()
        self._reason = ""

    @property
    def facts(self) -> Served | Phase:
        """What decisions depend on."""
        if self._over.is_set():
            return Phase.ENDING
        return Phase.STARTING if self._serving is None else self._served

    @property
    def loaded(self) -> Spec:
        """What it has loaded, or is to."""
        return self._served.spec

    @property
    def serving(self) -> Serving[E] | None:
        """The engine, while it serves."""
        return None if self._over.is_set() else self._serving

    async def live(self) -> None:
        """Start the engine and have it serve until it is stopped; the last that the inbox gets is its end."""
        began = anyio.current_time()
        try:
            async with self._launcher.serve(self._spec) as serving:
                LOAD.labels(self._kind).observe(anyio.current_time() - began)
                try:
                    ended = await self._serve(serving)
                finally:
                    self._over.set()
                    self._dismiss()
                    await self._leases.all_left()
        except EngineStartError as error:
            ended = Ended(self._spec, error)
        except Exception as error:
            log.exception(f"{self._launcher.name} failed through a mistake of the worker's", action="engine_broken")
            text = f"The worker made a mistake ({type(error).__name__}); its log has the details."
            ended = Ended(self._spec, EngineStartError(text))
        self._inbox.post(ended)

    async def _serve(self, serving: Serving[E]) -> Ended:
        began = anyio.current_time()
        can_rest = serving.rest is not None
        self._serving = serving
        self._served = Served(
            self._spec,
            began,
            exchanges=serving.exchange is not None,
            rests=can_rest,
            idle=self._patience.idle if self._launcher.owned or can_rest else 0.0,
        )
        self._leases.quiet = Quiet(began)
        STARTS.labels(self._kind).inc()
        self._inbox.post(Started(self._spec))
        watchdog = Watchdog(serving, self._leases, self._patience, self._hangs, name=self._launcher.name)
        async with anyio.create_task_group() as watching:
            watching.start_soon(self._note_end, serving)
            watching.start_soon(watchdog.run)
            await self._over.wait()
            if self._served.condition is Condition.HANGS and serving.kill is not None:
                await self._kill(serving.kill)
            watching.cancel_scope.cancel()
        steady = self._pardoned or serving.excused() or anyio.current_time() - began > STEADY_SECONDS
        return Ended(self._spec, lost=self._lost(), reason=self._reason, steady=steady)

    async def _note_end(self, serving: Serving[E]) -> None:
        how = await serving.gone()
        self._gone.set()
        self._inbox.post(Found(Condition.GONE, how))

    def _hangs(self, reason: str) -> None:
        """The watchdog found that the engine does nothing for anybody."""
        self._leases.dismiss(EngineStalledError, f"{self._launcher.name} {reason}.")
        self._inbox.post(Found(Condition.HANGS, reason))
        if self._serving is not None:
            self._serving.report()

    def find(self, found: Found) -> None:
        """Take note of what is wrong with the engine; one that cannot be killed may hang."""
        if self.serving is None or self._served.condition in {Condition.GONE, Condition.HANGS}:
            return
        if found.condition is not Condition.HANGS or self.serving.kill is not None:
            self._served = replace(self._served, condition=found.condition, why=found.why)

    def _lost(self) -> str:
        match self._served.condition:
            case Condition.HANGS:
                return f"was replaced: it {self._served.why}"
            case Condition.GONE:
                return self._served.why
            case _:
                return ""

    async def _kill(self, kill: Callable[[], None]) -> None:
        """Kill an engine that hangs, and wait until it is gone."""
        self._dismiss()  # before their connections break, which would look like a crash
        kill()
        while not self._gone.is_set():
            with anyio.move_on_after(UNKILLABLE_SECONDS) as limit:
                await self._gone.wait()
            if limit.cancelled_caught:
                log.error(
                    f"{self._launcher.name} does not end after SIGKILL: most likely the GPU's driver hangs. "
                    "Look at dmesg; it may take a reset of the GPU or a restart of the host",
                    action="engine_unkillable",
                )

    def _dismiss(self) -> None:
        """End every use of the engine before its connections are closed: a reader would wait on those for ever."""
        name = self._launcher.name
        self._leases.close()
        if self._served.condition is Condition.HANGS:
            text = f"{name} was replaced while the job ran: it {self._served.why}."
            self._leases.dismiss(EngineUnavailableError, text)
        else:
            self._leases.dismiss(EngineCrashedError, f"{name} went away while the job ran.")

    def open(self) -> None:
        """Let jobs on the engine."""
        if self._serving is not None:
            self._leases.open(self._serving.engine, self._served.spec, self._serving.slots + self._serving.spare)

    async def change(self, change: Change) -> None:
        """Make something else of the engine, while no job runs on it; a mistake in that is its end."""
        try:
            match change:
                case AskToRest():
                    await self._ask_to_rest()
                case Exchange(spec):
                    self._leases.close()  # whoever comes for the old model meanwhile would get the new one
                    await self._exchange(spec)
                case Rest():
                    self._leases.close()
                    await self._rest()
                case Stop(reason):
                    self._leases.close()
                    self._reason = reason
                    self._over.set()
        except Exception as error:
            log.exception(f"{self._launcher.name} failed through a mistake of the worker's", action="engine_broken")
            self.find(Found(Condition.GONE, f"was given up: the worker made a mistake ({type(error).__name__})"))

    async def _ask_to_rest(self) -> None:
        quiet = self._leases.quiet
        agreed = self._may_rest is None or await self._may_rest()
        if self._leases.quiet is quiet:  # else a job has come and gone
            not_before = 0.0 if agreed else anyio.current_time() + ASK_SECONDS
            self._leases.quiet = replace(quiet, agreed=agreed, not_before=not_before)

    async def _exchange(self, wanted: Spec) -> None:
        """Load another model; whoever waits for it is told if that fails."""
        serving = self._serving
        if serving is None or serving.exchange is None:
            return
        began = anyio.current_time()
        try:
            await serving.exchange(wanted)
        except OutOfMemoryError as error:
            self._leases.refuse(wanted, OutOfMemoryError, str(error))
            self._pardoned = True  # else jobs with a model that is too large would end everybody's engine
            name = wanted.name or "its default model"
            self.find(Found(Condition.HANGS, f"ran out of memory when it was to load {name}"))
        except EngineUnavailableError as error:
            self._leases.refuse(wanted, type(error), str(error))
            serving.report()
        except BadJobError as error:
            self._leases.refuse(wanted, BadJobError, str(error))
        except JobError as error:
            self._leases.refuse(wanted, ModelUnavailableError, f"The model {wanted.name} cannot be loaded: {error}")
        else:
            self._served = replace(self._served, spec=wanted)
            LOAD.labels(self._kind).observe(anyio.current_time() - began)

    async def _rest(self) -> None:
        """Have the engine let go of the GPU's memory; the worker's own that does not is to be ended instead."""
        refusal = ""
        try:
            if self._serving is not None and self._serving.rest is not None:
                await self._serving.rest()
        except JobError as error:
            refusal = str(error)
            log.warning(f"{self._launcher.name} does not let go of the GPU's memory: {refusal}", action="no_rest")
            if self._launcher.owned:
                self._served = replace(self._served, rests=False)
                return
        self._leases.quiet = replace(self._leases.quiet, not_before=inf)
        self._inbox.post(Rested(refusal))

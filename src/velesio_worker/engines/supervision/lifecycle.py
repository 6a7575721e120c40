"""One engine from its start to its end: it is started, watched, given another model, and ended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import inf
from typing import Final, Generic

import anyio

from velesio_worker.core.bell import Bell
from velesio_worker.core.logs import get_logger
from velesio_worker.core.metrics import LOAD, STARTS
from velesio_worker.engines.base import E, EngineState, Launcher, Serving, Spec, SpoiltError
from velesio_worker.engines.supervision.decisions import Condition, Quiet, Served
from velesio_worker.engines.supervision.inbox import Inbox
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

LOOK_SECONDS: Final = 2.0
"""How often an engine that somebody else runs is looked at while nobody asks for it."""

SEEN_SECONDS: Final = 0.05
"""How long it is believed, before a job begins, what such an engine has said that it is."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """How an engine ended.

    Attributes:
        spec: what it was started with.
        error: why it did not start.
        lost: what happened to it; empty if it was stopped.
        reason: why it was stopped.
        steady: whether what happened before its start does not count any more.
        exchanged: whether it is another one now, which is ready.
        hangs: whether it is not the worker's own and hung: it has to show that it works before it is used again.
        by_job: whether it was lost while it read a job's request, which is no failure of its own: the next one, too,
            has to show that it works before it is used.
    """

    spec: Spec
    error: EngineStartError | None = None
    lost: str = ""
    reason: str = ""
    steady: bool = False
    exchanged: bool = False
    hangs: bool = False
    by_job: bool = False


class EngineRun(Generic[E]):
    """One engine from its start to its end. A task of its own starts, watches and ends it (:meth:`live`).

    All other methods are called by the task that owns it, whose inbox is told what happens to it; ``on_start`` goes
    there once it serves.
    """

    def __init__(
        self,
        launcher: Launcher[E],
        leases: Leases[E],
        patience: Patience,
        inbox: Inbox,
        on_start: Callable[[], None],
        spec: Spec,
    ) -> None:
        self._launcher = launcher
        self._leases = leases
        self._patience = patience
        self._inbox = inbox
        self._on_start = on_start
        self._spec = spec
        self._serving: Serving[E] | None = None
        self._served = Served(spec)
        self._pardoned = False
        self._exchanged = False
        self._hangs_elsewhere = False
        self._over = anyio.Event()
        self._expected = Bell()
        self._reason = ""

    @property
    def facts(self) -> Served | EngineState:
        """What decisions depend on."""
        if self._over.is_set():
            return EngineState.STOPPING
        return EngineState.STARTING if self._serving is None else self._served

    @property
    def serving(self) -> Serving[E] | None:
        """The engine, while it serves."""
        return None if self._over.is_set() else self._serving

    @property
    def exchanged(self) -> bool:
        """Whether it is known that the engine is another one now."""
        return self._exchanged

    async def live(self, *, in_doubt: bool = False) -> Ended:
        """Start the engine and have it serve until it is stopped; one in doubt, since it hung, does some work first."""
        began = anyio.current_time()
        try:
            async with self._launcher.serve(self._spec) as serving:
                LOAD.labels(self._launcher.kind).observe(anyio.current_time() - began)
                lost = await self._until_it_works(serving) if in_doubt else ""
                if lost:
                    elsewhere = serving.kill is None
                    return Ended(self._spec, lost=lost, steady=elsewhere, hangs=elsewhere)
                try:
                    return await self._serve(serving)
                finally:
                    self._over.set()
                    self._dismiss()  # before its connections break, which would look like a crash
                    if self._served.condition is Condition.HANGS and serving.kill is not None:
                        serving.kill()
                    await self._leases.all_left()
        except EngineStartError as error:
            return Ended(self._spec, error)
        except Exception as error:
            log.exception(f"{self._launcher.name} failed through a mistake of the worker's", action="engine_broken")
            text = f"The worker made a mistake ({type(error).__name__}); its log has the details."
            return Ended(self._spec, EngineStartError(text))

    async def _until_it_works(self, serving: Serving[E]) -> str:
        """Have one that is in doubt do some work, once; returns what became of it instead, if so.

        One that runs elsewhere, and hung, may take as long as it likes. The worker's own is to be quick: there are jobs
        that wait for it.
        """
        lost = ""
        elsewhere = serving.kill is None
        limit = inf if elsewhere else self._patience.stall

        async def work() -> None:
            nonlocal lost
            try:
                with anyio.fail_after(limit):
                    await ((serving.works if elsewhere else None) or serving.probe)()
            except JobError as error:
                lost = f"does not work yet: {error}"
            except TimeoutError:
                lost = f"did nothing for {limit:g} s (STALL_SECONDS) once it was started"
            either.cancel_scope.cancel()

        async def end() -> None:
            nonlocal lost
            lost = await serving.gone()
            either.cancel_scope.cancel()

        async with anyio.create_task_group() as either:
            either.start_soon(work)
            either.start_soon(end)
            while True:
                await anyio.sleep(self._patience.answer)
                serving.report()  # nobody else does, and it may be gone in silence
        return lost

    async def _serve(self, serving: Serving[E]) -> Ended:
        began = anyio.current_time()
        if serving.instead is not None:
            if self._spec == self._leases.default:
                self._leases.default = serving.instead
            self._spec = serving.instead
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
        self._leases.begin()
        STARTS.labels(self._launcher.kind).inc()
        self._inbox.post(self._on_start)
        hangs = partial(self._hangs, serving, EngineStalledError)
        grows = partial(self._hangs, serving, EngineCrashedError)
        watchdog = Watchdog(serving, self._leases, self._patience, hangs, grows)
        async with anyio.create_task_group() as watching:
            watching.start_soon(self._note_end, serving)
            watching.start_soon(watchdog.run)
            if serving.look is not None:
                watching.start_soon(self._keep_looking, serving)
            await self._over.wait()
            watching.cancel_scope.cancel()
        why = self._served.why
        hangs = f"is not used until it works again: it {why}" if self._hangs_elsewhere else f"was replaced: it {why}"
        lost = {Condition.GONE: why, Condition.HANGS: hangs}.get(self._served.condition, "")
        pardoned = self._pardoned or self._hangs_elsewhere or serving.excused()
        steady = pardoned or anyio.current_time() - began > self._patience.steady
        return Ended(
            self._spec,
            lost=lost,
            reason=self._reason,
            steady=steady,
            exchanged=self._exchanged,
            hangs=self._hangs_elsewhere,
            by_job=bool(lost and self._leases.unread),
        )

    async def _note_end(self, serving: Serving[E]) -> None:
        how = await serving.gone()
        self._inbox.post(partial(self.find, Condition.GONE, how))

    async def _keep_looking(self, serving: Serving[E]) -> None:
        while True:
            with anyio.move_on_after(LOOK_SECONDS) as rest:
                await self._expected.wait()
            if not rest.cancelled_caught:
                await self.look(SEEN_SECONDS)
            elif await self.look(LOOK_SECONDS) is None and not self._leases.live:  # jobs find out by themselves
                serving.report()

    def expect(self) -> None:
        """Look at an engine that somebody else runs now: a job comes, and is not to wait for that then."""
        self._expected.ring()

    async def look(self, age: float) -> bool | None:
        """Return whether the engine is what it was ``age`` seconds ago at most; None if it does not say."""
        look = self._serving and self._serving.look
        if look is None:
            return True
        found = await look(age)
        if found and self.serving is not None:
            self._leases.close()  # whoever comes now wants the other
            self._inbox.post(partial(self._replaced_elsewhere, found))
        return None if found is None else not found

    def _replaced_elsewhere(self, how: str) -> None:
        self.find(Condition.GONE, how)
        self._exchanged = self._served.why == how

    def _hangs(self, serving: Serving[E], error: type[JobError], reason: str) -> None:
        """The watchdog found that the engine does nothing for anybody, or takes too much memory."""
        self._leases.dismiss(error, f"{self._launcher.name} {reason}.")
        self._inbox.post(partial(self.find, Condition.HANGS, reason))
        serving.report()

    def _dismiss(self) -> None:
        """End every use of the engine before its connections are closed: a reader would wait on those for ever."""
        name = self._launcher.name
        self._leases.close()
        if self._served.condition is Condition.HANGS:
            fate = "is not used until it works again" if self._hangs_elsewhere else "was replaced while the job ran"
            text = f"{name} {fate}: it {self._served.why}."
            self._leases.dismiss(EngineUnavailableError, text, unread=EngineStalledError)
        elif self._exchanged or (self._serving is not None and self._serving.excused()):
            self._leases.dismiss(EngineUnavailableError, f"{name} {self._served.why}.")
        else:
            self._leases.dismiss(EngineCrashedError, f"{name} went away while the job ran.")

    def find(self, condition: Condition, why: str) -> None:
        """Take note of what is wrong with the engine.

        One that hangs and cannot be killed is left alone. Its other jobs may go on all the same where it runs several:
        they end first.
        """
        if self.serving is None or self._served.condition in {Condition.GONE, Condition.HANGS}:
            return
        if condition is Condition.HANGS and self.serving.kill is None:
            self._hangs_elsewhere = True
            condition = Condition.HANGS if self._launcher.traits.queues else Condition.WORN
        self._served = replace(self._served, condition=condition, why=why)

    def open(self) -> None:
        """Let jobs on the engine."""
        if self._serving is not None:
            self._leases.open(self._serving.engine, self._served.spec, self._serving.slots + self._serving.spare)

    def stop(self, reason: str) -> None:
        """Have it end."""
        self._leases.close()
        self._reason = reason
        self._over.set()

    async def exchange(self, wanted: Spec) -> None:
        """Load another model; whoever waits for it is told if that fails."""
        serving = self._serving
        if serving is None or serving.exchange is None:
            return
        began = anyio.current_time()
        try:
            await serving.exchange(wanted)
        except OutOfMemoryError as error:
            self._leases.refuse(wanted, OutOfMemoryError, str(error))
            if serving.kill is not None:
                self._pardoned = True  # else jobs with a model that is too large would end everybody's engine
                self.find(Condition.HANGS, f"ran out of memory when it was to load {self._name_of(wanted)}")
        except BadJobError as error:
            if wanted == self._leases.default and wanted != self._launcher.default():
                log.warning(f"{wanted.name} is the default no more: {error}", action="default_gone")
                self._leases.default = self._launcher.default()  # what it was before somebody chose another
            self._leases.refuse(wanted, BadJobError, str(error))
        except JobError as error:
            if isinstance(error, EngineUnavailableError) and not isinstance(error, ModelUnavailableError):
                self._leases.refuse(wanted, type(error), str(error))
                serving.report()
                return
            text = f"The model {self._name_of(wanted)} cannot be loaded: {error}"
            self._leases.refuse(wanted, ModelUnavailableError, text)
            if isinstance(error, SpoiltError):  # which is no failure of its own, and costs no job anything
                self.find(Condition.WORN, f"failed to load {self._name_of(wanted)}, which spoils all that it makes")
        else:
            self._served = replace(self._served, spec=wanted)
            LOAD.labels(self._launcher.kind).observe(anyio.current_time() - began)

    def _name_of(self, spec: Spec) -> str:
        return spec.name or self._launcher.default_name or "that is the default"

    async def rest(self) -> str | None:
        """Have the engine let go of the GPU's memory; the worker's own that does not is to be ended instead.

        Returns:
            why it has not, empty if it has; None if it is to be ended.
        """
        self._leases.close()
        refusal = ""
        try:
            if self._serving is not None and self._serving.rest is not None:
                await self._serving.rest()
        except JobError as error:
            refusal = str(error)
            log.warning(f"{self._launcher.name} does not let go of the GPU's memory: {refusal}", action="no_rest")
            if self._launcher.owned:
                self._served = replace(self._served, rests=False)
                return None
        self._leases.quiet = replace(self._leases.quiet, not_before=inf)
        return refusal

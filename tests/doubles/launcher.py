"""A launcher without processes: each engine that it starts lives until the test, or the supervisor, ends it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from tests.support.waiting import until
from velesio_worker.engines.base import PLAIN, EngineState, Generation, Serving, Spec
from velesio_worker.engines.requests import EngineRequest
from velesio_worker.engines.supervision.gpu_turns import GpuTurns
from velesio_worker.engines.supervision.supervisor import Supervisor
from velesio_worker.engines.supervision.watchdog import Patience
from velesio_worker.wire.errors import BadJobError, EngineStartError, JobError
from velesio_worker.wire.parameters import Parameters

DEFAULT = Spec(Path("main.gguf"), "main")
PATIENT = Patience(stall=600)


class Options(TypedDict, total=False):
    """The further arguments of a supervisor."""

    may_rest: Callable[[], Awaitable[bool]]
    turns: GpuTurns
    eager: bool


@dataclass(slots=True)
class EngineStub:
    """An engine that has a name and does nothing."""

    model: str

    def generate(self, parameters: Parameters, after: str = "", pieces: int = 0) -> Generation:
        raise NotImplementedError


@dataclass(eq=False)
class Life:
    """One engine, from its start to its end."""

    spec: Spec
    slots: int
    owned: bool
    exchanges: bool = False
    """Whether it exchanges its model without an end."""
    obeys: bool = True
    """Whether it ends when it is killed."""
    loads: list[str] = field(default_factory=list[str])
    """The models that it was asked to load."""
    refuses: list[JobError] = field(default_factory=list[JobError])
    """How its next loads, and rests, fail."""
    rests: int = 0
    may_load: anyio.Event = field(default_factory=anyio.Event)
    """What a load waits for; set at first."""
    killed: int = 0
    reports: int = 0
    probes: int = 0
    works: anyio.Event = field(default_factory=anyio.Event)
    """What a probe waits for."""
    moved: float | None = None
    silent: bool = False
    """Whether it answers nothing."""
    memory: int | None = None
    """How much it takes, as far as that is known."""
    ended: bool = False
    excused: bool = False
    over: anyio.Event = field(default_factory=anyio.Event)
    how: str = ""

    def __post_init__(self) -> None:
        self.engine = EngineStub(self.spec.name)
        self.may_load.set()

    async def exchange(self, spec: Spec) -> None:
        self.loads.append(spec.name)
        await self.may_load.wait()
        if self.refuses:
            raise self.refuses.pop(0)
        self.engine.model = spec.name

    async def rest(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.rests += 1
        if self.refuses:
            raise self.refuses.pop(0)

    def die(self, how: str = "ended with exit code 9") -> None:
        """End as if by itself."""
        self.how = how
        self.over.set()

    def kill(self) -> None:
        self.killed += 1
        if self.obeys:
            self.die("was ended by SIGKILL")

    def report(self) -> None:
        self.reports += 1

    async def gone(self) -> str:
        await self.over.wait()
        return self.how

    async def count(self) -> float | None:
        await anyio.lowlevel.checkpoint()
        if self.silent:
            raise TimeoutError
        return self.moved

    async def probe(self) -> None:
        self.probes += 1
        await self.works.wait()

    def measure(self) -> int:
        assert self.memory is not None
        return self.memory

    def serving(self) -> Serving[EngineStub]:
        kill = self.kill if self.owned else None
        exchange, rest = (self.exchange, self.rest) if self.exchanges else (None, None)
        return Serving(
            *(self.engine, self.slots, self.gone, self.report, kill, self.count, self.probe),
            exchange=exchange,
            rest=rest,
            excused=lambda: self.excused,
            memory=None if self.memory is None else self.measure,
        )


class LauncherDouble:
    """Starts what it is told to, one engine at a time.

    Args:
        slots: how many jobs each engine runs at a time.
        owned: whether the engines are the worker's own.
        exchanges: whether they exchange their model, and rest, without an end.
        gpu: the engines of several launchers that must not live at the same time.
    """

    name = "engine"
    kind = "engine"
    trouble = ""
    traits = PLAIN

    def __init__(
        self, slots: int = 2, *, owned: bool = True, exchanges: bool = False, gpu: list[Life] | None = None
    ) -> None:
        self.owned = owned
        self.exchanges = exchanges
        self.slots = slots
        self.lives: list[Life] = []
        self.starts: list[str] = []
        """The models of all starts, those that failed included."""
        self.troubles: dict[str, list[EngineStartError]] = {}
        """By model: how its next starts fail, one after the other."""
        self.broken: dict[str, EngineStartError] = {}
        """By model: how each of its starts fails."""
        self.memory: int | None = None
        """How much each engine takes when it is started."""
        self.works = False
        """Whether each engine's probe ends at once."""
        self.state_of_files: object = "as it was"
        self.may_start = anyio.Event()
        self.may_start.set()
        self._gpu: list[Life] = [] if gpu is None else gpu

    @property
    def default_name(self) -> str:
        return DEFAULT.name

    def default(self) -> Spec:
        return DEFAULT

    async def resolve(self, model: str) -> Spec:
        await anyio.lowlevel.checkpoint()
        if model == "nonsense":
            raise BadJobError("there is no such model")
        return DEFAULT if model == DEFAULT.name else Spec(Path(f"{model}.gguf"), model)

    @asynccontextmanager
    async def serve(self, spec: Spec) -> AsyncGenerator[Serving[EngineStub], None]:
        self.starts.append(spec.name)
        assert not self._gpu, "one engine at a time"
        life = Life(spec, self.slots, self.owned, self.exchanges, memory=self.memory)
        if self.works:
            life.works.set()
        self._gpu.append(life)
        try:
            await self.may_start.wait()
            trouble = self.troubles.get(spec.name)
            if trouble:
                raise trouble.pop(0)
            if spec.name in self.broken:
                raise self.broken[spec.name]
            self.lives.append(life)
            yield life.serving()
        finally:
            life.ended = True
            self._gpu.remove(life)

    def identity(self, spec: Spec) -> str | None:
        return f"{spec.name} by its bytes"

    def fingerprint(self, spec: Spec) -> object:
        return spec, self.state_of_files

    @property
    def life(self) -> Life:
        """The engine that was started last."""
        return self.lives[-1]

    @property
    def models(self) -> Sequence[str]:
        """The models that served, one after the other."""
        return [life.spec.name for life in self.lives]


@dataclass(eq=False)
class User:
    """Somebody who leases an engine, and what became of that."""

    model: str | None
    waits: list[EngineState] = field(default_factory=list[EngineState])
    """What ``on_wait`` was called with."""
    engine: EngineStub | None = None
    error: JobError | None = None
    done: bool = False
    breaks: JobError | None = None
    """What its work ends with once it may leave."""
    lingers: bool = False
    """Whether it takes its time when the engine is taken away: until it may leave."""
    may_leave: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    request: EngineRequest = field(default_factory=EngineRequest)

    @property
    def uses(self) -> bool:
        return self.engine is not None and not self.done

    @property
    def waiting(self) -> bool:
        return self.engine is None and not self.done

    async def run(self, supervisor: Supervisor[EngineStub]) -> None:
        try:
            with self.scope:
                async with supervisor.ensure(self.model, on_wait=self.waits.append, request=self.request) as engine:
                    self.engine = engine
                    await self._work()
        except JobError as error:
            self.error = error
        finally:
            self.done = True

    async def _work(self) -> None:
        try:
            await self.may_leave.wait()
        finally:
            if self.lingers:
                with anyio.CancelScope(shield=True):
                    await self.may_leave.wait()
        if self.breaks is not None:
            raise self.breaks

    async def leave(self) -> None:
        """Be done with the engine."""
        self.may_leave.set()
        await until(lambda: self.done)

    async def cancel(self) -> None:
        """Go away, whatever it waits for."""
        self.scope.cancel()
        await until(lambda: self.done)


class Supervised:
    """A supervisor of doubles, the states that it went through, and those who use it.

    Args:
        launcher: starts the engines.
        patience: the supervisor's.
        options: its further arguments.
    """

    def __init__(
        self, launcher: LauncherDouble | None = None, patience: Patience = PATIENT, **options: Unpack[Options]
    ) -> None:
        self.launcher = launcher or LauncherDouble()
        self.states: list[EngineState] = []
        self.supervisor = Supervisor(self.launcher, patience, on_state=self.states.append, **options)
        self._users: TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[Self, None]:
        """Have the supervisor run; whoever uses it goes away in the end."""
        async with anyio.create_task_group() as users:
            self._users = users
            async with anyio.create_task_group() as group:
                group.start_soon(self.supervisor.run)
                await settled()
                yield self
                group.cancel_scope.cancel()
            users.cancel_scope.cancel()

    @asynccontextmanager
    async def ready(self) -> AsyncGenerator[Self, None]:
        """Have the supervisor run, with an engine that is ready."""
        async with self.running():
            await self.until(EngineState.READY)
            yield self

    async def until(self, state: EngineState) -> None:
        """Wait until the engine's state is this one."""
        await until(lambda: self.supervisor.state is state)

    async def user(self, model: str | None = None, *, alone: bool = False) -> User:
        """Have somebody more ask for the engine."""
        user = User(model, request=EngineRequest(alone=alone))
        self.start(user.run, self.supervisor)
        await settled()
        return user

    def start(self, function: Callable[..., Coroutine[Any, Any, object]], *arguments: object) -> None:
        """Have something more go on until the supervisor ends."""
        assert self._users is not None
        self._users.start_soon(function, *arguments)

    @property
    def running_now(self) -> int:
        """How many have a lease."""
        return self.supervisor.facts()["running"]

    @property
    def waiting_now(self) -> int:
        """How many wait for one."""
        return self.supervisor.facts()["waiting"]


async def settled() -> None:
    """Let every task go on until it waits: nothing here takes more than a few turns of the loop."""
    for _ in range(50):
        await anyio.lowlevel.checkpoint()

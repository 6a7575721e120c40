"""A launcher without processes: each engine that it starts lives until the test, or the supervisor, ends it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import anyio.lowlevel

from velesio_worker.engines.base import EngineState, Generation, Serving, Spec
from velesio_worker.engines.supervisor import Supervisor
from velesio_worker.engines.watchdog import Patience
from velesio_worker.errors import BadJobError, EngineStartError
from velesio_worker.parameters import Parameters
from tests.unit.waiting import LIMIT, until

DEFAULT = Spec(Path("main.gguf"), "main")
PATIENT = Patience(stall=600)


@dataclass(frozen=True, slots=True)
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
    obeys: bool = True
    """Whether it ends when it is killed."""
    killed: int = 0
    reports: int = 0
    probes: int = 0
    moved: float | None = None
    ended: bool = False
    over: anyio.Event = field(default_factory=anyio.Event)
    how: str = ""

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
        return self.moved

    async def probe(self) -> None:
        self.probes += 1
        await anyio.sleep_forever()

    def serving(self) -> Serving[EngineStub]:
        engine = EngineStub(self.spec.name)
        kill = self.kill if self.owned else None
        return Serving(engine, self.slots, self.gone, self.report, kill, self.count, self.probe)


class LauncherDouble:
    """Starts what it is told to, one engine at a time.

    Args:
        slots: how many jobs each engine runs at a time.
        owned: whether the engines are the worker's own.
        gpu: the engines of several launchers that must not live at the same time.
    """

    name = "engine"

    def __init__(self, slots: int = 2, *, owned: bool = True, gpu: list[Life] | None = None) -> None:
        self.owned = owned
        self.slots = slots
        self.lives: list[Life] = []
        self.starts: list[str] = []
        """The models of all starts, those that failed included."""
        self.troubles: dict[str, list[EngineStartError]] = {}
        """By model: how its next starts fail, one after the other."""
        self.broken: dict[str, EngineStartError] = {}
        """By model: how each of its starts fails."""
        self.state_of_files: object = "as it was"
        self.may_start = anyio.Event()
        self.may_start.set()
        self._alive: list[Life] = []
        self._gpu = self._alive if gpu is None else gpu

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
        assert not self._alive, "one engine at a time"
        assert not self._gpu, "one engine at a time on the GPU"
        life = Life(spec, self.slots, self.owned)
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
    error: BaseException | None = None
    done: bool = False
    may_leave: anyio.Event = field(default_factory=anyio.Event)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def uses(self) -> bool:
        return self.engine is not None and not self.done

    @property
    def waiting(self) -> bool:
        return self.engine is None and not self.done

    async def run(self, supervisor: Supervisor[EngineStub]) -> None:
        try:
            with self.scope:
                async with supervisor.ensure(self.model, on_wait=self.waits.append) as engine:
                    self.engine = engine
                    await self.may_leave.wait()
        except Exception as error:  # noqa: BLE001 (whatever it is, the test looks at it)
            self.error = error
        finally:
            self.done = True

    async def leave(self) -> None:
        """Be done with the engine."""
        self.may_leave.set()
        await until(lambda: self.done)

    async def cancel(self) -> None:
        """Go away, whatever it waits for."""
        self.scope.cancel()
        await until(lambda: self.done)

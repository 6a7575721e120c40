"""A Redis, some workers, and what may befall them."""

from __future__ import annotations

import os
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import anyio
import psutil

from judge import Fault
from processes import (
    START_SECONDS,
    RedisProcess,
    WorkerProcess,
    connect,
    insist,
    lives,
    processes_with,
    start_worker,
    until,
)
from velesio_worker.core.settings import Settings
from velesio_worker.engines.models.wheels import small_model

MARK: Final = "CHAOS_RUN"
"""A variable that every process of a run inherits, so that none is overlooked."""

STOP_SECONDS: Final = 30.0
STOPS_IN: Final = 0.5
"""About how long a worker takes to stop once it waits for its jobs no more, in seconds."""

ORPHAN_SECONDS: Final = 5.0
GIVES_UP: Final = 5
"""After so many crashes of its engine a worker ends, and rightly so; after one if the engine was never ready."""

BOTH: Final = 0.3
"""How often a worker is frozen together with its engine."""


class Kind(StrEnum):
    """What may befall the fleet."""

    WORKER_KILL = "worker-kill"
    ENGINE_KILL = "engine-kill"
    FREEZE = "freeze"
    TERMINATE = "terminate"
    STOP_KILL = "stop-kill"
    REDIS_RESTART = "redis-restart"
    CUT = "cut"
    CANCEL = "cancel"


@dataclass(slots=True)
class Replica:
    """A place in the fleet: whoever ends there is replaced.

    Attributes:
        past: every process that was there, the present one last.
        busy: whether something befalls it just now.
    """

    number: int
    past: list[WorkerProcess] = field(default_factory=list[WorkerProcess])
    busy: bool = False

    @property
    def now(self) -> WorkerProcess | None:
        return self.past[-1] if self.past and self.past[-1].runs else None


class Fleet:
    """Redis, the workers and all that was done to them.

    Args:
        folder: where logs go.
        replicas: how many workers there are.
        settings: their environment variables.
        chance: decides who is hit, and how hard.

    Attributes:
        faults: what was done.
        problems: what a worker did that it may not do, in words.
        counts: what else happened, by name.
    """

    def __init__(self, folder: Path, replicas: int, settings: dict[str, str], chance: random.Random) -> None:
        model = small_model()
        if model is None:
            sys.exit("no model: make setup")
        names = {name.upper() for name in Settings.model_fields}
        self._mark = secrets.token_hex(8)
        env = {name: value for name, value in os.environ.items() if name not in names} | {MARK: self._mark}
        self.redis = RedisProcess(folder, env)
        self.client: Any = connect(self.redis.url)
        self.replicas = [Replica(number) for number in range(replicas)]
        self.faults: list[Fault] = []
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self._env = env | {"REDIS_URL": self.redis.url, "MODEL_PATH": str(model)} | settings
        self._lease = float(settings["LEASE_SECONDS"])
        self._drain = float(settings["DRAIN_SECONDS"])
        self._folder = folder
        self._chance = chance
        self._redis_hit = anyio.Lock()
        self._closing = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Start everything; whoever ends is replaced from now on. On leaving no process is left."""
        try:
            async with anyio.create_task_group() as group:
                await self.redis.start()
                for replica in self.replicas:
                    group.start_soon(self._keep, replica)
                if not await self.whole():
                    raise TimeoutError(f"the workers are not ready; their logs are in {self._folder}")
                yield
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._end()

    async def whole(self) -> bool:
        """Wait until every worker takes jobs; False if that takes too long."""
        return await until(
            lambda: all(replica.now is not None and replica.now.ready for replica in self.replicas),
            limit=START_SECONDS,
        )

    async def _keep(self, replica: Replica) -> None:
        while not self._closing.is_set():
            log = self._folder / f"worker-{replica.number}-{len(replica.past)}.log"
            worker = await start_worker(log, self._env)
            replica.past.append(worker)
            await worker.process.wait()
            if not worker.ending:
                self._ended_by_itself(worker)
            await anyio.sleep(1)

    def _ended_by_itself(self, worker: WorkerProcess) -> None:
        code, rightly = worker.process.returncode, worker.engine_kills >= (GIVES_UP if worker.ready else 1)
        if code == 1 and rightly:
            self.counts["workers that gave up after engine kills"] += 1
        else:
            self.problems.append(f"{worker.log.name}: ended by itself, exit code {code}: {worker.last_words()}")

    async def strike(self, kind: Kind, job_id: str | None) -> None:
        """Let something befall the fleet; nothing happens where there is nobody to be hit.

        Args:
            kind: what.
            job_id: a job that runs, to be cancelled; None: there is none.
        """
        match kind:
            case Kind.CANCEL if job_id is not None:
                with self._noted(kind):
                    await self._cancel(job_id)
            case Kind.REDIS_RESTART | Kind.CUT if not self._redis_hit.locked():
                async with self._redis_hit:
                    with self._noted(kind):
                        await self._hit_redis(kind)
            case Kind.WORKER_KILL | Kind.ENGINE_KILL | Kind.FREEZE | Kind.TERMINATE | Kind.STOP_KILL:
                await self._strike_worker(kind)
            case _:
                self.counts[f"{kind}: nobody to hit"] += 1

    @contextmanager
    def _noted(self, kind: Kind, worker: str | None = None) -> Generator[None, None, None]:
        fault = Fault(kind.value, time.monotonic(), worker=worker)
        self.faults.append(fault)
        yield
        fault.end = time.monotonic()

    async def _strike_worker(self, kind: Kind) -> None:
        idle = [(replica, replica.now) for replica in self.replicas if not replica.busy]
        up = [(replica, worker) for replica, worker in idle if worker is not None and worker.worker]
        if kind is Kind.ENGINE_KILL:
            up = [(replica, worker) for replica, worker in up if worker.engines()]
        if not up:
            self.counts[f"{kind}: nobody to hit"] += 1
            return
        replica, worker = self._chance.choice(up)
        strikes = {
            Kind.WORKER_KILL: self._kill,
            Kind.ENGINE_KILL: self._kill_engine,
            Kind.FREEZE: self._freeze,
            Kind.TERMINATE: self.stop,
            Kind.STOP_KILL: self._kill_as_it_stops,
        }
        replica.busy = True
        with self._noted(kind, worker.worker):
            await strikes[kind](worker)
        replica.busy = False

    async def _kill(self, worker: WorkerProcess) -> None:
        engines, worker.ending = worker.engines(), True
        worker.process.kill()
        await worker.process.wait()
        await self._no_orphans(worker, engines)

    async def _ends_within(self, seconds: float, worker: WorkerProcess) -> bool:
        """Tell a worker to stop; False if it took longer, and was killed."""
        with suppress(ProcessLookupError):
            worker.process.terminate()
        with anyio.move_on_after(seconds):
            await worker.process.wait()
        if not worker.runs:
            return True
        worker.process.kill()
        await worker.process.wait()
        return False

    async def _kill_as_it_stops(self, worker: WorkerProcess) -> None:
        """Kill a worker some time after it was told to stop, mostly when its last jobs go back."""
        engines, worker.ending = worker.engines(), True
        if await self._ends_within(self._chance.uniform(0, self._drain + STOPS_IN), worker):
            self.counts["workers that stopped before they were killed"] += 1
        await self._no_orphans(worker, engines)

    async def _kill_engine(self, worker: WorkerProcess) -> None:
        worker.engine_kills += 1
        _each(psutil.Process.kill, worker.engines())

    async def _freeze(self, worker: WorkerProcess) -> None:
        both = self._chance.random() < BOTH
        frozen = [psutil.Process(worker.process.pid), *(worker.engines() if both else ())]
        _each(psutil.Process.suspend, frozen)
        await anyio.sleep(self._chance.uniform(1, 1.5 * self._lease))
        _each(psutil.Process.resume, frozen)

    async def stop(self, worker: WorkerProcess) -> None:
        """End a worker as an operator does; it has to end in good order."""
        engines, worker.ending = worker.engines(), True
        if not await self._ends_within(STOP_SECONDS, worker):
            self.problems.append(f"{worker.log.name}: runs {STOP_SECONDS:g} s after SIGTERM")
        elif worker.process.returncode:
            self.problems.append(f"{worker.log.name}: exit code {worker.process.returncode} after SIGTERM")
        await self._no_orphans(worker, engines)

    async def _no_orphans(self, worker: WorkerProcess, engines: list[psutil.Process]) -> None:
        await until(lambda: not any(map(lives, engines)), limit=ORPHAN_SECONDS)
        self._orphans(worker.log.name, [engine for engine in engines if lives(engine)])

    def _orphans(self, whose: str, left: list[psutil.Process]) -> None:
        if left:
            self.problems.append(f"{whose}: left behind {left}")
            self.counts["orphans"] += len(left)
            _each(psutil.Process.kill, left)

    async def _hit_redis(self, kind: Kind) -> None:
        if kind is Kind.CUT:
            await insist(lambda: self.client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
            return
        await self.redis.kill()
        await anyio.sleep(self._chance.uniform(0, 3))
        await self.redis.start()

    async def _cancel(self, job_id: str) -> None:
        """Ask that a job be stopped (wire protocol, section 6)."""
        await insist(lambda: self.client.hset(f"{{result:{job_id}}}:job", "cancel", 1))
        await insist(lambda: self.client.xadd("{llama_queue}:control", {"cancel": job_id}))

    async def close(self) -> None:
        """End all workers, each in good order, and look for what they left."""
        if not await self.whole():
            self.problems.append("the fleet did not get whole again")
        self._closing.set()
        async with anyio.create_task_group() as group:
            for replica in self.replicas:
                if replica.now is not None:
                    group.start_soon(self.stop, replica.now)
        left = [process for process in processes_with(MARK, self._mark) if process.name() != "redis-server"]
        self._orphans("the fleet", left)

    async def _end(self) -> None:
        _each(psutil.Process.kill, processes_with(MARK, self._mark))
        await self.redis.kill()
        await self.client.aclose()


def _each(act: Callable[[psutil.Process], object], processes: Iterable[psutil.Process]) -> None:
    """Do something to those of the processes that are still there."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            act(process)

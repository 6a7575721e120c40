"""Tenants and priorities on real workers, one and three, one of them killed; the engine goes on when it is told to."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Final

import anyio
import anyio.to_thread
import pytest

from tests.doubles.paced_server import PacedServer
from tests.support.processes import MakeWorker, WorkerProcess
from tests.support.waiting import until

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

WINDOW: Final = 24
"""Over so many jobs in a row the shares are looked at."""


class Scene:
    """Workers on an engine whose jobs end one by one."""

    def __init__(self, commands: Any, make_worker: MakeWorker, engine: PacedServer) -> None:
        self._commands = commands
        self._make_worker = make_worker
        self._engine = engine
        self.workers: list[WorkerProcess] = []

    async def start(self, count: int, slots: int) -> None:
        for _ in range(count):
            settings = {"LLAMA_SERVER_URL": self._engine.url, "LLM_CONCURRENCY": str(slots), "LEASE_SECONDS": "5"}
            self.workers.append(self._make_worker(**settings))
        for worker in self.workers:
            await anyio.to_thread.run_sync(worker.wait_for, "worker_ready")

    async def push(self, count: int, *tenants: str, priority: str = "normal") -> list[str]:
        """Push so many jobs of each tenant, in turn, and wait until they stand in line."""
        jobs = {f"{tenant}-{priority}-{number}": tenant for number in range(count) for tenant in tenants}
        for job_id, tenant in jobs.items():
            data = {"prompt": "Once", "max_tokens": 1}
            job = {"id": job_id, "type": "completion", "data": data, "tenant": tenant, "priority": priority}
            await self._commands.lpush("llama_queue", json.dumps(job))
        while await self._commands.exists("llama_queue", *await self._commands.keys("*:intake")):
            await anyio.sleep(0.005)
        return list(jobs)

    async def end(self, jobs: int) -> None:
        """Let so many jobs end, each once another has taken the place of the one before it."""
        for _ in range(jobs):
            begun = self._engine.running
            while self._engine.running == begun:  # one may end whose worker was killed just now
                self._engine.release()
                with anyio.move_on_after(10):
                    await until(lambda begun=begun: self._engine.running > begun)

    async def full(self, slots: int) -> None:
        """Wait until so many jobs have begun."""
        await until(lambda: self._engine.running >= slots)

    async def begun(self, ids: Sequence[str]) -> list[str]:
        """Those of the jobs that have begun, in the order in which they did last."""
        at: dict[str, float] = {}
        for job_id in ids:
            for _, fields in await self._commands.xrange(f"stream:{job_id}"):
                if fields[b"event"] == b"start":
                    at[job_id] = json.loads(fields[b"data"])["created"]
        return sorted(at, key=lambda job_id: at[job_id])


@pytest.fixture
async def scene(commands: Any, make_worker: MakeWorker) -> AsyncIterator[Scene]:
    async with PacedServer(1, slots=8) as engine:
        yield Scene(commands, make_worker, engine)


def jain(shares: Sequence[int]) -> float:
    """How even shares are, from 1 / n to 1 (Jain, Chiu and Hawe, 1984)."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


async def test_the_measure_of_evenness() -> None:
    assert (jain([5, 5, 5]), jain([1, 0, 0])) == (1, pytest.approx(1 / 3))
    assert jain([4, 4, 2]) < 0.95


def _nobody(_: Scene) -> None: ...


def _kill_one(scene: Scene) -> None:
    os.kill(scene.workers[0].pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("workers", "slots", "happens"),
    [(1, 4, _nobody), (3, 2, _nobody), (3, 2, _kill_one)],
    ids=["one", "three", "killed"],
)
async def test_a_tenant_with_many_jobs_takes_no_share_of_others(
    scene: Scene, workers: int, slots: int, happens: Callable[[Scene], None]
) -> None:
    await scene.start(workers, slots)
    many = await scene.push(60, "a")
    await scene.full(workers * slots)
    before = set(await scene.begun(many))
    few = await scene.push(14, "b", "c")
    await scene.end(6)
    happens(scene)
    await scene.end(32)
    order = [job_id for job_id in await scene.begun([*many, *few]) if job_id not in before]
    for at in range(0, 38 - WINDOW, 4):
        shares = Counter(job_id[0] for job_id in order[at : at + WINDOW])
        assert jain([shares["a"], shares["b"], shares["c"]]) >= 0.95, (at, shares)


async def test_an_urgent_job_is_the_next_to_begin_and_a_batch_goes_on(scene: Scene) -> None:
    await scene.start(1, 2)
    batch = await scene.push(40, "batch", priority="low")
    await scene.full(2)
    urgent = await scene.push(1, "person", priority="high")
    await scene.end(1)
    assert (await scene.begun([*batch, *urgent]))[-1] == urgent[0]
    before = len(await scene.begun(batch))
    steady = await scene.push(40, "person")
    await scene.end(30)
    assert len(await scene.begun(steady)) in {24, 25}  # four for one
    assert len(await scene.begun(batch)) - before in {5, 6}

"""Tenants and priorities on real workers and the real llama.cpp server, one worker and three, one of them killed."""

from __future__ import annotations

import json
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.fleet_of_four import shared_server
from tests.support.processes import WorkerProcess
from tests.support.servers import RedisServer, wait_until
from tests.support.streams import entries, read, result

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

TOKENS: Final = 32
WINDOW: Final = 24
"""Over so many jobs in a row the shares are looked at."""


class Scene:
    """A Redis, and workers on one llama-server."""

    def __init__(self, folder: Path, redis: Any, url: str, engine: str) -> None:
        self.redis = redis
        self._folder = folder
        self._url = url
        self._engine = engine
        self.workers: list[WorkerProcess] = []

    def start(self, count: int, slots: int) -> None:
        for number in range(count):
            settings = {"REDIS_URL": self._url, "LLAMA_SERVER_URL": self._engine, "LEASE_SECONDS": "5"}
            worker = WorkerProcess(self._folder / f"{number}.log", **settings, LLM_CONCURRENCY=str(slots))
            self.workers.append(worker)
            worker.start()
        for worker in self.workers:
            worker.wait_for("worker_ready")

    def push(self, count: int, *tenants: str, priority: str = "normal") -> list[str]:
        """Push so many jobs of each tenant, in turn, and wait until they stand in line."""
        data = {"prompt": "Once", "max_tokens": TOKENS, "ignore_eos": True, "seed": 1}
        jobs = {f"{tenant}-{priority}-{number}": tenant for number in range(count) for tenant in tenants}
        for job_id, tenant in jobs.items():
            job = {"id": job_id, "type": "completion", "data": data, "tenant": tenant, "priority": priority}
            self.redis.lpush("llama_queue", json.dumps(job))
        wait_until(lambda: not self.redis.exists("llama_queue"), "all are in line")
        return list(jobs)

    def begun(self, ids: Sequence[str]) -> list[str]:
        """Those of the jobs that have begun, in the order in which they did first."""
        at = {job_id: found[0][2]["created"] for job_id in ids if (found := entries(self.redis, job_id))}
        return sorted(at, key=lambda job_id: at[job_id])

    def finish(self, ids: Sequence[str]) -> None:
        for job_id in ids:
            read(self.redis, job_id, until="done")
            assert result(self.redis, job_id)["usage"]["completion_tokens"] == TOKENS


@pytest.fixture
def scene(tmp_path: Path, model_path: Path) -> Iterator[Scene]:
    with (
        RedisServer(tmp_path / "redis") as server,
        server.plain() as redis,
        shared_server(model_path, tmp_path / "engine.log") as engine,
    ):
        scene = Scene(tmp_path, redis, server.url, engine)
        try:
            yield scene
        finally:
            for worker in scene.workers:
                worker.end()


def jain(shares: Sequence[int]) -> float:
    """How even shares are, from 1 / n to 1 (Jain, Chiu and Hawe, 1984)."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def test_the_measure_of_evenness() -> None:
    assert (jain([5, 5, 5]), jain([1, 0, 0])) == (1, pytest.approx(1 / 3))
    assert jain([4, 4, 2]) < 0.95


def _nobody(_: Scene) -> None: ...


def _kill_one(scene: Scene) -> None:
    scene.workers[0].signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("workers", "slots", "happens", "even"),
    [(1, 4, _nobody, 0.95), (3, 2, _nobody, 0.95), (3, 2, _kill_one, 0.85)],
    ids=["one", "three", "killed"],
)
def test_a_tenant_with_many_jobs_takes_no_share_of_others(
    scene: Scene, workers: int, slots: int, happens: Callable[[Scene], None], even: float
) -> None:
    """What a lost worker had begun is begun again, which counts for its tenant and is not seen here."""
    scene.start(workers, slots)
    many = scene.push(120, "a")
    few = scene.push(16, "b", "c")
    wait_until(lambda: len(scene.begun(few)) >= 6, "some have begun")
    happens(scene)
    scene.finish(few)
    order = scene.begun([*many, *few])
    first, last = order.index(few[0]), min(order.index(few[-1]), order.index(few[-2]))
    while_all_wait = order[first:last]
    assert len(scene.begun(many)) < len(many), "a has waited all the time"
    for at in range(0, len(while_all_wait) - WINDOW, 6):
        shares = Counter(job_id[0] for job_id in while_all_wait[at : at + WINDOW])
        assert jain([shares["a"], shares["b"], shares["c"]]) >= even, shares
    assert len(while_all_wait) >= WINDOW


def test_an_urgent_job_begins_within_one_jobs_length_and_a_batch_goes_on(scene: Scene) -> None:
    scene.start(1, 2)
    batch = scene.push(120, "batch", priority="low")
    before = len(scene.begun(batch))
    urgent = scene.push(1, "person", priority="high")
    scene.finish(urgent)
    order = scene.begun([*batch, *urgent])
    assert order.index(urgent[0]) <= before + 3  # those that ran, and what was begun until it was sorted
    steady = scene.push(40, "person")
    scene.finish(steady)
    while_both_wait = scene.begun([*batch, *steady])
    first, last = (while_both_wait.index(steady[at]) for at in (0, -1))
    assert len(scene.begun(batch)) < len(batch), "it has waited all the time"
    share = sum(job_id in batch for job_id in while_both_wait[first:last])
    assert 7 <= share <= 14  # one for four
    assert [entries(scene.redis, job_id)[-1][1] for job_id in urgent] == ["done"]

"""Who may submit how many jobs, when many ask at the same time and when Redis is away."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.doubles.fleet import CALLER
from tests.doubles.gateway_jobs import worker
from velesio_worker.client import Client, QueueDepths, Waiting, WorkerInfo
from velesio_worker.gateway import jobs as jobs_module
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.jobs import MOST_JOBS, Jobs, Watched
from velesio_worker.gateway.text.requests import CompletionRequest
from velesio_worker.wire.jobs import Kind

pytestmark = pytest.mark.anyio


@dataclass
class Queue:
    """A queue whose answers take a moment."""

    jobs: list[str] = field(default_factory=list[str])
    looks: int = 0
    away: bool = False

    async def submit(self, job_type: str, data: Mapping[str, Any], *, job_id: str, **options: Any) -> str:
        assert job_type
        assert (data, options) is not None
        await anyio.sleep(0.01)
        self.jobs.append(job_id)
        return job_id

    async def workers(self) -> tuple[WorkerInfo, ...]:
        self.looks += 1
        await anyio.sleep(0.01)
        if self.away:
            raise RedisConnectionError("gone")
        return (worker("w1", ("text",)),)

    async def queue_depths(self) -> QueueDepths:
        waiting = len(self.jobs)
        await anyio.sleep(0.01)
        lists = {"incoming": Waiting(waiting, 1.0)} | {kind.value: Waiting(0, 0.0) for kind in Kind}
        return QueueDepths(lists, 0, 0, {}, {}, 0)


def jobs_of(queue: Queue, most: int) -> Jobs:
    names = iter(map(str, range(10**6)))
    return Jobs(cast("Client", queue), cast("Watched", None), max_queue=most, new_id=lambda _: next(names))


async def tried(jobs: Jobs, count: int) -> list[str]:
    """Submit so many jobs at the same time; returns what became of each."""
    found: list[str] = []

    async def submit() -> None:
        try:
            await jobs.submit(CALLER, "completion", {"prompt": "a"})
        except ApiError as error:
            found.append(error.code)
        else:
            found.append("taken")

    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(submit)
    return found


async def test_of_many_that_ask_at_the_same_time_no_more_are_let_in_than_may_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jobs_module, "_FULL_SECONDS", 60)  # a slow machine takes longer than it is for fifty
    queue = Queue()
    found = await tried(jobs_of(queue, 3), 50)
    assert sorted(found) == ["queue_full"] * 47 + ["taken"] * 3
    assert len(queue.jobs) == 3
    assert queue.looks <= 2


async def test_jobs_that_are_taken_as_they_come_keep_nobody_out() -> None:
    queue = Queue()
    jobs = jobs_of(queue, 2)
    for _ in range(20):
        assert await tried(jobs, 2) == ["taken"] * 2
        queue.jobs.clear()


async def test_who_asks_while_redis_is_away_waits_for_one_answer_and_not_for_all_before() -> None:
    queue = Queue(away=True)
    jobs = jobs_of(queue, 3)
    assert await tried(jobs, 50) == ["queue_unavailable"] * 50
    assert queue.looks == 1


async def test_a_request_falls_into_a_bounded_number_of_jobs() -> None:
    assert len(CompletionRequest(prompt=["a"] * MOST_JOBS).parts()) == MOST_JOBS
    with pytest.raises(ApiError) as caught:
        CompletionRequest(prompt=["a"] * (MOST_JOBS + 1)).parts()
    assert (caught.value.status, caught.value.param) == (400, "prompt")

"""What a worker tells of its running jobs and its GPUs is what the client reads, and is bounded."""

from __future__ import annotations

import time

import orjson
import pytest

from tests.support.runs import make_run
from velesio_worker.client.details import FIELDS, details_in
from velesio_worker.engines.gpu import Gpu
from velesio_worker.execution.told import tell_gpus, tell_jobs
from velesio_worker.wire.limits import MOST_TOLD_BYTES, MOST_TOLD_JOBS

pytestmark = pytest.mark.anyio


async def test_running_jobs_are_told_as_the_client_reads_them() -> None:
    run = make_run()
    run.answer.tokens = 7
    run.times.began -= 2
    run.times.first_token_at = run.times.began + 0.5
    fields = dict.fromkeys(FIELDS) | {"jobs": tell_jobs([run]).encode()}
    (told,) = details_in(fields).jobs
    assert (told.id, told.type, told.attempt) == (run.job.id, run.job.type, run.claim.held.attempt)
    assert (told.tokens, told.ttft) == (7, 0.5)
    assert time.time() - 30 < told.since < time.time() - 1.9


async def test_no_more_jobs_are_told_than_there_is_room_for() -> None:
    told = tell_jobs([make_run()] * (MOST_TOLD_JOBS + 50))
    assert len(orjson.loads(told)) <= MOST_TOLD_JOBS
    assert len(told) <= MOST_TOLD_BYTES


def test_gpus_are_told_as_the_client_reads_them() -> None:
    gpu = Gpu(1, "GPU-1", "H200", 100, 30, 70, 55, None)
    fields = dict.fromkeys(FIELDS) | {"gpus": tell_gpus([gpu] * 20).encode()}
    told = details_in(fields).gpus
    assert len(told) == 16
    assert (told[0].index, told[0].used, told[0].total, told[0].utilisation, told[0].temperature) == (
        1,
        30,
        100,
        55,
        None,
    )

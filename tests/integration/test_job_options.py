"""What may be said of a job when it is submitted reaches the worker."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from velesio_worker.client import Client, JobOptions
from velesio_worker.wire.jobs import Job, parse_job

pytestmark = pytest.mark.anyio

OPTIONS: JobOptions = {
    "timeout": 2.5,
    "expires_at": time.time() + 1000,
    "max_attempts": 7,
    "on_crash": "restart",
    "unread_timeout": 30,
    "worker": "w1",
    "cache": True,
    "priority": "low",
    "tenant": "acme",
    "session": "s1",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}


async def submitted(commands: Any) -> tuple[dict[str, Any], Job]:
    payload = await commands.rpop("llama_queue")
    return json.loads(payload), parse_job(payload, max_bytes=10_000)


async def test_every_option_of_a_job_arrives(commands: Any, redis_url: str) -> None:
    assert set(OPTIONS) == JobOptions.__optional_keys__
    async with Client(redis_url) as client:
        job_id = await client.submit("completion", {"prompt": "hi", "stream": True}, job_id="a", **OPTIONS)
    fields, job = await submitted(commands)
    assert (job_id, fields["id"]) == ("a", "a")
    assert {name: fields[name] for name in OPTIONS} == OPTIONS
    assert {name: getattr(job, name) for name in OPTIONS} == OPTIONS
    assert job.mode_after_loss == "restart"


async def test_an_option_that_is_none_or_missing_is_the_workers_to_choose(commands: Any, redis_url: str) -> None:
    none: JobOptions = {
        "timeout": None,
        "expires_at": None,
        "max_attempts": None,
        "on_crash": None,
        "unread_timeout": None,
        "worker": None,
    }
    async with Client(redis_url) as client:
        for options in (none, JobOptions()):
            job_id = await client.submit("completion", {"prompt": "hi"}, **options)
            fields, job = await submitted(commands)
            assert job.submitted_at == pytest.approx(time.time(), abs=60)
            assert fields == {
                "id": job_id,
                "type": "completion",
                "data": {"prompt": "hi"},
                "created_at": job.submitted_at,
            }
            assert (job.max_attempts, job.on_crash, job.unread_timeout) == (3, "continue", None)

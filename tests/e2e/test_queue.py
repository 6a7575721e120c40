"""A tenant's waiting jobs are dropped while the engine is busy: a black box on the real llama.cpp server."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis as sync_redis

from tests.support.processes import MakeWorker
from tests.support.servers import wait_until
from velesio_worker.cli.main import main

LINES = "{llama_queue}:lines:text"


def push(redis: Any, job_id: str, tokens: int, **fields: Any) -> None:
    data = {"prompt": "Once upon a time", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    redis.lpush("llama_queue", json.dumps({"id": job_id, "type": "completion", "data": data} | fields))


def test_dropped_jobs_end_at_once_while_the_engine_is_busy_and_others_go_on(
    redis_url: str, make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", redis_url)
    worker = make_worker(LLM_CONCURRENCY="1", CONTEXT_SIZE="8192")
    with sync_redis.Redis.from_url(redis_url, decode_responses=True) as redis:  # pyright: ignore[reportUnknownMemberType]
        commands: Any = redis
        push(commands, "long", 8000)
        wait_until(lambda: commands.xlen("stream:long") > 1, "a job runs", 60)
        dropped = [f"batch-{number}" for number in range(30)]
        for job_id in dropped:
            push(commands, job_id, 20, tenant="batch", priority="low")
        push(commands, "person", 2, tenant="person")
        wait_until(lambda: commands.zcard(LINES) == 31, "all are sorted", 30)
        assert main(["queue", "drop", "batch", "--priority", "low", "--yes"]) == 0
        assert "30 cancelled" in capsys.readouterr().out
        wait_until(lambda: commands.exists(*[f"result:{job_id}" for job_id in dropped]) == 30, "all have ended", 30)
        assert not commands.exists("result:long")
        for job_id in dropped:
            assert json.loads(commands.get(f"result:{job_id}"))["finish_reason"] == "cancelled"
            assert [data["event"] for _, data in commands.xrange(f"stream:{job_id}")][-1] == "done"
        assert commands.zcard(LINES) == 1
        commands.set("{result:long}:cancel", 1)
        commands.xadd("{llama_queue}:control", {"cancel": "long"})
        wait_until(lambda: bool(commands.exists("result:person")), "the other one is run", 30)
        assert json.loads(commands.get("result:person"))["finish_reason"] == "length"
        wait_until(lambda: not commands.exists("{llama_queue}:running:text"), "nothing runs", 10)
    assert worker.process is not None
    assert worker.process.poll() is None

"""One job that kills, stops or swells the engine that reads it: the others get their answers and lose nothing."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.doubles import deadly_server
from tests.doubles.deadly_server import GROWS, KILLS, STOPS
from tests.support.processes import MakeWorker, WorkerProcess
from tests.support.streams import entries, joined, push, read, result
from tests.support.tiny import brisk_model_path as model_path

__all__ = ["model_path"]  # a fixture

pytestmark = [pytest.mark.engine, pytest.mark.timeout(400)]

ATTEMPTS = 10
INNOCENT = 6


def deadly(model: Path) -> str:
    """A STARTUP_COMMAND whose server minds certain words."""
    program = str(Path(deadly_server.__file__))
    real = ["--model", str(model), "--ctx-size", "1024", "--parallel", "2", "--metrics"]
    return shlex.join([sys.executable, "-c", f"import runpy; runpy.run_path({program!r}, run_name='__main__')", *real])


def lost(redis: Any, job_id: str) -> int:
    """How many attempts of a job that has ended count, but for the last."""
    attempt, returned = redis.hmget(f"{{result:{job_id}}}:job", "attempt", "returned")
    return int(attempt) - int(returned or 0) - 1


def push_hostile(redis: Any, word: str, **fields: Any) -> None:
    job = {"id": "hostile", "type": "completion", "data": {"prompt": word, "max_tokens": 2, "stream": True}} | fields
    redis.lpush("llama_queue", json.dumps(job))


def starts(redis: Any, job_id: str) -> list[str]:
    return [data["mode"] for _, event, data in entries(redis, job_id) if event == "start"]


def states(redis: Any) -> set[str]:
    names = redis.zrange("{llama_queue}:workers", 0, -1)
    return {redis.hget(f"{{llama_queue}}:worker:{name}", "text_state") for name in names}


def actions(worker: WorkerProcess) -> set[str]:
    return {line.get("action", "") for line in worker.lines()}


def test_a_job_that_kills_engines_costs_no_other_job_an_attempt_and_no_engine_its_service(
    plain: Any, make_worker: MakeWorker, model_path: Path
) -> None:
    workers = [make_worker(STARTUP_COMMAND=deadly(model_path)) for _ in range(2)]
    for worker in workers:
        worker.wait_for("worker_ready")
    for number in range(2):
        push(plain, f"before-{number}", max_tokens=450, stream=True, endless=True)
    read(plain, "before-0", until="token")
    push_hostile(plain, KILLS, max_attempts=ATTEMPTS)
    seen: set[str] = set()
    deadline = time.monotonic() + 300
    for number in range(INNOCENT):
        push(plain, f"beside-{number}", max_tokens=40, stream=True, endless=True)
        while not plain.exists(f"result:beside-{number}"):
            seen |= states(plain)
            assert time.monotonic() < deadline
            time.sleep(0.05)
    ids = ["before-0", "before-1", *(f"beside-{number}" for number in range(INNOCENT))]
    for job_id in ids:
        got = read(plain, job_id, until="done")
        assert result(plain, job_id)["text"] == joined(got)
        assert lost(plain, job_id) == 0, starts(plain, job_id)
    error = read(plain, "hostile", until="error", limit=300)[-1][2]
    assert error["code"] == "engine_crashed"
    assert "It was reading this job's request" in error["error"]
    assert lost(plain, "hostile") == ATTEMPTS - 1
    assert len(starts(plain, "hostile")) in {ATTEMPTS, ATTEMPTS + 1}, "it may have been read beside another at first"
    assert "failed" not in seen
    assert not any("engine_failed" in actions(worker) for worker in workers)


def test_a_jobs_time_holds_while_the_engine_stands_still_on_it(
    plain: Any, make_worker: MakeWorker, model_path: Path
) -> None:
    worker = make_worker(STARTUP_COMMAND=deadly(model_path), STALL_SECONDS="60")
    worker.wait_for("worker_ready")
    push(plain, "beside", max_tokens=450, stream=True, endless=True)
    read(plain, "beside", until="token")
    push_hostile(plain, STOPS, timeout=2)
    error = read(plain, "hostile", until="error", limit=30)[-1][2]
    assert error["code"] == "timeout"
    got = read(plain, "beside", until="done")
    assert starts(plain, "beside") == ["fresh", "continue"]
    assert (result(plain, "beside")["text"], lost(plain, "beside")) == (joined(got), 0)
    assert "did not answer for 10 s after a job on it was stopped" in worker.wait_for("engine_lost")["message"]


def test_so_does_a_cancel(plain: Any, make_worker: MakeWorker, model_path: Path) -> None:
    worker = make_worker(STARTUP_COMMAND=deadly(model_path), STALL_SECONDS="30")
    worker.wait_for("worker_ready")
    push_hostile(plain, STOPS)
    read(plain, "hostile", until="start")
    plain.hset("{result:hostile}:job", "cancel", 1)
    read(plain, "hostile", until="done")
    push(plain, "after", max_tokens=4, stream=True)
    read(plain, "after", until="done", limit=25)
    assert worker.wait_for("engine_ready", count=2)


def test_an_engine_that_takes_too_much_memory_is_replaced_before_the_host_runs_out(
    plain: Any, make_worker: MakeWorker, model_path: Path
) -> None:
    worker = make_worker(STARTUP_COMMAND=deadly(model_path), ENGINE_MEMORY_LIMIT="1GiB")
    worker.wait_for("worker_ready")
    push(plain, "beside", max_tokens=450, stream=True, endless=True)
    read(plain, "beside", until="token")
    push_hostile(plain, GROWS, max_attempts=2)
    error = read(plain, "hostile", until="error")[-1][2]
    assert error["code"] == "engine_crashed"
    assert "ENGINE_MEMORY_LIMIT allows 1.00 GiB" in error["error"]
    read(plain, "beside", until="done")
    assert lost(plain, "beside") == 0
    assert "engine_failed" not in actions(worker)

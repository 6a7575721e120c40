"""``velesio-worker submit`` against a real Redis, where nobody takes the job."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from tests.support.environment import base_environment
from tests.support.servers import wait_until

pytestmark = pytest.mark.processes

RESULT = {"text": "late", "finish_reason": "stop"}


@pytest.mark.parametrize("lease", [0, 6])
def test_a_job_that_no_worker_lives_to_take_is_told_once_and_waits(plain: Any, redis_url: str, lease: int) -> None:
    began = time.time()
    plain.zadd("{llama_queue}:workers", {"w1": began + lease})
    with subprocess.Popen(
        [sys.executable, "-m", "velesio_worker", "submit", "--id", "mine", "hi"],
        env={**base_environment(), "REDIS_URL": redis_url},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        limit = threading.Timer(40, process.kill)
        limit.start()
        assert process.stderr.readline() == "job mine\n"
        told = process.stderr.readline()
        limit.cancel()
        assert told.startswith("no worker of the queue llama_queue lives: ")
        assert "velesio-worker run" in told
        assert time.time() - began >= lease
        plain.set("result:mine", json.dumps(RESULT))
        plain.xadd("stream:mine", {"event": "done", "data": json.dumps({"finish_reason": "stop"})}, id="1-0")
        assert process.communicate(timeout=60) == ("late\n", "")
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], {}),
        (
            ["--priority", "low", "--tenant", "alice", "--session", "one"],
            {"priority": "low", "tenant": "alice", "session": "one"},
        ),
        (["--type", "completion", "--session", "one"], {"session": "one"}),
        (["--type", "txt2img", "--priority", "high", "--tenant", "alice"], {"priority": "high", "tenant": "alice"}),
        (["--type", "embedding", "--tenant", "alice"], {"tenant": "alice"}),
    ],
)
def test_a_job_says_whose_turn_it_is(plain: Any, redis_url: str, words: list[str], expected: dict[str, str]) -> None:
    command = [sys.executable, "-m", "velesio_worker", "submit", "--id", "mine", *words, "hi"]
    env = {**base_environment(), "REDIS_URL": redis_url}
    with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: plain.llen("llama_queue"), "a job")
        finally:
            process.kill()
    job = json.loads(plain.rpop("llama_queue"))
    assert {name: job[name] for name in job.keys() - {"id", "type", "created_at", "data"}} == expected

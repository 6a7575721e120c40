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

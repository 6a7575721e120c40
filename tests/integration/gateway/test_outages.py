"""Redis that hangs or is away: clients are told soon, and all goes on once it is back."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import QUEUE, GatewayProcess, WorkerInRedis
from tests.support.servers import RedisServer, wait_until
from velesio_worker.queue.keys import cancel_key

CHAT: dict[str, Any] = {"model": "small", "messages": [{"role": "user", "content": "Hi."}]}
ASKED: list[tuple[str, str, Any]] = [
    ("POST", "/v1/chat/completions", CHAT),
    ("POST", "/v1/chat/completions", {**CHAT, "stream": True}),
    ("POST", "/v1/messages", {**CHAT, "max_tokens": 8}),
    ("POST", "/v1/responses", {"model": "small", "input": "Hi."}),
    ("POST", "/completion", {"prompt": "Once"}),
    ("POST", "/jobs", {"type": "completion", "data": {"prompt": "Once"}}),
]


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


def test_while_redis_hangs_everybody_is_told_in_bounded_time_and_then_it_goes_on(
    tmp_path: Path, redis: RedisServer
) -> None:
    worker = WorkerInRedis(redis.client)
    worker.live()
    with GatewayProcess(tmp_path, redis.url) as gateway, gateway.client() as client:
        assert client.get("/queue/status").status_code == 200

        def ask(asked: tuple[str, str, Any]) -> tuple[int, str | None, float]:
            method, path, body = asked
            begun = time.monotonic()
            with gateway.client() as another:
                response = another.request(method, path, json=body, timeout=100)
            return response.status_code, response.headers.get("retry-after"), time.monotonic() - begun

        assert redis.process is not None
        redis.process.send_signal(signal.SIGSTOP)
        try:
            with ThreadPoolExecutor(36) as threads:
                found = list(threads.map(ask, ASKED * 6))
        finally:
            redis.process.send_signal(signal.SIGCONT)
        assert {(status, retry) for status, retry, _ in found} == {(503, "5")}
        assert max(took for _, _, took in found) < 20
        wait_until(lambda: client.get("/queue/status").status_code == 200, "it goes on")
        late = [json.loads(job)["id"] for job in redis.client.lrange(QUEUE, 0, -1)]
        wait_until(
            lambda: all(redis.client.exists(cancel_key(job_id)) for job_id in late), "what came late is cancelled"
        )
        assert client.post("/jobs", json=ASKED[-1][2]).status_code == 202


def test_a_stream_goes_on_when_redis_comes_back_in_the_middle(tmp_path: Path, redis: RedisServer) -> None:
    worker = WorkerInRedis(redis.client)
    worker.live()

    def take() -> str:
        job_id = worker.take()["id"]
        worker.begin(job_id)
        worker.say(job_id, 1, "up")
        return job_id

    with GatewayProcess(tmp_path, redis.url) as gateway, gateway.client() as client, ThreadPoolExecutor(1) as threads:
        taken = threads.submit(take)
        with client.stream("POST", "/completion", json={"prompt": "Once", "stream": True}) as response:
            lines = response.iter_lines()
            assert '"content":"up"' in next(lines)
            redis.kill()
            redis.start()
            worker.say(taken.result(), 2, "on")
            worker.end(taken.result(), 3, {"text": "upon", "finish_reason": "stop"})
            rest = "\n".join(lines)
        assert '"content":"on"' in rest
        assert '"stop":true' in rest
        assert "error" not in rest

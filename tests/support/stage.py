"""A gateway in front of a worker that answers by scripts, for tests that are not asynchronous: those in a browser."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import redis
from anyio.from_thread import start_blocking_portal

from tests.support.gateway import WorkerInRedis
from tests.support.gateway_thread import gateway_thread
from tests.support.scripted_worker import Script, ScriptedWorker
from tests.support.servers import free_port
from velesio_worker.queue.connection import connect


class Stage:
    """What a test in a browser sees of the other side.

    Attributes:
        url: where the gateway is.
        worker: its ``script`` answers jobs, and may be set at any time; ``jobs`` are those that came.
        redis: a plain client.
    """

    def __init__(self, url: str, worker: ScriptedWorker, commands: Any) -> None:
        self.url = url
        self.worker = worker
        self.redis = commands

    def plays(self, script: Script) -> None:
        """Have the jobs that come from now on answered like this."""
        self.worker.script = script

    def lives(self, kinds: str = "text,image") -> None:
        """Have one worker live that takes these kinds of job; an empty text: none."""
        self.redis.delete("{llama_queue}:workers", "{llama_queue}:worker:w1")
        if kinds:
            WorkerInRedis(self.redis).live(kinds)


@contextmanager
def scripted_stage(redis_url: str, commands: redis.Redis, *, api_tokens: str | None = None) -> Generator[Stage]:
    """Serve a gateway whose jobs a scripted worker answers, which takes text and images."""
    with start_blocking_portal() as portal:
        connected = portal.call(_connected, redis_url)
        worker = ScriptedWorker(connected)
        running = portal.start_task_soon(worker.run)
        try:
            with gateway_thread(redis_url, api_tokens=api_tokens, port=free_port()) as url:
                stage = Stage(url, worker, commands)
                stage.lives()
                yield stage
        finally:
            running.cancel()
            portal.call(connected.aclose)


async def _connected(redis_url: str) -> Any:
    return connect(redis_url, name="scripted")

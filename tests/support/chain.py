"""The whole chain: a gateway's own process, Redis, workers and the real llama.cpp server."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from tests.support.gateway import ALICE, BOB, QUEUE, GatewayProcess
from tests.support.places import SETTINGS
from tests.support.processes import WorkerProcess
from tests.support.servers import RedisServer, wait_until
from tests.support.streams import Entries, entries

TOKENS: Final = {"API_TOKENS": f"alice={ALICE},bob={BOB}"}


class Chain:
    """Workers and a gateway on a Redis of their own, for clients of either token.

    Args:
        folder: where logs go.
        server: the Redis.
        redis: a plain client of it.
        gateway: the gateway.
        settings: environment variables of workers of text.
    """

    def __init__(
        self, folder: Path, server: RedisServer, redis: Any, gateway: GatewayProcess, settings: dict[str, str]
    ) -> None:
        self.redis = redis
        self.redis_url = server.url
        self.gateway = gateway
        self.model = Path(settings["MODEL_PATH"]).stem
        self.folder = folder
        self._settings = settings
        self._workers: list[WorkerProcess] = []

    def start(self, **settings: str) -> WorkerProcess:
        """Start one more worker, of text unless it is told otherwise."""
        log = self.folder / f"worker-{len(self._workers)}.log"
        worker = WorkerProcess(log, REDIS_URL=self.redis_url, **(settings or self._settings))
        self._workers.append(worker)
        worker.start()
        return worker

    def texts(self, count: int) -> list[WorkerProcess]:
        """Have so many workers of text that take jobs; returns all that run."""
        running = [each for each in self._workers if each.process is not None and each.process.poll() is None]
        running = [each for each in running if "MODEL_PATH" in each.environment]
        running += [self.start() for _ in range(count - len(running))]
        for worker in running:
            worker.wait_for("worker_ready")
        return running

    def lists(self, model: str) -> None:
        """Wait until the gateway lists a model."""
        with self.gateway.client(ALICE) as http:
            wait_until(lambda: f'"{model}"' in http.get("/v1/models").text, f"{model} is listed")

    def jobs(self) -> set[str]:
        """The ids of all jobs that have a stream."""
        return {key.removeprefix("stream:") for key in self.redis.keys("stream:*")}

    def new_job(self, before: set[str]) -> str:
        """Wait for a job's stream that was not there before; returns the job's id."""
        wait_until(lambda: self.jobs() - before, "a job has begun")
        [job_id] = self.jobs() - before
        return job_id

    def entries(self, job_id: str) -> Entries:
        """What the stream of a job has so far."""
        return entries(self.redis, job_id)

    def owner(self, job_id: str) -> WorkerProcess:
        """The worker that runs a job."""
        start = [data for _, event, data in self.entries(job_id) if event == "start"][-1]
        pid = int(self.redis.hget(f"{{{QUEUE}}}:worker:{start['worker']}", "pid"))
        return next(worker for worker in self._workers if worker.pid == pid)

    def result(self, job_id: str) -> dict[str, Any]:
        """Wait for the result of a job."""
        wait_until(lambda: self.redis.exists(f"result:{job_id}"), f"{job_id} has a result")
        return json.loads(self.redis.get(f"result:{job_id}"))

    def close(self) -> None:
        """Leave no worker behind."""
        for worker in self._workers:
            worker.end()


def busy_slots(worker: WorkerProcess) -> int:
    """How many slots of a worker's llama-server are at work."""
    slots: list[dict[str, Any]] = httpx.get(f"http://127.0.0.1:{worker.environment['LLAMA_PORT']}/slots").json()
    return sum(slot["is_processing"] for slot in slots)


@contextmanager
def running_chain(folder: Path, model: Path, *, tokens: bool = True, **settings: str) -> Generator[Chain]:
    """Run a worker and a gateway, with two tokens unless it shall have none, while the block runs."""
    with (
        RedisServer(folder / "redis") as server,
        server.plain() as redis,
        GatewayProcess(folder, server.url, **(TOKENS if tokens else {})) as gateway,
    ):
        chain = Chain(folder, server, redis, gateway, {**SETTINGS, "MODEL_PATH": str(model), **settings})
        try:
            chain.texts(1)
            chain.lists(chain.model)
            yield chain
        finally:
            chain.close()

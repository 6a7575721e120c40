"""A place of work: one worker and the Redis that it works on, for all tests of a module."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Final

from tests.support.processes import WorkerProcess
from tests.support.streams import Entries, entries
from tests.support.streams import result as result_of

SETTINGS: Final = {"LLM_CONCURRENCY": "2", "CONTEXT_SIZE": "512", "IDLE_UNLOAD_SECONDS": "0", "PROBE_SECONDS": "0"}
"""An engine that does nothing by itself."""

_NUMBERS: Final = count()


def wait_for(condition: Callable[[], object], what: object, limit: float = 100) -> None:
    """Wait until ``condition`` holds."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"after {limit} s still not: {what}"
        time.sleep(0.01)


class Place:
    """Runs jobs to their ends, each under an id of its own.

    Args:
        redis: a plain client.
        worker: the worker.
    """

    def __init__(self, redis: Any, worker: WorkerProcess) -> None:
        self.redis = redis
        self.worker = worker

    def push(self, type_: str, data: Mapping[str, Any] | None = None, **fields: Any) -> str:
        """Push a job; returns its id."""
        job_id = f"job-{next(_NUMBERS)}"
        self.redis.lpush("llama_queue", json.dumps({"id": job_id, "type": type_, "data": data, **fields}))
        return job_id

    def run(self, type_: str, data: Mapping[str, Any] | None = None, **fields: Any) -> tuple[dict[str, Any], Entries]:
        """Run a job; returns its result and its entries."""
        return self.follow(self.push(type_, data, **fields))

    def follow(self, job_id: str) -> tuple[dict[str, Any], Entries]:
        """Wait for a job's end; returns its result and its entries."""
        found: Entries = []

        def ended() -> bool:
            found[:] = entries(self.redis, job_id)
            return bool(found) and found[-1][1] in {"done", "error"}

        wait_for(ended, (job_id, found))
        return result_of(self.redis, job_id), found

    def result(self, type_: str, data: Mapping[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
        """Run a job that succeeds; returns its result."""
        result, found = self.run(type_, data, **fields)
        assert found[-1][1] == "done", result
        return result

    def error(self, type_: str, data: Mapping[str, Any] | None = None, **fields: Any) -> tuple[str, str]:
        """Run a job that fails; returns its code and message."""
        result, found = self.run(type_, data, **fields)
        assert found[-1][1] == "error", result
        return result["code"], result["error"]

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import MakeWorker, WorkerProcess


@pytest.fixture
def make_worker(redis_url: str, model_path: Path, tmp_path: Path) -> Iterator[MakeWorker]:
    """Start workers on the shared Redis and the small model; all of them are gone afterwards."""
    made: list[WorkerProcess] = []

    def make(**settings: str) -> WorkerProcess:
        defaults = {
            "REDIS_URL": redis_url,
            "MODEL_PATH": str(model_path),
            "LLM_CONCURRENCY": "2",
            "CONTEXT_SIZE": "512",
        }
        worker = WorkerProcess(tmp_path / f"worker-{len(made)}.log", **(defaults | settings))
        made.append(worker)
        worker.start()
        return worker

    yield make
    for worker in made:
        worker.end()

"""What a worker tells of the jobs that it runs and of its GPUs, for its hash in Redis, where whoever looks reads it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from velesio_worker.engines.gpu import Gpu
from velesio_worker.execution.run import Run
from velesio_worker.wire.limits import MOST_TOLD_BYTES, MOST_TOLD_GPUS, MOST_TOLD_JOBS


def tell_jobs(runs: Iterable[Run]) -> str:
    """Return the field ``jobs``: the jobs that run, the oldest first, as many as there is room for."""
    now, moment = time.time(), time.monotonic()
    told: list[dict[str, Any]] = []
    size = len("[]")
    for run in runs:
        entry = _job(run, now - (moment - run.times.began))
        size += len(orjson.dumps(entry)) + len(",")
        if len(told) == MOST_TOLD_JOBS or size > MOST_TOLD_BYTES:
            break
        told.append(entry)
    return orjson.dumps(told).decode()


def _job(run: Run, since: float) -> dict[str, Any]:
    first = run.times.first_token_at
    return {
        "id": run.job.id,
        "type": run.job.type.value,
        "attempt": run.claim.held.attempt,
        "since": round(since, 3),
        "tokens": run.answer.tokens,
        "ttft_ms": None if first is None else round((first - run.times.began) * 1000),
    }


def tell_gpus(gpus: Sequence[Gpu]) -> str:
    """Return the field ``gpus``: the GPUs that the worker's engines see, as they were read last."""
    told = [
        {
            "index": gpu.index,
            "name": gpu.name,
            "used": gpu.used,
            "total": gpu.total,
            "utilisation": gpu.utilisation,
            "temperature": gpu.temperature,
        }
        for gpu in gpus[:MOST_TOLD_GPUS]
    ]
    return orjson.dumps(told).decode()

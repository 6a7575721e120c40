"""The fleet that the picture of ``velesio-worker top`` shows: four workers as Redis has them, one of which is lost.

No GPU is needed for it: what workers tell of themselves in Redis is written here, and counted on as if they worked.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from redis import Redis

from velesio_worker.queue.keys import Keys

BEAT_SECONDS: Final = 0.5
LEASE_SECONDS: Final = 30.0
LOST_AFTER_SECONDS: Final = 4.0
GIBIBYTE: Final = 2**30


@dataclass(frozen=True)
class Job:
    """A job that runs: for how long already, in seconds, and how fast it goes, in tokens per second."""

    id: str
    type: str
    age: float
    rate: float = 0.0
    ttft_ms: int | None = None
    attempt: int = 1


@dataclass(frozen=True)
class Worker:
    """A worker of the fleet, with one engine and one GPU."""

    name: str
    kind: str
    model: str
    slots: int
    gpu: str
    used: float
    total: float
    utilisation: int
    jobs: tuple[Job, ...] = ()
    lost: bool = False


_CHAT: Final = "chat_completion"
FLEET: Final = (
    Worker(
        *("gpu-1", "text", "Qwen3-8B-Q4_K_M", 4, "NVIDIA L4", 9.8, 24, 97),
        (
            Job("shop-7f3a", _CHAT, 12, 41, 212),
            Job("shop-81c0", _CHAT, 7, 40, 240),
            Job("blog-0e42", _CHAT, 3, 42, 198),
        ),
    ),
    Worker(
        *("gpu-2", "text", "Qwen3-8B-Q4_K_M", 4, "NVIDIA L4", 9.7, 24, 92),
        (Job("docs-55d1", "completion", 31, 38, 1480), Job("shop-90b7", _CHAT, 5, 39, 1720, 2)),
    ),
    Worker(*("gpu-3", "image", "juggernautXL_v9", 1, "NVIDIA L40S", 14.2, 48, 100), (Job("art-c21e", "txt2img", 9),)),
    Worker(*("gpu-4", "text", "Qwen3-8B-Q4_K_M", 4, "NVIDIA L4", 9.8, 24, 0), lost=True),
)


def _fields(worker: Worker, began: float) -> dict[str, Any]:
    """Return a worker's hash as it is at this moment."""
    now, kind = time.time(), worker.kind
    jobs: list[dict[str, Any]] = [
        {
            "id": job.id,
            "type": job.type,
            "attempt": job.attempt,
            "since": began - job.age,
            "tokens": round(job.rate * (job.age + now - began)),
            "ttft_ms": job.ttft_ms,
        }
        for job in worker.jobs
    ]
    gpu = {"index": 0, "name": worker.gpu, "utilisation": worker.utilisation, "temperature": 64}
    gpu |= {"used": round(worker.used * GIBIBYTE), "total": round(worker.total * GIBIBYTE)}
    own = {"version": "0.1.0", "pid": 4711, "started": began - 7200, "at": now, "stage": "working", "kinds": kind}
    own |= {"tokens": 10**6 + sum(job["tokens"] for job in jobs), "jobs": json.dumps(jobs), "gpus": json.dumps([gpu])}
    engine = {"state": "ready", "model": worker.model, "default": worker.model, "models": json.dumps([worker.model])}
    engine |= {"slots": worker.slots, "running": len(jobs), "models_more": 0, "exchanges": 1, "reason": ""}
    return {**own, "running": len(jobs), **{f"{kind}_{name}": value for name, value in engine.items()}}


def _beat(redis: Redis, keys: Keys, began: float) -> None:
    """Tell what the workers tell; of the one that is lost nothing after a while, when another one has removed it."""
    commands: Any = redis
    for worker in FLEET:
        if worker.lost and time.time() - began > LOST_AFTER_SECONDS:
            commands.zrem(keys.workers, worker.name)
            commands.delete(keys.worker(worker.name))
        else:
            commands.zadd(keys.workers, {worker.name: time.time() + LEASE_SECONDS})
            commands.hset(keys.worker(worker.name), mapping=_fields(worker, began))
            commands.pexpire(keys.worker(worker.name), round(LEASE_SECONDS * 1000))


@contextmanager
def fleet(redis: Redis) -> Generator[None]:
    """Have the fleet live while the block runs, with a few jobs that wait."""
    keys, began, over = Keys("llama_queue"), time.time(), threading.Event()
    for kind, count in (("text", 7), ("image", 2)):
        for number in range(count):
            job: dict[str, Any] = {
                "id": f"{kind}-{number}",
                "type": _CHAT,
                "data": {},
                "created_at": began - 4 + number / 2,
            }
            redis.lpush(f"{{llama_queue}}:{kind}", json.dumps(job))

    def live() -> None:
        while not over.wait(BEAT_SECONDS):
            _beat(redis, keys, began)

    _beat(redis, keys, began)
    beating = threading.Thread(target=live, name="fleet")
    beating.start()
    try:
        yield
    finally:
        over.set()
        beating.join()

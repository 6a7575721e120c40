"""What the worker adds to the time to the first token: from the LPUSH to the first token's being read."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import anyio

from bench.token_path import stand, systems
from bench.token_path.contest import quantile
from bench.token_path.systems import OnRedis
from bench.token_path.watch import Seen, watching


def added(first: Seen, pushed: int) -> float:
    """Return what was added to the engine's own time, in milliseconds."""
    return (first.seen - pushed - (first.written - first.asked)) / 1e6


async def first_tokens(folder: Path, samples: int, *, beside: int = 0) -> dict[str, Any]:
    """Submit jobs one after the other.

    Args:
        folder: where logs go.
        samples: how many.
        beside: how many streams of 40 tokens/s run all the time.

    Returns:
        Median and 99th percentile, in milliseconds.
    """
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 (a moment)
    async with stand.engine(folder, 40, beside + 8) as (port, _), systems.ours(folder, port, beside + 8) as system:
        if not isinstance(system, OnRedis):
            raise TypeError("the worker is on Redis")
        client = system.redis.client
        if beside:
            await client.lpush("llama_queue", *(systems.job_payload(f"beside-{n}", 1_000_000) for n in range(beside)))
            await anyio.sleep(1)
        found: list[float] = []
        for number in range(-5, samples):
            job = f"first-{number}"
            async with watching(system.redis.port, [job]) as watch:
                await anyio.sleep(0.01)  # the reader waits by then, as readers do
                pushed = time.monotonic_ns()
                await client.lpush("llama_queue", systems.job_payload(job, 1))
                with anyio.fail_after(30):
                    await watch.over.wait()
            if number >= 0:
                found.append(added(watch.seen[job][0], pushed))
    return {"samples": samples, "beside": beside, "p50": quantile(found, 0.5), "p99": quantile(found, 0.99)}

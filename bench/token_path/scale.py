"""Several workers on one Redis: how many entries a second it carries, and what it keeps of a token and of a job."""

from __future__ import annotations

import statistics
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import anyio

from bench.token_path import stand
from bench.token_path.systems import OnRedis, job_payload

STREAMS: Final = 32
"""At a time on each worker."""

TOKENS: Final = 1000
_SHORT, _LONG = 1, 201
_JOBS: Final = 200


async def workers(count: int, folder: Path, *, seconds: float, runs: int) -> dict[str, Any]:
    """Have so many workers relay as fast as they can, each from an engine of its own; about ``seconds`` a run."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 (a moment)
    rounds: list[tuple[float, float, float]] = []
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(stand.redis(folder, f"scale-{count}"))
        pids: list[int] = []
        for number in range(count):
            place = folder / f"worker-{number}"
            place.mkdir(exist_ok=True)
            port, _ = await stack.enter_async_context(stand.engine(place, 0, STREAMS))
            url = f"http://127.0.0.1:{port}"
            pids.append(await stack.enter_async_context(stand.worker(place, redis.url, STREAMS, LLAMA_SERVER_URL=url)))
        tokens, streams = 200, STREAMS * count

        def submit(jobs: Any, per_job: int) -> Any:
            return redis.client.lpush("llama_queue", *(job_payload(job, per_job) for job in jobs))

        system = OnRedis(redis, submit, pids[0])
        for number in range(-1, runs):
            jobs = [f"s{number}-{at}" for at in range(streams)]
            cpu, own = await redis.cpu(), sum(map(stand.cpu_of, pids))
            ran = await system.run(jobs, tokens, 0.0, 0)
            cpu, own = await redis.cpu() - cpu, sum(map(stand.cpu_of, pids)) - own
            if faults := await system.check(jobs, tokens):
                raise RuntimeError(faults[0])
            total = streams * tokens
            print(f"  scale, {count} workers: {total / ran.wall:,.0f} entries/s", file=sys.stderr, flush=True)
            if number < 0:
                tokens = max(100, min(5 * TOKENS, int(total / ran.wall * seconds / streams)))
            else:
                rounds.append((total / ran.wall, total / cpu, 1e6 * own / total))
    names = ("entries_per_second", "entries_per_redis_cpu_second", "worker_cpu_us")
    return {"workers": count} | dict(zip(names, map(statistics.median, zip(*rounds, strict=True)), strict=True))


async def _used(client: Any) -> int:
    return (await client.info("memory"))["used_memory"]


async def _grown(client: Any, tokens: int, tag: str) -> float:
    """Have jobs run; returns by how much each made Redis grow, in bytes, once all is over."""
    before, limit = await _used(client), time.monotonic() + 120
    await client.lpush("llama_queue", *(job_payload(f"{tag}-{number}", tokens) for number in range(_JOBS)))
    names = [f"result:{tag}-{number}" for number in range(_JOBS)]
    while await client.exists(*names) < _JOBS:
        if time.monotonic() > limit:
            raise TimeoutError("the jobs do not end")
        await anyio.sleep(0.1)
    await anyio.sleep(0.5)  # what a job leaves behind its result
    return (await _used(client) - before) / _JOBS


async def memory(folder: Path) -> dict[str, Any]:
    """Measure what Redis keeps of a finished job, in bytes, and of each further token of a job."""
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 (a moment)
    async with (
        stand.engine(folder, 0, 8) as (port, _),
        stand.redis(folder, "memory") as redis,
        stand.worker(folder, redis.url, 8, LLAMA_SERVER_URL=f"http://127.0.0.1:{port}"),
    ):
        await _grown(redis.client, _SHORT, "warm-up")
        short, long = await _grown(redis.client, _SHORT, "short"), await _grown(redis.client, _LONG, "long")
    return {"bytes_per_job": short, "bytes_per_token": (long - short) / (_LONG - _SHORT)}

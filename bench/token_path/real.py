"""The real llama.cpp server with the small model: tokens/s through the worker, and by HTTP from the same server."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import anyio
import httpx

from bench.processes import free_port
from bench.token_path import stand
from bench.token_path.watch import ENDS
from velesio_worker.engines.models.wheels import small_model

TOKENS: Final = 96
SLOTS: Final = 8
_KEY: Final = "bench"
_PROMPT: Final = "Write a long story about a lighthouse keeper.\n"
_FIELDS: Final[dict[str, Any]] = {"prompt": _PROMPT, "stream": True, "temperature": 0, "seed": 7, "ignore_eos": True}
_AS_TEXT: Final = 0.8
"""At least so many tokens are a text of their own; others are halves of characters."""

_LONGEST: Final = 300.0


async def directly(base: str, streams: int, tokens: int) -> float:
    """Stream from the server itself, as one writes it; returns tokens a second."""

    async def one(http: httpx.AsyncClient) -> int:
        count = 0
        async with http.stream("POST", "/completion", json={**_FIELDS, "n_predict": tokens}) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                count += line.startswith("data: ")
        return count

    began = time.monotonic()
    async with httpx.AsyncClient(base_url=base, timeout=None, headers={"Authorization": f"Bearer {_KEY}"}) as http:
        await asyncio.gather(*[one(http) for _ in range(streams)])
    return streams * tokens / (time.monotonic() - began)


async def through_worker(client: Any, streams: int, tokens: int, tag: str) -> float:
    """Submit jobs and read their streams to their ends; returns tokens a second.

    Raises:
        RuntimeError: a job failed, or its stream lacks tokens.
    """
    jobs = [f"{tag}-{number}" for number in range(streams)]
    data = {**_FIELDS, "max_tokens": tokens, "defaults": "engine"}  # so that both ask for the same
    fields = {"type": "completion", "data": data, "cache": False}
    began, told = time.monotonic(), 0
    await client.lpush("llama_queue", *(json.dumps({"id": job, **fields}) for job in jobs))
    after = {f"stream:{job}": "0-0" for job in jobs}
    ends = {end.decode() for end in ENDS}
    while after:
        for key, entries in await client.xread(dict(after), block=5000) or ():
            after[key] = entries[-1][0]
            for _, said in entries:
                told += said["event"] == "token"
                if said["event"] == "error":
                    raise RuntimeError(f"{key} ended with {said['data']}")
                if said["event"] in ends:
                    del after[key]
    if told < streams * tokens * _AS_TEXT:
        raise RuntimeError(f"{told} entries of {streams * tokens} tokens")
    return streams * tokens / (time.monotonic() - began)


async def real(streams: int, folder: Path, *, runs: int, tokens: int = TOKENS) -> dict[str, Any]:
    """Measure so many streams, both ways in turn."""
    model = small_model()
    if model is None:
        sys.exit("no model: make setup")
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240 (a moment)
    port = free_port()
    settings = {"MODEL_PATH": str(model), "LLAMA_API_KEY": _KEY, "LLAMA_ARGS": f"--parallel {SLOTS}"}
    async with stand.redis(folder, "real") as redis, stand.worker(folder, redis.url, SLOTS, port=port, **settings):
        base = f"http://127.0.0.1:{port}"

        async def worker(number: int) -> float:
            return await through_worker(redis.client, streams, tokens, f"r{number}")

        async def server(_: int) -> float:
            return await directly(base, streams, tokens)

        ways: dict[str, Callable[[int], Awaitable[float]]] = {"worker": worker, "direct": server}
        found: dict[str, list[float]] = {name: [] for name in ways}
        with anyio.fail_after(_LONGEST * (runs + 1)):
            for number in range(-1, runs):
                for name in list(ways) if number % 2 else reversed(ways):
                    speed = await ways[name](number)
                    print(f"  real, {streams} streams, {name}: {speed:.1f} tokens/s", file=sys.stderr, flush=True)
                    if number >= 0:  # the first is a warm-up
                        found[name].append(speed)
    medians = {name: statistics.median(values) for name, values in found.items()}
    pairs = zip(found["worker"], found["direct"], strict=True)
    return {"streams": streams, **medians, "ratio": statistics.median(one / other for one, other in pairs)}

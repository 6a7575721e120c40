"""The relay as it is usually written on a queue of tasks: httpx's lines, json, an awaited XADD for each token."""

# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import httpx

REDIS_URL: Final = os.environ["BENCH_REDIS_URL"]
ENGINE_URL: Final = os.environ["BENCH_ENGINE_URL"]
CONCURRENCY: Final = int(os.environ["BENCH_CONCURRENCY"])
JOB_SECONDS: Final = 3600

Add = Callable[[str, dict[str, str]], Awaitable[Any]]
"""Adds an entry to a stream: its key and its fields."""


def make_client() -> httpx.AsyncClient:
    """Return a client for as many streams as there may be."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=ENGINE_URL, timeout=None, limits=limits)


async def relay(http: httpx.AsyncClient, add: Add, job: str, tokens: int) -> None:
    """Relay one job."""
    key = f"stream:{job}"
    body = {"prompt": "go", "n_predict": tokens, "stream": True}
    async with http.stream("POST", "/completion", json=body) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            chunk = json.loads(line[6:])
            choice = {"text": chunk["content"], "index": 0, "finish_reason": None}
            data = json.dumps({"choices": [choice]})
            await add(key, {"event": "done" if chunk["stop"] else "token", "data": data})


def wanted() -> Iterator[tuple[list[str], int]]:
    """Yield what is to be submitted: the jobs' ids, and how many tokens each has."""
    for line in sys.stdin:
        asked = json.loads(line)
        yield asked["ids"], asked["tokens"]

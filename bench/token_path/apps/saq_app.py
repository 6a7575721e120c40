"""The relay on SAQ. Usage: python saq_app.py work|submit."""

# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false, reportImplicitRelativeImport=false

from __future__ import annotations

import asyncio
import sys
from typing import Any

import redis.asyncio as aioredis
import uvloop
from saq import Queue, Worker
from usual import CONCURRENCY, JOB_SECONDS, REDIS_URL, make_client, relay, wanted


async def run(context: dict[str, Any], *, job: str, tokens: int) -> None:
    await relay(context["http"], context["client"].xadd, job, tokens)


async def startup(context: dict[str, Any]) -> None:
    context["http"] = make_client()
    context["client"] = aioredis.Redis.from_url(REDIS_URL, max_connections=10_000)


async def submit() -> None:
    queue = Queue.from_url(REDIS_URL)
    await queue.connect()
    for ids, tokens in wanted():
        for job in ids:
            await queue.enqueue("run", job=job, tokens=tokens, timeout=JOB_SECONDS)


async def work() -> None:
    queue = Queue.from_url(REDIS_URL)
    await queue.connect()
    await Worker(queue, functions=[run], concurrency=CONCURRENCY, startup=startup).start()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(work() if sys.argv[1] == "work" else submit())

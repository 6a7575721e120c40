"""The relay on streaq. Usage: python streaq_app.py work|submit."""

# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false, reportImplicitRelativeImport=false

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from streaq import Worker
from usual import CONCURRENCY, JOB_SECONDS, REDIS_URL, make_client, relay, wanted


@asynccontextmanager
async def lifespan() -> AsyncGenerator[dict[str, Any]]:
    async with make_client() as http:
        yield {"http": http}


worker = Worker(
    REDIS_URL, concurrency=CONCURRENCY, lifespan=lifespan, idle_timeout=JOB_SECONDS, anyio_kwargs={"use_uvloop": True}
)


async def add(key: str, fields: dict[str, str]) -> None:
    await worker.redis.xadd(key, field_values=fields)


@worker.task(name="run", timeout=JOB_SECONDS)
async def run(job: str, tokens: int) -> None:
    await relay(worker.context["http"], add, job, tokens)


RUN: Any = run


async def submit() -> None:
    async with worker:
        for ids, tokens in wanted():
            for job in ids:
                await RUN.enqueue(job, tokens)


if __name__ == "__main__":
    worker.run_sync() if sys.argv[1] == "work" else anyio.run(submit)

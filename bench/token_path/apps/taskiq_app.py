"""The relay on taskiq with taskiq-redis, whose own command runs it. Usage: python taskiq_app.py submit."""

# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false, reportImplicitRelativeImport=false

from __future__ import annotations

import asyncio
from typing import Any

import redis.asyncio as aioredis
from taskiq import TaskiqEvents
from taskiq_redis import ListQueueBroker
from usual import REDIS_URL, make_client, relay, wanted

broker = ListQueueBroker(REDIS_URL)


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def startup(state: Any) -> None:
    state.http = make_client()
    state.redis = aioredis.Redis.from_url(REDIS_URL, max_connections=10_000)


@broker.task(task_name="run")
async def run(job: str, tokens: int) -> None:
    state: Any = broker.state
    await relay(state.http, state.redis.xadd, job, tokens)


RUN: Any = run


async def submit() -> None:
    await broker.startup()
    for ids, tokens in wanted():
        for job in ids:
            await RUN.kiq(job, tokens)


if __name__ == "__main__":
    asyncio.run(submit())

"""The relay on arq. Usage: python arq_app.py work|submit."""

# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUnknownArgumentType=false, reportUntypedFunctionDecorator=false, reportImplicitRelativeImport=false

from __future__ import annotations

import asyncio
import sys
from typing import Any

import arq
import uvloop
from arq.connections import RedisSettings
from arq.worker import func
from usual import CONCURRENCY, JOB_SECONDS, REDIS_URL, make_client, relay, wanted

SETTINGS = RedisSettings.from_dsn(REDIS_URL)


async def run(context: dict[str, Any], job: str, tokens: int) -> None:
    await relay(context["http"], context["redis"].xadd, job, tokens)


async def startup(context: dict[str, Any]) -> None:
    context["http"] = make_client()


async def submit() -> None:
    redis = await arq.create_pool(SETTINGS)
    for ids, tokens in wanted():
        for job in ids:
            await redis.enqueue_job("run", job, tokens)


def work() -> None:
    asyncio.set_event_loop(uvloop.new_event_loop())
    worker = arq.Worker(
        [func(run, name="run")],
        redis_settings=SETTINGS,
        on_startup=startup,
        max_jobs=CONCURRENCY,
        job_timeout=JOB_SECONDS,
        poll_delay=0.05,  # half a second, else, for which the first token would wait
    )
    worker.run()


if __name__ == "__main__":
    work() if sys.argv[1] == "work" else asyncio.run(submit())

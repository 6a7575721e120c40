from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from tests.support.redis_side import Side, make_side
from tests.support.text_bench import Bench, scripted
from velesio_worker.queue.connection import connect


@pytest.fixture
async def side(redis_url: str) -> AsyncIterator[Side]:
    """The Redis side of a worker ``w1`` whose publisher runs and whose lease is fresh."""
    clients = [connect(redis_url, name="w1") for _ in range(3)]
    side = make_side(redis_url, "w1", *clients)
    await side.lease.beat()
    async with anyio.create_task_group() as group:
        group.start_soon(side.publisher.run)
        yield side
        group.cancel_scope.cancel()
    for client in clients:
        await client.aclose()


@pytest.fixture
async def bench(side: Side, commands: Any) -> AsyncIterator[Bench]:
    async with scripted() as (double, http):
        bench = Bench(side, commands, double, http)
        bench.counted(2)
        yield bench

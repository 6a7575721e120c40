from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from tests.support.redis_side import Side, make_side
from tests.support.text_bench import Bench, scripted


@pytest.fixture
async def side(redis_url: str) -> AsyncIterator[Side]:
    """The Redis side of a worker ``w1`` whose publisher runs and whose lease is fresh."""
    async with make_side(redis_url, "w1") as side, anyio.create_task_group() as group:
        await side.lease.beat()
        group.start_soon(side.publisher.run)
        yield side
        group.cancel_scope.cancel()


@pytest.fixture
async def bench(side: Side, commands: Any) -> AsyncIterator[Bench]:
    async with scripted() as (double, http):
        bench = Bench(side, commands, double, http)
        bench.counted(2)
        yield bench

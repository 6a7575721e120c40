"""The replay whose instructions are counted brings every token through, and is over then."""

from __future__ import annotations

import asyncio

import pytest
from bench.token_path.replay import replay

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_every_token_comes_to_redis() -> None:
    async with asyncio.timeout(60):
        assert await replay(3, 20) == 60

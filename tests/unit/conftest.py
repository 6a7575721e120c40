"""What unit tests share: a scripted engine, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.doubles.engine import EngineDouble, healthy
from tests.support.servers import free_port
from velesio_worker.engines.http import EngineHTTP


@pytest.fixture
async def double() -> AsyncIterator[EngineDouble]:
    """A scripted engine that is ready."""
    async with EngineDouble(healthy()).serving() as serving:
        yield serving


@pytest.fixture
async def http(double: EngineDouble) -> AsyncIterator[EngineHTTP]:
    """A client of the double."""
    async with EngineHTTP(double.url) as client:
        yield client


@pytest.fixture
def free_url() -> str:
    """An address where nobody listens."""
    return f"http://127.0.0.1:{free_port()}"

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from tests.support.scripted_worker import ScriptedGateway, scripted_gateway
from velesio_worker.gateway.openai.routes import routes


@pytest.fixture
async def gateway(redis_url: str, commands: Any) -> AsyncIterator[ScriptedGateway]:
    async with scripted_gateway(redis_url, commands, routes) as gateway:
        yield gateway


@pytest.fixture
async def openai(gateway: ScriptedGateway) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client:
        yield client


@pytest.fixture
async def http(gateway: ScriptedGateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
        yield client

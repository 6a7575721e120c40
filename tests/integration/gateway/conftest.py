"""One gateway with tokens and small bounds for all tests that do not harm it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.gateway import ALICE, BOB, GatewayProcess, WorkerInRedis, nothing_waits
from tests.support.servers import RedisServer, wait_until


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, shared_redis: RedisServer) -> Iterator[GatewayProcess]:
    settings = {
        "API_TOKENS": f"alice={ALICE},bob={BOB}",
        "MAX_BODY_BYTES": "64KiB",
        "BODY_SECONDS": "1.5",
        "MAX_QUEUE": "3",
        "CORS_ORIGINS": "https://chat.example.org",
        "LOG_LEVEL": "debug",
    }
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), shared_redis.url, **settings) as process:
        yield process


@pytest.fixture
def worker(redis_url: str, plain: Any) -> WorkerInRedis:
    assert redis_url  # emptied
    found = WorkerInRedis(plain)
    found.live()
    return found


@pytest.fixture
def alice(gateway: GatewayProcess, worker: WorkerInRedis) -> Iterator[httpx.Client]:
    assert worker
    with gateway.client(ALICE) as client:
        wait_until(lambda: nothing_waits(client), "the gateway has noticed that the queue is empty")
        yield client


@pytest.fixture
def bob(gateway: GatewayProcess, worker: WorkerInRedis) -> Iterator[httpx.Client]:
    assert worker
    with gateway.client(BOB) as client:
        yield client

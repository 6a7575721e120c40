"""What many tests share: a real Redis of the tests' own, the small model, free ports."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis as sync_redis

from velesio_worker.engines.wheels import redis_server, small_model
from velesio_worker.queue.connection import connect
from velesio_worker.settings import Settings


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:  # pyright: ignore[reportUnusedFunction]
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


class RedisServer:
    """A redis-server process on a port of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        program = redis_server()
        assert program is not None, "no redis-server: `make test` installs one"
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._command = [
            *(str(program), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "always"),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 10
        with sync_redis.Redis(port=self.port) as client:
            while True:
                try:
                    client.ping()  # pyright: ignore[reportUnknownMemberType]
                except sync_redis.RedisError:
                    assert time.monotonic() < deadline, "redis-server does not answer"
                    time.sleep(0.02)
                else:
                    return

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="session")
def shared_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that the test may kill; not started yet."""
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def redis_url(shared_redis: RedisServer) -> str:
    """The shared Redis, emptied."""
    with sync_redis.Redis(port=shared_redis.port) as client:
        client.flushall()  # pyright: ignore[reportUnknownMemberType]
    return shared_redis.url


@pytest.fixture
def plain(redis_url: str) -> Iterator[Any]:
    """A plain redis-py client, as a producer would use: strings in, strings out."""
    with sync_redis.Redis.from_url(redis_url, decode_responses=True) as client:  # pyright: ignore[reportUnknownMemberType]
        yield client


@pytest.fixture
async def commands(redis_url: str) -> AsyncIterator[Any]:
    client = connect(redis_url, name="test")
    yield client
    await client.aclose()


@pytest.fixture(scope="session")
def model_path() -> Path:
    path = small_model()
    assert path is not None, "the small model is not installed: `make test` installs it"
    return path


def base_environment() -> dict[str, str]:
    """This process's environment without anything that a worker would read as a setting."""
    names = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in names}

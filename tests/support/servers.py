"""Redis as processes of the tests' own on loopback, which can be killed and started again."""

from __future__ import annotations

import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import redis as sync_redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.ports import free_port, stable_ports
from velesio_worker.engines.models.wheels import redis_server

__all__ = ["LIMIT", "RedisServer", "Topology", "free_port", "stable_ports", "wait_until"]


LIMIT: Final = 45.0
"""How long anything here may take, in seconds: Redis 6.2 needs up to 30 to demote a primary."""

_ONCE_MORE: Final = Retry(NoBackoff(), 1)
"""For clients that outlive their server: the first command finds the connection dead."""


def wait_until(condition: Callable[[], object], what: str, limit: float = LIMIT) -> None:
    """Wait until ``condition`` holds; while Redis answers it with an error, it does not."""
    deadline = time.monotonic() + limit
    while True:
        error: Exception | None = None
        try:
            if condition():
                return
        except sync_redis.RedisError as raised:
            error = raised
        assert time.monotonic() < deadline, f"after {limit} s still not: {what} ({error})"
        time.sleep(0.01)


class Topology(ABC):
    """What is one Redis to a worker, of one server or several; as a context manager it starts and ends them."""

    url: str  # what a worker gets as REDIS_URL
    nodes: list[RedisServer]  # those that hold data

    @abstractmethod
    def start(self) -> None:
        """Start all nodes and wait until they serve together."""

    @abstractmethod
    def plain(self) -> Any:
        """A redis-py client as a producer would use: strings in, strings out."""

    @abstractmethod
    def flush(self) -> None:
        """Remove all keys."""

    @contextmanager
    def taking_no_writes(self) -> Generator[None, None, None]:
        """Have Redis answer writes with NOREPLICAS for a while."""
        for node in self.nodes:
            node.client.config_set("min-replicas-to-write", 9)
        try:
            yield
        finally:
            for node in self.nodes:
                node.client.config_set("min-replicas-to-write", 0)

    def end(self) -> None:
        """Leave no process behind."""
        for node in self.nodes:
            node.kill()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class RedisServer(Topology):
    """One redis-server, with a client of its own and a log in its folder.

    Args:
        folder: where its data go.
        options: more arguments.
        port: where it listens; a free one by default.
    """

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        program = redis_server()
        assert program is not None, "no redis-server: `make test` installs one"
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or stable_ports(1)[0]
        self.url = f"redis://127.0.0.1:{self.port}"
        self.nodes = [self]
        self.process: subprocess.Popen[bytes] | None = None
        self._command = [
            *(str(program), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
            # What was answered is in the file: that outlives the server's being killed, if not the machine's.
            *("--save", "", "--appendonly", "yes", "--appendfsync", "no", "--logfile", "redis.log"),
            *options,
        ]
        self._alone: Final[list[str]] = self._command
        self.client: Any = sync_redis.Redis(
            host="127.0.0.1", port=self.port, decode_responses=True, protocol=2, socket_timeout=5, retry=_ONCE_MORE
        )

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(self._answers, "redis-server answers")
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"redis-server ended with exit code {self.process.returncode}"
        return self.client.ping()

    def kill(self) -> None:
        self.client.close()
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def follow(self, primary: int | None) -> None:
        """From its next start on, be a replica of the server at port ``primary``; None: be a primary."""
        self._command = [*self._alone, "--replicaof", "127.0.0.1", str(primary)] if primary else self._alone

    def plain(self) -> Any:
        return sync_redis.Redis(host="127.0.0.1", port=self.port, decode_responses=True)

    def flush(self) -> None:
        self.client.flushall()

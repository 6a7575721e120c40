"""A Redis and workers as processes of their own, and a producer's way to talk to that Redis."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import anyio
import anyio.abc
import psutil
import redis.asyncio as aioredis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from velesio_worker.engines.models.wheels import redis_server

START_SECONDS: Final = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def connect(url: str) -> Any:
    """A client as a producer has it, strings in and out; it repeats nothing by itself."""
    return aioredis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
        url, decode_responses=True, retry=Retry(NoBackoff(), 0), socket_timeout=10
    )


async def insist(operation: Callable[[], Any]) -> tuple[Any, int]:
    """Repeat what Redis does not answer; returns the answer, and how often it was asked in vain."""
    failures = 0
    while True:
        try:
            return await operation(), failures
        except RedisError:
            failures += 1
            await anyio.sleep(0.05)


async def until(condition: Callable[[], bool], *, limit: float) -> bool:
    """Wait until something is so; False if it is not within ``limit`` seconds."""
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            return False
        await anyio.sleep(0.05)
    return True


def _appending(path: Path) -> IO[bytes]:
    return path.open("ab")


async def _spawn(command: list[str], log: Path, env: dict[str, str]) -> anyio.abc.Process:
    with _appending(log) as output:
        return await anyio.open_process(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
        )


class RedisProcess:
    """A redis-server that forgets nothing when it is killed.

    Args:
        folder: where its log and its data go.
        env: its environment.
        lasting: whether it writes to the disk at all; what does not is for as many clients as the host allows.
    """

    def __init__(self, folder: Path, env: dict[str, str], *, lasting: bool = True) -> None:
        program = redis_server()
        if program is None:
            sys.exit("no redis-server: make setup")
        port = free_port()
        self.url = f"redis://127.0.0.1:{port}"
        self._log = folder / "redis.log"
        self._env = env
        self._command = [
            *(str(program), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", ""),
            *(("--appendonly", "yes", "--appendfsync", "always") if lasting else ("--maxclients", "15000")),
        ]
        self._process: anyio.abc.Process | None = None

    async def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = await _spawn(self._command, self._log, self._env)
        async with connect(self.url) as client:
            with anyio.fail_after(START_SECONDS):
                await insist(client.ping)

    async def kill(self) -> None:
        """Kill it without a word."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@dataclass(slots=True)
class WorkerProcess:
    """A worker's process. Made by :func:`start_worker`.

    Attributes:
        log: where its log goes.
        process: the process.
        ending: whether somebody ends it on purpose.
        engine_kills: how often its engine was killed.
    """

    log: Path
    process: anyio.abc.Process
    ending: bool = False
    engine_kills: int = 0
    _worker: str = ""
    _ready: bool = False

    @property
    def runs(self) -> bool:
        return self.process.returncode is None

    @property
    def worker(self) -> str:
        """The worker's id; empty until the worker is up."""
        if not self._worker:
            self._worker = next((line["worker"] for line in self.lines() if line.get("action") == "worker_up"), "")
        return self._worker

    @property
    def ready(self) -> bool:
        """Whether it has begun to take jobs."""
        self._ready = self._ready or any(line.get("action") == "worker_ready" for line in self.lines())
        return self._ready

    def lines(self) -> list[dict[str, Any]]:
        """The lines of its log that are complete."""
        text = self.log.read_text(errors="replace")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-1:])

    def engines(self) -> list[psutil.Process]:
        """The processes that it has started."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []


async def start_worker(log: Path, env: dict[str, str], port: int | None = None) -> WorkerProcess:
    """Start a worker with an environment; it has a port of its own for its engine, a free one if none is given."""
    env = env | {"LLAMA_PORT": str(port or free_port()), "HEALTH_PORT": "0"}
    return WorkerProcess(log, await _spawn([sys.executable, "-m", "velesio_worker"], log, env))


def lives(process: psutil.Process) -> bool:
    """Whether a process still does anything."""
    with suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def processes_with(name: str, value: str) -> list[psutil.Process]:
    """Every process that lives and has this variable in its environment."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get(name) == value and lives(process):
                found.append(process)
    return found

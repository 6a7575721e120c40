"""The stand: a Redis, an engine's double and a worker as processes, and what each takes of the CPU."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any, Final, cast
from urllib.parse import urlsplit

import psutil

from bench.environments import MissingPeerError, environment
from bench.processes import RedisProcess, connect, free_port, start_worker, until
from velesio_worker.core.settings import Settings

HERE: Final = Path(__file__).parent
START_SECONDS: Final = 90.0
_CPU_CLOCK: Final = 2


def raise_file_limit() -> None:
    """Let this process, and all that it starts, have as many files as the host allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def cpu_of(pid: int) -> float:
    """Return the CPU time of a process in seconds; of Linux's own clocks, which are finer than its ticks."""
    if sys.platform == "linux":
        return time.clock_gettime((~pid << 3) | _CPU_CLOCK)
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def cpu_with_children(pid: int) -> float:
    """Return the CPU time of a process and of all that it has started, in seconds; of what has ended, to a tick."""
    process = psutil.Process(pid)
    ended = process.cpu_times()
    living = sum(cpu_of(child.pid) for child in process.children(recursive=True))
    return cpu_of(pid) + living + ended.children_user + ended.children_system


def worker_environment(**settings: str) -> dict[str, str]:
    """Return the environment of a worker that has these settings and no others."""
    names = {name.upper() for name in Settings.model_fields}
    kept = {name: value for name, value in environment().items() if name not in names}
    return kept | {"LOG_FORMAT": "json"} | settings


class Spawned:
    """A process of ours with its log.

    Attributes:
        log: where it writes.
    """

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=dict(env), cwd=cwd, text=True
            )

    @property
    def pid(self) -> int:
        return self._child.pid

    def check(self) -> None:
        """Find out that it runs. Raises MissingPeerError with its last words."""
        if self._child.poll() is not None:
            words = self.log.read_text(errors="replace").strip().splitlines()[-1:]
            raise MissingPeerError(f"{self.log.stem} ended: {words[0] if words else 'not a word'}")

    def tell(self, line: str) -> None:
        """Give it a line of input."""
        self.check()
        pipe = cast("IO[str]", self._child.stdin)
        pipe.write(line + "\n")
        pipe.flush()

    def end(self) -> None:
        """Kill it and all that it has started."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children(recursive=True):
                child.kill()
        self._child.kill()
        self._child.wait()


@contextlib.contextmanager
def spawned(
    name: str, command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None
) -> Generator[Spawned]:
    """Have a process."""
    process = Spawned(command, folder / f"{name}.log", env or environment(), folder)
    try:
        yield process
    finally:
        process.end()


async def listening(process: Spawned, port: int) -> None:
    """Wait until a process listens. Raises MissingPeerError."""

    def answers() -> bool:
        process.check()
        return bool([one for one in psutil.Process(process.pid).net_connections("tcp") if one.laddr[1] == port])

    if not await until(answers, limit=START_SECONDS):
        raise MissingPeerError(f"{process.log.stem} does not listen")


@asynccontextmanager
async def engine(folder: Path, rate: float, slots: int, phase: str = "batch") -> AsyncGenerator[tuple[int, Spawned]]:
    """Have an engine's double (see engine.py); gives its port and its process."""
    port = free_port()
    command = [sys.executable, str(HERE / "engine.py"), str(port), str(rate), str(slots), phase]
    with spawned("engine", command, folder) as process:
        await listening(process, port)
        yield port, process


class Redis:
    """A Redis of one's own.

    Attributes:
        url: where it is.
        port: its port.
        client: a producer's client of it.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.port = urlsplit(url).port or 0
        self.client: Any = connect(url)

    async def cpu(self) -> float:
        """Return the CPU time that it has had, in seconds."""
        said = await self.client.info("cpu")
        return said["used_cpu_sys"] + said["used_cpu_user"]


@asynccontextmanager
async def redis(folder: Path, name: str) -> AsyncGenerator[Redis]:
    """Have a Redis with nothing in it that keeps nothing on the disk."""
    place = folder / f"redis-{name}"
    place.mkdir(exist_ok=True)
    process = RedisProcess(place, dict(os.environ), lasting=False)
    await process.start()
    ours = Redis(process.url)
    try:
        yield ours
    finally:
        await ours.client.aclose()
        await process.kill()


@asynccontextmanager
async def worker(
    folder: Path, redis_url: str, concurrency: int, *, port: int | None = None, **settings: str
) -> AsyncGenerator[int]:
    """Have a worker that takes jobs, its own engine on ``port`` if it has one; gives its process's id."""
    env = worker_environment(REDIS_URL=redis_url, RUN_SD="false", LLM_CONCURRENCY=str(concurrency), **settings)
    process = await start_worker(folder / "worker.log", env, port)
    try:
        if not await until(lambda: process.ready or not process.runs, limit=START_SECONDS) or not process.runs:
            sys.exit(f"the worker is not ready: {process.last_words()}")
        yield process.process.pid
    finally:
        for child in process.engines():
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        if process.runs:
            process.process.kill()
        await process.process.wait()

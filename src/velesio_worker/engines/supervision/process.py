"""An engine's process: its own process group, its output read to the end, never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import anyio.to_thread
import psutil

from velesio_worker.core.logs import get_logger
from velesio_worker.core.secrets import hide_secrets
from velesio_worker.engines.supervision.orphans import MARK, end_marked, new_mark, noted
from velesio_worker.engines.supervision.redaction import Clean
from velesio_worker.wire.errors import EngineStartError

STOP_SECONDS: Final = 10.0
"""How long a process may take to end after SIGTERM before it is killed."""

UNKILLABLE_SECONDS: Final = 30.0
"""How long the kernel may take to end a process that was killed before that is said."""

TAIL_LINES: Final = 30
TURN_SECONDS: Final = 0.005
"""How long the reading of an engine's output may keep everybody else waiting."""

_RESTS: Final = 3
"""After each turn so many times as long nothing is read: the pipe slows the engine down, and not the worker."""

_DRAIN_SECONDS: Final = 5
_LINE_BYTES: Final = 16 * 1024
_PR_SET_PDEATHSIG: Final = 1

log = get_logger(__name__)


class EngineProcess:
    """A running process. Made by :func:`running`.

    Attributes:
        pid: its process id.
        bytes: how much it has written so far.
        tail: the last lines of it, cleaned.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        output: asyncio.StreamReader,
        transport: asyncio.ReadTransport,
        on_line: Callable[[str], None],
        clean: Clean,
    ) -> None:
        self._process = process
        self._output = output
        self._transport = transport
        self._on_line = on_line
        self._ending = False
        self._taken = 0
        self._clean = clean
        self.pid = process.pid
        self.bytes = 0
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._drain = asyncio.create_task(self._read_lines())

    @property
    def returncode(self) -> int | None:
        """The exit code; negative for a signal, None while the process runs."""
        return self._process.returncode

    async def wait(self) -> int:
        """Wait for the end; returns the exit code."""
        return await self._process.wait()

    def work(self) -> float:
        """Return a number that rises while the process, or one that it started, writes or computes."""
        seconds = 0.0
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            for each in (process, *process.children(recursive=True)):
                times = each.cpu_times()
                seconds += times.user + times.system
        return self.bytes + round(seconds, 1)

    def how_it_ended(self) -> str:
        """Say how the process ended."""
        code = self.returncode
        if code is None:
            return "still runs"
        if code >= 0:
            return f"ended with exit code {code}"
        try:
            return f"was ended by {signal.Signals(-code).name}"
        except ValueError:  # a real-time signal has no name
            return f"was ended by signal {-code}"

    async def drained(self) -> None:
        """Wait until the output of a process that has ended is read, for a second, or for a few while more comes."""
        self._ending = True
        for _ in range(_DRAIN_SECONDS):
            before = self._taken
            await asyncio.wait({self._drain}, timeout=1)
            if self._drain.done() or self._taken == before:
                break
        self._drain.cancel()
        await asyncio.wait({self._drain})
        self._transport.close()

    async def _read_lines(self) -> None:
        rest, spent = b"", 0.0
        while chunk := await self._output.read(64 * 1024):
            self.bytes += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            if len(rest) > _LINE_BYTES:
                lines.append(rest)
                rest = b""
            for line in lines:
                began = time.perf_counter()
                self._take(line)
                spent += time.perf_counter() - began
                if spent > TURN_SECONDS:
                    await asyncio.sleep(0 if self._ending else spent * _RESTS)
                    spent = 0.0
        self._take(rest)

    def _take(self, line: bytes) -> None:
        self._taken += 1
        text = self._clean(line.rstrip(b"\r").decode(errors="replace"))
        if text is not None and text.strip():
            text = hide_secrets(text)
            self.tail.append(text)
            self._on_line(text)

    async def stop(self) -> None:
        """End the process and all that it started: SIGTERM, and SIGKILL after ``STOP_SECONDS``."""
        if self.returncode is None:
            self._signal(signal.SIGTERM)
            with anyio.move_on_after(STOP_SECONDS):
                await self.wait()
        self._signal(signal.SIGKILL)
        while self.returncode is None:
            with anyio.move_on_after(UNKILLABLE_SECONDS) as limit:
                await self.wait()
            if limit.cancelled_caught:
                log.error(
                    "an engine does not end after SIGKILL: most likely the GPU's driver hangs. Look at dmesg; it may "
                    "take a reset of the GPU or a restart of the host",
                    action="engine_unkillable",
                    pid=self.pid,
                )

    def kill(self) -> None:
        """End the process and all that it started, at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)


async def _spawn(
    command: Sequence[str], env: Mapping[str, str], remedy: str, cwd: Path | None
) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader, asyncio.ReadTransport]:
    """Start a process whose output comes through a pipe of our own.

    With asyncio's own pipe the end of a process is not noticed while a child of it holds the output open.
    """
    reading, writing = os.pipe()
    output = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(output), os.fdopen(reading, "rb", buffering=0)
    )
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=writing,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(env),
            cwd=cwd,
            start_new_session=True,
            preexec_fn=partial(die_with, os.getpid()) if _LIBC is not None else None,
        )
    except OSError as error:
        transport.close()
        why = f"cannot be run ({error.strerror or type(error).__name__}): {remedy}"
        public = f"{Path(command[0]).name} {why}"
        raise EngineStartError(f"{command[0]} {why}", final=True, public=public) from None
    finally:
        os.close(writing)
    return process, output, transport


@contextlib.asynccontextmanager
async def running(
    command: Sequence[str],
    *,
    env: Mapping[str, str],
    on_line: Callable[[str], None],
    remedy: str,
    clean: Clean = str,
    name: str = "engine",
    cwd: Path | None = None,
) -> AsyncGenerator[EngineProcess, None]:
    """Run a command in a process group of its own; leaving the context ends the whole group.

    On Linux the kernel kills the process should this one die without a word.

    Args:
        command: program and arguments; no shell is involved.
        env: the process's environment.
        on_line: gets each line that it writes to standard output or standard error, without secrets.
        remedy: what to change if the program cannot be run.
        clean: gets each line first, and takes out of it what nobody may read.
        name: what it is called, should a later worker find it left behind.
        cwd: the folder that it runs in; None for this process's.

    Raises:
        EngineStartError: there is no such program, or it cannot be run.
    """
    mark = new_mark()
    with anyio.CancelScope(shield=True):  # a process that exists has an owner, whatever happens
        spawned = await _spawn(command, {**env, MARK: mark}, remedy, cwd)
    made = spawned  # pyright: ignore[reportPossiblyUnboundVariable] (a shield swallows nothing)
    process = EngineProcess(*made, on_line, clean)
    with noted(process.pid, mark, name):
        try:
            yield process
        finally:
            with anyio.CancelScope(shield=True):
                await process.stop()
                await anyio.to_thread.run_sync(end_marked, mark, name)
                await process.drained()


_LIBC: Final = ctypes.CDLL(None) if sys.platform.startswith("linux") else None


def die_with(parent: int) -> None:
    """Have this process killed once its parent, of that process id, is gone; at once, if it is gone already."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

"""The real server behind a door that reads along: certain words of a request kill it, stop it, or let it grow.

What it stands for: a grammar that overflows the server's stack, a sampler chain that keeps its loop busy for minutes, a
schema that takes gigabytes. Those may be refused by the worker, or mended in llama.cpp; these words are not.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from asyncio import StreamReader, StreamWriter
from asyncio.subprocess import Process
from typing import Final

from tests.support.servers import free_port

KILLS: Final = "the word that kills"
STOPS: Final = "the word that stops"
GROWS: Final = "the word that grows"
GROWTH: Final = 64 * 1024**2
"""Bytes, ten times a second."""

MOST: Final = 24
"""How often it grows, lest it take down the machine that the test runs on."""


class Door:
    """Passes on what comes in, and does to the server what the words in it say."""

    def __init__(self, server: Process, port: int) -> None:
        self._server = server
        self._port = port
        self._held: list[bytearray] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        try:
            inner, outer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            writer.close()
            return
        answer = asyncio.create_task(_copy(inner, writer))
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                self._obey(chunk)
                outer.write(chunk)
                await outer.drain()
        outer.close()
        answer.cancel()

    def _obey(self, chunk: bytes) -> None:
        if KILLS.encode() in chunk:
            self._server.kill()
        if STOPS.encode() in chunk:
            self._server.send_signal(signal.SIGSTOP)
        if GROWS.encode() in chunk:
            self._server.send_signal(signal.SIGSTOP)
            self._tasks.add(asyncio.create_task(self._grow()))

    async def _grow(self) -> None:
        while len(self._held) < MOST:
            self._held.append(bytearray(b"x") * GROWTH)
            await asyncio.sleep(0.1)


async def _copy(reader: StreamReader, writer: StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


async def main(*arguments: str) -> int:
    """Run the server with these arguments; it ends with it."""
    port = free_port()
    module = ("-m", "velesio_worker.engines.llama.embedded")
    environment = {**os.environ, "LLAMA_ARG_PORT": str(port)}
    server = await asyncio.create_subprocess_exec(sys.executable, *module, *arguments, env=environment)
    door = await asyncio.start_server(Door(server, port).serve, "127.0.0.1", int(os.environ["LLAMA_ARG_PORT"]))
    async with door:
        return abs(await server.wait())


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))

"""Viewers of server-sent events in a process of their own: cheap ones, that check the order and measure the delay.

Usage: python bench/viewers.py PORT VIEWERS, with the paths to ask for on standard input, one a line, then an empty one.
The viewers are dealt out to the paths. What has been seen is printed as a line of JSON whenever a line comes.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from typing import Any, Final, cast

from seen import Body, Delays, Faults, Order, Reader

AT_ONCE: Final = 200
"""How many connections are being made at a time."""


class Crowd:
    """All viewers, and what they have seen together."""

    def __init__(self) -> None:
        self.reader = Reader()
        self.faults = Faults()
        self.delays = Delays()
        self.connected = 0
        self.frames = 0
        self.ended = 0
        self.lost = 0
        self.trouble: list[str] = []

    def report(self) -> dict[str, Any]:
        """Return what was seen so far."""
        return {
            "connected": self.connected,
            "frames": self.frames,
            "ended": self.ended,
            "lost": self.lost,
            "missing": self.faults.missing,
            "doubled": self.faults.doubled,
            "late": self.faults.late,
            "p50": self.delays.quantile(0.5),
            "p99": self.delays.quantile(0.99),
            "max": round(self.delays.most, 1),
            "trouble": self.trouble[:3],
            "cpu": time.process_time(),
        }


class Viewer(asyncio.Protocol):
    """One viewer, on a connection of its own."""

    __slots__ = ("_body", "_crowd", "_head", "_order", "_over", "_rest")

    def __init__(self, crowd: Crowd, head: bytes) -> None:
        self._crowd = crowd
        self._head = head
        self._body = Body()
        self._order = Order(crowd.faults)
        self._rest = b""
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._head)

    def data_received(self, data: bytes) -> None:
        now, crowd = time.monotonic_ns(), self._crowd
        fresh = not self._body.status
        body = self._body.feed(data)
        if fresh and self._body.status:
            crowd.connected += 1
            if self._body.status != 200:
                crowd.trouble.append(f"status {self._body.status}")
        if not body:
            return
        if self._rest:
            body = self._rest + body
        try:
            frames, used = crowd.reader.read(body)
        except ValueError as error:
            crowd.trouble.append(str(error))
            return
        self._rest = body[used:]
        order = self._order
        for frame in frames:
            order.take(frame.number)
            crowd.frames += 1
            if frame.last:
                self._over = True
                crowd.ended += 1
            elif frame.number:  # the first waits for viewers that come later
                crowd.delays.add(now - frame.made)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if not self._over:
            self._crowd.lost += 1


async def connect(crowd: Crowd, port: int, paths: list[str], viewers: int) -> None:
    """Connect them all, as many for each path."""
    loop = asyncio.get_running_loop()
    turns = asyncio.Semaphore(AT_ONCE)

    async def one(path: str) -> None:
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: text/event-stream\r\n\r\n".encode()
        async with turns:
            try:
                await loop.create_connection(lambda: Viewer(crowd, head), "127.0.0.1", port)
            except OSError as error:
                crowd.trouble.append(f"no connection: {error}")

    await asyncio.gather(*(one(paths[number % len(paths)]) for number in range(viewers)))


async def main(port: int, viewers: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    paths: list[str] = []
    while path := sys.stdin.readline().strip():
        paths.append(path)
    crowd = Crowd()
    connecting = asyncio.create_task(connect(crowd, port, paths, viewers))
    while await asyncio.to_thread(sys.stdin.readline):
        print(json.dumps(crowd.report()), flush=True)
    connecting.cancel()


if __name__ == "__main__":
    arguments = int(sys.argv[1]), int(sys.argv[2])
    try:
        import uvloop
    except ModuleNotFoundError:
        asyncio.run(main(*arguments))
    else:
        uvloop.run(main(*arguments))

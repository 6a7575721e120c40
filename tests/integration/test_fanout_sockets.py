"""The pump on real sockets: a viewer that does not read holds up neither the pump nor the others."""

from __future__ import annotations

import math
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import uvicorn

from tests.support.viewing import frames, write
from tests.support.waiting import until
from velesio_worker.client.fanout import Bounds, Hub

pytestmark = pytest.mark.anyio

TEXT = "x" * 2000


class Viewing:
    """The smallest server of streams: raw ASGI, each viewer's task waits for the viewer to hang up."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.left = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})

        async def show() -> None:
            await self._hub.show("a", "0-0", write_body)
            group.cancel_scope.cancel()

        async def write_body(data: bytes) -> None:
            await send({"type": "http.response.body", "body": data, "more_body": True})

        await receive()
        async with anyio.create_task_group() as group:
            group.start_soon(show)
            message = await receive()
            assert message["type"] == "http.disconnect"
            self.left += 1
            group.cancel_scope.cancel()
        if not self.left:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@asynccontextmanager
async def served(app: Viewing) -> AsyncGenerator[int]:
    """Serve on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)  # else the kernel takes all of it
        config = uvicorn.Config(app, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        server.install_signal_handlers = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
        async with anyio.create_task_group() as group:
            group.start_soon(server._serve, [listening])  # pyright: ignore[reportPrivateUsage]
            await until(lambda: server.started)
            yield listening.getsockname()[1]
            server.should_exit = True


async def dial(port: int) -> socket.socket:
    """Ask for the stream over a socket that takes little."""
    dialled = socket.socket()
    dialled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    dialled.connect(("127.0.0.1", port))
    dialled.sendall(b"GET / HTTP/1.0\r\nhost: test\r\n\r\n")
    dialled.setblocking(False)  # noqa: FBT003 (the socket's own signature)
    return dialled


async def drained(dialled: socket.socket, until_size: float = math.inf) -> bytes:
    got = b""
    with anyio.fail_after(60):
        while len(got) < until_size:
            await anyio.wait_readable(dialled)
            if not (piece := dialled.recv(65536)):
                break
            got += piece
    return got


def body(answer: bytes) -> bytes:
    """Return the body of an answer whose length nobody knew beforehand."""
    _, _, chunks = answer.partition(b"\r\n\r\n")
    whole = b""
    while chunks:
        size, _, rest = chunks.partition(b"\r\n")
        whole += rest[: int(size, 16)]
        chunks = rest[int(size, 16) + 2 :]
    return whole


async def test_one_who_reads_nothing_holds_up_nobody(commands: Any, redis_url: str) -> None:
    entries = 1500
    async with Hub(redis_url, bounds=Bounds(ring_entries=5000, ring_bytes=50_000_000)) as hub:
        app = Viewing(hub)
        async with served(app) as port:
            with await dial(port) as slow, await dial(port) as quick:
                await until(lambda: hub.counters.viewers == 2)
                await write(commands, "a", [TEXT] * entries)
                size = entries * len(TEXT)
                got = await drained(quick, size)
                await until(lambda: hub.counters.lagging == 1)
                await write(commands, "a", first=entries + 1, done=True)
                got += await drained(quick)
                late = await drained(slow)
    ids = [f"1-{sequence}" for sequence in range(entries + 2)]
    for seen in (got, late):
        assert [frame.id for frame in frames(body(seen))] == ids


async def test_one_who_hangs_up_is_forgotten(commands: Any, redis_url: str) -> None:
    async with Hub(redis_url) as hub:
        app = Viewing(hub)
        async with served(app) as port:
            with await dial(port):
                await write(commands, "a", [TEXT] * 1500)
                await until(lambda: hub.counters.lagging == 1)
            await until(lambda: not hub.counters.viewers)
            await until(lambda: not hub.counters.lagging)
    assert app.left == 1

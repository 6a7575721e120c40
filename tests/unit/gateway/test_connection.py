"""A connection's bounds do not depend on the pieces in which a request comes."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from tests.support.waiting import until
from velesio_worker.gateway.connection import MOST_HEAD_BYTES, Connection

pytestmark = pytest.mark.anyio

START = b"GET /"


class Transport:
    """What a connection writes to."""

    def __init__(self) -> None:
        self.written = b""
        self._closing = False

    def get_extra_info(self, name: str) -> None:
        del name

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def resume_reading(self) -> None: ...

    def pause_reading(self) -> None: ...


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def status_of(head: bytes, piece: int) -> int:
    """Send a head in pieces of a size, and return the status of the answer."""
    config = uvicorn.Config(app, log_config=None, ws="none", lifespan="off")
    config.load()
    transport = Transport()
    connection = Connection(config, ServerState(), {}, asyncio.get_running_loop())
    connection.connection_made(cast("Any", transport))
    try:
        for at in range(0, len(head), piece):
            if not transport.is_closing():
                connection.data_received(head[at : at + piece])
        await until(lambda: bool(transport.written))
    finally:
        connection.connection_lost(None)
    return int(transport.written[9:12])


@pytest.mark.parametrize("piece", [700, 16_384, 40_000, 1_000_000])
@pytest.mark.parametrize("rest", [b"%b HTTP/1.1\r\nHost: a\r\n\r\n", b" HTTP/1.1\r\nX: %b\r\nHost: a\r\n\r\n"])
async def test_a_head_may_be_as_large_as_is_said_in_whatever_pieces_it_comes(rest: bytes, piece: int) -> None:
    room = MOST_HEAD_BYTES - len(START + rest)
    assert await status_of(START + rest % (b"y" * room), piece) == 200
    assert await status_of(START + rest % (b"y" * (room + 100)), piece) == 431

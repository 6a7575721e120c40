"""A connection's answers and bounds do not depend on the pieces in which requests come."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from tests.support.examples import examples
from tests.support.waiting import LIMIT
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
        if not self._closing:
            self.written += data

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def resume_reading(self) -> None: ...

    def pause_reading(self) -> None: ...


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Say what was asked, a moment later."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return
        body += message["body"]
        more = message["more_body"]
    await anyio.lowlevel.checkpoint()
    said = repr((scope["method"], scope["raw_path"], scope["query_string"], len(scope["headers"]), body)).encode()
    headers = [(b"content-length", b"%d" % len(said))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": said})


CONFIG = uvicorn.Config(app, log_config=None, ws="none", lifespan="off", date_header=False)
CONFIG.load()


async def answers(*pieces: bytes) -> bytes:
    """Send pieces, and return all that is said until nothing more comes."""
    transport, state = Transport(), ServerState()
    connection = Connection(CONFIG, state, {}, asyncio.get_running_loop())
    connection.connection_made(cast("Any", transport))
    try:
        for piece in pieces:
            if not transport.is_closing():
                connection.data_received(piece)
                await anyio.lowlevel.checkpoint()
        with anyio.fail_after(LIMIT):
            while state.tasks:
                await anyio.lowlevel.checkpoint()
    finally:
        connection.connection_lost(None)
    return transport.written


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[begin:end] for begin, end in pairwise([0, *ends])]


@pytest.mark.parametrize("piece", [700, 16_384, 40_000, 1_000_000])
@pytest.mark.parametrize("rest", [b"%b HTTP/1.1\r\nHost: a\r\n\r\n", b" HTTP/1.1\r\nX: %b\r\nHost: a\r\n\r\n"])
async def test_a_head_may_be_as_large_as_is_said_in_whatever_pieces_it_comes(rest: bytes, piece: int) -> None:
    room = MOST_HEAD_BYTES - len(START + rest)
    for size, status in ((room, b"200"), (room + 100, b"431")):
        head = START + rest % (b"y" * size)
        assert (await answers(*cut(head, range(0, len(head), piece))))[9:12] == status


WHOLE = [
    b"GET /?x=1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 30_000 + b"\r\n\r\n",
    b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n",
]
LAST = [
    b"",
    b"GET /\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
]
BROKEN = [
    b"\xff\xfe",
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX:\r\n y\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 66_000 + b"\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n",
]


@examples(300)
@given(
    st.lists(st.sampled_from(WHOLE), max_size=3),
    st.sampled_from([*LAST, *BROKEN]),
    st.lists(st.integers(0, 2**20), max_size=8),
)
def test_requests_get_the_same_answers_in_whatever_pieces_they_come(
    before: list[bytes], last: bytes, places: list[int]
) -> None:
    data = b"".join([*before, last])
    whole = asyncio.run(answers(data))
    assert whole.count(b"HTTP/1.1 200 ") == len(before) + (last in LAST and last != b"")
    assert (b"HTTP/1.1 400 " in whole or b"HTTP/1.1 431 " in whole) == (last in BROKEN)
    assert asyncio.run(answers(*cut(data, places))) == whole

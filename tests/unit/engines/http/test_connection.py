"""Answers as they are parsed: whatever their bytes are and however they are cut, whole or broken, within bounds."""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from velesio_worker.engines.http.connection import BARE_BYTES, BrokenAnswerError, Connection

HEAD: Final = b"HTTP/1.1 200 OK\r\n"
CHUNKED: Final = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
SIZED: Final = HEAD + b"Content-Length: 5\r\n\r\n"


class Wire(asyncio.Transport):
    """A transport without a socket."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = self.paused = False
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False


async def _more() -> bool:
    return True


async def _answer(reads: Sequence[bytes], *, ends: bool, pulls: bool) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Have a request answered by these reads, and then by the connection's end; returns status, headers and body."""
    connection, wire, pieces = Connection(), Wire(), list[bytes]()
    connection.connection_made(wire)

    async def ask() -> None:
        await connection.request(b"GET / HTTP/1.1\r\n\r\n", keep=True)
        if pulls:
            pieces.extend([piece async for piece in connection.reads()])
        else:
            await connection.push(lambda read: pieces.append(read) is None, _more)

    task = asyncio.ensure_future(ask())
    for read in (b"", *reads):
        if wire.closed:
            break
        if read:
            connection.data_received(read)
        await asyncio.sleep(0)
    if ends and not wire.closed:
        connection.eof_received()
    async with asyncio.timeout(5):
        await task
    return connection.status, connection.headers, b"".join(pieces)


def answer(*reads: bytes, ends: bool = False, pulls: bool = False) -> tuple[int, bytes]:
    status, _, body = asyncio.run(_answer(reads, ends=ends, pulls=pulls))
    return status, body


def single(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


@given(
    parts=bodies,
    cuts=st.lists(st.integers(0, 600)),
    way=st.sampled_from(["sized", "chunked", "to-its-end"]),
    pulls=st.booleans(),
)
def test_a_body_is_the_same_however_its_answer_is_cut(
    *, parts: list[bytes], cuts: list[int], way: str, pulls: bool
) -> None:
    body = b"".join(parts)
    match way:
        case "sized":
            data = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
        case "chunked":
            data = CHUNKED + b"".join(map(chunk, parts)) + b"0\r\nX-Trailer: 1\r\n\r\n"
        case _:
            data = HEAD + b"X: 1\r\n\r\n" + body
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    reads = [data[begin:end] for begin, end in pairwise(places)]
    assert answer(*reads, ends=way == "to-its-end", pulls=pulls) == (200, body)


@pytest.mark.parametrize("pulls", [False, True], ids=["pushed", "pulled"])
def test_a_body_in_reads_of_one_byte_and_many_chunks_in_one_read(*, pulls: bool) -> None:
    data = CHUNKED + b"".join(chunk(b"%d" % number, b";a=b") for number in range(500)) + b"0\r\n\r\n"
    body = b"".join(b"%d" % number for number in range(500))
    assert answer(*single(data), pulls=pulls) == answer(data, pulls=pulls) == (200, body)


@pytest.mark.parametrize(
    "data",
    [
        CHUNKED + b"zz\r\n",
        CHUNKED + b"-1\r\nx\r\n",
        CHUNKED + b"\r\n\r\n",
        CHUNKED + b"11111111111111111\r\nx",
        CHUNKED + b"2\r\nabc\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef",
        HEAD + b"Content-Length: -5\r\n\r\n",
        HEAD + b"Content-Length: 99999999999999999999999999\r\n\r\nx",
        HEAD + b"X: a\0b\r\n\r\n",
        HEAD + b"no colon\r\n\r\n",
        HEAD + b"b\xe9d name: 1\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n\x01\x02",
        b"+PONG\r\n",
    ],
)
def test_what_is_no_answer_is_told_as_such(data: bytes) -> None:
    for reads in ([data], single(data)):
        with pytest.raises(BrokenAnswerError, match="is no HTTP"):
            answer(*reads)


@pytest.mark.parametrize("end", [SIZED, SIZED + b"abcd", CHUNKED, CHUNKED + b"5\r\nab", CHUNKED + chunk(b"x"), HEAD])
def test_an_answer_that_breaks_off_is_no_whole_one(end: bytes) -> None:
    for reads in ([end], single(end)):
        with pytest.raises(BrokenAnswerError, match="was closed"):
            answer(*reads, ends=True)


def test_what_came_before_an_answer_broke_off_is_told() -> None:
    pieces: list[bytes] = []

    async def ask(data: bytes) -> None:
        connection = Connection()
        connection.connection_made(Wire())
        task = asyncio.ensure_future(connection.request(b"", keep=True))
        await asyncio.sleep(0)
        connection.data_received(data)
        await task
        await connection.push(lambda read: pieces.append(read) is None, _more)

    with pytest.raises(BrokenAnswerError):
        asyncio.run(ask(CHUNKED + chunk(b"told") + b"zz\r\n"))
    assert pieces == [b"told"]


def test_what_is_said_before_the_answer_itself_is_passed_over() -> None:
    before = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    for reads in ([before + SIZED + b"abcde"], single(before + SIZED + b"abcde")):
        status, headers, body = asyncio.run(_answer(reads, ends=False, pulls=False))
        assert (status, headers, body) == (200, [(b"Content-Length", b"5")], b"abcde")


def test_an_answer_to_nothing_in_the_same_read_changes_none_before_it() -> None:
    other = b"HTTP/1.1 500 Wrong\r\nX: 1\r\nContent-Length: 3\r\n\r\nbad"
    status, headers, body = asyncio.run(_answer([SIZED + b"abcde" + other], ends=False, pulls=False))
    assert (status, headers, body) == (200, [(b"Content-Length", b"5")], b"abcde")


def test_headers_of_a_trailer_are_none_of_the_answers() -> None:
    _, headers, _ = asyncio.run(_answer([CHUNKED + chunk(b"a") + b"0\r\nX: 1\r\n\r\n"], ends=False, pulls=False))
    assert headers == [(b"Transfer-Encoding", b"chunked")]


@pytest.mark.parametrize(
    ("beginning", "rest"),
    [
        (HEAD, b"X: " + b"a" * 1000 + b"\r\n"),
        (HEAD + b"X: ", b"a" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 40),
        (CHUNKED + b"1;a=", b"a" * 1000),
        (CHUNKED + chunk(b"x") + b"0\r\n", b"X: " + b"a" * 1000 + b"\r\n"),
        (CHUNKED + chunk(b"x") + b"0\r\nX: ", b"a" * 1000),
    ],
    ids=["head", "header", "continue", "extension", "trailers", "trailer"],
)
def test_what_never_gets_to_a_body_is_not_read_for_ever(beginning: bytes, rest: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(BrokenAnswerError, match=f"more than {BARE_BYTES} bytes"):
            answer(beginning, *[rest] * 20_000)
        assert tracemalloc.get_traced_memory()[1] < 16 * BARE_BYTES
    finally:
        tracemalloc.stop()


async def _begun(*reads: bytes) -> tuple[Connection, Wire]:
    connection, wire = Connection(), Wire()
    connection.connection_made(wire)
    task = asyncio.ensure_future(connection.request(b"GET", keep=True))
    await asyncio.sleep(0)
    for read in reads:
        connection.data_received(read)
    await task
    return connection, wire


def test_whoever_has_no_room_pauses_the_reading_until_there_is_some() -> None:
    async def ask() -> None:
        connection, wire = await _begun(CHUNKED)
        paused: list[bool] = []
        pieces: list[bytes] = []

        def feed(read: bytes) -> bool:
            pieces.append(read)
            return read != b"full"

        async def more() -> bool:
            paused.append(wire.paused)
            connection.data_received(chunk(b"late"))  # as TLS has it, which had decrypted it already
            assert pieces[-1] == b"full"
            return True

        pushing = asyncio.ensure_future(connection.push(feed, more))
        await asyncio.sleep(0)
        connection.data_received(chunk(b"full"))
        await asyncio.sleep(0.01)
        assert not wire.paused
        connection.data_received(b"0\r\n\r\n")
        await pushing
        assert (paused, pieces) == ([True], [b"full", b"late"])

    asyncio.run(ask())


def test_what_nobody_wants_yet_is_held_within_a_bound() -> None:
    async def ask() -> None:
        connection, wire = await _begun(CHUNKED)
        reads = 0
        while not wire.paused:
            connection.data_received(chunk(b"x" * 1000))
            reads += 1
        assert 256 <= reads <= 300
        assert len(await anext(connection.reads())) == reads * 1000
        assert not wire.paused

    asyncio.run(ask())


@pytest.mark.parametrize("at", ["first", "later", "more"])
def test_whatever_those_raise_who_take_the_body_is_raised_and_ends_the_connection(at: str) -> None:
    async def ask() -> None:
        connection, wire = await _begun(CHUNKED + (chunk(b"a") if at == "first" else b""))

        def feed(_: bytes) -> bool:
            if at == "more":
                return False
            raise ZeroDivisionError

        async def more() -> bool:
            raise ZeroDivisionError

        pushing = asyncio.ensure_future(connection.push(feed, more))
        await asyncio.sleep(0)
        if at != "first":
            connection.data_received(chunk(b"a") + chunk(b"b") + b"zz")
        with pytest.raises(ZeroDivisionError):
            await pushing
        assert wire.closed or at == "more"

    asyncio.run(ask())

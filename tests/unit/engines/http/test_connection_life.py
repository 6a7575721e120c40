"""Connections to an engine on real sockets, on both event loops: read, paused, given up and lost."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
import pytest

from tests.support.loops import LIMIT, TLSPair, anyio_backend, nothing_is_left, tls, tls_pair, until
from tests.support.peer import Guest, Peer, peer
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP
from velesio_worker.engines.http.connecting import connect
from velesio_worker.engines.http.connection import BrokenAnswerError, Connection

__all__ = ["anyio_backend", "nothing_is_left", "tls"]  # fixtures

pytestmark = pytest.mark.anyio

OK: Final = b"HTTP/1.1 200 OK\r\n"
TWO: Final = OK + b"Content-Length: 2\r\n\r\n{}"
CHUNKED: Final = OK + b"Transfer-Encoding: chunked\r\n\r\n"


async def asked(server: Peer, client_tls: ssl.SSLContext | None = None) -> Connection:
    """A connection on which the head of an answer has come."""
    connection = await connect("127.0.0.1", server.port, client_tls, LIMIT)
    try:
        await connection.request(b"GET / HTTP/1.1\r\n\r\n", keep=True)
    except BaseException:
        connection.close()
        raise
    return connection


async def body_of(connection: Connection) -> bytes:
    pieces: list[bytes] = []

    async def more() -> bool:
        return True

    await connection.push(lambda read: pieces.append(read) is None, more)
    return b"".join(pieces)


async def test_a_body_may_end_with_the_connection(tls: TLSPair) -> None:
    async def serve(guest: Guest) -> None:
        await guest.answer(OK + b"\r\nall ")
        await guest.say(b"of it")
        guest.close()

    async with peer(serve, tls=tls[0]) as server:
        with anyio.fail_after(LIMIT):
            connection = await asked(server, tls[1])
            assert await body_of(connection) == b"all of it"
        assert not connection.usable


async def test_a_body_whose_connection_is_reset_is_no_whole_one(tls: TLSPair) -> None:
    async def serve(guest: Guest) -> None:
        await guest.answer(OK + b"\r\nall ")
        await seen.wait()
        guest.reset()

    seen = asyncio.Event()
    async with peer(serve, tls=tls[0]) as server:
        connection = await asked(server, tls[1])
        seen.set()
        with anyio.fail_after(LIMIT), pytest.raises(BrokenAnswerError, match="in the middle"):
            await body_of(connection)


async def test_tls_that_is_cut_off_is_no_end_of_a_body() -> None:
    """Whoever is on the way can end a TCP connection; only the server can say in TLS that nothing follows."""
    context, client = tls_pair()

    async def serve(guest: Guest) -> None:
        await guest.answer(OK + b"\r\npart")
        await seen.wait()
        guest.say_no_more()
        await guest.wait_until_closed()

    seen = asyncio.Event()
    async with peer(serve, tls=context) as server:
        connection = await asked(server, client)
        seen.set()
        with anyio.fail_after(LIMIT), pytest.raises(BrokenAnswerError, match="in the middle"):
            await body_of(connection)


async def test_a_connection_that_is_lost_before_its_request_is_told_at_once(tls: TLSPair) -> None:
    async def serve(guest: Guest) -> None:
        guest.reset()

    async with peer(serve, tls=tls[0]) as server:
        connection = await connect("127.0.0.1", server.port, tls[1], LIMIT)
        await until(lambda: len(server.guests) > 0)
        for _ in range(50):
            await anyio.sleep(0.001)
        with anyio.fail_after(LIMIT), pytest.raises(BrokenAnswerError, match="before its request"):
            await connection.request(b"GET / HTTP/1.1\r\n\r\n", keep=True)


async def test_whoever_speaks_first_is_no_http_server() -> None:
    async def serve(guest: Guest) -> None:
        await guest.say(b"SSH-2.0-OpenSSH_9.0\r\n")
        await guest.wait_until_closed()

    async with peer(serve) as server, EngineHTTP(server.url) as http:
        with pytest.raises(ConnectionLostError):
            await http.get("/x", timeout=LIMIT)
        await server.guests[0].is_gone(1)


async def test_a_server_that_writes_without_end_is_not_read_while_there_is_no_room(tls: TLSPair) -> None:
    piece, sent = b"x" * 65536, 0

    async def serve(guest: Guest) -> None:
        nonlocal sent
        await guest.answer(CHUNKED)
        while sent < 100_000_000:
            await guest.say(b"%x\r\n%s\r\n" % (len(piece), piece))
            sent += len(piece)
        await guest.say(b"0\r\n\r\n")

    async with peer(serve, tls=tls[0]) as server:
        connection, taken = await asked(server, tls[1]), 0
        room = asyncio.Event()

        def feed(read: bytes) -> bool:
            nonlocal taken
            taken += len(read)
            return room.is_set()

        async def more() -> bool:
            await room.wait()
            return True

        pushing = asyncio.ensure_future(connection.push(feed, more))
        await until(lambda: taken > 0)
        before = -1
        while before != sent:  # until the sockets are full
            before = sent
            await anyio.sleep(0.05)
        assert taken <= 1_000_000
        assert sent < 20_000_000
        room.set()
        with anyio.fail_after(60):
            await pushing
        assert taken == sent


async def test_a_large_request_that_nobody_reads_ends_with_the_connection() -> None:
    async def serve(guest: Guest) -> None:
        guest.read_nothing()
        guest.say_no_more()
        await asyncio.sleep(LIMIT * 2)

    async with peer(serve) as server, EngineHTTP(server.url) as http:
        with anyio.fail_after(LIMIT), pytest.raises(ConnectionLostError, match="before its answer"):
            async with http.post("/x", b"x" * 30_000_000):
                pass


async def test_whoever_gives_up_a_large_request_ends_it() -> None:
    async def serve(guest: Guest) -> None:
        guest.read_nothing()
        await go_on.wait()
        guest.read_again()
        await guest.wait_until_closed()

    go_on = asyncio.Event()
    async with peer(serve) as server, EngineHTTP(server.url) as http:
        with anyio.move_on_after(0.2) as scope:
            async with http.post("/x", b"x" * 30_000_000):
                pass
        assert scope.cancelled_caught
        go_on.set()
        await server.guests[0].is_gone(5)


async def test_an_answer_that_comes_before_the_whole_request_was_sent_is_read() -> None:
    async def serve(guest: Guest) -> None:
        await guest.answer(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        await guest.wait_until_closed()

    async with peer(serve) as server, EngineHTTP(server.url) as http:
        with anyio.fail_after(LIMIT):
            async with http.post("/x", b"x" * 30_000_000) as response:
                assert (response.status, await response.body(100)) == (413, b"big")


async def _waits_for_the_head(http: EngineHTTP) -> None:
    async with http.post("/x", b"{}"):
        pass


async def _pulls(http: EngineHTTP) -> None:
    await http.get("/x", timeout=60)


async def _pushes(http: EngineHTTP) -> None:
    async def more() -> bool:
        raise AssertionError

    async with http.post("/x", b"{}") as response:
        await response.push(lambda _: True, more)


async def _is_paused(http: EngineHTTP) -> None:
    async def more() -> bool:
        await anyio.sleep_forever()
        return True

    async with http.post("/x", b"{}") as response:
        await response.push(lambda _: False, more)


@pytest.mark.parametrize("use", [_waits_for_the_head, _pulls, _pushes, _is_paused])
async def test_whoever_gives_up_closes_the_connection(use: Callable[[EngineHTTP], Awaitable[None]]) -> None:
    async def serve(guest: Guest) -> None:
        await guest.head()
        if use is not _waits_for_the_head:
            await guest.say(CHUNKED + b"1\r\nx\r\n")
        await guest.wait_until_closed()

    async with peer(serve) as server, EngineHTTP(server.url) as http:
        with anyio.move_on_after(0.2) as scope:
            await use(http)
        assert scope.cancelled_caught
        await server.guests[0].is_gone(1)

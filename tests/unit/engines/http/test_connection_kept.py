"""Connections to an engine that are kept for another request: only after a whole answer, and never too long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import anyio
import pytest

from tests.support.loops import LIMIT, TLSPair, anyio_backend, nothing_is_left, tls, until
from tests.support.peer import Guest, peer
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP, transport
from velesio_worker.engines.http.connecting import connect
from velesio_worker.engines.http.connection import Connection

__all__ = ["anyio_backend", "nothing_is_left", "tls"]  # fixtures

pytestmark = pytest.mark.anyio

TWO: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
GET: Final = b"GET / HTTP/1.1\r\n\r\n"


def always(answer: bytes) -> Callable[[Guest], Any]:
    async def serve(guest: Guest) -> None:
        while True:
            await guest.answer(answer)

    return serve


async def _whole(connection: Connection) -> bytes:
    await connection.request(GET, keep=True)
    return b"".join([read async for read in connection.reads()])


async def _get(http: EngineHTTP) -> None:
    assert await http.get("/x", timeout=LIMIT) == (200, {})


async def test_a_connection_is_used_again_after_a_whole_answer(tls: TLSPair) -> None:
    async with peer(always(TWO), tls=tls[0]) as server:
        connection = await connect("127.0.0.1", server.port, tls[1], LIMIT)
        for _ in range(3):
            assert await _whole(connection) == b"{}"
            assert connection.usable
        connection.close()
        assert not connection.usable


async def test_requests_one_after_another_take_one_connection() -> None:
    async with peer(always(TWO)) as server, EngineHTTP(server.url) as http:
        for _ in range(5):
            assert await http.get("/x", timeout=LIMIT) == (200, {})
        assert (len(server.guests), server.requests) == (1, 5)


@pytest.mark.parametrize(
    "answer",
    [
        TWO + TWO,
        TWO + b"garbage",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{",
    ],
    ids=["two", "garbage", "1.0", "close", "broken"],
)
async def test_nothing_is_kept_after_any_other_answer(answer: bytes) -> None:
    async with peer(always(answer)) as server, EngineHTTP(server.url) as http:
        for _ in range(2):
            if answer.endswith(b"{"):
                with pytest.raises(ConnectionLostError):
                    await http.get("/x", timeout=0.1)
            else:
                assert await http.get("/x", timeout=LIMIT) == (200, {})
        assert len(server.guests) == 2
        await until(lambda: all(guest.ended.is_set() for guest in server.guests), 1)


async def test_nobody_who_wants_the_connection_closed_keeps_one() -> None:
    async with peer(always(TWO)) as server, EngineHTTP(server.url) as http:
        assert await http.get("/x", timeout=LIMIT, keep=False) == (200, {})
        async with http.post("/x", b"") as response:
            assert await response.body(10) == b"{}"
        await until(lambda: [guest.ended.is_set() for guest in server.guests] == [True, True], 1)


async def test_what_was_idle_for_too_long_is_not_used_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with peer(always(TWO)) as server, EngineHTTP(server.url) as http:
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(_get, http)
        assert len(server.guests) == 3
        monkeypatch.setattr(transport, "KEEPALIVE_SECONDS", 0.05)
        await anyio.sleep(0.06)
        assert await http.get("/x", timeout=LIMIT) == (200, {})
        await until(lambda: [guest.ended.is_set() for guest in server.guests] == [True, True, True, False], 1)


@pytest.mark.parametrize("seen", [True, False], ids=["and that was seen", "just now"])
async def test_a_kept_connection_that_the_server_closed_is_not_used(tls: TLSPair, *, seen: bool) -> None:
    async def serve(guest: Guest) -> None:
        await guest.answer(TWO)
        await go_on.wait()
        guest.close()

    go_on = asyncio.Event()
    async with peer(serve, tls=tls[0]) as server:
        connection = await connect("127.0.0.1", server.port, tls[1], LIMIT)
        assert await _whole(connection) == b"{}"
        assert connection.usable
        go_on.set()
        if seen:
            await until(lambda: not connection.usable)
            for _ in range(20):
                await anyio.sleep(0.001)
        else:
            await until(server.guests[0].writer.transport.is_closing)
        assert not connection.usable
        connection.close()


@pytest.mark.parametrize("seen", [True, False], ids=["and that was seen", "just now"])
async def test_an_answer_to_nothing_is_not_taken_for_the_next_requests(*, seen: bool) -> None:
    async def serve(guest: Guest) -> None:
        await guest.answer(TWO)
        await go_on.wait()
        guest.writer.write(b"HTTP/1.1 500 Wrong\r\nContent-Length: 5\r\n\r\nwrong")
        said.set()
        while True:
            await guest.answer(TWO)

    go_on, said = asyncio.Event(), asyncio.Event()
    async with peer(serve) as server, EngineHTTP(server.url) as http:
        assert await http.get("/x", timeout=LIMIT) == (200, {})
        go_on.set()
        await said.wait()
        if seen:
            for _ in range(20):
                await anyio.sleep(0.001)
        assert await http.get("/x", timeout=LIMIT) == (200, {})
        assert len(server.guests) == 2


@pytest.mark.parametrize("way", ["closed", "reset"])
async def test_a_get_that_a_kept_connection_lost_is_sent_once_more(way: str) -> None:
    async def serve(guest: Guest) -> None:
        if len(server.guests) == 1:
            await guest.answer(TWO)
        await guest.head()
        if len(server.guests) < 3:
            guest.reset() if way == "reset" else guest.close()
        else:
            await guest.say(TWO)

    async with peer(serve) as server, EngineHTTP(server.url) as http:
        assert await http.get("/x", timeout=LIMIT) == (200, {})
        with pytest.raises(ConnectionLostError):
            await http.get("/x", timeout=LIMIT)
        assert (len(server.guests), server.requests) == (2, 3)
        assert await http.get("/x", timeout=LIMIT) == (200, {})


async def test_a_get_whose_answer_had_begun_is_not_sent_once_more() -> None:
    async def serve(guest: Guest) -> None:
        await guest.answer(TWO)
        await guest.answer(b"HTTP/1.1 2")
        guest.close()

    async with peer(serve) as server, EngineHTTP(server.url) as http:
        assert await http.get("/x", timeout=LIMIT) == (200, {})
        with pytest.raises(ConnectionLostError):
            await http.get("/x", timeout=LIMIT)
        assert server.requests == 2


@pytest.mark.parametrize("way", ["closed", "reset"])
async def test_a_post_is_never_sent_twice(way: str) -> None:
    async def serve(guest: Guest) -> None:
        if b"GET" in await guest.head():
            await guest.say(TWO)
            await guest.head()
        guest.reset() if way == "reset" else guest.close()

    async with peer(serve) as server, EngineHTTP(server.url) as http:
        assert await http.get("/x", timeout=LIMIT) == (200, {})
        with pytest.raises(ConnectionLostError):
            async with http.post("/x", b"{}"):
                pass
        assert [len(guest.requests) for guest in server.guests] == [1, 1]


async def test_a_connection_that_was_left_paused_goes_on_with_the_next_request() -> None:
    async with peer(always(TWO)) as server:
        connection = await connect("127.0.0.1", server.port, None, LIMIT)
        await connection.request(GET, keep=True)

        async def more() -> bool:
            return False

        await connection.push(lambda _: False, more)
        assert connection.usable
        with anyio.fail_after(LIMIT):
            assert await _whole(connection) == b"{}"
        connection.close()


async def test_an_answer_that_ends_after_its_client_leaves_no_connection() -> None:
    async def serve(guest: Guest) -> None:
        await guest.head()
        await go_on.wait()
        await guest.say(TWO)
        await guest.wait_until_closed()

    go_on = asyncio.Event()
    async with peer(serve) as server, anyio.create_task_group() as group:
        async with EngineHTTP(server.url) as http:
            group.start_soon(_get, http)
            await until(lambda: server.requests > 0)
        go_on.set()
        await server.guests[0].is_gone(1)

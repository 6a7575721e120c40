"""Packed commands: each has its own reply and no other's, whatever breaks, hangs or is given up."""

from __future__ import annotations

import asyncio
import signal
import time
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.support.fake_redis import fake_redis
from tests.support.loops import LIMIT, anyio_backend, nothing_is_left, until
from tests.support.peer import Guest
from tests.support.proxies import FaultyProxy, TLSProxy
from tests.support.servers import RedisServer, Topology
from velesio_worker.queue import packed as packed_module
from velesio_worker.queue.connection import connect
from velesio_worker.queue.exchange import pack
from velesio_worker.queue.packed import Packed, PackedCommands

__all__ = ["anyio_backend", "nothing_is_left"]  # fixtures

pytestmark = pytest.mark.anyio

NAME = "packed"


def command(*words: str | int | bytes) -> Packed:
    return str(words[1]), pack(words)


@asynccontextmanager
async def packing(url: str, seconds: float = LIMIT) -> AsyncGenerator[PackedCommands]:
    client = connect(url, name=NAME)
    packed = PackedCommands(client, seconds)
    try:
        yield packed
    finally:
        await packed.close()
        await client.aclose()


def connections(server: RedisServer) -> list[str]:
    """The ids of the connections that carry the client's name."""
    return [row["id"] for row in server.client.client_list() if row["name"] == NAME]


@pytest.mark.topologies
async def test_replies_are_in_order_errors_and_nested_ones_among_them(redis_url: str) -> None:
    keys = [f"key-{number}" for number in range(50)]
    async with packing(redis_url) as packed:
        assert await packed.send([command("SET", key, key) for key in keys]) == [b"OK"] * 50
        for _ in range(3):
            replies = await packed.send([command("LLEN" if key == "key-7" else "GET", key) for key in keys])
            assert isinstance(replies[7], Exception)
            assert str(replies[7]).startswith("WRONGTYPE")
            assert [*replies[:7], *replies[8:]] == [key.encode() for key in keys if key != "key-7"]
        nested = "return {1, {2, {3, {KEYS[1], false}}, redis.error_reply('MINE')}}"
        (reply,) = await packed.send([("key-1", pack(("EVAL", nested, 1, "key-1")))])
        assert reply[:1] == [1]
        assert reply[1][:2] == [2, [3, [b"key-1", None]]]
        assert isinstance(reply[1][2], Exception)


@pytest.mark.topologies
async def test_nothing_is_left_behind_after_the_end(redis_url: str, topology: Topology) -> None:
    async with packing(redis_url) as packed:
        await packed.send([command("SET", f"key-{number}", "x") for number in range(50)])
        assert sum(len(connections(node)) for node in topology.nodes) >= 1
        await packed.close()
        assert await packed.send([command("GET", "key-1")]) == [b"x"]
    await until(lambda: sum(len(connections(node)) for node in topology.nodes) == 0)


@pytest.mark.topologies
@pytest.mark.parametrize("given_up", [True, False], ids=["cancelled", "too late"])
async def test_a_reply_that_nobody_waits_for_is_nobody_elses(redis_url: str, *, given_up: bool) -> None:
    async with packing(redis_url, LIMIT if given_up else 0.2) as packed:
        await packed.send([command("SET", f"key-{number}", "right") for number in range(50)])
        waiting = [command("GET", "key-1"), command("BLPOP", "wanted", 5)]
        if given_up:
            with anyio.move_on_after(0.1) as scope:
                await packed.send(waiting)
            assert scope.cancelled_caught
        else:
            with anyio.fail_after(LIMIT), pytest.raises(RedisTimeoutError, match=r"no reply in 0\.2 s"):
                await packed.send(waiting)
        await packed.send([command("LPUSH", "wanted", "wrong")])
        replies = await packed.send([command("GET", f"key-{number}") for number in range(50)])
        assert replies == [b"right"] * 50


async def test_a_reply_in_reads_of_one_byte_is_the_same() -> None:
    async def say(guest: Guest, _: list[bytes]) -> None:
        for byte in b"*2\r\n$4\r\na\r\nb\r\n*1\r\n-ERR no\r\n":
            guest.writer.write(bytes([byte]))
            await asyncio.sleep(0)

    async with fake_redis(say) as server, packing(f"redis://127.0.0.1:{server.port}") as packed:
        replies = await packed.send([command("GET", "a"), command("GET", "b")])
        assert [reply[0] for reply in replies] == [b"a\r\nb"] * 2
        assert [str(reply[1][0]) for reply in replies] == ["ERR no"] * 2


@pytest.mark.parametrize("said", [b"", b"$1\r\na\r\n", b"$1\r\na\r\n$1"], ids=["none", "one", "a part"])
@pytest.mark.parametrize("way", ["close", "reset", "say_no_more"])
async def test_a_connection_that_is_lost_before_all_replies_is_told_at_once(said: bytes, way: str) -> None:
    async def say(guest: Guest, words: list[bytes]) -> None:
        if words[1] == b"a":
            await guest.say(said)
            getattr(guest, way)()

    async with fake_redis(say) as server, packing(f"redis://127.0.0.1:{server.port}") as packed:
        with anyio.fail_after(LIMIT / 2), pytest.raises(RedisConnectionError, match="connection was lost"):
            await packed.send([command("GET", "a"), command("GET", "b")])


@pytest.mark.parametrize("way", ["close", "reset", "say_no_more"])
async def test_a_connection_that_is_lost_after_its_replies_costs_nothing(way: str) -> None:
    async def say(guest: Guest, _: list[bytes]) -> None:
        await guest.say(b"$1\r\na\r\n")
        if len(server.guests) == 1:
            getattr(guest, way)()

    async with fake_redis(say) as server, packing(f"redis://127.0.0.1:{server.port}") as packed:
        assert await packed.send([command("GET", "a")]) == [b"a"]
        await until(server.guests[0].writer.transport.is_closing) if way != "say_no_more" else None
        for _ in range(20):
            await anyio.sleep(0.001)
        assert await packed.send([command("GET", "a")]) == [b"a"]
        assert len(server.guests) == 2


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "is no Redis"),
        (b"$1\r\na\r\n*x\r\n", "is no Redis"),
        (b"$1\r\na\r\n" * 3, "nobody had asked for"),
    ],
)
async def test_what_is_no_answer_to_what_was_asked_is_told_and_not_gone_on_with(said: bytes, told: str) -> None:
    async def say(guest: Guest, words: list[bytes]) -> None:
        if len(server.guests) == 1:
            await guest.say(said if words[1] == b"a" else b"")
        else:
            await guest.say(b"$5\r\nright\r\n")

    async with fake_redis(say) as server, packing(f"redis://127.0.0.1:{server.port}") as packed:
        with anyio.fail_after(LIMIT), pytest.raises(RedisConnectionError, match=told):
            await packed.send([command("GET", "a"), command("GET", "b")])
        assert await packed.send([command("GET", "a")]) == [b"right"]


async def test_what_comes_unasked_is_no_reply_to_what_is_sent_next() -> None:
    async def say(guest: Guest, _: list[bytes]) -> None:
        await guest.say(b"$5\r\nright\r\n")
        if len(server.guests) == 1:
            await asyncio.sleep(0.01)
            await guest.say(b"$5\r\nwrong\r\n" * 10)

    async with fake_redis(say) as server, packing(f"redis://127.0.0.1:{server.port}") as packed:
        first = await packed.send([command("GET", "a")])
        await server.guests[0].is_gone(5)
        assert first == [b"right"]
        assert await packed.send([command("GET", "a")]) == [b"right"]
        assert len(server.guests) == 2


@pytest.mark.parametrize("said", [b"$500000000\r\n", b"*1000\r\n"], ids=["a reply without end", "many in one"])
async def test_replies_without_end_are_not_read_for_ever(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_module, "REPLIES_BYTES", 1_000_000)

    async def say(guest: Guest, _: list[bytes]) -> None:
        await guest.say(said)
        with suppress(OSError):
            while not guest.writer.transport.is_closing():
                await guest.say(b"$49990\r\n" + b"x" * 49990 + b"\r\n")
        guest.ended.set()

    async with fake_redis(say) as server, packing(f"redis://127.0.0.1:{server.port}") as packed:
        tracemalloc.start()
        try:
            with anyio.fail_after(LIMIT), pytest.raises(RedisConnectionError, match="more than 1000000 bytes"):
                await packed.send([command("GET", "a")])
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()
        await server.guests[0].is_gone(5)


async def test_a_redis_that_hangs_is_told_in_time_and_gone_on_with_once_it_does(own_redis: RedisServer) -> None:
    own_redis.start()
    assert own_redis.process is not None
    async with packing(own_redis.url, 0.3) as packed:
        await packed.send([command("SET", "a", 1)])
        own_redis.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        with anyio.fail_after(LIMIT), pytest.raises(RedisTimeoutError):
            await packed.send([command("INCR", "a")])
        assert 0.25 < time.monotonic() - began < 3
        own_redis.process.send_signal(signal.SIGCONT)
        (reply,) = await packed.send([command("INCR", "b")])
        assert reply == 1


async def test_a_redis_that_restarts_between_two_writes_costs_nothing(own_redis: RedisServer) -> None:
    own_redis.start()
    async with packing(own_redis.url) as packed:
        await packed.send([command("SET", "a", "kept")])
        own_redis.kill()
        await anyio.to_thread.run_sync(own_redis.start)
        assert await packed.send([command("GET", "a")]) == [b"kept"]


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
async def test_a_connection_that_is_cut_while_it_is_idle_costs_nothing(
    scheme: str, shared_redis: RedisServer, tmp_path: Path
) -> None:
    proxy: FaultyProxy = TLSProxy(shared_redis.port, tmp_path) if scheme == "rediss" else FaultyProxy(shared_redis.port)
    with proxy:
        async with packing(proxy.url) as packed:
            for _ in range(3):
                assert await packed.send([command("SET", "a", "x"), command("GET", "a")]) == [b"OK", b"x"]
                await anyio.to_thread.run_sync(proxy.cut_all)
                for _turn in range(20):
                    await anyio.sleep(0.001)
            assert proxy.connections == 3


async def test_users_passwords_and_the_name_are_kept_over_tls(shared_redis: RedisServer, tmp_path: Path) -> None:
    shared_redis.client.execute_command("ACL", "SETUSER", "me", "on", ">pass", "~*", "+@all")
    try:
        with TLSProxy(shared_redis.port, tmp_path) as proxy:
            url = proxy.url.replace("://", "://me:pass@")
            async with packing(url) as packed:
                assert await packed.send([("", pack(("ACL", "WHOAMI")))]) == [b"me"]
                assert len(connections(shared_redis)) == 1
            async with packing(url.replace("pass@", "wrong@")) as packed:
                with pytest.raises(RedisError):
                    await packed.send([command("GET", "a")])
            await until(lambda: not connections(shared_redis))
    finally:
        shared_redis.client.execute_command("ACL", "DELUSER", "me")


async def test_whoever_gives_up_while_it_is_connected_leaves_no_connection() -> None:
    async def serve(guest: Guest, _: list[bytes]) -> None:
        await guest.wait_until_closed()

    async with fake_redis(serve) as server:
        client: Any = connect(f"redis://me:pass@127.0.0.1:{server.port}", name=NAME)
        pool, gate = client.connection_pool, asyncio.Event()
        connecting = pool.connection_class.on_connect_check_health

        async def hangs(connection: Any, **options: Any) -> None:
            gate.set()
            await anyio.sleep_forever()
            await connecting(connection, **options)

        packed = PackedCommands(client, LIMIT)
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(pool.connection_class, "on_connect_check_health", hangs)
            async with anyio.create_task_group() as group:
                group.start_soon(packed.send, [command("GET", "a")])
                await gate.wait()
                group.cancel_scope.cancel()
        await until(lambda: len(server.guests) == 1)
        await server.guests[0].is_gone(5)
        await client.aclose()

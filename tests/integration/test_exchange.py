"""Commands that go the shorter way: no reply is taken for another's, whatever breaks or is given up."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from velesio_worker.queue.clients import execute
from velesio_worker.queue.connection import connect

pytestmark = pytest.mark.anyio

LIMIT = 0.3


@pytest.fixture
async def client(redis_url: str, commands: Any) -> AsyncIterator[Any]:
    await commands.set("x", "the right one")
    client: Any = connect(redis_url, name="tested", socket_timeout=LIMIT)
    yield client
    await client.aclose()


async def numbers(commands: Any) -> list[str]:
    """The ids of the client's connections."""
    return [entry["id"] for entry in await commands.client_list() if entry["name"] == "tested"]


async def test_commands_one_after_another_take_one_connection(client: Any, commands: Any) -> None:
    for _ in range(10):
        assert await client.get("x") == b"the right one"
    assert len(await numbers(commands)) == 1


async def test_what_a_method_returns_is_as_redis_py_has_it(client: Any) -> None:
    assert await client.set("y", 1.5, ex=9) is True
    assert await client.mget("y", "z") == [b"1.5", None]
    assert await client.hset("h", mapping={"a": 1}) == 1
    assert await client.hgetall("h") == {b"a": b"1"}
    assert await client.xadd("s", {"event": "done"}, id="1-0") == b"1-0"
    assert await client.xrange("s") == [(b"1-0", {b"event": b"done"})]
    assert [row["name"] for row in await client.client_list()].count("tested") == 1


async def test_whoever_gives_up_leaves_no_reply_to_others(client: Any, commands: Any) -> None:
    assert await client.get("x") == b"the right one"
    with anyio.move_on_after(0.05) as scope:
        await client.blpop("wanted", 5)
    assert scope.cancelled_caught
    await commands.lpush("wanted", "the wrong one")
    assert await client.get("x") == b"the right one"


async def test_a_reply_that_does_not_come_in_time_is_an_outage_and_leaves_none_to_others(client: Any) -> None:
    with pytest.raises(RedisTimeoutError, match=r"no reply in 0\.3 s"):
        await client.blpop("wanted", 5)
    assert await client.get("x") == b"the right one"


async def test_a_connection_that_is_lost_meanwhile_is_an_outage(client: Any, commands: Any) -> None:
    assert await client.ping()
    async with anyio.create_task_group() as group:

        async def waits() -> None:
            with pytest.raises(RedisConnectionError):
                await client.blpop("wanted", 5)

        group.start_soon(waits)
        while not [entry for entry in await commands.client_list() if entry["cmd"] == "blpop"]:
            await anyio.sleep(0.005)
        for number in await numbers(commands):
            await commands.client_kill_filter(_id=number)
    assert await client.get("x") == b"the right one"


async def test_a_connection_that_was_lost_while_it_was_idle_is_another_one(client: Any, commands: Any) -> None:
    assert await client.ping()
    (before,) = await numbers(commands)
    await commands.client_kill_filter(_id=before)
    with anyio.fail_after(5):
        while before in await numbers(commands):
            await anyio.sleep(0.005)
        while True:
            with suppress(RedisConnectionError):  # until its end is read
                assert await client.get("x") == b"the right one"
                break
    assert before not in await numbers(commands)


async def test_an_error_is_the_commands_own_and_costs_no_connection(client: Any, commands: Any) -> None:
    await client.ping()
    before = await numbers(commands)
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await client.llen("x")
    async with client.pipeline(transaction=False) as pipe:
        pipe.get("x")
        pipe.llen("x")
        pipe.hmget("x", "a")
        pipe.set("y", 2)
        first, second, third, fourth = await execute(pipe, raise_on_error=False)
    assert (first, fourth) == (b"the right one", True)
    assert isinstance(second, ResponseError)
    assert isinstance(third, ResponseError)
    assert await numbers(commands) == before


async def test_what_the_system_does_not_take_at_once_arrives_whole(client: Any) -> None:
    large = b"x" * 20_000_000
    assert await client.set("large", large) is True
    assert await client.strlen("large") == len(large)
    assert await client.get("large") == large


async def test_many_at_once_each_have_their_own_reply(client: Any) -> None:
    replies: dict[int, Any] = {}

    async def ask(number: int) -> None:
        replies[number] = await client.echo(str(number))

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(ask, number)
    assert replies == {number: str(number).encode() for number in range(50)}

"""The client waits with a bound where it is asked to, and there is one for programs without asyncio."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import pytest

from tests.support.redis_side import Side
from tests.support.servers import RedisServer
from tests.support.viewing import write
from velesio_worker.client import Client, JobError, JobRestartedError, JobStalledError, SyncClient
from velesio_worker.queue.connection import connect

anyio_test = pytest.mark.anyio
topologies = pytest.mark.topologies

QUICK = 0.3


async def follow(client: Client, how: str, job_id: str) -> list[Any]:
    if how == "result":
        return [await client.result(job_id, stall_timeout=QUICK)]
    return [one async for one in getattr(client, how)(job_id, stall_timeout=QUICK)]


@anyio_test
@topologies
@pytest.mark.parametrize("how", ["events", "text", "result"])
async def test_a_job_that_nobody_takes_is_told_after_the_time_that_was_named(redis_url: str, how: str) -> None:
    async with Client(redis_url) as client:
        job_id = await client.submit("completion", {"prompt": "x"})
        began = time.monotonic()
        with anyio.fail_after(60), pytest.raises(JobStalledError, match="no worker has taken it") as told:
            await follow(client, how, job_id)
        assert time.monotonic() - began >= QUICK
        assert told.value.job_id == job_id


@anyio_test
@topologies
async def test_a_job_that_a_living_worker_has_is_waited_for(side: Side, commands: Any, redis_url: str) -> None:
    await side.scripts.beat(side.keys, "w1", 60, {"version": "1"})
    await commands.lpush(side.slot().key, "a job")
    await side.scripts.claim("a", side.slot(), "nonce", 9, "")
    async with Client(redis_url) as client, anyio.create_task_group() as group:

        async def finish() -> None:
            await anyio.sleep(4 * QUICK)
            await commands.set("result:a", '{"text": "x"}')
            await write(commands, "a", done=True)

        group.start_soon(finish)
        with anyio.fail_after(60):
            assert await client.result("a", stall_timeout=QUICK) == {"text": "x"}


@anyio_test
async def test_a_job_whose_worker_is_gone_is_told_so(side: Side, commands: Any, redis_url: str) -> None:
    await side.scripts.beat(side.keys, "w1", 60, {"version": "1"})
    await commands.lpush(side.slot().key, "a job")
    await side.scripts.claim("a", side.slot(), "nonce", 9, "")
    await write(commands, "a", ["x"])
    await commands.delete(side.keys.worker("w1"))  # as when its lease runs out
    found: list[str] = []
    async with Client(redis_url) as client:
        with anyio.fail_after(60), pytest.raises(JobStalledError, match="w1, is gone"):  # noqa: PT012
            async for piece in client.text("a", stall_timeout=QUICK):
                found.append(piece)  # noqa: PERF401 (what came before the error counts)
    assert found == ["x"]


@anyio_test
async def test_entries_are_signs_of_a_job(commands: Any, redis_url: str) -> None:
    async with Client(redis_url) as client, anyio.create_task_group() as group:

        async def write_slowly() -> None:
            await write(commands, "a")
            for sequence in range(1, 7):
                await anyio.sleep(QUICK / 2)
                await write(commands, "a", ["x"], first=sequence)
            await write(commands, "a", first=7, done=True)

        group.start_soon(write_slowly)
        with anyio.fail_after(60):
            assert await follow(client, "text", "a") == ["x"] * 6


@anyio_test
async def test_who_may_not_see_the_workers_is_told_by_the_entries_alone(commands: Any, redis_url: str) -> None:
    rules = ("on", ">pw", "%R~stream:*", "%R~result:*", "+get", "+xread", "+xrevrange", "+@connection")
    await commands.execute_command("ACL", "SETUSER", "guest", *rules)
    try:
        async with Client(redis_url.replace("redis://", "redis://guest:pw@")) as client:
            with anyio.fail_after(60), pytest.raises(JobStalledError, match="may not see which worker"):
                await client.result("a", stall_timeout=QUICK)
    finally:
        await commands.execute_command("ACL", "DELUSER", "guest")


@anyio_test
async def test_time_in_which_redis_is_away_is_nobodys_silence(own_redis: RedisServer) -> None:
    own_redis.start()
    async with Client(own_redis.url) as client, anyio.create_task_group() as group:

        async def come_back() -> None:
            await anyio.sleep(0.2)
            own_redis.kill()
            await anyio.sleep(1.5)
            own_redis.start()
            writer = connect(own_redis.url, name="test")
            await write(writer, "a", ["x"], done=True)
            await writer.aclose()

        group.start_soon(come_back)
        with anyio.fail_after(60):
            assert [event.id async for event in client.events("a", stall_timeout=1)] == ["1-0", "1-1", "1-2"]


@anyio_test
async def test_a_result_is_waited_for_while_redis_is_away(own_redis: RedisServer) -> None:
    async with Client(own_redis.url) as client, anyio.create_task_group() as group:

        async def begin() -> None:
            await anyio.sleep(0.2)
            own_redis.start()
            writer = connect(own_redis.url, name="test")
            await writer.set("result:a", '{"text": "x"}')
            await writer.aclose()

        group.start_soon(begin)
        with anyio.fail_after(60):
            assert await client.result("a") == {"text": "x"}


@pytest.fixture
def sync_client(redis_url: str) -> Iterator[SyncClient]:
    with SyncClient(redis_url) as client:
        yield client


def run_write(url: str, job_id: str, texts: list[str], *, done: bool = False) -> None:
    """Write entries in a loop of its own."""

    async def go() -> None:
        writer = connect(url, name="test")
        await write(writer, job_id, texts, done=done)
        await writer.aclose()

    anyio.run(go)


@topologies
def test_without_asyncio_a_job_is_submitted_followed_and_fetched(
    sync_client: SyncClient, plain: Any, redis_url: str
) -> None:
    job_id = sync_client.submit("completion", {"prompt": "hi"}, tenant="acme")
    assert plain.llen("llama_queue") == 1
    assert sync_client.workers() == ()
    assert sync_client.queue_depths().waiting["incoming"].jobs == 1
    assert sync_client.stored_result(job_id) is None
    with pytest.raises(TimeoutError):
        sync_client.result(job_id, timeout=0.1)
    with pytest.raises(JobStalledError):
        sync_client.result(job_id, stall_timeout=0.1)
    writing = threading.Thread(target=partial(run_write, redis_url, job_id, ["x", "y"], done=True))
    events = sync_client.events(job_id)
    writing.start()
    assert [event.id for event in events] == ["1-0", "1-1", "1-2", "1-3"]
    writing.join()
    plain.set(f"result:{job_id}", '{"text": "xy"}')
    assert [event.id for event in sync_client.events(job_id, "1-1")] == ["1-2", "1-3"]
    assert list(sync_client.text(job_id)) == ["x", "y"]
    assert sync_client.result(job_id) == sync_client.stored_result(job_id) == {"text": "xy"}
    sync_client.cancel(job_id)
    assert plain.exists(f"{{result:{job_id}}}:cancel")


def test_without_asyncio_errors_are_the_same(sync_client: SyncClient, plain: Any, redis_url: str) -> None:
    plain.set("result:a", '{"error": "no", "code": "bad_job"}')
    with pytest.raises(JobError, match="no"):
        sync_client.result("a")
    run_write(redis_url, "b", ["x"])
    plain.xadd("stream:b", {"event": "start", "data": '{"mode": "restart"}'}, id="2-0")
    with pytest.raises(JobRestartedError):
        list(sync_client.text("b"))
    with pytest.raises(TypeError, match="no option nonsense"):
        sync_client.submit("completion", {}, nonsense=1)  # pyright: ignore[reportCallIssue]


def test_without_asyncio_what_is_half_read_is_closed(plain: Any, redis_url: str) -> None:
    run_write(redis_url, "a", ["x", "y"])
    with SyncClient(redis_url) as client:
        events, texts = client.events("a"), client.text("a")
        assert next(events).id == "1-0"
        assert next(texts) == "x"
        events.close()
        never = client.events("a")
    texts.close()
    never.close()
    assert plain.exists("{result:a}:reader")

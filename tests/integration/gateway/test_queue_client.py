"""The gateway's client has two connections, whatever is asked of it at a time."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import orjson
import pytest
from redis.exceptions import RedisError

from tests.support.gateway import QUEUE
from tests.support.servers import RedisServer
from velesio_worker.gateway.queue_client import CONNECTIONS, QueueClient
from velesio_worker.queue.keys import cancel_key, preview_key

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("command", ["preview", "standing", "stored_result", "cancel", "workers", "queue_depths"])
async def test_whatever_many_ask_at_a_time_there_are_two_connections(
    redis_url: str, commands: Any, command: str
) -> None:
    of_a_job = command not in {"workers", "queue_depths"}
    async with QueueClient(redis_url, queue_name="llama_queue") as client:
        before = {one["id"] for one in await commands.client_list()}
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(getattr(client, command), *([f"job-{number}"] if of_a_job else []))
        opened = [one for one in await commands.client_list() if one["id"] not in before]
    assert len(opened) == CONNECTIONS


async def test_a_preview_is_what_redis_has(redis_url: str, commands: Any) -> None:
    await commands.set(preview_key("painting"), b"\xff\xd8 a picture")
    async with QueueClient(redis_url, queue_name="llama_queue") as client:
        assert await client.preview("painting") == b"\xff\xd8 a picture"
        assert await client.preview("nothing") is None


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path / "redis") as server:
        yield server


async def test_a_job_that_hanging_redis_gets_late_is_cancelled(own_redis: RedisServer) -> None:
    async with QueueClient(own_redis.url, queue_name=QUEUE) as client:
        await client.submit("completion", {"prompt": "Once"}, job_id="taken")
        assert own_redis.process is not None
        own_redis.process.send_signal(signal.SIGSTOP)
        try:
            with pytest.raises(RedisError):
                await client.submit("completion", {"prompt": "Once"}, job_id="in-doubt")
        finally:
            own_redis.process.send_signal(signal.SIGCONT)
        with anyio.fail_after(30):
            while not own_redis.client.exists(cancel_key("in-doubt")):
                await anyio.sleep(0.01)
    jobs = [orjson.loads(job)["id"] for job in own_redis.client.lrange(QUEUE, 0, -1)]
    assert jobs == ["in-doubt", "taken"]  # what the cancel is for
    assert not own_redis.client.exists(cancel_key("taken"))


async def test_a_job_that_redis_refuses_is_not_cancelled(own_redis: RedisServer) -> None:
    own_redis.client.set(QUEUE, "no list")
    async with QueueClient(own_redis.url, queue_name=QUEUE) as client:
        with pytest.raises(RedisError):
            await client.submit("completion", {"prompt": "Once"}, job_id="refused")
    assert own_redis.client.keys() == [QUEUE]

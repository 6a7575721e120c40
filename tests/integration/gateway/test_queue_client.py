"""The gateway's client has two connections, whatever is asked of it at a time."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from velesio_worker.gateway.queue_client import CONNECTIONS, QueueClient
from velesio_worker.queue.keys import preview_key

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

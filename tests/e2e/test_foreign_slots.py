"""A llama-server that runs elsewhere and comes back with other slots is used as it then is."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.doubles.paced_server import TOKENS, PacedServer, push
from tests.support.processes import MakeWorker
from tests.support.tiny import model_path

__all__ = ["model_path"]  # a fixture

pytestmark = pytest.mark.anyio


async def until(condition: Callable[[], Awaitable[bool]], server: PacedServer | None = None) -> None:
    """Wait until something is so; a server lets its tokens go meanwhile."""
    with anyio.fail_after(30):
        while not await condition():
            if server is not None:
                server.release()
            await anyio.sleep(0.01)


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)], ids=["more", "fewer"])
async def test_as_many_jobs_are_taken_as_the_server_has_slots_once_it_is_back(
    commands: Any, make_worker: MakeWorker, before: int, after: int
) -> None:
    async with PacedServer(TOKENS, slots=before) as server:
        worker = make_worker(LLAMA_SERVER_URL=server.url, LLM_CONCURRENCY="8")
        await anyio.to_thread.run_sync(worker.wait_for, "worker_ready")
        await push(commands, "0")

        async def runs_one() -> bool:
            return server.running == 1

        async def has_a_token() -> bool:
            return any(fields[b"event"] == b"token" for _, fields in await commands.xrange("stream:0"))

        await until(runs_one)
        await until(has_a_token, server)  # else it would run alone once the server is back
        await server.vanish()
        await anyio.to_thread.run_sync(worker.wait_for, "engine_lost")
        await server.come_back(slots=after)
        for number in range(1, 4):
            await push(commands, str(number))

        async def as_many_as_fit() -> bool:
            return server.running == after and await commands.llen("{llama_queue}:text") == 4 - after

        await until(as_many_as_fit)
        (name,) = await commands.zrange("{llama_queue}:workers", 0, -1)

        async def says_so() -> bool:
            slots = await commands.hget("{llama_queue}:worker:" + name.decode(), "text_slots")
            return slots == str(after).encode()

        await until(says_so)

        async def all_ended() -> bool:
            return await commands.exists(*(f"result:{number}" for number in range(4))) == 4

        await until(all_ended, server)
        results = [json.loads(await commands.get(f"result:{number}")) for number in range(4)]
        assert [result["finish_reason"] for result in results] == ["length"] * 4

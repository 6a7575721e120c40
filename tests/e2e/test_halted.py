"""Jobs that stop before their end: taken by somebody else, read by nobody, stuck in an engine that says nothing."""

from __future__ import annotations

import json
import signal
import time
from typing import Any

import anyio
import anyio.to_thread
import pytest

from tests.doubles.paced_server import next_entry, paced, push
from tests.support.processes import MakeWorker
from tests.support.streams import LONG, read
from tests.support.tiny import brisk_model_path as model_path
from velesio_worker.client import Client

__all__ = ["model_path"]  # a fixture

pytestmark = pytest.mark.anyio


async def result(commands: Any, job_id: str, limit: float = 60) -> dict[str, Any]:
    with anyio.fail_after(limit):
        while (stored := await commands.get(f"result:{job_id}")) is None:
            await anyio.sleep(0.02)
    return json.loads(stored)


@pytest.mark.topologies
async def test_a_job_that_somebody_else_took_stops_the_engine_before_its_next_token(
    commands: Any, make_worker: MakeWorker
) -> None:
    async with paced(make_worker) as server:
        await push(commands, "taken")
        server.release()
        await next_entry(commands, "taken", "1-0")
        await take(commands, "another", "taken")
        with anyio.fail_after(60):
            await server.closed.wait()
        assert not await commands.exists("result:taken")


async def take(commands: Any, worker: str, job_id: str) -> None:
    """Have another worker that lives hold a job, and own its next attempt."""
    owner, slot = (field.decode() for field in await commands.hmget(f"{{result:{job_id}}}:job", "owner", "slot"))
    held = f"{{llama_queue}}:active:{owner}:{slot}"
    hers = f"{{llama_queue}}:active:{worker}:text-0"
    await commands.hset(f"{{llama_queue}}:worker:{worker}", "state", "test")
    await commands.expire(f"{{llama_queue}}:worker:{worker}", 60)
    await commands.zadd("{llama_queue}:workers", {worker: time.time() + 60})
    await commands.lpush(hers, await commands.lindex(held, 0))
    await commands.hset(f"{{result:{job_id}}}:job", mapping={"owner": worker, "slot": "text-0", "attempt": 2})


async def read_all(client: Client, job_id: str) -> None:
    async for _ in client.events(job_id):
        pass


@pytest.mark.topologies
async def test_a_job_that_nobody_reads_is_cancelled_and_one_that_somebody_reads_is_not(
    commands: Any, make_worker: MakeWorker, redis_url: str
) -> None:
    async with paced(make_worker, slots=2) as server, Client(redis_url) as client, anyio.create_task_group() as group:
        group.start_soon(read_all, client, "read")
        with anyio.fail_after(60):
            while not await commands.exists("{result:read}:reader"):
                await anyio.sleep(0.02)
        await push(commands, "unread", unread_timeout=1)
        await push(commands, "read", unread_timeout=1)
        assert (await result(commands, "unread"))["finish_reason"] == "cancelled"
        await anyio.sleep(2)  # twice the limit
        assert not await commands.exists("result:read")
        for _ in range(100):
            server.release()
        assert (await result(commands, "read"))["finish_reason"] == "length"
        group.cancel_scope.cancel()


async def test_an_engine_that_says_nothing_ends_the_job_with_a_code_of_its_own(
    commands: Any, make_worker: MakeWorker
) -> None:
    async with paced(make_worker, STALL_SECONDS="1") as server:
        await push(commands, "stuck", max_attempts=1)
        assert (await result(commands, "stuck"))["code"] == "engine_stalled"
        with anyio.fail_after(60):
            await server.closed.wait()
        with anyio.fail_after(60):
            while not (letters := await commands.lrange("{llama_queue}:dead", 0, -1)):  # it follows the result
                await anyio.sleep(0.02)
        assert ["STALL_SECONDS" in json.loads(letter)["reason"] for letter in letters] == [True]


@pytest.mark.engine
async def test_an_engine_that_hangs_is_replaced_and_its_jobs_go_on(plain: Any, make_worker: MakeWorker) -> None:
    worker = make_worker(STALL_SECONDS="3")
    await anyio.to_thread.run_sync(worker.wait_for, "worker_ready")
    engine = worker.engine()
    for name in ("one", "two"):
        plain.lpush("llama_queue", json.dumps({"id": name, "type": "completion", "data": LONG}))
        read(plain, name, until="token")
    engine.send_signal(signal.SIGSTOP)
    for name in ("one", "two"):
        entries = read(plain, name, until="done")
        text = "".join(data["choices"][0]["text"] for _, event, data in entries if event == "token")
        assert text == json.loads(plain.get(f"result:{name}"))["text"]
        assert [data["mode"] for _, event, data in entries if event == "start"] == ["fresh", "continue"]
    assert not engine.is_running()
    assert "sent nothing for 3 s" in worker.wait_for("engine_lost")["message"]

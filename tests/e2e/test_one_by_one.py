"""Tokens are published one by one: each is in Redis before its source has made the next."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from tests.doubles.paced_server import TOKENS, next_entry, paced, push
from tests.support.processes import MakeWorker

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]


async def test_each_token_is_in_redis_before_the_next_is_made(commands: Any, make_worker: MakeWorker) -> None:
    async with paced(make_worker) as server:
        await push(commands, "paced")
        after = "0-0"
        for number in range(TOKENS):
            server.release()
            fields: dict[bytes, bytes] = {}
            while fields.get(b"event") != b"token":
                after, fields = await next_entry(commands, "paced", after)  # nothing else can follow the token
            assert json.loads(fields[b"data"])["choices"][0]["text"] == f" {number}"
        await next_entry(commands, "paced", after)
        result = json.loads(await commands.get("result:paced"))
        assert result["text"] == "".join(f" {number}" for number in range(TOKENS))


async def test_one_jobs_lost_connection_costs_the_others_nothing(commands: Any, make_worker: MakeWorker) -> None:
    async with paced(make_worker, slots=2) as server:
        for name in ("cut", "other"):
            await push(commands, name)
            with anyio.fail_after(60):
                while server.running < (1 if name == "cut" else 2):
                    await anyio.sleep(0.01)
        server.drop_first()
        with anyio.fail_after(60):
            while await commands.exists("result:cut", "result:other") != 2:
                server.release()
                await anyio.sleep(0.01)
        starts = {
            name: sum(fields[b"event"] == b"start" for _, fields in await commands.xrange(f"stream:{name}"))
            for name in ("cut", "other")
        }
        assert starts == {"cut": 2, "other": 1}


@pytest.mark.parametrize("bell", [True, False], ids=["with the doorbell", "with the flag alone"])
async def test_a_running_job_that_is_cancelled_stops_the_engine_and_keeps_its_text(
    commands: Any, make_worker: MakeWorker, *, bell: bool
) -> None:
    async with paced(make_worker) as server:
        await push(commands, "unwanted")
        server.release()
        await next_entry(commands, "unwanted", "1-0")
        await commands.hset("{result:unwanted}:job", "cancel", 1)
        if bell:
            await commands.xadd("{llama_queue}:control", {"cancel": "unwanted"})
        with anyio.fail_after(60):
            await server.closed.wait()
            while not await commands.exists("result:unwanted"):
                await anyio.sleep(0.01)
        result = json.loads(await commands.get("result:unwanted"))
        assert (result["text"], result["finish_reason"]) == (" 0", "cancelled")
        last, fields = await next_entry(commands, "unwanted", "1-1")
        assert (last, fields[b"event"]) == ("1-2", b"done")


async def test_a_job_whose_time_is_up_stops_the_engine(commands: Any, make_worker: MakeWorker) -> None:
    async with paced(make_worker) as server:
        await push(commands, "slow", timeout=0.2, data={"prompt": "x"})
        with anyio.fail_after(60):
            while not await commands.exists("result:slow"):
                await anyio.sleep(0.02)
            while server.running and not server.closed.is_set():  # its time may be up before it has begun there
                await anyio.sleep(0.02)
        assert json.loads(await commands.get("result:slow"))["code"] == "timeout"


async def test_a_job_whose_stream_is_deleted_stops_the_engine(commands: Any, make_worker: MakeWorker) -> None:
    async with paced(make_worker) as server:
        await push(commands, "unread")
        server.release()
        await next_entry(commands, "unread", "1-0")
        await commands.delete("stream:unread")
        with anyio.fail_after(60):
            while not server.closed.is_set():
                server.release()
                with anyio.move_on_after(0.25):  # the worker is told with its next token, and stops with the one after
                    await server.closed.wait()
            while not await commands.exists("result:unread"):
                await anyio.sleep(0.05)
        assert json.loads(await commands.get("result:unread"))["finish_reason"] == "cancelled"

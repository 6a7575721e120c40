"""The WebUI's routes on a real Redis, whose worker is the test: entries, results, pictures and cancels."""

from __future__ import annotations

import base64
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import orjson
import pytest
from starlette.applications import Starlette
from starlette.types import Message, Scope

from tests.doubles.gateway_jobs import worker
from tests.support.gateway_agents import Front
from tests.support.scripted_worker import EachByItself
from velesio_worker.client import Client
from velesio_worker.client.fleet import QueueDepths
from velesio_worker.gateway.jobs import Fleet, Jobs
from velesio_worker.gateway.sdapi.routes import routes
from velesio_worker.queue.keys import cancel_key, preview_key, result_key, stream_key
from velesio_worker.queue.survey import Waiting
from velesio_worker.wire.jobs import Kind

pytestmark = pytest.mark.anyio

MADE: dict[str, Any] = {
    "images": ["AAAA"],
    "parameters": {"prompt": "a cat", "seed": 7, "steps": 4, "width": 64, "height": 64, "model": "tiny"},
    "seeds": [7],
    "info": {"seed": 7},
}


class JobsForOneWorker(Jobs):
    """Jobs for a worker that is always there."""

    async def fleet(self) -> Fleet:
        waiting = {name: Waiting(0, 0.0) for name in ("incoming", *Kind)}
        return Fleet((worker("w1", ("image",)),), QueueDepths(waiting, 0, 0, {}, {}, 0), ())


@asynccontextmanager
async def application(redis_url: str) -> AsyncGenerator[Starlette, None]:
    async with Client(redis_url) as client:
        jobs = JobsForOneWorker(client, EachByItself(client), max_queue=10, new_id=lambda _: uuid.uuid4().hex)
        yield Starlette(routes=list(routes(Front(jobs))))


def over_http(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway/sdapi/v1", timeout=20)


async def taken(commands: Any) -> dict[str, Any]:
    """Take a job off the queue, as a worker does."""
    with anyio.fail_after(20):
        while (payload := await commands.rpop("llama_queue")) is None:
            await anyio.sleep(0.01)
    return orjson.loads(payload)


async def say(commands: Any, job_id: str, sequence: int, event: str, **data: Any) -> None:
    await commands.xadd(stream_key(job_id), {"event": event, "data": orjson.dumps(data)}, id=f"1-{sequence}")


async def end(commands: Any, job_id: str, result: dict[str, Any], reason: str = "stop") -> None:
    await commands.set(result_key(job_id), orjson.dumps(result))
    await say(commands, job_id, 99, "done", finish_reason=reason, usage=None, timings=None)


async def test_an_image_with_its_progress_and_picture(redis_url: str, commands: Any) -> None:
    answers: list[httpx.Response] = []
    job: dict[str, Any] = {}
    async with application(redis_url) as app, over_http(app) as client, anyio.create_task_group() as group:

        async def paint() -> None:
            answers.append(await client.post("/txt2img", json={"prompt": "a cat", "steps": 4}))

        group.start_soon(paint)
        job |= await taken(commands)
        assert (job["type"], job["data"]) == ("txt2img", {"defaults": "engine", "prompt": "a cat", "steps": 4})
        assert job["unread_timeout"] > 0
        job_id = job["id"]
        await commands.set(preview_key(job_id), b"\xff\xd8")
        await say(commands, job_id, 0, "start", type="txt2img", attempt=1, worker="w1", model="tiny", mode="fresh")
        preview = preview_key(job_id)
        await say(commands, job_id, 1, "progress", stage="sampling", step=1, steps=4, fraction=0.2, preview=preview)
        told: dict[str, Any] = {"progress": 0.0}
        with anyio.fail_after(20):
            while told["progress"] != 0.2:
                told = (await client.get("/progress")).json()
                await anyio.sleep(0.01)
        assert base64.b64decode(told["current_image"]) == b"\xff\xd8"
        await end(commands, job_id, MADE)
    assert answers[0].json()["images"] == ["AAAA"]
    assert orjson.loads(answers[0].json()["info"])["seed"] == 7
    assert not await commands.exists(cancel_key(job["id"]))


async def test_an_interrupt_reaches_the_worker(redis_url: str, commands: Any) -> None:
    answers: list[httpx.Response] = []
    async with application(redis_url) as app, over_http(app) as client, anyio.create_task_group() as group:

        async def paint() -> None:
            answers.append(await client.post("/txt2img", json={"prompt": "a cat"}))

        group.start_soon(paint)
        job_id = (await taken(commands))["id"]
        with anyio.fail_after(20):
            while (await client.get("/progress")).json()["state"]["job_count"] == 0:
                await anyio.sleep(0.01)
        assert (await client.post("/interrupt")).json() == {}
        assert await commands.exists(cancel_key(job_id))
        await end(commands, job_id, {"images": [], "finish_reason": "cancelled"}, "cancelled")
    assert (answers[0].status_code, answers[0].json()["images"]) == (200, [])


async def test_a_client_that_hangs_up_has_its_image_cancelled(redis_url: str, commands: Any) -> None:
    gone = anyio.Event()
    body: list[Message] = [{"type": "http.request", "body": b'{"prompt": "a cat"}', "more_body": False}]

    async def receive() -> Message:
        if body:
            return body.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(_: Message) -> None:
        pass

    scope: Scope = {"type": "http", "method": "POST", "path": "/sdapi/v1/txt2img", "headers": [], "query_string": b""}
    async with application(redis_url) as app, anyio.create_task_group() as group:
        group.start_soon(app, scope, receive, send)
        job_id = (await taken(commands))["id"]
        gone.set()
        with anyio.fail_after(1):
            while not await commands.exists(cancel_key(job_id)):
                await anyio.sleep(0.01)


@pytest.mark.parametrize("depth", [300, 900])
async def test_a_body_that_is_nested_too_deep_is_refused(redis_url: str, depth: int) -> None:
    deep = b'{"prompt": "a cat", "script_args": ' + b"[" * depth + b"]" * depth + b"}"
    async with application(redis_url) as app, over_http(app) as client:
        answer = await client.post("/txt2img", content=deep, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")

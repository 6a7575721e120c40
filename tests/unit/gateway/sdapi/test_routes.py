"""The WebUI's routes over HTTP, with jobs that the test answers."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import orjson
import pytest
from starlette.applications import Starlette
from starlette.types import Message, Scope

from tests.doubles.gateway_jobs import GatewayDouble, JobsInMemory
from velesio_worker.gateway.jobs import Model
from velesio_worker.gateway.sdapi.routes import OPERATIONS, routes
from velesio_worker.wire.errors import BadJobError, NoCapacityError

pytestmark = pytest.mark.anyio

MADE: dict[str, Any] = {
    "images": ["AAAA"],
    "parameters": {"prompt": "a cat", "seed": 7, "steps": 4, "width": 64, "height": 64, "model": "tiny"},
    "seeds": [7],
    "info": {},
}
LISTED: dict[str, Any] = {"models": [{"name": "tiny", "filename": "/m/tiny.safetensors", "hash": None, "loaded": True}]}
INFO: dict[str, Any] = {
    "name": "tiny",
    "samplers": ["Euler"],
    "schedulers": ["karras"],
    "upscalers": ["Lanczos", "Latent"],
    "vaes": [],
}
MODELS = (Model("tiny", "image", default=True), Model("other", "image"), Model("small", "text", default=True))


def app_of(jobs: JobsInMemory) -> Starlette:
    return Starlette(routes=list(routes(GatewayDouble(jobs))))


@asynccontextmanager
async def client_of(jobs: JobsInMemory) -> AsyncGenerator[httpx.AsyncClient, None]:
    transport = httpx.ASGITransport(app_of(jobs))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway/sdapi/v1") as client:
        yield client


async def test_an_image_is_made() -> None:
    jobs = JobsInMemory({"txt2img": MADE})
    async with client_of(jobs) as client:
        answer = await client.post("/txt2img", json={"prompt": "a cat", "steps": 4, "save_images": True, "x": 1})
    assert answer.status_code == 200
    assert answer.json()["images"] == ["AAAA"]
    assert orjson.loads(answer.json()["info"])["seed"] == 7
    [job] = jobs.submitted
    assert (job.job_type, job.data) == ("txt2img", {"defaults": "engine", "prompt": "a cat", "steps": 4})
    assert job.options.get("unread_timeout")
    assert jobs.cancelled == []


async def test_an_image_is_made_of_another() -> None:
    jobs = JobsInMemory({"img2img": MADE})
    async with client_of(jobs) as client:
        answer = await client.post("/img2img", json={"prompt": "a cat", "init_images": ["AAAA"]})
        missing = await client.post("/img2img", json={"prompt": "a cat"})
    assert answer.status_code == 200
    assert (missing.status_code, missing.json()["detail"]) == (404, "Init image not found")
    assert len(jobs.submitted) == 1


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        (b"{", 400, "no JSON"),
        (b"[]", 400, "object"),
        (b'{"steps": "many"}', 400, "steps"),
        (b'{"override_settings": [1]}', 400, "override_settings"),
    ],
)
async def test_bodies_that_are_none(content: bytes, status: int, said: str) -> None:
    jobs = JobsInMemory()
    async with client_of(jobs) as client:
        answer = await client.post("/txt2img", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status
    assert answer.json().keys() == {"error", "detail", "body", "errors"}
    assert said in answer.json()["detail"]
    assert jobs.submitted == []


async def test_what_the_worker_refuses_is_told_in_its_words() -> None:
    jobs = JobsInMemory({"txt2img": BadJobError("data.steps: 1 or more (got 0)")})
    async with client_of(jobs) as client:
        answer = await client.post("/txt2img", json={"steps": 0})
    assert (answer.status_code, answer.json()["detail"]) == (400, "steps: 1 or more (got 0)")
    assert jobs.cancelled == []


async def test_who_may_not_call_gets_the_webuis_form_of_an_error() -> None:
    async with client_of(JobsInMemory()) as client:
        for path in ("/progress", "/options", "/sd-models", "/samplers"):
            answer = await client.get(path, headers={"x-api-key": "wrong"})
            assert (answer.status_code, answer.json()["error"]) == (401, "invalid_api_key")


async def test_lists_come_from_a_worker_and_are_kept_for_a_while() -> None:
    jobs = JobsInMemory({"list_models": LISTED, "model_info": INFO})
    async with client_of(jobs) as client:
        for _ in range(2):
            for path in ("sd-models", "samplers", "schedulers", "upscalers", "latent-upscale-modes", "sd-vae"):
                answer = await client.get(f"/{path}")
                assert answer.status_code == 200
                assert isinstance(answer.json(), list)
        assert (await client.get("/sd-models")).json()[0]["title"] == "tiny"
        assert (await client.get("/latent-upscale-modes")).json() == [{"name": "Latent"}]
    assert sorted(job.job_type for job in jobs.submitted) == ["list_models", "model_info"]
    assert all(job.data == {"kind": "image"} for job in jobs.submitted)


async def test_of_many_who_ask_at_once_one_asks_for_all() -> None:
    jobs = JobsInMemory()
    answers: list[httpx.Response] = []
    async with client_of(jobs) as client, anyio.create_task_group() as group:

        async def ask() -> None:
            answers.append(await client.get("/samplers"))

        for _ in range(5):
            group.start_soon(ask)
        [job] = await jobs.until_submitted(1)
        job.end(INFO)
    assert [answer.json()[0]["name"] for answer in answers] == ["Euler"] * 5
    assert len(jobs.submitted) == 1


async def test_a_list_that_failed_is_asked_for_again() -> None:
    jobs = JobsInMemory({"model_info": NoCapacityError("This worker runs no image jobs.")})
    async with client_of(jobs) as client:
        assert (await client.get("/samplers")).status_code == 503
        jobs.answers["model_info"] = INFO
        assert (await client.get("/samplers")).status_code == 200


async def test_settings_are_told_and_stay() -> None:
    async with client_of(JobsInMemory(models=MODELS)) as client:
        settings = (await client.get("/options")).json()
        assert settings == {"sd_model_checkpoint": "tiny", "samples_format": "png"}
        same = await client.post("/options", json=settings)
        assert (same.status_code, same.json()) == (200, None)
        other = await client.post("/options", json=settings | {"sd_model_checkpoint": "other"})
        assert other.status_code == 400
        assert "override_settings" in other.json()["detail"]
        text = await client.post("/options", json={"sd_model_checkpoint": "small"})
        assert (text.status_code, "tiny, other" in text.json()["detail"]) == (404, True)


async def test_without_a_worker_for_images_there_are_no_settings() -> None:
    async with client_of(JobsInMemory(models=MODELS, kinds=["text"])) as client:
        answer = await client.get("/options")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_progress_is_told_while_an_image_is_made_and_to_its_caller_alone() -> None:
    jobs = JobsInMemory()
    anne, ben = {"x-api-key": "anne"}, {"x-api-key": "ben"}
    made: list[httpx.Response] = []
    async with client_of(jobs) as client, anyio.create_task_group() as group:

        async def paint() -> None:
            made.append(await client.post("/txt2img", json={"prompt": "a cat", "steps": 20}, headers=anne))

        async def told(**parameters: Any) -> Any:
            return (await client.get("/progress", headers=anne, params=parameters)).json()

        group.start_soon(paint)
        [job] = await jobs.until_submitted(1)
        assert (await told())["textinfo"] == "Waiting in the queue…"
        job.say("start", mode="fresh")
        preview = "{result:job-0}:preview"
        job.say("progress", stage="sampling", step=5, steps=20, fraction=0.25, eta=3.5, preview=preview)
        jobs.previews[job.job_id] = b"\xff\xd8"
        with anyio.fail_after(10):
            while (await told())["progress"] != 0.25:
                await anyio.sleep(0.005)
        state = await told()
        assert (state["state"]["sampling_step"], state["state"]["sampling_steps"], state["eta_relative"]) == (
            5,
            20,
            3.5,
        )
        assert base64.b64decode(state["current_image"]) == b"\xff\xd8"
        assert (await told(skip_current_image="true"))["current_image"] is None
        other = (await client.get("/progress", headers=ben)).json()
        assert (other["progress"], other["state"]["job_count"]) == (0.0, 0)
        job.end(MADE)
    assert made[0].json()["images"] == ["AAAA"]
    async with client_of(jobs) as client:
        assert (await client.get("/progress", headers=anne)).json()["state"]["job_count"] == 0


async def test_an_interrupt_stops_the_callers_images_alone() -> None:
    jobs = JobsInMemory()
    made: dict[str, httpx.Response] = {}
    async with client_of(jobs) as client, anyio.create_task_group() as group:

        async def paint(name: str) -> None:
            made[name] = await client.post("/txt2img", json={"prompt": name}, headers={"x-api-key": name})

        group.start_soon(paint, "anne")
        await jobs.until_submitted(1)
        group.start_soon(paint, "ben")
        mine, other = await jobs.until_submitted(2)
        answer = await client.post("/interrupt", headers={"x-api-key": "anne"})
        assert (answer.status_code, answer.json()) == (200, {})
        assert jobs.cancelled == [mine.job_id]
        state = (await client.get("/progress", headers={"x-api-key": "anne"})).json()["state"]
        assert state["interrupted"] is True
        mine.end({"images": [], "finish_reason": "cancelled", "usage": None, "timings": None})
        other.end(MADE)
    assert (made["anne"].status_code, made["anne"].json()["images"]) == (200, [])
    assert made["ben"].json()["images"] == ["AAAA"]


async def test_an_interrupt_while_nothing_runs_is_taken() -> None:
    async with client_of(JobsInMemory()) as client:
        answer = await client.post("/interrupt")
    assert (answer.status_code, answer.json()) == (200, {})


async def test_a_client_that_hangs_up_stops_its_image() -> None:
    jobs = JobsInMemory()
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
    async with anyio.create_task_group() as group:
        group.start_soon(app_of(jobs), scope, receive, send)
        await jobs.until_submitted(1)
        assert jobs.cancelled == []
        gone.set()
    assert jobs.cancelled == [job.job_id for job in jobs.submitted]


async def test_every_route_is_told_of() -> None:
    methods = {
        (route.path, method) for route in routes(GatewayDouble(JobsInMemory())) for method in route.methods or ()
    }
    assert {(one.path, one.method) for one in OPERATIONS} == {pair for pair in methods if pair[1] != "HEAD"}

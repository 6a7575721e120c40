"""llama-server's thin routes over HTTP, with jobs that the test answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import orjson
import pytest
from starlette.applications import Starlette

from tests.doubles.gateway_jobs import GatewayDouble, JobsInMemory
from velesio_worker.gateway.jobs import Model
from velesio_worker.gateway.text.routes import COUNT, OPERATIONS, routes
from velesio_worker.wire.errors import BadJobError, ContextExceededError

pytestmark = pytest.mark.anyio

SAID: dict[str, Any] = {
    "text": " upon",
    "finish_reason": "length",
    "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3},
    "timings": {"predicted_n": 2},
}
MODELS = (Model("small", "text", default=True, context=512), Model("tiny", "image", default=True))


@asynccontextmanager
async def client_of(jobs: JobsInMemory) -> AsyncGenerator[httpx.AsyncClient, None]:
    transport = httpx.ASGITransport(Starlette(routes=list(routes(GatewayDouble(jobs)))))
    async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
        yield client


async def test_a_text_is_gone_on_with() -> None:
    jobs = JobsInMemory({"completion": SAID})
    async with client_of(jobs) as client:
        answer = await client.post("/completion", json={"prompt": "Once", "n_predict": 2, "tfs_z": 1})
    told = answer.json()
    assert (told["content"], told["stop"], told["stop_type"], told["tokens_predicted"]) == (" upon", True, "limit", 2)
    [job] = jobs.submitted
    assert job.data == {"defaults": "engine", "prompt": "Once", "n_predict": 2, "stream": False}


async def test_several_texts_are_a_list_of_answers() -> None:
    jobs = JobsInMemory({"completion": SAID})
    async with client_of(jobs) as client:
        answers = (await client.post("/completion", json={"prompt": ["Once", "Twice"]})).json()
        alone = (await client.post("/completion", json={"prompt": ["Once"]})).json()
    assert [(one["index"], one["prompt"]) for one in answers] == [(0, "Once"), (1, "Twice")]
    assert alone["content"] == " upon"


async def test_a_text_comes_as_it_is_made() -> None:
    jobs = JobsInMemory()
    pieces: list[Any] = []
    async with client_of(jobs) as client, anyio.create_task_group() as group:

        async def read() -> None:
            answer = await client.post("/completion", json={"prompt": "Once", "stream": True})
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in answer.text.split("\n") if line]
            pieces.extend(orjson.loads(line.removeprefix("data: ")) for line in lines)

        group.start_soon(read)
        [job] = await jobs.until_submitted(1)
        assert job.data["stream"] is True
        job.say("start", mode="fresh", model="small")
        job.say("token", choices=[{"text": " upon", "index": 0, "finish_reason": None}])
        job.end(SAID)
    assert [piece["content"] for piece in pieces] == [" upon", ""]
    assert (pieces[-1]["stop"], pieces[-1]["model"], pieces[-1]["tokens_predicted"]) == (True, "small", 2)


async def test_an_error_before_the_first_piece_is_a_status_and_later_a_frame() -> None:
    jobs = JobsInMemory()
    answers: list[httpx.Response] = []
    async with client_of(jobs) as client, anyio.create_task_group() as group:

        async def ask() -> None:
            answers.append(await client.post("/completion", json={"prompt": "Once", "stream": True}))

        group.start_soon(ask)
        [early] = await jobs.until_submitted(1)
        early.end(ContextExceededError("The prompt has 600 tokens and the context 512."))
        group.start_soon(ask)
        late = (await jobs.until_submitted(2))[1]
        late.say("token", choices=[{"text": " upon", "index": 0, "finish_reason": None}])
        await jobs.until_read(late)
        late.end(BadJobError("no"))
    failed, begun = sorted(answers, key=lambda answer: -answer.status_code)
    assert (failed.status_code, failed.json()["error"]["type"]) == (400, "exceed_context_size_error")
    assert begun.status_code == 200
    assert '"error":{"code":400,"message":"no"' in begun.text.rstrip("\n").rpartition("\n")[2]


CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("path", "body", "job_type", "result", "answer"),
    [
        ("/tokenize", {"content": "a b"}, "tokenize", {"tokens": [1, 2]}, {"tokens": [1, 2]}),
        ("/detokenize", {"tokens": [1]}, "detokenize", {"content": "a", "cached": True}, {"content": "a"}),
        ("/apply-template", CHAT, "apply_template", {"prompt": "<user>hi"}, {"prompt": "<user>hi"}),
        (COUNT, CHAT, "count_tokens", {"tokens": 31}, {"input_tokens": 31, "object": "response.input_tokens"}),
    ],
)
async def test_what_one_job_answers(
    path: str, body: dict[str, Any], job_type: str, result: dict[str, Any], answer: dict[str, Any]
) -> None:
    jobs = JobsInMemory({job_type: result})
    async with client_of(jobs) as client:
        told = await client.post(path, json=body)
    assert (told.status_code, told.json()) == (200, answer)
    assert [job.job_type for job in jobs.submitted] == [job_type]


@pytest.mark.parametrize("path", ["/completion", "/tokenize", "/detokenize", "/apply-template", COUNT])
async def test_bodies_that_are_none(path: str) -> None:
    jobs = JobsInMemory()
    async with client_of(jobs) as client:
        for content in (b"{", b"[]", b'{"prompt": 1, "content": 1, "tokens": "a", "messages": 1}'):
            answer = await client.post(path, content=content, headers={"content-type": "application/json"})
            error = answer.json()["error"]
            assert (answer.status_code, error["code"], error["type"]) == (400, 400, "invalid_request_error")
    assert jobs.submitted == []


async def test_an_unknown_model_is_refused_with_those_there_are() -> None:
    jobs = JobsInMemory({"tokenize": {"tokens": []}}, models=MODELS)
    async with client_of(jobs) as client:
        answer = await client.post("/tokenize", json={"content": "a", "model": "tiny"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found_error")
        assert "small" in answer.json()["error"]["message"]
        for name in ("small", "small.gguf"):
            assert (await client.post("/tokenize", json={"content": "a", "model": name})).status_code == 200
    assert [job.data["model"] for job in jobs.submitted] == ["small", "small.gguf"]


async def test_what_there_is_is_told_of_all_workers_together() -> None:
    async with client_of(JobsInMemory(models=MODELS)) as client:
        told = (await client.get("/props")).json()
    assert told["default_generation_settings"] == {"n_ctx": 512}
    assert (told["total_slots"], told["model_alias"], told["model_path"]) == (8, "small", "small")


async def test_without_workers_there_is_nothing_to_tell() -> None:
    async with client_of(JobsInMemory(kinds=())) as client:
        told = (await client.get("/props")).json()
    assert (told["total_slots"], told["model_alias"]) == (0, None)


async def test_who_may_not_call_gets_the_servers_form_of_an_error() -> None:
    async with client_of(JobsInMemory()) as client:
        answer = await client.get("/props", headers={"x-api-key": "wrong"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")


async def test_every_route_is_told_of() -> None:
    methods = {
        (route.path, method) for route in routes(GatewayDouble(JobsInMemory())) for method in route.methods or ()
    }
    assert {(one.path, one.method) for one in OPERATIONS} == {pair for pair in methods if pair[1] != "HEAD"}

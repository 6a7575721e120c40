"""What clients are told when OpenAI's routes have no answer, before the first word and after it."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import orjson
import pytest
from openai import APIError, APIStatusError, AsyncOpenAI, BadRequestError, RateLimitError

from tests.support.scripted_worker import (
    CHAT,
    HI,
    ROLE,
    Desk,
    ScriptedGateway,
    delta,
    fails,
    post,
)
from velesio_worker.wire.errors import BadJobError, ContextExceededError, EngineCrashedError, EngineUnavailableError

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_before_the_first_word_is_a_status(
    openai: AsyncOpenAI, gateway: ScriptedGateway, *, stream: bool
) -> None:
    said = "The prompt has 4000 tokens, but a job's context has 512: shorten the prompt or raise CONTEXT_SIZE."
    gateway.worker.script = fails(ContextExceededError(said))
    with pytest.raises(BadRequestError) as caught:
        await openai.chat.completions.create(model="tiny", messages=HI, stream=stream)
    assert (caught.value.code, caught.value.type) == ("context_length_exceeded", "invalid_request_error")
    assert said in caught.value.message


@pytest.mark.parametrize("stream", [True, False])
async def test_an_engine_that_is_away_is_a_503(openai: AsyncOpenAI, gateway: ScriptedGateway, *, stream: bool) -> None:
    gateway.worker.script = fails(EngineUnavailableError("It does not start."))
    with pytest.raises(APIStatusError) as caught:
        await openai.chat.completions.create(model="tiny", messages=HI, stream=stream)
    assert caught.value.status_code == 503
    assert int(caught.value.response.headers["retry-after"]) > 0


async def test_an_error_in_mid_answer_is_told_in_the_stream_and_ends_it(
    openai: AsyncOpenAI, gateway: ScriptedGateway, http: httpx.AsyncClient
) -> None:
    gateway.worker.script = fails(EngineCrashedError("It went away."), ROLE, delta({"content": "Hel"}))
    text = ""
    stream = await openai.chat.completions.create(model="tiny", messages=HI, stream=True)
    with pytest.raises(APIError) as caught:  # noqa: PT012 (what came before it is looked at, too)
        async for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert (text, caught.value.message, caught.value.code) == ("Hel", "It went away.", "engine_crashed")
    response = await post(http, "/v1/chat/completions", CHAT | {"stream": True})
    *_, last, nothing, end = response.text.split("\n")
    assert (orjson.loads(last.removeprefix("data: "))["error"]["code"], nothing, end) == ("engine_crashed", "", "")


async def test_an_answer_that_would_begin_anew_ends_with_a_sentence(
    openai: AsyncOpenAI, gateway: ScriptedGateway
) -> None:
    async def lost(desk: Desk) -> None:
        await desk.start()
        await desk.write("token", {"choices": [delta({"content": "Hel"})]})
        await desk.start("restart")
        await desk.cancelled()
        await desk.end({"text": "", "finish_reason": "cancelled", "usage": None, "timings": None})

    gateway.worker.script = lost
    stream = await openai.chat.completions.create(model="tiny", messages=HI, stream=True)
    with anyio.fail_after(60), pytest.raises(APIError, match="begin anew"):
        assert [chunk async for chunk in stream]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_hangs_up_has_all_its_jobs_cancelled_within_a_second(
    gateway: ScriptedGateway, *, stream: bool
) -> None:
    cancelled = 0
    begun = anyio.Event()

    async def endless(desk: Desk) -> None:
        nonlocal cancelled
        await desk.start()
        await desk.write("token", {"choices": [ROLE]})
        if len(gateway.worker.jobs) == 2:
            begun.set()
        await desk.cancelled()
        cancelled += 1

    gateway.worker.script = endless
    body = CHAT | {"stream": stream, "n": 2}
    with anyio.fail_after(60):
        async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as http, anyio.create_task_group() as tasks:
            tasks.start_soon(post, http, "/v1/chat/completions", body)
            await begun.wait()
            tasks.cancel_scope.cancel()
    with anyio.fail_after(1):
        while cancelled < 2:
            await anyio.sleep(0.005)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("chat/completions", {"messages": HI}),
        ("chat/completions", {"messages": HI, "stream": True}),
        ("completions", {"prompt": "a"}),
        ("embeddings", {"input": "a"}),
        ("images/generations", {"prompt": "a"}),
        ("rerank", {"query": "a", "documents": ["b"]}),
    ],
)
async def test_a_model_that_there_is_not_is_a_404_that_names_those_there_are(
    gateway: ScriptedGateway, http: httpx.AsyncClient, path: str, body: dict[str, Any]
) -> None:
    response = await post(http, f"/v1/{path}", body | {"model": "gpt-4o"})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert ("there are: sd." if path.startswith("images") else "there are: tiny, org/big.") in error["message"]
    assert gateway.worker.jobs == []


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"messages": None}, "messages"),
        ({"messages": [7]}, "messages.0"),
        ({"model": None}, "model"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 1000}, "n"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_wrong_field_is_a_400_that_names_it(
    gateway: ScriptedGateway, http: httpx.AsyncClient, more: dict[str, Any], param: str, *, stream: bool
) -> None:
    if stream and "stream_options" in more:
        more = {"stream_options": 7}
    response = await post(http, "/v1/chat/completions", CHAT | {"stream": stream} | more)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert error.keys() == {"message", "type", "param", "code"}
    assert gateway.worker.jobs == []


async def test_what_the_worker_refuses_is_a_400_that_names_the_field(
    gateway: ScriptedGateway, openai: AsyncOpenAI
) -> None:
    gateway.worker.script = fails(BadJobError("data.top_p: Input should be less than or equal to 1 (got 5.0)"))
    with pytest.raises(BadRequestError) as caught:
        await openai.chat.completions.create(model="tiny", messages=HI, temperature=0)
    assert (caught.value.param, caught.value.code) == ("top_p", "invalid_request")


async def test_a_line_that_is_too_long_is_a_429_and_nobody_there_a_503(
    gateway: ScriptedGateway, openai: AsyncOpenAI
) -> None:
    gateway.jobs.waiting = 1000
    with pytest.raises(RateLimitError) as caught:
        await openai.chat.completions.create(model="tiny", messages=HI)
    assert (caught.value.code, caught.value.type) == ("queue_full", "rate_limit_error")
    assert int(caught.value.response.headers["retry-after"]) > 0
    gateway.jobs.waiting, gateway.jobs.kinds = 0, ()
    with pytest.raises(APIStatusError) as away:
        await openai.chat.completions.create(model="tiny", messages=HI, stream=True)
    assert (away.value.status_code, away.value.code) == (503, "no_worker")


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"a=b", "application/x-www-form-urlencoded", 415),
    ],
)
async def test_what_is_no_json_is_told_as_such(http: httpx.AsyncClient, content: bytes, kind: str, status: int) -> None:
    response = await http.post("/v1/chat/completions", content=content, headers={"content-type": kind})
    assert response.status_code == status
    assert response.json()["error"]["message"]

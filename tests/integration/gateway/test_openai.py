"""OpenAI's routes over real HTTP and the real Redis, as its SDK uses them; a worker answers by scripts."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx
import orjson
import pytest
from openai import APIError, APIStatusError, AsyncOpenAI, BadRequestError, NotFoundError, RateLimitError

from tests.support.scripted_worker import (
    MODELS,
    ROLE,
    Desk,
    ScriptedGateway,
    answers,
    delta,
    fails,
    piece,
    says,
    scripted_gateway,
)
from velesio_worker.gateway.jobs import Model
from velesio_worker.gateway.openai.routes import routes
from velesio_worker.wire.errors import BadJobError, ContextExceededError, EngineCrashedError, EngineUnavailableError

pytestmark = pytest.mark.anyio

HI: list[Any] = [{"role": "user", "content": "Hi."}]
CHAT: dict[str, Any] = {"model": "tiny", "messages": HI}


@pytest.fixture
async def gateway(redis_url: str, commands: Any) -> AsyncIterator[ScriptedGateway]:
    async with scripted_gateway(redis_url, commands, routes) as gateway:
        yield gateway


@pytest.fixture
async def openai(gateway: ScriptedGateway) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client:
        yield client


@pytest.fixture
async def http(gateway: ScriptedGateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=gateway.url, timeout=60) as client:
        yield client


async def post(http: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
    return await http.post(path, content=orjson.dumps(body), headers={"content-type": "application/json"})


async def test_a_chat_is_answered(openai: AsyncOpenAI, gateway: ScriptedGateway) -> None:
    answer = await openai.chat.completions.create(model="tiny", messages=HI, temperature=0.5, max_completion_tokens=9)
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("Hi.", "stop")
    assert answer.model == "tiny"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 6
    (job,) = gateway.worker.jobs
    assert (job["type"], job["tenant"]) == ("chat_completion", "tester")
    assert job["data"] == {
        "model": "tiny",
        "messages": HI,
        "temperature": 0.5,
        "max_tokens": 9,
        "stream": False,
        "defaults": "engine",
    }


async def test_a_chat_is_streamed_piece_by_piece(openai: AsyncOpenAI, gateway: ScriptedGateway) -> None:
    told = anyio.Event()

    async def waits(desk: Desk) -> None:
        await desk.start()
        await desk.write("token", {"choices": [ROLE]})
        await desk.write("token", {"choices": [delta({"content": "Hel"})]})
        await told.wait()  # the first piece has to reach the client before there is a second
        await desk.write("token", {"choices": [delta({"content": "lo"})]})
        await desk.end({"text": "Hello", "finish_reason": "stop", "usage": {"prompt_tokens": 1}})

    gateway.worker.script = waits
    options: Any = {"include_usage": True}
    text, usages, reasons = "", list[Any](), list[str | None]()
    with anyio.fail_after(60):
        stream = await openai.chat.completions.create(**CHAT, stream=True, stream_options=options)
        async for chunk in stream:
            usages += [chunk.usage] if chunk.usage else []
            for choice in chunk.choices:
                text += choice.delta.content or ""
                reasons.append(choice.finish_reason)
            if text == "Hel":
                told.set()
    assert text == "Hello"
    assert reasons == [None, None, None, "stop"]
    assert [usage.prompt_tokens for usage in usages] == [1]


async def test_what_is_on_the_wire_is_what_the_most_particular_client_takes(
    http: httpx.AsyncClient, gateway: ScriptedGateway
) -> None:
    gateway.worker.script = says(ROLE, delta({"content": "a"}), delta({"content": "b"}))
    body = CHAT | {"stream": True, "stream_options": {"include_usage": True}}
    response = await post(http, "/v1/chat/completions", body)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-store", "no")
    lines = response.text.split("\n")
    assert all(not line or line.startswith("data: ") for line in lines), lines  # no id:, no retry:, no event:
    data = [line.removeprefix("data: ") for line in lines if line]
    assert data.pop() == "[DONE]"
    chunks = [orjson.loads(one) for one in data]
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    *said, usage = chunks
    assert [chunk["choices"][0]["finish_reason"] for chunk in said] == [None, None, None, "stop"]
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 6)
    assert all("usage" not in chunk for chunk in said)
    assert not any(value is None for chunk in said for value in chunk["choices"][0]["delta"].values())


async def test_several_answers_come_at_once(openai: AsyncOpenAI, gateway: ScriptedGateway) -> None:
    async def by_seed(desk: Desk) -> None:
        await desk.stream([ROLE, delta({"content": str(desk.data["seed"])})])

    gateway.worker.script = by_seed
    answer = await openai.chat.completions.create(model="tiny", messages=HI, n=3, seed=40)
    assert [(one.index, one.message.content) for one in answer.choices] == [(0, "40"), (1, "41"), (2, "42")]
    texts = {0: "", 1: "", 2: ""}
    async for chunk in await openai.chat.completions.create(model="tiny", messages=HI, n=3, seed=7, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == {0: "7", 1: "8", 2: "9"}


TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
]


async def test_tools_are_called_streamed_or_not(openai: AsyncOpenAI, gateway: ScriptedGateway) -> None:
    fragments = [
        {"index": 0, "id": "c0", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city":'}},
        {"index": 0, "function": {"arguments": '"Oslo"}'}},
    ]
    gateway.worker.script = says(ROLE, *(delta({"tool_calls": [one]}) for one in fragments), reason="tool_calls")
    answer = await openai.chat.completions.create(model="tiny", messages=HI, tools=TOOLS, tool_choice="required")
    (call,) = answer.choices[0].message.tool_calls or []
    assert answer.choices[0].finish_reason == "tool_calls"
    assert call.type == "function"
    assert (call.id, call.function.name, call.function.arguments) == ("c0", "weather", '{"city":"Oslo"}')
    async with openai.chat.completions.stream(model="tiny", messages=HI, tools=TOOLS) as stream:
        final = await stream.get_final_completion()
    (streamed,) = final.choices[0].message.tool_calls or []
    assert (streamed.id, streamed.function.name, streamed.function.arguments) == ("c0", "weather", '{"city":"Oslo"}')


async def test_thoughts_are_told_beside_the_answer(openai: AsyncOpenAI, gateway: ScriptedGateway) -> None:
    gateway.worker.script = says(ROLE, delta({"reasoning_content": "hm"}), delta({"content": "Yes."}))
    answer = await openai.chat.completions.create(model="tiny", messages=HI)
    assert answer.choices[0].message.model_extra is not None
    assert answer.choices[0].message.model_extra["reasoning_content"] == "hm"
    thought = ""
    async for chunk in await openai.chat.completions.create(model="tiny", messages=HI, stream=True):
        for choice in chunk.choices:
            thought += (choice.delta.model_extra or {}).get("reasoning_content", "")
    assert thought == "hm"


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


async def test_what_nobody_knows_and_what_is_null_is_passed_over(
    gateway: ScriptedGateway, http: httpx.AsyncClient
) -> None:
    names = ("temperature", "top_p", "n", "stream", "stop", "max_tokens", "tools", "tool_choice", "seed", "user")
    nulls = dict.fromkeys((*names, "stream_options", "logprobs", "response_format", "logit_bias", "functions"))
    added: dict[str, Any] = {
        "safety_identifier": "x",
        "verbosity": "low",
        "store": False,
        "metadata": {},
        "service_tier": "auto",
    }
    added |= {"prediction": {}, "modalities": ["text"], "web_search_options": {}, "xyz": [1]}
    response = await post(http, "/v1/chat/completions", CHAT | nulls | added)
    assert response.status_code == 200
    assert gateway.worker.data == [{"model": "tiny", "messages": HI, "stream": False, "defaults": "engine"}]


async def test_a_conversation_is_named_by_the_body_or_by_a_header(
    gateway: ScriptedGateway, openai: AsyncOpenAI
) -> None:
    header = {"x-session-id": "from-header"}
    await openai.chat.completions.create(model="tiny", messages=HI, prompt_cache_key="key", extra_headers=header)
    await openai.chat.completions.create(model="tiny", messages=HI, extra_headers=header)
    assert [job.get("session") for job in gateway.worker.jobs] == ["key", "from-header"]


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


async def test_completions_take_texts_and_tokens_and_echo_them(openai: AsyncOpenAI, gateway: ScriptedGateway) -> None:
    async def script(desk: Desk) -> None:
        if desk.type == "detokenize":
            await desk.end({"content": f"<{desk.data['tokens']}>"})
            return
        await desk.stream([piece(" and"), piece(" so on")], "length")

    gateway.worker.script = script
    answer = await openai.completions.create(model="tiny", prompt=["One", "Two"], max_tokens=2, echo=True)
    assert [(one.index, one.text, one.finish_reason) for one in answer.choices] == [
        (0, "One and so on", "length"),
        (1, "Two and so on", "length"),
    ]
    answer = await openai.completions.create(model="tiny", prompt=[[1, 2], [3]], n=2, echo=True)
    assert [one.text for one in answer.choices] == [
        "<[1, 2]> and so on",
        "<[1, 2]> and so on",
        "<[3]> and so on",
        "<[3]> and so on",
    ]
    text, reasons = "", list[str | None]()
    async for chunk in await openai.completions.create(model="tiny", prompt=[1, 2], echo=True, stream=True):
        text += chunk.choices[0].text
        reasons.append(chunk.choices[0].finish_reason)
    assert text == "<[1, 2]> and so on"
    assert reasons == [None, None, None, "length"]


async def test_completions_tell_how_likely_their_tokens_were(openai: AsyncOpenAI, gateway: ScriptedGateway) -> None:
    entries: list[dict[str, Any]] = [
        {"id": 1, "token": " a", "logprob": -0.5, "top_logprobs": [{"token": " a", "logprob": -0.5}]},
        {"id": 2, "token": " b", "logprob": -1.5, "top_logprobs": [{"token": " c", "logprob": -0.2}]},
    ]
    gateway.worker.script = says(*(piece(one["token"], completion_probabilities=[one]) for one in entries))
    answer = await openai.completions.create(model="tiny", prompt="x", logprobs=1)
    told = answer.choices[0].logprobs
    assert told is not None
    assert (told.tokens, told.token_logprobs, told.text_offset) == ([" a", " b"], [-0.5, -1.5], [0, 2])
    assert told.top_logprobs == [{" a": -0.5}, {" c": -0.2}]
    offsets: list[int] = []
    async for chunk in await openai.completions.create(model="tiny", prompt="x", logprobs=1, stream=True):
        if (logprobs := chunk.choices[0].logprobs) is not None:
            offsets += logprobs.text_offset or []
    assert offsets == [0, 2]
    assert [data["n_probs"] for data in gateway.worker.data] == [1, 1]


VECTORS: dict[str, Any] = {
    "object": "list",
    "model": "tiny",
    "usage": {"prompt_tokens": 3, "total_tokens": 3},
    "data": [{"embedding": [0.25, -1.5], "index": 0}, {"embedding": [0.5, 2.0], "index": 1}],
}


async def test_vectors_are_made_as_the_sdk_asks_for_them_by_itself(
    openai: AsyncOpenAI, gateway: ScriptedGateway, http: httpx.AsyncClient
) -> None:
    gateway.worker.script = answers(VECTORS)
    answer = await openai.embeddings.create(model="tiny", input=["a", "b"])  # asks for base64
    assert [one.embedding for one in answer.data] == [[0.25, -1.5], [0.5, 2.0]]
    plain = await openai.embeddings.create(model="tiny", input=[1, 2], encoding_format="float")
    assert plain.data[1].embedding == [0.5, 2.0]
    coded = await post(http, "/v1/embeddings", {"model": "tiny", "input": "a", "encoding_format": "base64"})
    assert struct.unpack("<2f", base64.b64decode(coded.json()["data"][0]["embedding"])) == (0.25, -1.5)
    assert [data["input"] for data in gateway.worker.data] == [["a", "b"], [1, 2], "a"]


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank", "/v2/rerank"])
async def test_documents_are_put_in_order(gateway: ScriptedGateway, http: httpx.AsyncClient, path: str) -> None:
    scores = [{"index": 0, "relevance_score": 0.1}, {"index": 1, "relevance_score": 0.9}]
    gateway.worker.script = answers({"model": "tiny", "results": scores, "usage": {"prompt_tokens": 3}})
    body = {"query": "q", "documents": ["a", {"text": "b"}], "return_documents": True, "top_n": 1}
    answer = (await post(http, path, body)).json()
    assert answer["results"] == [{"index": 1, "relevance_score": 0.9, "document": {"text": "b"}}]
    assert answer["model"] == "tiny"
    assert gateway.worker.data[0]["documents"] == ["a", "b"]


async def test_images_are_made(openai: AsyncOpenAI, gateway: ScriptedGateway) -> None:
    gateway.worker.script = answers({"images": ["cGln"], "parameters": {"width": 64, "height": 64}, "seeds": [1]})
    answer = await openai.images.generate(prompt="a cat", model="sd", n=2, size="256x256", response_format="b64_json")
    assert [one.b64_json for one in answer.data or []] == ["cGln", "cGln"]
    assert (
        gateway.worker.data
        == [{"prompt": "a cat", "model": "sd", "width": 256, "height": 256, "defaults": "engine"}] * 2
    )
    stored: dict[str, Any] = {"images": ["https://store/1.png"], "images_stored": True, "parameters": {}, "seeds": [1]}
    gateway.worker.script = answers(stored)
    answer = await openai.images.generate(prompt="a cat", response_format="url")
    assert [one.url for one in answer.data or []] == ["https://store/1.png"]


async def test_models_are_listed_and_described_without_a_job(openai: AsyncOpenAI, gateway: ScriptedGateway) -> None:
    assert [model.id async for model in openai.models.list()] == [model.name for model in MODELS]
    assert (await openai.models.retrieve("org/big")).id == "org/big"
    with pytest.raises(NotFoundError) as caught:
        await openai.models.retrieve("org/none")
    assert caught.value.code == "model_not_found"
    gateway.jobs.models = (Model("other", "text"),)
    assert [model.id async for model in openai.models.list()] == ["other"]
    assert gateway.worker.jobs == []


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_each_route_is_there_with_v1_in_front_and_without(
    gateway: ScriptedGateway, http: httpx.AsyncClient, prefix: str
) -> None:
    assert (await http.get(f"{prefix}/models")).status_code == 200
    assert (await http.head(f"{prefix}/models")).status_code == 200
    assert (await http.get(f"{prefix}/models/org/big")).json()["id"] == "org/big"
    assert (await post(http, f"{prefix}/chat/completions", CHAT)).status_code == 200
    gateway.worker.script = says(piece("a"))
    assert (await post(http, f"{prefix}/completions", {"model": "tiny", "prompt": "a"})).status_code == 200
    gateway.worker.script = answers(VECTORS)
    assert (await post(http, f"{prefix}/embeddings", {"model": "tiny", "input": "a"})).status_code == 200


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

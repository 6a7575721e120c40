"""OpenAI's chats over real HTTP and the real Redis, as its SDK uses them; a worker answers by scripts."""

from __future__ import annotations

from typing import Any

import anyio
import httpx
import orjson
import pytest
from openai import AsyncOpenAI

from tests.support.scripted_worker import (
    CHAT,
    HI,
    ROLE,
    Desk,
    ScriptedGateway,
    delta,
    post,
    says,
)

pytestmark = pytest.mark.anyio


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


@pytest.mark.parametrize(
    ("tier", "priority"), [("priority", "high"), ("flex", "low"), ("default", None), (["x"], None)]
)
async def test_the_service_tier_is_the_priority_of_its_jobs(
    gateway: ScriptedGateway, http: httpx.AsyncClient, tier: Any, priority: str | None
) -> None:
    bodies = {"/v1/chat/completions": CHAT, "/v1/completions": {"model": "tiny", "prompt": "hi"}}
    for path, body in bodies.items():
        assert (await post(http, path, body | {"service_tier": tier})).status_code == 200
    assert [job.get("priority") for job in gateway.worker.jobs] == [priority] * 2


async def test_a_conversation_is_named_by_the_body_or_by_a_header(
    gateway: ScriptedGateway, openai: AsyncOpenAI
) -> None:
    header = {"x-session-id": "from-header"}
    await openai.chat.completions.create(model="tiny", messages=HI, prompt_cache_key="key", extra_headers=header)
    await openai.chat.completions.create(model="tiny", messages=HI, extra_headers=header)
    assert [job.get("session") for job in gateway.worker.jobs] == ["key", "from-header"]

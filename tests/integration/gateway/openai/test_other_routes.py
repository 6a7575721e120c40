"""OpenAI's routes beside chats over real HTTP and the real Redis, as its SDK uses them."""

from __future__ import annotations

import base64
import struct
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, NotFoundError

from tests.support.scripted_worker import (
    CHAT,
    MODELS,
    Desk,
    ScriptedGateway,
    answers,
    piece,
    post,
    says,
)
from velesio_worker.gateway.jobs import Model
from velesio_worker.gateway.openai.routes import OPERATIONS, routes

pytestmark = pytest.mark.anyio


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


async def test_what_is_told_of_the_routes_is_what_there_is(gateway: ScriptedGateway) -> None:
    there = {(route.path, method) for route in routes(gateway) for method in route.methods or ()}
    assert {(operation.path, operation.method) for operation in OPERATIONS} <= there

"""The whole chain as it is run: the gateway's own process, a worker, the real llama.cpp server, and many clients."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from anthropic import Anthropic
from openai import AuthenticationError, OpenAI

from tests.e2e.test_openai_routes import ASKED_BEFORE, NO_END, TEMPLATE, WEATHER
from tests.integration.gateway.test_native import events
from tests.support.chain import TOKENS, Chain, busy_slots, running_chain
from tests.support.gateway import ALICE, BOB, GatewayProcess
from tests.support.painters import opened, webui
from tests.support.servers import wait_until
from tests.support.streams import LONG

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

COUNT: Final[Any] = [
    {"role": "user", "content": "Count."},
    {"role": "assistant", "content": "1, 2, 3, 4, 5, 6, 7, 8"},
    {"role": "user", "content": "Count on."},
]
"""A question whose answer is as good as certain, so that it is the same whoever goes on with it."""

TALE: Final[Any] = {
    "messages": [{"role": "user", "content": "Tell a very long story."}],
    "max_tokens": 900,
    "temperature": 0,
}
"""What the small model tells at length, in Messages too, which cannot forbid it to come to an end."""

FREE_SECONDS: Final = 2.0


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("chain")
    (folder / "template.jinja").write_text(TEMPLATE)
    arguments = f"--chat-template-file {folder / 'template.jinja'}"
    with running_chain(folder, model_path, LLAMA_ARGS=arguments, CONTEXT_SIZE="1024", CACHE_MODE="off") as chain:
        yield chain


@pytest.fixture
def openai(chain: Chain) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{chain.gateway.url}/v1", api_key=ALICE, max_retries=0, timeout=100) as client:
        yield client


@pytest.fixture
def anthropic(chain: Chain) -> Iterator[Anthropic]:
    with Anthropic(base_url=chain.gateway.url, api_key=ALICE, max_retries=0, timeout=100) as client:
        yield client


def test_openais_client_lists_chats_streams_and_calls_tools(chain: Chain, openai: Any) -> None:
    assert chain.model in [model.id for model in openai.models.list()]
    assert openai.models.retrieve(chain.model).id == chain.model
    asked: Any = {"model": chain.model, "messages": COUNT, "temperature": 0, "max_tokens": 12}
    whole = openai.chat.completions.create(**asked).choices[0].message.content
    chunks = list(openai.chat.completions.create(**asked, stream=True))
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == whole != ""
    assert len(chunks) > 5
    tools: Any = {"model": chain.model, "messages": ASKED_BEFORE, "tools": [WEATHER], "temperature": 0}
    (call,) = openai.chat.completions.create(**tools, max_tokens=60).choices[0].message.tool_calls
    with openai.chat.completions.stream(**tools, max_tokens=60) as stream:
        (streamed,) = stream.get_final_completion().choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Oslo"})
    assert (streamed.function.name, streamed.function.arguments) == (call.function.name, call.function.arguments)
    with OpenAI(base_url=f"{chain.gateway.url}/v1", api_key="none", max_retries=0) as client:
        stranger: Any = client
        with pytest.raises(AuthenticationError):
            stranger.models.list()
        with pytest.raises(AuthenticationError):
            stranger.chat.completions.create(**asked)


def test_anthropics_client_lists_answers_streams_and_calls_tools(chain: Chain, anthropic: Any) -> None:
    assert chain.model in [model.id for model in anthropic.models.list()]
    asked: Any = {"model": chain.model, "messages": COUNT, "max_tokens": 12, "extra_body": {"temperature": 0}}
    whole = anthropic.messages.create(**asked)
    with anthropic.messages.stream(**asked) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert whole.content[0].type == final.content[0].type == "text"
    assert "".join(pieces) == final.content[0].text == whole.content[0].text != ""
    assert len(pieces) > 3
    told = WEATHER["function"]
    tool: Any = {"name": told["name"], "description": told["description"], "input_schema": told["parameters"]}
    tools: Any = {"model": chain.model, "messages": _asked_before(), "tools": [tool], "max_tokens": 60}
    called = anthropic.messages.create(**tools, extra_body={"temperature": 0})
    with anthropic.messages.stream(**tools, extra_body={"temperature": 0}) as stream:
        streamed = stream.get_final_message()
    for message in (called, streamed):
        use = next(block for block in message.content if block.type == "tool_use")
        assert (use.name, use.input, message.stop_reason) == ("weather", {"city": "Oslo"}, "tool_use")


def _asked_before() -> list[Any]:
    """The conversation in which even the small model calls a tool, as Anthropic writes it."""
    found: list[Any] = []
    for message in ASKED_BEFORE:
        if message["role"] == "tool":
            block = {"type": "tool_result", "tool_use_id": message["tool_call_id"], "content": message["content"]}
            found.append({"role": "user", "content": [block]})
        elif calls := message.get("tool_calls"):
            arguments = json.loads(calls[0]["function"]["arguments"])
            block = {"type": "tool_use", "id": calls[0]["id"], "name": "weather", "input": arguments}
            found.append({"role": "assistant", "content": [block]})
        else:
            found.append(message)
    return found


@pytest.mark.parametrize(
    ("path", "body", "last"),
    [
        ("/v1/chat/completions", {"messages": COUNT}, "data: [DONE]"),
        ("/v1/completions", {"prompt": "One, two,"}, "data: [DONE]"),
        ("/v1/responses", {"input": "Count.", "max_output_tokens": 4}, "data: {"),
        ("/v1/messages", {"messages": COUNT}, "data: {"),
        ("/completion", {"prompt": "One, two,", "n_predict": 4}, "data: {"),
    ],
)
def test_what_is_no_native_stream_has_no_ids(chain: Chain, path: str, body: dict[str, Any], last: str) -> None:
    with chain.gateway.client(ALICE) as http:
        response = http.post(path, json={"model": chain.model, "max_tokens": 4, "stream": True, **body})
    assert response.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in response.text.split("\n") if line]
    assert len(lines) > 2
    assert {line.partition(":")[0] for line in lines} <= {"data", "event"}
    assert lines[-1].startswith(last)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_client_that_hangs_up_leaves_its_slot_free(chain: Chain, path: str, *, stream: bool) -> None:
    workers = chain.texts(1)
    before = chain.jobs()
    content = json.dumps({"model": chain.model, **TALE, "stream": stream}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nx-api-key: {ALICE}\r\nContent-Type: application/json\r\n"
    with chain.gateway.connect() as connection:
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        wait_until(lambda: any(map(busy_slots, workers)), "an engine is at work")
    begun = time.monotonic()
    wait_until(lambda: not any(map(busy_slots, workers)), "the slot is free")
    assert time.monotonic() - begun < FREE_SECONDS
    assert chain.result(chain.new_job(before))["finish_reason"] == "cancelled"


def test_a_job_is_seen_and_cancelled_by_nobody_else(chain: Chain) -> None:
    with chain.gateway.client(ALICE) as alice, chain.gateway.client(BOB) as bob:
        job_id = alice.post("/jobs", json={"type": "completion", "data": LONG | {"max_tokens": 60}}).json()["id"]
        for method, path in (("GET", ""), ("GET", "/events"), ("GET", "/images/0"), ("DELETE", "")):
            answer = bob.request(method, f"/jobs/{job_id}{path}")
            nobodys = bob.request(method, f"/jobs/alice.nobody.nothing{path}")
            assert (answer.status_code, answer.json()) == (nobodys.status_code, nobodys.json()) == (404, answer.json())
        assert chain.result(job_id)["usage"]["completion_tokens"] == 60
        assert alice.get(f"/jobs/{job_id}").json()["state"] == "done"


def test_a_worker_that_is_killed_leaves_one_sentence(chain: Chain, openai: Any) -> None:
    asked: Any = {"model": chain.model, "messages": COUNT, "temperature": 0, "max_tokens": 150, "logit_bias": NO_END}
    chain.texts(2)
    undisturbed = openai.chat.completions.create(**asked)
    before, job_id, usage = chain.jobs(), "", None
    said: list[str] = []
    reasons: list[str] = []
    for chunk in openai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            said += [choice.delta.content or ""]
            reasons += [choice.finish_reason] if choice.finish_reason else []
        if len(said) > 10 and not job_id:
            job_id = chain.new_job(before)
            process = chain.owner(job_id).process
            assert process is not None
            process.kill()
    starts = [data["mode"] for _, event, data in chain.entries(job_id) if event == "start"]
    assert starts == ["fresh", "continue"]
    assert "".join(said) == undisturbed.choices[0].message.content
    assert reasons == [undisturbed.choices[0].finish_reason]
    assert usage is not None
    assert usage.completion_tokens == undisturbed.usage.completion_tokens


def test_a_gateway_that_is_killed_leaves_its_viewers_what_another_goes_on_with(chain: Chain) -> None:
    chain.texts(1)
    found: list[str] = []
    first = GatewayProcess(chain.folder, chain.redis_url, **TOKENS)
    with first, first.client(ALICE) as client:
        job_id = client.post("/jobs", json={"type": "completion", "data": LONG | {"max_tokens": 120}}).json()["id"]
        with client.stream("GET", f"/jobs/{job_id}/events") as response, suppress(httpx.TransportError):
            for entry, _, _ in events(response.iter_lines()):
                found.append(entry)
                if len(found) == 10:
                    assert first.process is not None
                    first.process.kill()
    with chain.gateway.client(ALICE) as client:
        response = client.get(f"/jobs/{job_id}/events", headers={"last-event-id": found[-1]})
        rest = [entry for entry, _, _ in events(iter(response.text.splitlines()))]
    written = chain.entries(job_id)
    assert found + rest == [entry for entry, _, _ in written]
    assert len(rest) > 5
    assert written[-1][1] == "done"
    assert chain.result(job_id)["usage"]["completion_tokens"] == 120


def test_clients_of_a_webui_send_the_token_as_a_password(chain: Chain, tmp_path: Path) -> None:
    chain.start(**webui(tmp_path / "journal", models="tinyA"), RUN_LLM="false")
    chain.lists("tinyA")
    with httpx.Client(base_url=f"{chain.gateway.url}/sdapi/v1", auth=("open-webui", ALICE), timeout=60) as client:
        assert [model["title"] for model in client.get("/sd-models").json()] == ["tinyA"]
        made = client.post("/txt2img", json={"prompt": "a cat", "width": 64, "height": 64, "steps": 2}).json()
        assert opened(made["images"][0]).size == (64, 64)
        refused = client.post("/txt2img", json={"prompt": "a cat"}, auth=("open-webui", "wrong"))
        assert (refused.status_code, "detail" in refused.json()) == (401, True)

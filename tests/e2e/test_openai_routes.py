"""OpenAI's routes with its own SDK, through a real worker and the real llama.cpp server to the small model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from tests.support.compliance import cases, comply
from tests.support.gateway_thread import gateway_thread
from tests.support.places import SETTINGS, Place, wait_for
from tests.support.processes import WorkerProcess
from tests.support.servers import RedisServer

pytestmark = pytest.mark.engine

TEMPLATE: Final = r"""
{%- if tools %}
    {{- '<|im_start|>system\nYou may call functions:\n<tools>' }}
    {%- for tool in tools %}
        {{- '\n' }}{{- tool | tojson }}
    {%- endfor %}
    {{- '\n</tools>\n\nFor each function call, return a json object with function name and arguments within' }}
    {{- ' <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": ' }}
    {{- '<args-json-object>}\n</tool_call><|im_end|>\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'assistant' and message.tool_calls %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{- '\n' + message.content }}{%- endif %}
        {%- for tool_call in message.tool_calls %}
            {{- '\n<tool_call>\n{"name": "' }}{{- tool_call.function.name }}{{- '", "arguments": ' }}
            {{- tool_call.function.arguments | tojson }}{{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\n<tool_response>\n' + message.content + '\n</tool_response><|im_end|>\n' }}
    {%- else %}
        {{- '<|im_start|>' + message.role + '\n' }}
        {%- if message.reasoning_content %}{{- '<think>' + message.reasoning_content + '</think>' }}{%- endif %}
        {{- message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think></think>' }}{%- endif %}
"""
"""A chat template that knows tools and thoughts, which the small model's own does not."""

HI: Final[list[Any]] = [{"role": "user", "content": "Name a colour."}]
NO_END: Final = {"0": -100, "2": -100}
SCHEMA: Final = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "green"]}, "count": {"type": "integer", "maximum": 9}},
    "required": ["colour", "count"],
    "additionalProperties": False,
}
FORMAT: Final[Any] = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
WEATHER: Final[Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]},
    },
}


def _called(city: str) -> list[Any]:
    call = {"id": city, "type": "function", "function": {"name": "weather", "arguments": f'{{"city": "{city}"}}'}}
    return [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": city, "content": "Rain."},
    ]


ASKED_BEFORE: Final = [*_called("Rome"), *_called("Oslo"), *_called("Rome"), _called("Oslo")[0]]
"""A conversation in which even the small model calls a tool."""


class Chain(Place):
    """The whole chain: client, gateway, Redis, worker, llama.cpp."""

    def __init__(self, redis: Any, worker: WorkerProcess, url: str, model: str) -> None:
        super().__init__(redis, worker)
        self.url = f"{url}/v1"
        self.model = model
        self.openai = OpenAI(base_url=self.url, api_key="x", max_retries=0, timeout=100)
        self.chat = partial(self.openai.chat.completions.create, model=model, messages=HI)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Iterator[Chain]:
    folder = tmp_path_factory.mktemp("openai")
    (folder / "template.jinja").write_text(TEMPLATE)
    arguments = f"--temp 0 --embeddings --pooling mean --chat-template-file {folder / 'template.jinja'}"
    settings = SETTINGS | {"MODEL_PATH": str(model_path), "LLAMA_ARGS": arguments}
    with RedisServer(folder / "redis") as server, server.plain() as redis:
        worker = WorkerProcess(folder / "worker.log", REDIS_URL=server.url, **settings)
        try:
            worker.start()
            worker.wait_for("worker_ready")
            with gateway_thread(server.url) as url:
                chain = Chain(redis, worker, url, model_path.stem)
                wait_for(lambda: chain.model in [one.id for one in chain.openai.models.list()], "the model in the list")
                yield chain
                chain.openai.close()
        finally:
            worker.end()


def test_a_chat_says_the_same_streamed_or_not(chain: Chain) -> None:
    whole = chain.chat(temperature=0, max_completion_tokens=12)
    text, usages, reasons, roles = "", list[Any](), list[Any](), list[Any]()
    options: Any = {"include_usage": True}
    for chunk in chain.chat(temperature=0, max_completion_tokens=12, stream=True, stream_options=options):
        usages += [chunk.usage] if chunk.usage else []
        for choice in chunk.choices:
            assert choice.delta.content is not None or choice.finish_reason
            text += choice.delta.content or ""
            roles += [choice.delta.role] if choice.delta.role else []
            reasons.append(choice.finish_reason)
    assert text
    assert text == whole.choices[0].message.content
    assert roles == ["assistant"]
    assert reasons == [None] * (len(reasons) - 1) + [whole.choices[0].finish_reason]
    assert whole.usage is not None
    assert [usage.completion_tokens for usage in usages] == [whole.usage.completion_tokens]
    assert whole.usage.completion_tokens <= 12
    assert whole.model == chain.model


def test_several_choices_differ_and_the_same_seeds_say_the_same(chain: Chain) -> None:
    asked = partial(chain.chat, n=3, seed=5, temperature=2, max_tokens=12)
    first = [one.message.content for one in asked().choices]
    assert len(set(first)) == 3
    assert [one.message.content for one in asked().choices] == first


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_obeys_its_schema(chain: Chain, *, stream: bool) -> None:
    if stream:
        chunks = chain.chat(response_format=FORMAT, max_tokens=60, stream=True)
        text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    else:
        text = chain.chat(response_format=FORMAT, max_tokens=60).choices[0].message.content or ""
    answer = json.loads(text)
    assert answer["colour"] in {"red", "green"}
    assert answer.keys() == {"colour", "count"}


def test_a_tool_is_called_streamed_or_not_and_its_result_is_taken(chain: Chain) -> None:
    asked = partial(chain.chat, messages=ASKED_BEFORE, tools=[WEATHER], temperature=0, max_tokens=60)
    (choice,) = asked().choices
    (call,) = choice.message.tool_calls or []
    assert choice.finish_reason == "tool_calls"
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Oslo"})
    with chain.openai.chat.completions.stream(
        model=chain.model, messages=ASKED_BEFORE, tools=[WEATHER], temperature=0, max_tokens=60
    ) as stream:
        message = stream.get_final_completion().choices[0].message
    (streamed,) = message.tool_calls or []
    assert (streamed.function.name, streamed.function.arguments) == (call.function.name, call.function.arguments)
    assert streamed.id
    said: Any = message.model_dump()  # with all its nulls, as SDKs send it back
    result: Any = {"role": "tool", "tool_call_id": streamed.id, "content": "Rain."}
    again = asked(messages=[*ASKED_BEFORE, said, result], max_tokens=4)
    assert again.usage is not None
    assert again.usage.prompt_tokens > 250


def test_thoughts_are_told_beside_the_answer(chain: Chain) -> None:
    forced: Any = {"grammar": 'root ::= "<think>abc</think>def"', "reasoning_format": "deepseek"}
    whole = chain.chat(extra_body=forced, max_tokens=40).choices[0].message
    thought, text = "", ""
    for chunk in chain.chat(extra_body=forced, max_tokens=40, stream=True):
        for choice in chunk.choices:
            thought += (choice.delta.model_extra or {}).get("reasoning_content", "")
            text += choice.delta.content or ""
    assert (whole.content, (whole.model_extra or {}).get("reasoning_content", "")) == (text, thought)
    assert text.endswith("def")
    assert "abc" in thought


@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_tells_how_likely_its_tokens_were(chain: Chain, *, stream: bool) -> None:
    asked = partial(chain.chat, logprobs=True, top_logprobs=2, max_tokens=4, temperature=0, logit_bias=NO_END)
    if stream:
        told = [choice.logprobs for chunk in asked(stream=True) for choice in chunk.choices if choice.logprobs]
    else:
        told = [choice.logprobs for choice in asked().choices if choice.logprobs]
    tokens = [token for one in told for token in one.content or []]
    assert len(tokens) == 4
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)


def test_a_text_is_gone_on_with_from_text_or_tokens(chain: Chain) -> None:
    tokens = chain.result("tokenize", {"content": "One, two,"})["tokens"]
    create = partial(chain.openai.completions.create, model=chain.model, max_tokens=6, temperature=0, echo=True)
    text = create(prompt="One, two,").choices[0].text
    assert text.startswith("One, two,")
    assert [choice.text for choice in create(prompt=[tokens, tokens]).choices] == [text, text]
    streamed = "".join(chunk.choices[0].text for chunk in create(prompt=tokens, stream=True))
    assert streamed == text


def test_a_completion_tells_how_likely_its_tokens_were(chain: Chain) -> None:
    create = partial(chain.openai.completions.create, model=chain.model, prompt="One, two,", max_tokens=4)
    (choice,) = create(temperature=0, logprobs=2, logit_bias=NO_END).choices
    told = choice.logprobs
    assert told is not None
    assert told.tokens is not None
    assert "".join(told.tokens) == choice.text
    assert told.text_offset == [sum(map(len, told.tokens[:at])) for at in range(4)]
    assert all(len(top) == 2 for top in told.top_logprobs or [])
    (bare,) = create(temperature=0, logprobs=0, logit_bias=NO_END).choices
    assert bare.logprobs is not None
    assert bare.logprobs.token_logprobs == pytest.approx(told.token_logprobs, abs=0.01)


def test_a_suffix_that_the_model_knows_nothing_of_is_refused(chain: Chain) -> None:
    with pytest.raises(BadRequestError) as caught:
        chain.openai.completions.create(model=chain.model, prompt="One,", suffix=" three", max_tokens=4)
    assert "FIM" in caught.value.message or "infill" in caught.value.message.lower(), caught.value.message


def test_vectors_are_the_same_as_numbers_and_as_base64(chain: Chain) -> None:
    texts = ["The cat sleeps.", "17 % of 4096"]
    coded = chain.openai.embeddings.create(model=chain.model, input=texts)  # base64, read by the SDK
    plain = chain.openai.embeddings.create(model=chain.model, input=texts, encoding_format="float")
    for one, other in zip(coded.data, plain.data, strict=True):
        assert len(one.embedding) == 576
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
    assert coded.usage.prompt_tokens > 0


def test_documents_are_put_in_order(chain: Chain, tmp_path: Path) -> None:
    path = chain.worker.environment["MODEL_PATH"]
    settings = SETTINGS | {"MODEL_PATH": path, "LLAMA_ARGS": "--rerank", "QUEUE_NAME": "ranks"}
    url = chain.worker.environment["REDIS_URL"]
    worker = WorkerProcess(tmp_path / "worker.log", REDIS_URL=url, **settings)
    documents = ["cats sleep", {"text": "taxes rise"}, "it rains"]
    try:
        worker.start()
        worker.wait_for("worker_ready")
        with gateway_thread(url, queue_name="ranks") as gateway, httpx.Client(base_url=gateway) as http:
            body = {"query": "cats", "documents": documents, "top_n": 2, "return_documents": True}
            answer = http.post("/v1/rerank", json=body, timeout=60).json()
    finally:
        worker.end()
    scores = [one["relevance_score"] for one in answer["results"]]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
    texts = ["cats sleep", "taxes rise", "it rains"]
    assert all(one["document"] == {"text": texts[one["index"]]} for one in answer["results"])
    assert answer["model"] == chain.model
    assert answer["usage"]["total_tokens"] > 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_is_told_with_both_numbers(chain: Chain, *, stream: bool) -> None:
    long: Any = [{"role": "user", "content": "word " * 3000}]
    with pytest.raises(BadRequestError) as caught:
        chain.openai.chat.completions.create(model=chain.model, messages=long, stream=stream)
    assert caught.value.code == "context_length_exceeded"
    told = [int(word) for word in caught.value.message.replace(":", " ").split() if word.isdigit()]
    assert any(number > 3000 for number in told), caught.value.message
    assert any(number <= 512 for number in told), caught.value.message


def test_a_model_that_there_is_not_is_told_with_those_there_are(chain: Chain) -> None:
    with pytest.raises(NotFoundError) as caught:
        chain.chat(model="gpt-4o")
    assert caught.value.code == "model_not_found"
    assert chain.model in caught.value.message


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"temperature": -1}, "temperature"),
        ({"extra_body": {"grammar": "root = ((("}}, "grammar"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x/"}}]}]},
            "images",
        ),
    ],
)
def test_what_the_worker_or_the_engine_refuses_is_a_400(chain: Chain, more: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        chain.chat(**more)
    assert said in caught.value.message.lower()


def test_a_client_that_hangs_up_stops_the_engine(chain: Chain) -> None:
    before = set(chain.redis.keys("result:*"))
    stream = chain.chat(stream=True, logit_bias=NO_END, max_tokens=450)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
    hung_up = time.monotonic()

    def ended() -> list[dict[str, Any]]:
        found = [json.loads(chain.redis.get(key)) for key in set(chain.redis.keys("result:*")) - before]
        return [one for one in found if "finish_reason" in one]

    wait_for(ended, "the job's end", 5)
    assert time.monotonic() - hung_up < 2
    assert [one["finish_reason"] for one in ended()] == ["cancelled"]


NOT_HERE: Final = {"chat-image-input", "chat-tool-calling", "chat-reasoning-summary", "chat-streaming-response"}
"""The small model sees nothing, calls no tool without an example, and counts until its context is full."""


@pytest.mark.filterwarnings("ignore:jsonschema.RefResolver is deprecated")
@pytest.mark.parametrize(
    "case",
    [case for case in cases("openai_chat", "OPENAI_CHAT_TESTS") if case.id not in NOT_HERE],
    ids=lambda case: case.id,
)
def test_chats_comply(chain: Chain, case: Any) -> None:
    result = comply(case, chain.url, model=chain.model, specification="openai_chat.json")
    assert (result.errors, result.warnings) == ([], []), result

"""Responses and Messages on the real llama.cpp server, with the SDKs that agents are made with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import anthropic
import openai
import pytest
from anthropic import Anthropic
from openai import OpenAI

from tests.support.gateway_agents import wait_until
from tests.support.gateway_thread import gateway_thread
from tests.support.places import SETTINGS
from tests.support.processes import WorkerProcess
from tests.support.servers import RedisServer

pytestmark = pytest.mark.engine

TEMPLATE: Final = """{% if tools %}<|im_start|>system
You may call these functions:
<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools>
Answer with <tool_call>
{"name": <name>, "arguments": <arguments>}
</tool_call><|im_end|>
{% endif %}{% for message in messages %}{% if message.role == 'tool' %}<|im_start|>user
<tool_response>
{{ message.content }}
</tool_response><|im_end|>
{% elif message.role == 'assistant' %}<|im_start|>assistant
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}{% if message.tool_calls %}{% for call in message.tool_calls %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>{% endfor %}{% endif %}<|im_end|>
{% else %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking is false %}<think>

</think>

{% else %}<think>
{% endif %}{% if messages[-1].content == 'Weather in Rome?' %}<tool_call>
{% endif %}{% endif %}"""
"""Of a model that knows tools and thinks unless it is asked not to. It is made to call one at a certain question: left
to itself, this small one would not.
"""

NO_THOUGHTS: Any = {"reasoning": {"effort": "none"}}
NO_THINKING: Any = {"thinking": {"type": "disabled"}}

USER: Any = {"role": "user", "content": "Name a colour."}
SURE: Any = {"role": "user", "content": "What is the capital of France? Answer in a whole sentence."}
"""What the small model has no doubt of: a prompt that it finds in its cache may tip the scales elsewhere."""

SCHEMA: Any = {
    "type": "object",
    "properties": {"place": {"enum": ["Rome", "Oslo"]}},
    "required": ["place"],
    "additionalProperties": False,
}


class Place:
    """A worker, the routes in front of it, and the clients."""

    def __init__(self, url: str, redis: Any, model: str) -> None:
        self.redis = redis
        self.model = model
        self.openai: Any = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        self.anthropic: Any = Anthropic(base_url=url, api_key="none", max_retries=0)

    def close(self) -> None:
        self.openai.close()
        self.anthropic.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, model_path: Path) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("gateway-agents")
    with RedisServer(folder / "redis") as server, server.plain() as redis:
        (folder / "template.jinja").write_text(TEMPLATE)
        settings = SETTINGS | {
            "CONTEXT_SIZE": "2048",
            "LLAMA_ARGS": f"--jinja --chat-template-file {folder / 'template.jinja'}",
        }
        worker = WorkerProcess(folder / "log", REDIS_URL=server.url, MODEL_PATH=str(model_path), **settings)
        try:
            worker.start()
            worker.wait_for("worker_ready")
            with gateway_thread(server.url) as url, closing(Place(url, redis, model_path.stem)) as place:
                wait_until(lambda: place.openai.models.list().data, "the worker's model in the list")
                yield place
        finally:
            worker.end()


def test_a_response_is_the_same_whole_and_streamed(place: Place) -> None:
    asked: Any = {"model": place.model, "input": [SURE], "max_output_tokens": 12, "temperature": 0, **NO_THOUGHTS}
    whole = place.openai.responses.create(**asked)
    with place.openai.responses.stream(**asked) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
    assert "".join(deltas) == whole.output_text != ""
    assert len(deltas) > 1
    assert whole.usage is not None
    assert whole.usage.input_tokens > 5
    assert 0 < whole.usage.output_tokens <= 12


def test_a_message_is_the_same_whole_and_streamed_and_its_prompt_is_counted_right(place: Place) -> None:
    asked: Any = {"model": place.model, "messages": [USER], "system": "Be brief."}
    more: Any = {"max_tokens": 12, "extra_body": {"temperature": 0}}
    whole = place.anthropic.messages.create(**asked, **more)
    with place.anthropic.messages.stream(**asked, **more) as stream:
        final = stream.get_final_message()
    assert final.content == whole.content != []
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    counted = place.anthropic.messages.count_tokens(**asked).input_tokens
    cached = final.usage.cache_read_input_tokens or 0
    assert (
        counted
        == final.usage.input_tokens + cached
        == whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0)
    )


def test_a_tool_that_has_to_be_called_is_called_by_responses(place: Place) -> None:
    tool: Any = {"type": "function", "name": "get_weather", "description": "Weather", "parameters": SCHEMA}
    skipped: Any = {"type": "web_search"}
    with place.openai.responses.stream(
        model=place.model,
        input="Weather in Rome?",
        tools=[tool, skipped],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=60,
        temperature=0,
        **NO_THOUGHTS,
    ) as stream:
        *_, last = stream
    assert last.type in {"response.completed", "response.incomplete"}  # a small model calls again and again
    output: Any = last.response.output
    call = next(item for item in output if item.type == "function_call")
    assert (call.name, call.status) == ("get_weather", "completed")
    assert call.call_id
    assert json.loads(call.arguments)["place"] in {"Rome", "Oslo"}
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    given: Any = {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
    after = place.openai.responses.create(
        model=place.model,
        input=[{"role": "user", "content": "Weather in Rome?"}, given, result],
        tools=[tool],
        tool_choice="none",
        max_output_tokens=12,
        **NO_THOUGHTS,
    )
    assert after.output_text


def test_a_tool_that_has_to_be_called_is_called_by_messages(place: Place) -> None:
    tool: Any = {"name": "get_weather", "description": "Weather", "input_schema": SCHEMA}
    asked: Any = {
        "model": place.model,
        "messages": [{"role": "user", "content": "Weather in Rome?"}],
        "tools": [tool],
        "tool_choice": {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True},
        "max_tokens": 60,
        "extra_body": {"temperature": 0},
        **NO_THINKING,
    }
    with place.anthropic.messages.stream(**asked) as stream:
        final = stream.get_final_message()
    whole = place.anthropic.messages.create(**asked)
    for message in (final, whole):
        assert message.stop_reason in {"tool_use", "max_tokens"}  # a small model calls again and again
        use: Any = next(block for block in message.content if block.type == "tool_use")
        assert use.name == "get_weather"
        assert use.input["place"] in {"Rome", "Oslo"}
    assert [block.model_dump(exclude={"id"}) for block in final.content][:1] == [
        block.model_dump(exclude={"id"}) for block in whole.content
    ][:1]


def test_an_answer_obeys_a_schema_in_both(place: Place) -> None:
    wanted: Any = {"format": {"type": "json_schema", "name": "where", "schema": SCHEMA}}
    asked: Any = {"model": place.model, "input": "Name a town.", "text": wanted, "max_output_tokens": 60, **NO_THOUGHTS}
    assert set(json.loads(place.openai.responses.create(**asked).output_text)) == {"place"}
    config: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
    message = place.anthropic.messages.create(
        model=place.model, messages=[USER], max_tokens=60, extra_body={"output_config": config}, **NO_THINKING
    )
    [block] = message.content
    assert block.type == "text"
    assert set(json.loads(block.text)) == {"place"}


def test_a_model_thinks_unless_it_is_asked_not_to(place: Place) -> None:
    asked: Any = {"model": place.model, "messages": [USER], "max_tokens": 12, "extra_body": {"temperature": 0}}
    thinking: Any = {"type": "enabled", "budget_tokens": 8}
    whole = place.anthropic.messages.create(**asked, thinking=thinking)
    with place.anthropic.messages.stream(**asked, thinking=thinking) as stream:
        final = stream.get_final_message()
    assert final.content == whole.content
    assert final.content[0].type == "thinking"
    assert final.content[0].thinking
    without = place.anthropic.messages.create(**asked, **NO_THINKING)
    assert [block.type for block in without.content] == ["text"]


def test_a_history_with_thoughts_and_calls_is_taken_back(place: Place) -> None:
    history: Any = [
        {"type": "message", "role": "developer", "content": "Be brief."},
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "I look."}]},
        {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"place":"Rome"}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"role": "user", "content": "And?"},
    ]
    response = place.openai.responses.create(
        model=place.model, input=history, instructions="You help.", max_output_tokens=1, reasoning={"effort": "low"}
    )
    assert response.status == "incomplete"


def test_a_prompt_too_long_is_told_with_both_numbers(place: Place) -> None:
    long = "word " * 3000
    with pytest.raises(openai.BadRequestError, match="2048") as caught:
        place.openai.responses.create(model=place.model, input=long, stream=True)
    assert caught.value.code == "context_length_exceeded"
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long.*2048"):
        place.anthropic.messages.create(model=place.model, max_tokens=9, messages=[{"role": "user", "content": long}])


def test_a_mistake_that_only_the_worker_sees_is_a_400(place: Place) -> None:
    bad: Any = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {"pattern": 7}}}}
    wrong: Any = {"type": "function", "name": "g"}
    with pytest.raises(openai.BadRequestError):
        place.openai.responses.create(model=place.model, input="hi", tools=[bad], tool_choice=wrong)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        place.anthropic.messages.create(model=place.model, max_tokens=0, messages=[USER])


def test_who_hangs_up_stops_the_engine(place: Place) -> None:
    story: Any = [{"role": "user", "content": "Tell me a very long story."}]
    before = set(place.redis.keys("result:*"))
    with place.anthropic.messages.stream(model=place.model, max_tokens=1900, messages=story, **NO_THINKING) as stream:
        next(iter(stream))
    wait_until(lambda: set(place.redis.keys("result:*")) - before, "the job's end")
    [key] = set(place.redis.keys("result:*")) - before
    assert json.loads(place.redis.get(key))["finish_reason"] == "cancelled"

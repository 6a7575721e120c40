from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support.chat_entries import deep
from tests.support.gateway_agents import refusal
from velesio_worker.gateway.anthropic.request import CountRequest, MessagesRequest, count_of, job_of
from velesio_worker.gateway.errors import ApiError
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.template_parameters import CountTokensParameters

HI = [{"role": "user", "content": "hi"}]
PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}
DATA_URI = "data:image/png;base64,iVBORw0KGgo="
WEATHER = {
    "name": "get_weather",
    "description": "Weather of a place",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}},
    "cache_control": {"type": "ephemeral"},
}


def job(**body: Any) -> dict[str, Any]:
    """The parameters of a request's job, which a worker takes as they are; those of the count as well."""
    whole = {"model": "tiny", "max_tokens": 9, "messages": HI, **body}
    data = job_of(MessagesRequest.model_validate(whole))
    ChatCompletionParameters.model_validate(data)
    counted = count_of(CountRequest.model_validate(whole))
    CountTokensParameters.model_validate(counted)
    assert counted.items() <= data.items()
    return data


def messages(*turns: tuple[str, Any], **more: Any) -> list[dict[str, Any]]:
    return job(messages=[{"role": role, "content": content} for role, content in turns], **more)["messages"]


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said, "cache_control": {"type": "ephemeral"}}


def test_parameters_get_the_names_of_a_chat_job_and_all_else_is_the_engines() -> None:
    assert job(stop_sequences=["\n"], temperature=0, top_p=0.5, top_k=3, stream=True) == {
        "defaults": "engine",
        "stream": True,
        "model": "tiny",
        "messages": HI,
        "max_tokens": 9,
        "stop": ["\n"],
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
    }


def test_null_is_not_given_and_unknown_fields_are_ignored() -> None:
    nulls = dict.fromkeys(set(MessagesRequest.model_fields) - {"model", "messages", "max_tokens"})
    more = {"service_tier": "auto", "container": None, "mcp_servers": [], "metadata": {"user_id": "u"}, "betas": ["a"]}
    assert job(**nulls | more) == job()


@pytest.mark.parametrize("system", ["Be brief.", [text("Be brief.")]])
def test_the_system_prompt_is_a_text_or_blocks(system: Any) -> None:
    assert messages(("user", "hi"), system=system) == [{"role": "system", "content": "Be brief."}, *HI]


def test_the_line_that_claude_code_changes_in_each_request_does_not_keep_prompts_out_of_the_cache() -> None:
    system = [text("x-anthropic-billing-header: cc_version=2.1; cch=12ab3;"), text("You are Claude Code.")]
    assert messages(("user", "hi"), system=system)[0]["content"] == "You are Claude Code."


def test_blocks_of_text_are_one_message() -> None:
    assert messages(("user", [text("a"), text("b")])) == [{"role": "user", "content": "a\n\nb"}]


def test_a_beginning_of_the_answer_stays_the_last_message() -> None:
    assert messages(("user", "hi"), ("assistant", "Well"))[-1] == {"role": "assistant", "content": "Well"}


def test_a_picture_is_a_data_uri() -> None:
    [message] = messages(("user", [text("what"), PICTURE]))
    assert message["content"][1] == {"type": "image_url", "image_url": {"url": DATA_URI}}


def test_a_turn_of_tools() -> None:
    said = messages(
        ("user", "weather?"),
        (
            "assistant",
            [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "redacted_thinking", "data": "…"},
                text("I look."),
                {"type": "tool_use", "id": "t1", "name": "get_weather", "input": {"place": "Rome"}},
                {"type": "tool_use", "id": "t2", "name": "get_weather", "input": {}},
            ],
        ),
        (
            "user",
            [
                {"type": "tool_result", "tool_use_id": "t1", "content": [text("sunny"), PICTURE]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "no place", "is_error": True},
                text("go on"),
            ],
        ),
        tools=[WEATHER],
    )
    assert said[1:] == [
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "get_weather", "arguments": '{"place":"Rome"}'}},
                {"id": "t2", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "name": "get_weather", "content": "sunny"},
        {"role": "tool", "tool_call_id": "t2", "name": "get_weather", "content": "The tool failed.\n\nno place"},
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": DATA_URI}},
                {"type": "text", "text": "go on"},
            ],
        },
    ]


def test_a_result_without_content_and_a_document_of_text() -> None:
    document = {"type": "document", "title": "a", "source": {"type": "text", "media_type": "text/plain", "data": "b"}}
    call: dict[str, Any] = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
    said = messages(("assistant", [call]), ("user", [{"type": "tool_result", "tool_use_id": "t1"}, document]))
    assert said[1:] == [
        {"role": "tool", "tool_call_id": "t1", "name": "f", "content": ""},
        {"role": "user", "content": "b"},
    ]


def test_tools_that_anthropic_runs_are_left_out() -> None:
    data = job(tools=[WEATHER, {"type": "web_search_20250305", "name": "web_search"}, {**WEATHER, "type": "custom"}])
    function = {"name": "get_weather", "description": "Weather of a place", "parameters": WEATHER["input_schema"]}
    assert data["tools"] == [{"type": "function", "function": function}] * 2


@pytest.mark.parametrize(
    ("choice", "becomes"),
    [
        ({"type": "auto"}, "auto"),
        ({"type": "any"}, "required"),
        ({"type": "none"}, "none"),
        ({"type": "tool", "name": "get_weather"}, {"type": "function", "function": {"name": "get_weather"}}),
    ],
)
def test_the_choice_of_a_tool(choice: Any, becomes: Any) -> None:
    data = job(tools=[WEATHER], tool_choice={**choice, "disable_parallel_tool_use": True})
    assert data["tool_choice"] == becomes
    assert data["parallel_tool_calls"] is False


def test_what_no_engine_bears_of_a_tool_s_schema_is_left_out() -> None:
    """Claude Code has a tool with a text of up to 524,288 characters."""
    schema = {"type": "object", "properties": {"script": {"type": "string", "maxLength": 524_288}}}
    data = job(tools=[{"name": "run", "input_schema": schema}])
    assert data["tools"][0]["function"]["parameters"]["properties"] == {"script": {"type": "string"}}


def test_a_choice_among_no_tools_is_none() -> None:
    assert job(tool_choice={"type": "auto"}) == job()


def test_thinking() -> None:
    enabled = job(thinking={"type": "enabled", "budget_tokens": 2048})
    assert enabled["chat_template_kwargs"] == {"enable_thinking": True}
    assert enabled["thinking_budget_tokens"] == 2048
    assert job(thinking={"type": "disabled"})["chat_template_kwargs"] == {"enable_thinking": False}
    assert job(thinking={"type": "adaptive"}) == job()
    assert job(output_config={"effort": "low"})["reasoning_effort"] == "low"


@pytest.mark.parametrize("where", ["output_format", "output_config"])
def test_a_schema_goes_on_as_a_response_format(where: str) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wanted = {"type": "json_schema", "schema": schema}
    data = job(**{where: wanted if where == "output_format" else {"format": wanted}})
    assert data["response_format"]["json_schema"]["schema"] == schema


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": "many"}, "max_tokens"),
    ({"messages": "hi"}, "messages"),
    ({"messages": [{"role": "critic", "content": "a"}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": 7}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": [7]}]}, "messages.0.content.0"),
    ({"messages": [{"role": "user", "content": [{}]}]}, "messages.0.content.0.type"),
    ({"messages": [{"role": "assistant", "content": [{}]}]}, "messages.0.content.0.type"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "a"}}]}]},
        "messages.0.content.0.source",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "base64"}}]}]},
        "messages.0.content.0.source",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "messages.0.content.0.tool_use_id"),
    (
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": 7}]}]},
        "messages.0.content.0.input",
    ),
    (
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": deep()}]}]},
        "messages.0.content.0.input",
    ),
    ({"system": 7}, "system"),
    ({"system": [{"type": "text"}]}, "system.0.text"),
    ({"system": [PICTURE]}, "system.0.type"),
    ({"tools": [{"name": "a"}]}, "tools.0.input_schema"),
    ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
    ({"tools": [WEATHER], "tool_choice": {"type": "some"}}, "tool_choice.type"),
    ({"tools": [WEATHER], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"output_format": {"type": "xml"}}, "output_format"),
    ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format"),
]


@pytest.mark.parametrize(("body", "param"), MISTAKES)
def test_a_mistake_is_named_with_its_place(body: dict[str, Any], param: str) -> None:
    error = refusal(job, **body)
    assert (error.status, error.param) == (400, param)
    assert param in error.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.sampled_from(["user", "tool_result"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "source", "input", "tool_use_id"]), inner, max_size=4
        )
    ),
    max_leaves=15,
)


@given(body=st.fixed_dictionaries({}, optional=dict.fromkeys(MessagesRequest.model_fields, JSON)))
def test_any_body_is_a_job_or_a_mistake_with_its_place(body: dict[str, Any]) -> None:
    whole = {"model": "tiny", "max_tokens": 9, "messages": HI, **body}
    try:
        data = job_of(MessagesRequest.model_validate(whole))
    except (ApiError, ValidationError):
        return
    assert all(isinstance(message["role"], str) for message in data["messages"])

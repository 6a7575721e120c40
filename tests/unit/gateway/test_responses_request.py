from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.support.chat_entries import deep
from tests.support.gateway_agents import refusal
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.responses.request import ResponsesRequest, job_of
from velesio_worker.wire.chat_parameters import ChatCompletionParameters

PIXEL = "data:image/png;base64,iVBORw0KGgo="
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather of a place",
    "strict": True,
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}


def job(**body: Any) -> dict[str, Any]:
    """The parameters of a request's job, which a worker takes as they are."""
    data = job_of(ResponsesRequest.model_validate({"model": "tiny", "input": "hi"} | body))
    ChatCompletionParameters.model_validate(data)
    return data


def messages(*items: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    return job(input=list(items), **more)["messages"]


def user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def test_a_text_is_what_the_user_says_and_all_else_is_the_engines() -> None:
    assert job() == {
        "defaults": "engine",
        "stream": False,
        "model": "tiny",
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_parameters_get_the_names_of_a_chat_job() -> None:
    data = job(max_output_tokens=1, temperature=0, top_p=0.5, top_logprobs=3, stream=True, parallel_tool_calls=True)
    assert data | {"messages": []} == {
        "defaults": "engine",
        "stream": True,
        "model": "tiny",
        "messages": [],
        "max_tokens": 1,
        "temperature": 0,
        "top_p": 0.5,
        "logprobs": True,
        "top_logprobs": 3,
    }


def test_null_is_not_given_and_unknown_fields_are_ignored() -> None:
    nulls = dict.fromkeys(set(ResponsesRequest.model_fields) - {"model", "input"})
    assert job(**nulls, client_metadata={"a": 1}, store=True, truncation="auto", user="me") == job()


def test_what_codex_sends_is_taken() -> None:
    data = job(
        client_metadata={"installation": "x"},
        include=["reasoning.encrypted_content"],
        instructions="You are Codex.",
        input=[
            {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "sandbox"}]},
            user("<environment_context/>"),
            user("list files"),
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": None},
            {"type": "function_call", "name": "shell", "arguments": '{"command":["ls"]}', "call_id": "c1"},
            {"type": "function_call_output", "call_id": "c1", "output": "a.py"},
        ],
        parallel_tool_calls=True,
        prompt_cache_key="conversation",
        reasoning={"effort": "medium", "summary": "auto"},
        store=False,
        stream=True,
        tool_choice="auto",
        tools=[
            {**WEATHER, "name": "shell"},
            {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
            {"type": "web_search"},
            {"type": "local_shell"},
            {"type": "namespace", "name": "mcp", "tools": []},
        ],
    )
    assert [tool["function"]["name"] for tool in data["tools"]] == ["shell"]
    assert data["reasoning_effort"] == "medium"
    assert data["messages"] == [
        {"role": "system", "content": "You are Codex.\n\nsandbox"},
        {"role": "user", "content": "<environment_context/>\n\nlist files"},
        {
            "role": "assistant",
            "content": "",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "shell", "arguments": '{"command":["ls"]}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "shell", "content": "a.py"},
    ]


def test_what_no_engine_bears_of_a_tool_s_schema_is_left_out() -> None:
    text = {"type": "string", "pattern": "^(?!a)", "minLength": 1}
    data = job(input="Hi.", tools=[{**WEATHER, "parameters": {"type": "object", "properties": {"script": text}}}])
    properties = data["tools"][0]["function"]["parameters"]["properties"]
    assert properties == {"script": {"type": "string", "minLength": 1}}


def test_a_system_message_in_mid_chat_is_the_users_since_templates_refuse_it() -> None:
    said = messages(user("a"), {"role": "assistant", "content": "b"}, {"role": "developer", "content": "be brief"})
    assert [message["role"] for message in said] == ["user", "assistant", "user"]


def test_a_picture_stays_in_its_place() -> None:
    parts = [{"type": "input_text", "text": "what"}, {"type": "input_image", "image_url": PIXEL, "detail": "auto"}]
    [message] = messages({"role": "user", "content": parts})
    assert message["content"] == [
        {"type": "text", "text": "what"},
        {"type": "image_url", "image_url": {"url": PIXEL}},
    ]


def test_a_picture_that_a_tool_made_is_shown_after_all_tools_have_spoken() -> None:
    said = messages(
        user("look"),
        {"type": "function_call", "call_id": "a", "name": "shot", "arguments": ""},
        {"type": "function_call", "call_id": "b", "name": "shot", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_image", "image_url": PIXEL}]},
        {"type": "function_call_output", "call_id": "b", "output": "none"},
    )
    assert [message["role"] for message in said] == ["user", "assistant", "tool", "tool", "user"]
    assert said[1]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert said[-1]["content"][0]["type"] == "image_url"


def test_a_thought_that_nothing_came_of_is_left_out() -> None:
    assert messages(user("a"), {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}) == [
        {"role": "user", "content": "a"}
    ]


def test_items_of_tools_that_are_not_here_are_left_out() -> None:
    assert messages(user("a"), {"type": "web_search_call", "id": "ws_1", "status": "completed"}) == messages(user("a"))


def test_a_call_of_a_custom_tool_keeps_its_input() -> None:
    said = messages(
        user("a"),
        {"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": "*** Begin"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "ok"},
    )
    assert said[1]["tool_calls"][0]["function"] == {"name": "patch", "arguments": '{"input":"*** Begin"}'}
    assert said[2]["content"] == "ok"


@pytest.mark.parametrize(
    ("choice", "becomes"),
    [
        ("required", "required"),
        ("none", "none"),
        ({"type": "function", "name": "get_weather"}, {"type": "function", "function": {"name": "get_weather"}}),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "get_weather"}]},
            "required",
        ),
        ({"type": "web_search"}, "auto"),
    ],
)
def test_the_choice_of_a_tool(choice: Any, becomes: Any) -> None:
    data = job(tools=[WEATHER, {"type": "web_search"}], tool_choice=choice)
    assert data["tool_choice"] == becomes
    assert data["tools"][0]["function"]["parameters"] == WEATHER["parameters"]


def test_a_choice_among_no_tools_is_none() -> None:
    assert job(tools=[{"type": "web_search"}], tool_choice="auto") == job()


def test_of_the_allowed_tools_no_other_is_offered() -> None:
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "b"}]}
    data = job(tools=[{**WEATHER, "name": "a"}, {**WEATHER, "name": "b"}], tool_choice=allowed)
    assert [tool["function"]["name"] for tool in data["tools"]] == ["b"]


def test_a_schema_goes_on_as_a_response_format() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    wanted = {"type": "json_schema", "name": "one", "schema": schema, "strict": True, "description": None}
    assert job(text={"format": wanted})["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "one", "schema": schema, "strict": True},
    }
    assert job(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert job(text={"format": {"type": "text"}, "verbosity": "low"}) == job()


def test_no_effort_is_no_thinking() -> None:
    assert job(reasoning={"effort": "none"})["chat_template_kwargs"] == {"enable_thinking": False}


MISTAKES: list[tuple[dict[str, Any], str]] = [
    ({"previous_response_id": "resp_1"}, "previous_response_id"),
    ({"conversation": {"id": "conv_1"}}, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, "prompt"),
    ({"background": True}, "background"),
    ({"model": None}, "model"),
    ({"model": ""}, "model"),
    ({"input": 7}, "input"),
    ({"input": [7]}, "input.0"),
    ({"input": [{}]}, "input.0.type"),
    ({"input": [{"role": "critic", "content": "a"}]}, "input.0.role"),
    ({"input": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "input.0.content.0.type"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input.0.content.0.text"),
    ({"input": [{"role": "user", "content": {"a": 1}}]}, "input.0.content"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "https://a/b.png"}]}]},
        "input.0.content.0.image_url",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}]},
        "input.0.content.0.image_url",
    ),
    ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input.0"),
    ({"input": [{"type": "function_call", "name": "a", "arguments": "{}"}]}, "input.0.call_id"),
    ({"tools": [{"type": "function"}]}, "tools.0.name"),
    ({"tools": [7]}, "tools.0"),
    ({"tool_choice": 7}, "tool_choice"),
    ({"tool_choice": deep()}, "tool_choice"),
    ({"metadata": deep()}, "metadata"),
    ({"tools": [WEATHER], "tool_choice": {"type": "function"}}, "tool_choice.name"),
    ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
    ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format.schema"),
    ({"max_output_tokens": "many"}, "max_output_tokens"),
]


@pytest.mark.parametrize(("body", "param"), MISTAKES)
def test_a_mistake_is_named_with_its_place(body: dict[str, Any], param: str) -> None:
    error = refusal(job, **body)
    assert (error.status, error.param) == (400, param)
    assert param in error.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5) | st.sampled_from(["user", "message"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["type", "role", "content", "text", "call_id", "output", "name"]), inner, max_size=4
        )
    ),
    max_leaves=15,
)


@given(body=st.fixed_dictionaries({}, optional=dict.fromkeys(ResponsesRequest.model_fields, JSON)))
def test_any_body_is_a_job_or_a_mistake_with_its_place(body: dict[str, Any]) -> None:
    try:
        data = job_of(ResponsesRequest.model_validate({"model": "tiny", "input": "hi"} | body))
    except (ApiError, ValidationError):
        return
    assert data["model"]
    assert all(isinstance(message["role"], str) for message in data["messages"])

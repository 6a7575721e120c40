"""What producers send beside our own names and values: null, other names, what others' APIs have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson
import pytest

from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.jobs import Job, JobType, RefusedJobError, parse_job
from velesio_worker.wire.parameters import ModelParameters
from velesio_worker.wire.text_parameters import UNLIMITED, CompletionParameters, TextParameters

LEAST: dict[JobType, dict[str, Any]] = {
    JobType.COMPLETION: {"prompt": "hi"},
    JobType.CHAT_COMPLETION: {"messages": [{"role": "user", "content": "Say hi."}]},
    JobType.INFILL: {"input_prefix": "a", "input_suffix": "b"},
    JobType.EMBEDDING: {"input": "hi"},
    JobType.RERANK: {"query": "a", "documents": ["b"]},
    JobType.TXT2IMG: {"prompt": "a cat"},
}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
TIME = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def parsed(type_: JobType = JobType.CHAT_COMPLETION, envelope: Mapping[str, Any] | None = None, /, **data: Any) -> Job:
    whole = {"id": "a1", "type": type_, "data": LEAST[type_] | data} | dict(envelope or {})
    return parse_job(orjson.dumps(whole), max_bytes=100_000)


def text(type_: JobType = JobType.CHAT_COMPLETION, /, **data: Any) -> TextParameters:
    parameters = parsed(type_, **data).parameters
    assert isinstance(parameters, TextParameters)
    return parameters


def chat(**data: Any) -> ChatCompletionParameters:
    parameters = parsed(**data).parameters
    assert isinstance(parameters, ChatCompletionParameters)
    return parameters


def mistake(type_: JobType = JobType.CHAT_COMPLETION, /, **data: Any) -> str:
    with pytest.raises(RefusedJobError) as caught:
        parsed(type_, **data)
    assert caught.value.error.code == "bad_job"
    return str(caught.value.error)


@pytest.mark.parametrize("type_", LEAST)
def test_null_is_not_given(type_: JobType) -> None:
    nulls = dict.fromkeys(type(parsed(type_).parameters).known())
    given = parsed(type_, **{name: None for name in nulls if name not in LEAST[type_]})
    assert given == parsed(type_)
    envelope: dict[str, Any] = dict.fromkeys(("timeout", "max_attempts", "on_crash", "cache", "worker", "expires_at"))
    assert parsed(type_, envelope) == parsed(type_)


def test_null_is_not_given_within_what_is_checked() -> None:
    assert text(lora=[{"id": 0, "scale": 1.0}]).lora == text(lora=[{"id": 0, "scale": 1.0}]).lora
    assert mistake(lora=[{"id": 0, "scale": None}]) == "data.lora.0.scale: required"
    tool = {"type": "function", "function": {"name": "f", "description": None, "parameters": None}}
    assert chat(tools=[tool]).tools == [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "n_predict"])
def test_the_limit_has_three_names(name: str) -> None:
    assert text(**{name: 7}).max_tokens == 7
    assert text(**{name: UNLIMITED}).max_tokens == UNLIMITED
    assert mistake(**{name: 0}) == f"data.{name}: 1 or more; -1 for no limit (got 0)"


def test_names_of_one_limit_may_not_differ() -> None:
    assert text(max_tokens=7, n_predict=7).max_tokens == 7
    assert "max_tokens, n_predict are names of one limit" in mistake(max_tokens=7, n_predict=8)


@pytest.mark.parametrize("type_", [JobType.COMPLETION, JobType.CHAT_COMPLETION, JobType.EMBEDDING, JobType.RERANK])
def test_what_has_no_effect_is_taken_and_changes_nothing(type_: JobType) -> None:
    more: dict[str, Any] = {
        "n": 1,
        "user": "u-1",
        "stream_options": {"include_usage": True},
        "store": False,
        "metadata": {"chat": "7"},
        "service_tier": "auto",
        "prompt_cache_key": "k",
        "safety_identifier": "s",
        "verbosity": "low",
    }
    with_more, without = parsed(type_, **more).parameters, parsed(type_).parameters
    assert isinstance(with_more, ModelParameters)
    assert isinstance(without, ModelParameters)
    assert with_more.given() == without.given()


@pytest.mark.parametrize("name", ["n", "n_cmpl"])
def test_one_answer_is_all_there_is(name: str) -> None:
    assert mistake(**{name: 2}).startswith(f"data.{name}: Input should be 1")


def test_what_is_settled_elsewhere_is_refused_with_the_reason() -> None:
    assert mistake(sse_ping_interval=3).startswith("data.sse_ping_interval: llama-server and the worker settle this")
    assert "LLAMA_ARGS" in mistake(**{"speculative.types": "none"})
    assert "sse_ping_interval" not in mistake(banana=1)
    assert mistake(banana=1, apple=2).count("known ones") == 1


def test_with_the_engines_defaults_only_what_is_given_is_sent() -> None:
    assert text(defaults="engine", top_k=3).given("messages") == {"top_k": 3, "max_tokens": UNLIMITED}
    assert text(defaults="engine", max_tokens=9).max_tokens == 9
    assert text(defaults="velesio").given() == text().given()
    assert not text(defaults="engine").deterministic
    assert text(defaults="engine", temperature=0).deterministic


def test_a_prompt_may_be_token_ids() -> None:
    parameters = text(JobType.COMPLETION, prompt=[1, 2, 3])
    assert isinstance(parameters, CompletionParameters)
    assert parameters.prompt == [1, 2, 3]
    for wrong in ([], ["a"], [1, "a"], [True], [-1], [2**31], [[1]], {"a": 1}):
        assert mistake(JobType.COMPLETION, prompt=wrong) == "data.prompt: a text is wanted, or a list of token ids"


@pytest.mark.parametrize("stop", ["", [], [""], ["", ""]])
def test_an_empty_stop_string_stops_nothing(stop: Any) -> None:
    assert text(stop=stop).stop is None
    assert text(stop=["", "a"]).stop == ["a"]


@pytest.mark.parametrize("name", ["nope", "Top_K", "edskypmxt"])
def test_an_unknown_sampler_is_refused(name: str) -> None:
    assert mistake(samplers=["top_k", name]).startswith("data.samplers.1: Input should be 'penalties', 'dry'")


@pytest.mark.parametrize("empty", [{"content": ""}, {"content": None}, {}, {"content": []}])
def test_an_empty_answer_at_the_end_is_left_out(empty: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "Say hi."}, {"role": "assistant", **empty}]
    assert chat(messages=messages).messages == messages[:1]
    assert chat(messages=[*messages, messages[1]]).messages == messages[:1]
    assert chat(messages=[*messages, messages[0]]).messages == [*messages, messages[0]]
    assert mistake(messages=messages[1:]) == "data.messages: there is nothing but an empty answer"


def test_a_tool_that_is_named_is_the_one_that_is_called() -> None:
    named = chat(tools=[WEATHER, TIME], tool_choice={"type": "function", "function": {"name": "get_time"}})
    assert (named.tools, named.tool_choice) == ([TIME], "required")
    assert "no tool has the name 'get_x'" in mistake(
        tools=[TIME], tool_choice={"type": "function", "function": {"name": "get_x"}}
    )


@pytest.mark.parametrize("choice", ["any", {"type": "auto"}, {"type": "function", "name": "get_time"}, {}])
def test_a_choice_of_another_form_is_refused(choice: Any) -> None:
    assert "tool_choice: none, auto, required or" in mistake(tools=[TIME], tool_choice=choice)
    assert "tool_choice: there are no tools" in mistake(tool_choice="required")


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "web_search"},
        {"type": "function"},
        {"type": "function", "function": {"description": "x"}},
        {"type": "function", "function": {"name": "f", "parameters": "x"}},
        {"function": {"name": ""}},
    ],
)
def test_a_tool_that_is_none_is_refused(tool: dict[str, Any]) -> None:
    assert mistake(tools=[TIME, tool]).startswith("data.tools.1: a tool")


def test_a_tool_needs_no_type() -> None:
    assert chat(tools=[{"function": TIME["function"]}]).tools == [TIME]


def test_the_arguments_of_an_earlier_call_are_whole() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": '}}
    assert "no JSON: send them whole" in mistake(messages=[{"role": "assistant", "tool_calls": [call]}])


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema", "json_schema": {"schema": SCHEMA}},
        {"type": "json_schema", "schema": SCHEMA},
        {"type": "json_object", "schema": SCHEMA},
        {"type": "json_schema", "json_schema": SCHEMA},
    ],
)
def test_a_schema_is_found_wherever_producers_have_it(form: dict[str, Any]) -> None:
    parameters = chat(response_format=form)
    assert parameters.response_format == {"type": "json_schema", "json_schema": {"schema": SCHEMA}}
    assert parameters.answer_schema == SCHEMA


def test_what_stands_beside_a_schema_stays() -> None:
    wrapped: dict[str, Any] = {"name": "x", "strict": True, "schema": {}}
    form: dict[str, Any] = {"type": "json_schema", "json_schema": wrapped}
    assert chat(response_format=form).response_format == form


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": {"name": "x"}},
        {"type": "json_schema", "schema": 1},
    ],
)
def test_a_schema_that_is_missing_is_told(form: dict[str, Any]) -> None:
    assert mistake(response_format=form).startswith("data.response_format: json_schema.schema is missing")


@pytest.mark.parametrize("form", [{}, {"type": "yaml"}, {"type": "TEXT"}])
def test_an_unknown_form_is_refused(form: dict[str, Any]) -> None:
    assert mistake(response_format=form).startswith("data.response_format: type is text, json_object or json_schema")

"""The real SDK of OpenAI, and llm-comply, against /v1/responses; the jobs' streams are written by the test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import llm_comply.config  # pyright: ignore[reportMissingTypeStubs]
import llm_comply.runner  # pyright: ignore[reportMissingTypeStubs]
import llm_comply.schema  # pyright: ignore[reportMissingTypeStubs]
import llm_comply.tests.open_responses  # pyright: ignore[reportMissingTypeStubs]
import openai
import pytest
from openai import OpenAI
from pydantic import BaseModel

from tests.doubles.fleet import failed
from tests.support.chat_entries import chat_result, started, token
from tests.support.gateway_agents import Place, placed, wait_until
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.responses.routes import routes

TOOL: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "Weather",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"place": {"type": "string"}},
        "required": ["place"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def place() -> Iterator[Place[OpenAI]]:
    with placed(routes, lambda url: OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)) as place:
        yield place


def test_a_whole_answer(place: Place[OpenAI]) -> None:
    place.answers(chat_result("Hi there", reasoning="hm"))
    response = place.client.responses.create(model="tiny", input="hi", prompt_cache_key="conversation")
    assert response.output_text == "Hi there"
    assert response.status == "completed"
    assert response.usage is not None
    assert (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens) == (7, 5, 12)
    assert place.jobs.submitted[0][0] == "chat_completion"
    assert place.last["stream"] is False
    assert place.jobs.options[0]["session"] == "conversation"


def test_a_streamed_answer(place: Place[OpenAI]) -> None:
    place.answers(chat_result("Hi there", reasoning="hm"))
    with place.client.responses.stream(model="tiny", input="hi") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(deltas) == final.output_text == "Hi there"
    assert len(deltas) > 1
    assert [item.type for item in final.output] == ["reasoning", "message"]
    assert place.last["stream"] is True


def test_a_tool_is_called_streamed_and_its_result_goes_back(place: Place[OpenAI]) -> None:
    called = chat_result(calls=[("c1", "get_weather", '{"place":"Rome"}')], reason="tool_calls")
    place.answers(called, chat_result("Sunny."))
    asked: list[Any] = [{"role": "user", "content": "Weather in Rome?"}]
    with place.client.responses.stream(model="tiny", input=asked, tools=[TOOL], tool_choice="required") as stream:
        [call] = stream.get_final_response().output
    assert call.type == "function_call"
    assert call.parsed_arguments == {"place": "Rome"}
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    history: list[Any] = [*asked, call.model_dump(exclude={"parsed_arguments"}), output]
    second = place.client.responses.create(model="tiny", input=history, tools=[TOOL])
    assert second.output_text == "Sunny."
    assert [message["role"] for message in place.last["messages"]] == ["user", "assistant", "tool"]


def test_an_answer_that_was_given_may_be_sent_back_as_it_is(place: Place[OpenAI]) -> None:
    place.answers(chat_result("Four.", reasoning="2 and 2"), chat_result("Five."))
    first = place.client.responses.create(model="tiny", input="2+2?")
    history: Any = [
        {"role": "user", "content": "2+2?"},
        *(item.model_dump() for item in first.output),
        {"role": "user", "content": "And one more?"},
    ]
    place.client.responses.create(model="tiny", input=history)
    assert place.last["messages"][1] == {"role": "assistant", "content": "Four.", "reasoning_content": "2 and 2"}


def test_a_parsed_answer(place: Place[OpenAI]) -> None:
    class Sum(BaseModel):
        result: int

    place.answers(chat_result('{"result": 4}'))
    parsed = place.client.responses.parse(model="tiny", input="2+2?", text_format=Sum)
    assert parsed.output_parsed == Sum(result=4)
    assert place.last["response_format"]["json_schema"]["schema"]["required"] == ["result"]


def test_codexs_probe_is_answered_with_one_token(place: Place[OpenAI]) -> None:
    place.answers(chat_result("H", reason="length"))
    response = place.client.responses.create(model="tiny", input="hi", max_output_tokens=1)
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert place.last["max_tokens"] == 1


def test_an_error_before_the_first_word_is_a_status(place: Place[OpenAI]) -> None:
    place.says([started(), failed(1, "context_exceeded", "The prompt has 600 tokens, and 512 fit.")])
    with pytest.raises(openai.BadRequestError) as caught:
        place.client.responses.create(model="tiny", input="hi", stream=True)
    assert caught.value.code == "context_length_exceeded"
    assert "600" in caught.value.message


def test_an_error_in_mid_answer_is_told_and_the_stream_ends(place: Place[OpenAI]) -> None:
    place.says([started(), token({"content": "Hi"})], [failed(2, "worker_lost", "Gone.")])
    found = list(place.client.responses.create(model="tiny", input="hi", stream=True))
    assert [event.type for event in found[-2:]] == ["error", "response.failed"]
    error, end = found[-2], found[-1]
    assert error.type == "error"
    assert (error.code, error.message) == ("worker_lost", "Gone.")
    assert end.type == "response.failed"
    assert end.response.status == "failed"
    assert end.sequence_number == len(found) - 1


def test_the_stream_ends_without_done_and_without_ids(place: Place[OpenAI]) -> None:
    place.answers(chat_result("Hi"))
    answer = httpx.post(f"{place.url}/v1/responses", json={"model": "tiny", "input": "hi", "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.splitlines()
    assert not any(line.startswith("id:") or "[DONE]" in line for line in lines)


def test_who_hangs_up_has_the_job_cancelled(place: Place[OpenAI]) -> None:
    place.says([started(), token({"content": "Hi"})])
    with place.client.responses.create(model="tiny", input="hi", stream=True) as stream:
        next(iter(stream))
    wait_until(lambda: place.jobs.cancelled == ["job-0"], "the cancel")


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (
            {"model": "tiny", "input": "hi", "previous_response_id": "resp_1"},
            400,
            "unsupported_parameter",
            "previous_response_id",
        ),
        ({"model": "tiny", "input": "hi", "background": True}, 400, "unsupported_parameter", "background"),
        ({"model": "none", "input": "hi"}, 404, "model_not_found", "model"),
        ({"input": "hi"}, 400, "invalid_request", "model"),
        ({"model": "tiny", "input": 7}, 400, "invalid_request", "input"),
        ([], 400, "invalid_json", None),
    ],
)
def test_what_cannot_be_had_is_told_in_openais_form(
    place: Place[OpenAI], body: Any, status: int, code: str, param: str | None
) -> None:
    answer = httpx.post(f"{place.url}/v1/responses", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["code"], error["param"], error["type"]) == (code, param, "invalid_request_error")
    assert place.jobs.submitted == []


def test_a_full_queue_is_told_with_when_to_come_back(place: Place[OpenAI]) -> None:
    place.jobs.refusals[0] = ApiError(429, "queue_full", "Too many wait.", retry_after=7)
    answer = httpx.post(f"{place.url}/v1/responses", json={"model": "tiny", "input": "hi", "stream": True})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"]["type"] == "rate_limit_error"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "resp_1"),
        ("DELETE", "resp_1"),
        ("POST", "resp_1/cancel"),
        ("GET", "resp_1/input_items"),
        ("POST", "compact"),
    ],
)
def test_nothing_is_stored(place: Place[OpenAI], method: str, path: str) -> None:
    answer = httpx.request(method, f"{place.url}/v1/responses/{path}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "response_not_found"


@pytest.mark.filterwarnings("ignore:jsonschema.RefResolver is deprecated:DeprecationWarning")  # llm-comply's
def test_llm_comply_finds_nothing(place: Place[OpenAI]) -> None:
    config = llm_comply.config.ComplianceConfig(base_url=f"{place.url}/v1", api_key="none", model="tiny")
    cases = llm_comply.tests.open_responses.OPEN_RESPONSES_TESTS
    spec = llm_comply.schema.SpecLoader(str(llm_comply.schema._BUNDLED_SPEC))  # pyright: ignore[reportPrivateUsage]
    faults: list[str] = []
    for case in cases:
        if case.id == "tool-calling":
            place.answers(chat_result(calls=[("c1", "get_weather", "{}")], reason="tool_calls"))
        elif case.id not in {"compact-response", "compact-missing-model", "error-handling", "reasoning-summary"}:
            place.answers(chat_result("Hello"))
        result = llm_comply.runner.TestRunner(config, [case], spec).run_one(case)
        faults += [f"{case.id}: {fault}" for fault in result.errors if result.status.value == "failed"]
    assert len(place.jobs.submitted) == len(place.jobs.streams) > 5
    assert faults == []

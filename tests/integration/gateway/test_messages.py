"""The real SDK of Anthropic, and llm-comply, against /v1/messages; the jobs' streams are written by the test."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import llm_comply.config  # pyright: ignore[reportMissingTypeStubs]
import llm_comply.runner  # pyright: ignore[reportMissingTypeStubs]
import llm_comply.schema  # pyright: ignore[reportMissingTypeStubs]
import llm_comply.tests.anthropic  # pyright: ignore[reportMissingTypeStubs]
import pytest
from anthropic import Anthropic

from tests.doubles.fleet import failed
from tests.support.chat_entries import chat_result, started, token
from tests.support.gateway_agents import Place, placed, wait_until
from velesio_worker.gateway.anthropic.routes import routes
from velesio_worker.gateway.errors import ApiError
from velesio_worker.wire.events import StreamEvent

HI: list[Any] = [{"role": "user", "content": "hi"}]
TOOL: Any = {
    "name": "get_weather",
    "description": "Weather",
    "input_schema": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
}


@pytest.fixture
def place() -> Iterator[Place[Anthropic]]:
    with placed(routes, lambda url: Anthropic(base_url=url, api_key="none", max_retries=0)) as place:
        yield place


def test_a_whole_answer(place: Place[Anthropic]) -> None:
    place.answers(chat_result("Hi there", reasoning="hm"))
    message = place.client.messages.create(
        model="tiny", max_tokens=9, messages=HI, system="Be brief.", metadata={"user_id": "user_1_session_2"}
    )
    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (7, 5)
    assert place.jobs.submitted[0][0] == "chat_completion"
    assert place.jobs.options[0]["session"] == "user_1_session_2"
    assert place.last["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_streamed_answer(place: Place[Anthropic]) -> None:
    place.answers(chat_result("Hi there", reasoning="hm"))
    with place.client.messages.stream(model="tiny", max_tokens=9, messages=HI) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert "".join(pieces) == "Hi there"
    assert len(pieces) > 1
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert (final.usage.input_tokens, final.usage.output_tokens) == (7, 5)
    assert final.stop_reason == "end_turn"


def test_a_tool_is_called_streamed_and_its_result_goes_back(place: Place[Anthropic]) -> None:
    called = chat_result("I look.", calls=[("c1", "get_weather", '{"place":"Rome"}')], reason="tool_calls")
    place.answers(called, chat_result("Sunny."))
    with place.client.messages.stream(
        model="tiny", max_tokens=9, messages=HI, tools=[TOOL], tool_choice={"type": "any"}
    ) as stream:
        first = stream.get_final_message()
    use = first.content[1]
    assert use.type == "tool_use"
    assert use.input == {"place": "Rome"}
    assert first.stop_reason == "tool_use"
    assert place.last["tool_choice"] == "required"
    result: Any = {"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}
    history: list[Any] = [*HI, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = place.client.messages.create(model="tiny", max_tokens=9, messages=history, tools=[TOOL])
    assert second.content[0].type == "text"
    assert [message["role"] for message in place.last["messages"]] == ["user", "assistant", "tool"]


@pytest.mark.parametrize("beta", [False, True])
def test_tokens_are_counted_by_a_worker(place: Place[Anthropic], beta: Any) -> None:
    place.says([started()], [StreamEvent("1-1", "done", {"finish_reason": "stop"})])
    place.jobs.results[0] = {"tokens": 42}
    counter: Any = place.client.beta.messages if beta else place.client.messages
    counted = counter.count_tokens(model="tiny", messages=HI, system="Be brief.", tools=[TOOL])
    assert counted.input_tokens == 42
    job_type, data = place.jobs.submitted[0]
    assert job_type == "count_tokens"
    assert set(data) == {"model", "messages", "tools"}


def test_a_count_that_somebody_cancelled_is_no_number(place: Place[Anthropic]) -> None:
    place.says([StreamEvent("1-0", "done", {"finish_reason": "cancelled"})])
    place.jobs.results[0] = {"finish_reason": "cancelled"}
    answer = httpx.post(f"{place.url}/v1/messages/count_tokens", json={"model": "tiny", "messages": HI})
    assert answer.status_code == 499


def test_an_error_before_the_first_word_is_a_status(place: Place[Anthropic]) -> None:
    place.says([started(), failed(1, "context_exceeded", "The prompt has 600 tokens, and 512 fit.")])
    with (
        pytest.raises(anthropic.BadRequestError, match="prompt is too long"),
        place.client.messages.stream(model="tiny", max_tokens=9, messages=HI),
    ):
        pass


def test_an_error_in_mid_answer_is_an_event(place: Place[Anthropic]) -> None:
    place.says([started(), token({"content": "Hi"})], [failed(2, "worker_lost", "Gone.")])
    with (
        pytest.raises(anthropic.APIStatusError, match="Gone"),
        place.client.messages.stream(model="tiny", max_tokens=9, messages=HI) as stream,
    ):
        stream.get_final_message()


def test_who_hangs_up_has_the_job_cancelled(place: Place[Anthropic]) -> None:
    place.says([started(), token({"content": "Hi"})])
    with place.client.messages.stream(model="tiny", max_tokens=9, messages=HI) as stream:
        next(iter(stream))
    wait_until(lambda: place.jobs.cancelled == ["job-0"], "the cancel")


@pytest.mark.parametrize("path", ["messages", "messages/count_tokens"])
@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"model": "none", "max_tokens": 1, "messages": HI}, 404, "not_found_error"),
        ({"max_tokens": 1, "messages": HI}, 400, "invalid_request_error"),
        ({"model": "tiny", "max_tokens": 1, "messages": "hi"}, 400, "invalid_request_error"),
        ([], 400, "invalid_request_error"),
    ],
)
def test_what_cannot_be_had_is_told_in_anthropics_form(
    place: Place[Anthropic], path: str, body: Any, status: int, kind: str
) -> None:
    answer = httpx.post(f"{place.url}/v1/{path}", json=body)
    assert answer.status_code == status
    assert answer.json()["type"] == "error"
    assert answer.json()["error"]["type"] == kind
    assert place.jobs.submitted == []


def test_a_full_queue_is_told_with_when_to_come_back(place: Place[Anthropic]) -> None:
    place.jobs.refusals[0] = ApiError(429, "queue_full", "Too many wait.", retry_after=7)
    with pytest.raises(anthropic.RateLimitError) as caught:
        place.client.messages.create(model="tiny", max_tokens=9, messages=HI)
    assert caught.value.response.headers["retry-after"] == "7"


@pytest.mark.filterwarnings("ignore:jsonschema.RefResolver is deprecated:DeprecationWarning")  # llm-comply's
def test_llm_comply_finds_nothing(place: Place[Anthropic]) -> None:
    config = llm_comply.config.ComplianceConfig(base_url=f"{place.url}/v1", api_key="none", model="tiny")
    spec = llm_comply.schema.SpecLoader(str(llm_comply.schema._SPECS_DIR / "anthropic.json"))  # pyright: ignore[reportPrivateUsage]
    faults: list[str] = []
    for case in llm_comply.tests.anthropic.ANTHROPIC_TESTS:
        if case.id == "anth-tool-calling":
            place.answers(chat_result(calls=[("c1", "get_weather", "{}")], reason="tool_calls"))
        elif case.id not in {"anth-error-handling", "anth-thinking-display"}:
            place.answers(chat_result("Hello"))
        result = llm_comply.runner.TestRunner(config, [case], spec).run_one(case)
        faults += [f"{case.id}: {fault}" for fault in result.errors if result.status.value == "failed"]
    assert len(place.jobs.submitted) == len(place.jobs.streams) > 5
    assert faults == []

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import llm_comply.schema  # pyright: ignore[reportMissingTypeStubs]
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.support.chat_entries import (
    CALLS,
    TEXTS,
    TWO_CALLS,
    chat_result,
    cut_at,
    done,
    entries_of,
    said,
    sse,
    started,
    token,
)
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.responses.frames import ResponseFrames, response_of
from velesio_worker.gateway.responses.request import ResponsesRequest
from velesio_worker.wire.events import StreamEvent

SPEC = llm_comply.schema.SpecLoader(str(Path(llm_comply.schema.__file__).parent / "specs/openresponses.json"))


@cache
def event_type() -> TypeAdapter[Any]:
    from openai.types.responses import ResponseStreamEvent  # noqa: PLC0415

    return TypeAdapter(ResponseStreamEvent)


def of_the_sdk() -> tuple[TypeAdapter[Any], Any]:
    """How OpenAI's SDK reads an event, and what it has of a response that begins."""
    # Not at the top: it takes half a second, and each process of a run would pay for it.
    from openai._types import omit  # noqa: PLC0415
    from openai.lib.streaming.responses._responses import ResponseStreamState  # noqa: PLC0415

    return event_type(), ResponseStreamState[Any](input_tools=omit, text_format=omit)


def body(**more: Any) -> ResponsesRequest:
    return ResponsesRequest.model_validate({"model": "tiny", "input": "hi", **more})


def streamed(*events: StreamEvent, **more: Any) -> list[dict[str, Any]]:
    return said(ResponseFrames(body(stream=True, **more)), events)


def without_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in item.items() if name != "id"} for item in items]


def test_a_text_is_told_from_its_beginning_to_its_end() -> None:
    found = streamed(started(), token({"role": "assistant", "content": None}), token({"content": "Hi"}), done())
    assert [event["type"] for event in found] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event["sequence_number"] for event in found] == list(range(9))
    assert found[0]["response"]["id"] == found[-1]["response"]["id"]
    assert found[0]["response"]["status"] == "in_progress"
    last = found[-1]["response"]
    assert last["status"] == "completed"
    assert last["usage"]["input_tokens"] == 7
    assert last["usage"]["output_tokens"] == 5
    assert last["output"][0]["content"][0]["text"] == "Hi"


def test_nothing_is_said_before_there_is_something() -> None:
    frames = ResponseFrames(body())
    assert frames.feed(0, started()) == b""
    assert frames.feed(0, token({"role": "assistant", "content": None})) == b""
    assert frames.feed(0, StreamEvent("1-2", "progress", {"stage": "prompt", "processed": 1, "total": 2})) == b""


def test_reasoning_is_a_summary_under_the_names_that_clients_know() -> None:
    found = streamed(token({"reasoning_content": "hm"}), token({"content": "Hi"}), done())
    names = [event["type"] for event in found]
    assert names[2:8] == [
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
    ]
    assert [item["type"] for item in found[-1]["response"]["output"]] == ["reasoning", "message"]


def test_calls_follow_one_another_each_with_its_id_and_all_its_arguments() -> None:
    found = streamed(*TWO_CALLS)
    whole = [event for event in found if event["type"] == "response.function_call_arguments.done"]
    assert [event["arguments"] for event in whole] == ['{"a":1}', "{}"]
    items = found[-1]["response"]["output"]
    assert [(item["call_id"], item["name"], item["status"]) for item in items] == [
        ("c0", "ls", "completed"),
        ("c1", "cat", "completed"),
    ]


def test_an_answer_that_was_cut_off_is_incomplete() -> None:
    found = streamed(token({"content": "H"}), done("length"), max_output_tokens=1)
    assert found[-1]["type"] == "response.incomplete"
    assert found[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert found[-2]["item"]["status"] == found[-1]["response"]["output"][0]["status"] == "incomplete"


def test_an_empty_answer_has_a_message_all_the_same() -> None:
    found = streamed(started(), done())
    assert found[-1]["response"]["output"][0]["content"][0]["text"] == ""
    whole = response_of(body(), chat_result())
    assert without_ids(whole["output"]) == without_ids(found[-1]["response"]["output"])


def test_log_probabilities_stand_beside_the_text() -> None:
    likely = {"token": "H", "logprob": -0.5, "bytes": [72], "top_logprobs": []}
    found = streamed(token({"content": "H"}, logprobs={"content": [likely]}), done(), top_logprobs=1)
    assert found[4]["logprobs"] == [likely]
    assert found[-1]["response"]["output"][0]["content"][0]["logprobs"] == [likely]


def test_an_error_in_mid_answer_is_told_twice_and_keeps_what_was_said() -> None:
    frames = ResponseFrames(body())
    before = sse(frames.feed(0, token({"content": "Hi"})))
    error, failed = sse(frames.error(ApiError(502, "worker_lost", "Gone.")))
    assert error == {
        "type": "error",
        "code": "worker_lost",
        "message": "Gone.",
        "param": None,
        "sequence_number": len(before),
    }
    assert failed["type"] == "response.failed"
    assert failed["sequence_number"] == len(before) + 1
    assert failed["response"]["status"] == "failed"
    assert failed["response"]["error"] == {"code": "worker_lost", "message": "Gone."}
    assert failed["response"]["output"][0]["content"][0]["text"] == "Hi"


def test_an_error_in_front_of_the_first_word_begins_the_response_first() -> None:
    found = sse(ResponseFrames(body()).error(ApiError(502, "worker_lost", "Gone.")))
    assert [event["type"] for event in found] == [
        "response.created",
        "response.in_progress",
        "error",
        "response.failed",
    ]


def test_an_attempt_that_goes_on_is_not_noticed_and_one_that_begins_anew_is_an_error() -> None:
    frames = ResponseFrames(body())
    frames.feed(0, started("restart", 2))
    frames.feed(0, token({"content": "Hi"}))
    assert frames.feed(0, started("continue", 3)) == b""
    with pytest.raises(ApiError) as caught:
        frames.feed(0, started("restart", 4))
    assert (caught.value.status, caught.value.code) == (502, "worker_lost")


def test_a_job_that_somebody_cancelled_is_no_answer() -> None:
    with pytest.raises(ApiError, match="cancelled"):
        streamed(token({"content": "Hi"}), done("cancelled"))
    with pytest.raises(ApiError, match="cancelled"):
        response_of(body(), chat_result("Hi", reason="cancelled"))


@pytest.mark.parametrize("delta", [{"content": 7}, {"tool_calls": {}}, {"tool_calls": [{"index": "a"}]}])
def test_what_no_worker_wrote_is_an_error_of_the_engines(delta: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        streamed(token(delta))
    assert caught.value.status == 502


@pytest.mark.filterwarnings("ignore:jsonschema.RefResolver is deprecated:DeprecationWarning")  # llm-comply's
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"instructions": "be brief", "temperature": 0.5, "metadata": {"a": "b"}, "reasoning": {"effort": "low"}},
        {"tools": [{"type": "function", "name": "f"}, {"type": "web_search"}], "tool_choice": "auto"},
    ],
)
def test_responses_and_their_events_are_as_the_open_specification_has_them(more: dict[str, Any]) -> None:
    result = chat_result("Hi", reasoning="hm", calls=[("c0", "f", "{}")])
    assert SPEC.validate(response_of(body(**more), result), "ResponseResource") == []
    known = {"response.reasoning_summary_text.delta": "ResponseReasoningSummaryDeltaStreamingEvent"}
    known["response.reasoning_summary_text.done"] = "ResponseReasoningSummaryDoneStreamingEvent"
    for event in streamed(*entries_of(result, cut_at([1])), **more):
        name = known.get(event["type"])
        faults = SPEC.validate(event, name) if name else SPEC.validate_sse_event(event["type"], event)
        assert faults == []


@given(TEXTS, TEXTS, CALLS, st.lists(st.integers(0, 99)), st.sampled_from(["stop", "length"]))
def test_however_an_answer_was_cut_it_is_the_same_in_the_end(
    text: str, reasoning: str, calls: list[tuple[str, str]], cuts: list[int], reason: str
) -> None:
    numbered = [(f"c{n}", name, arguments) for n, (name, arguments) in enumerate(calls)]
    result = chat_result(text, reasoning=reasoning, calls=numbered, reason=reason)
    found = streamed(*entries_of(result, cut_at(cuts)))
    whole = response_of(body(), result)
    assert without_ids(found[-1]["response"]["output"]) == without_ids(whole["output"])
    assert {**found[-1]["response"], "id": "", "output": [], "created_at": 0, "completed_at": 0} == {
        **whole,
        "id": "",
        "output": [],
        "created_at": 0,
        "completed_at": 0,
    }
    events, seen = of_the_sdk()
    for event in found:  # the SDK checks ids, places and that nothing is left open
        seen.handle_event(events.validate_python(event))

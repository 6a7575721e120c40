from __future__ import annotations

from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.support.chat_entries import (
    CALLS,
    TEXTS,
    TWO_CALLS,
    USAGE,
    chat_result,
    cut_at,
    done,
    entries_of,
    said,
    sse,
    started,
    token,
)
from velesio_worker.client import QueueDepths
from velesio_worker.gateway.anthropic.errors import error_body
from velesio_worker.gateway.anthropic.frames import MessageFrames, message_of
from velesio_worker.gateway.anthropic.models import model_body, models_body
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.jobs import Fleet, Model
from velesio_worker.wire.events import StreamEvent

WAITING = QueueDepths({}, 0, 0, {}, {}, 0)
FLEET = Fleet((), WAITING, (Model("tiny", "text", default=True), Model("sd15", "image"), Model("large", "text")))


@cache
def of_the_sdk() -> tuple[TypeAdapter[Any], Any, Any]:
    """How Anthropic's SDK reads an event, adds it to a message, and reads a whole message."""
    # Not at the top: it takes a second, and each process of a run would pay for it.
    from anthropic.lib.streaming._messages import accumulate_event  # noqa: PLC0415
    from anthropic.types import Message, RawMessageStreamEvent  # noqa: PLC0415

    return TypeAdapter(RawMessageStreamEvent), accumulate_event, Message


def streamed(*events: StreamEvent) -> list[dict[str, Any]]:
    return said(MessageFrames("tiny"), events)


def test_a_text_is_told_from_its_beginning_to_its_end() -> None:
    found = streamed(started(), token({"role": "assistant", "content": None}), token({"content": "Hi"}), done())
    message = found[0].pop("message")
    assert message | {"id": ""} == {
        "id": "",
        "type": "message",
        "role": "assistant",
        "model": "tiny",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "stop_details": None,
        "container": None,
        "usage": {
            "cache_creation": None,
            "inference_geo": None,
            "output_tokens_details": None,
            "server_tool_use": None,
            "service_tier": None,
            "input_tokens": 0,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": 0,
        },
    }
    assert found == [
        {"type": "message_start"},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "", "citations": None}},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {
                "input_tokens": 7,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": 5,
            },
        },
        {"type": "message_stop"},
    ]


def test_nothing_is_said_before_there_is_something() -> None:
    frames = MessageFrames("tiny")
    assert frames.feed(0, started()) == b""
    assert frames.feed(0, token({"role": "assistant", "content": None})) == b""


def test_reasoning_is_a_block_of_thinking_with_a_signature() -> None:
    found = streamed(token({"reasoning_content": "hm"}), token({"content": "Hi"}), done())
    assert found[1]["content_block"] == {"type": "thinking", "thinking": "", "signature": ""}
    assert found[2]["delta"] == {"type": "thinking_delta", "thinking": "hm"}
    assert [event["index"] for event in found[1:7]] == [0, 0, 0, 1, 1, 1]
    whole = message_of("tiny", chat_result("Hi", reasoning="hm"))
    assert whole["content"][0] == {"type": "thinking", "thinking": "hm", "signature": ""}


def test_calls_follow_one_another_each_in_a_block_of_its_own() -> None:
    found = streamed(*TWO_CALLS)
    assert [event["content_block"] for event in found if event["type"] == "content_block_start"] == [
        {"type": "tool_use", "id": "c0", "name": "ls", "input": {}, "caller": {"type": "direct"}},
        {"type": "tool_use", "id": "c1", "name": "cat", "input": {}, "caller": {"type": "direct"}},
    ]
    assert "".join(event["delta"]["partial_json"] for event in found[2:4]) == '{"a":1}'
    assert found[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize(
    ("reason", "calls", "becomes"),
    [
        ("stop", [], "end_turn"),
        ("length", [], "max_tokens"),
        ("tool_calls", [("c0", "f", "{}")], "tool_use"),
        ("stop", [("c0", "f", "{}")], "tool_use"),
        ("length", [("c0", "f", "{")], "max_tokens"),
    ],
)
def test_why_an_answer_ended(reason: str, calls: list[tuple[str, str, str]], becomes: str) -> None:
    result = chat_result("Hi", calls=calls, reason=reason)
    assert message_of("tiny", result)["stop_reason"] == becomes
    assert streamed(*entries_of(result, cut_at([])))[-2]["delta"]["stop_reason"] == becomes


def test_the_input_of_a_call_that_was_cut_off_is_empty() -> None:
    whole = message_of("tiny", chat_result(calls=[("c0", "f", '{"a": ')], reason="length"))
    assert whole["content"][0]["input"] == {}


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": None, "completion_tokens": None, "total_tokens": None}])
def test_a_usage_that_nobody_knows_is_nought(usage: Any) -> None:
    assert message_of("tiny", chat_result("Hi", usage=usage))["usage"]["input_tokens"] == 0


def test_what_was_in_the_cache_is_counted_for_itself() -> None:
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 4}}
    counted = message_of("tiny", chat_result("Hi", usage=usage))["usage"]
    assert (counted["input_tokens"], counted["cache_read_input_tokens"]) == (3, 4)


def test_an_error_in_mid_answer_is_an_event_in_the_dialects_form() -> None:
    frames = MessageFrames("tiny")
    frames.feed(0, token({"content": "Hi"}))
    assert sse(frames.error(ApiError(502, "worker_lost", "Gone."))) == [
        {"type": "error", "error": {"type": "api_error", "message": "Gone."}}
    ]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (413, "request_too_large"),
        (415, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_each_status_has_its_type_of_error(status: int, kind: str) -> None:
    assert error_body(ApiError(status, "any", "Said.")) == {
        "type": "error",
        "error": {"type": kind, "message": "Said."},
    }


def test_a_prompt_too_long_is_told_as_claude_code_knows_it() -> None:
    told = error_body(ApiError(400, "context_length_exceeded", "600 tokens, and 512 fit."))["error"]["message"]
    assert told == "prompt is too long: 600 tokens, and 512 fit."


def test_an_attempt_that_begins_anew_is_an_error_once_something_was_said() -> None:
    frames = MessageFrames("tiny")
    frames.feed(0, started("restart", 2))
    frames.feed(0, token({"content": "Hi"}))
    assert frames.feed(0, started("continue", 3)) == b""
    with pytest.raises(ApiError, match="begin anew"):
        frames.feed(0, started("restart", 4))


def test_a_job_that_somebody_cancelled_is_no_answer() -> None:
    with pytest.raises(ApiError, match="cancelled"):
        message_of("tiny", chat_result("Hi", reason="cancelled"))


def test_the_models_that_write_text_are_listed_in_anthropics_form() -> None:
    page = models_body(FLEET)
    assert [model["id"] for model in page["data"]] == ["tiny", "large"]
    assert (page["first_id"], page["last_id"], page["has_more"]) == ("tiny", "large", False)
    assert model_body(FLEET, "large") == page["data"][1]
    assert models_body(Fleet((), WAITING, ()))["data"] == []
    for fleet in (FLEET, Fleet((), WAITING, ())):
        with pytest.raises(ApiError) as caught:
            model_body(fleet, "sd15")
        assert caught.value.status == 404


@given(TEXTS, TEXTS, CALLS, st.lists(st.integers(0, 99)), st.sampled_from(["stop", "length"]))
def test_however_an_answer_was_cut_it_is_the_same_in_the_end(
    text: str, reasoning: str, calls: list[tuple[str, str]], cuts: list[int], reason: str
) -> None:
    numbered = [(f"c{n}", name, arguments) for n, (name, arguments) in enumerate(calls)]
    result = chat_result(text, reasoning=reasoning, calls=numbered, reason=reason)
    events, accumulate_event, message = of_the_sdk()
    seen: Any = None
    buffers: dict[int, bytes] = {}
    for event in streamed(*entries_of(result, cut_at(cuts))):
        read = events.validate_python(event)
        seen = accumulate_event(event=read, current_snapshot=seen, json_bufs=buffers)
    whole = message.model_validate(message_of("tiny", result))
    assert message.model_validate(seen.model_dump() | {"id": ""}) == whole.model_copy(update={"id": ""})

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from tests.unit.gateway.openai.streams import ROLE, chunks, delta, done, event, said, start
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.openai.chat_frames import ChatFrames

ABOUT = ("chatcmpl-1", 1_700_000_000, "tiny")


def deltas(read: list[Any]) -> list[dict[str, Any]]:
    return [choice["delta"] for chunk in read[:-1] for choice in chunk["choices"]]


def test_a_chat_begins_with_the_role_and_ends_with_a_reason_and_the_mark() -> None:
    read = said(ChatFrames(*ABOUT), [start(), ROLE, delta({"content": "Hel"}), delta({"content": "lo"}), done()])
    assert read.pop() == "[DONE]"
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "tiny"}
    choice = {"index": 0, "finish_reason": None}
    assert read == [
        head | {"choices": [choice | {"delta": {"role": "assistant", "content": ""}}]},
        head | {"choices": [choice | {"delta": {"content": "Hel"}}]},
        head | {"choices": [choice | {"delta": {"content": "lo"}}]},
        head | {"choices": [choice | {"delta": {}, "finish_reason": "stop"}]},
    ]


@pytest.mark.parametrize(
    "events",
    [
        [delta({"role": "assistant", "content": "Hi"}), done()],
        [delta({"content": "Hi"}), done()],
        [ROLE, ROLE, delta({"content": "Hi", "reasoning_content": None, "tool_calls": None}), done()],
        [ROLE, delta({"content": None}), delta({"content": "Hi"}), delta({}), done()],
    ],
)
def test_nothing_is_null_and_the_role_comes_once_however_the_engine_begins(events: list[Any]) -> None:
    read = said(ChatFrames(*ABOUT), [start(), *events])
    assert deltas(read) == [{"role": "assistant", "content": ""}, {"content": "Hi"}, {}]


def test_an_answer_without_a_word_is_an_answer_all_the_same() -> None:
    read = said(ChatFrames(*ABOUT), [start(), done("length")])
    assert deltas(read) == [{"role": "assistant", "content": ""}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in read[:-1]] == [None, "length"]


def test_the_reason_is_null_until_the_last_chunk_of_each_choice() -> None:
    events = [(0, start()), (1, start()), (0, ROLE), (1, ROLE), (1, delta({"content": "b"})), (1, done("length"))]
    events += [(0, delta({"content": "a"})), (0, done())]
    read = said(ChatFrames(*ABOUT, 2), events)
    reasons: dict[int, list[Any]] = {0: [], 1: []}
    for chunk in read[:-1]:
        (choice,) = chunk["choices"]
        reasons[choice["index"]].append(choice["finish_reason"])
    assert reasons == {0: [None, None, "stop"], 1: [None, None, "length"]}
    assert Counter(chunk["id"] for chunk in read[:-1]) == {"chatcmpl-1": 6}


def test_usage_comes_only_where_it_is_wanted_without_choices_and_before_the_mark() -> None:
    events = [start(), ROLE, delta({"content": "a"}), done()]
    assert not any("usage" in chunk for chunk in said(ChatFrames(*ABOUT), events)[:-1])
    *others, usage, mark = said(ChatFrames(*ABOUT, with_usage=True), events)
    assert mark == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert all(chunk["choices"] for chunk in others)


def test_usage_counts_the_prompt_once_and_all_choices() -> None:
    events = [(index, one) for index in range(3) for one in (start(), ROLE, done())]
    usage = said(ChatFrames(*ABOUT, 3, with_usage=True), events)[-2]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (4, 6, 10)


def test_usage_that_the_engine_did_not_tell_is_a_number() -> None:
    told = {"prompt_tokens": None, "completion_tokens": 5, "total_tokens": None}
    usage = said(ChatFrames(*ABOUT, with_usage=True), [start(), ROLE, done(usage=told, timings=None)])[-2]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (0, 5, 5)


def call(index: int, arguments: str, **more: Any) -> dict[str, Any]:
    names = {"name": more.pop("name")} if "name" in more else {}
    return {"index": index, **more, "function": {**names, "arguments": arguments}}


def test_calls_have_their_index_on_each_delta_and_id_and_name_once_in_the_first() -> None:
    events = [
        ROLE,
        delta({"tool_calls": [call(0, "", id="c0", type="function", name="weather")]}),
        delta({"tool_calls": [call(0, '{"city":')]}),
        delta({"tool_calls": [call(0, '"Oslo"}')]}),
        delta({"tool_calls": [call(1, "{", id="c1", type="function", name="time")]}),
        delta({"tool_calls": [call(1, "}", id="c1", type="function", name="time")]}),
        done("tool_calls"),
    ]
    read = said(ChatFrames(*ABOUT), events)
    calls = [one for said_ in deltas(read) for one in said_.get("tool_calls", ())]
    assert calls == [
        {"index": 0, "id": "c0", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city":'}},
        {"index": 0, "function": {"arguments": '"Oslo"}'}},
        {"index": 1, "id": "c1", "type": "function", "function": {"name": "time", "arguments": "{"}},
        {"index": 1, "function": {"arguments": "}"}},
    ]
    assert read[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_calls_without_an_id_get_one_and_those_whose_name_comes_late_wait_for_it() -> None:
    events = [delta({"tool_calls": [call(0, "{")]}), delta({"tool_calls": [call(0, "}", name="f")]}), done()]
    read = said(ChatFrames(*ABOUT), events)
    (told,) = [one for said_ in deltas(read) for one in said_.get("tool_calls", ())]
    assert told["id"].startswith("call_")
    assert told["function"] == {"name": "f", "arguments": "{}"}


def test_calls_of_one_choice_are_not_mixed_up_with_those_of_another() -> None:
    first = delta({"tool_calls": [call(0, "", id="c", name="f")]})
    read = said(ChatFrames(*ABOUT, 2), [(0, first), (1, first), (0, done()), (1, done())])
    calls = [one for said_ in deltas(read) for one in said_.get("tool_calls", ())]
    assert [one["id"] for one in calls] == ["c", "c"]


def test_thoughts_are_told_as_such() -> None:
    read = said(ChatFrames(*ABOUT), [ROLE, delta({"reasoning_content": "hm"}), delta({"content": "Yes"}), done()])
    assert deltas(read)[1:3] == [{"reasoning_content": "hm"}, {"content": "Yes"}]


def test_probabilities_stand_beside_their_piece() -> None:
    entry = {"id": 57, "token": "I", "logprob": -2.25, "bytes": [73], "top_logprobs": []}
    read = said(ChatFrames(*ABOUT), [ROLE, delta({"content": "I"}, logprobs={"content": [entry]}), done()])
    assert read[1]["choices"][0]["logprobs"] == {"content": [entry], "refusal": None}
    assert read[1]["choices"][0]["delta"] == {"content": "I"}


def test_progress_says_nothing() -> None:
    assert ChatFrames(*ABOUT).feed(0, event("progress", {"stage": "prompt", "processed": 1, "total": 2})) == b""
    assert ChatFrames(*ABOUT).feed(0, start()) == b""


def test_an_answer_that_goes_on_goes_on_and_one_that_begins_anew_ends() -> None:
    frames = ChatFrames(*ABOUT)
    assert frames.feed(0, start("restart")) == b""
    assert frames.feed(0, delta({"content": "a"}))
    assert frames.feed(0, start("continue")) == b""
    with pytest.raises(ApiError) as caught:
        frames.feed(0, start("restart"))
    assert (caught.value.status, caught.value.code) == (502, "worker_lost")


def test_an_answer_that_was_cancelled_is_no_answer() -> None:
    with pytest.raises(ApiError) as caught:
        ChatFrames(*ABOUT).feed(0, done("cancelled"))
    assert caught.value.code == "cancelled"


def test_an_error_in_mid_answer_is_a_chunk_of_its_own() -> None:
    read = chunks(ChatFrames(*ABOUT).error(ApiError(502, "engine_crashed", "It went\naway.")))
    assert read == [
        {"error": {"message": "It went\naway.", "type": "server_error", "param": None, "code": "engine_crashed"}}
    ]


def test_what_was_not_done_as_asked_stands_in_the_last_chunk() -> None:
    read = said(ChatFrames(*ABOUT), [ROLE, done(warnings=["The answer does not obey."])])
    assert read[-2]["warnings"] == ["The answer does not obey."]
    assert read[-2]["choices"][0]["finish_reason"] == "stop"


def test_text_that_looks_like_the_end_of_an_event_stays_text() -> None:
    read = said(ChatFrames(*ABOUT), [ROLE, delta({"content": "a\n\ndata: [DONE]\n\n\u2028猫"}), done()])
    assert deltas(read)[1] == {"content": "a\n\ndata: [DONE]\n\n\u2028猫"}


ODD: list[dict[str, Any]] = [
    {},
    {"choices": []},
    {"choices": [7]},
    {"choices": None},
    {"choices": [{"delta": 7}]},
    {"choices": [{"delta": {"tool_calls": [7]}}]},
    {"choices": [{"delta": {"tool_calls": [{"function": 7}]}}]},
    {"choices": [{"delta": {"tool_calls": [{"index": ["x"], "function": {"name": "f"}}]}}]},
    {"choices": [{"delta": {"content": "a"}, "logprobs": 7}]},
]


@pytest.mark.parametrize("data", ODD)
def test_an_entry_that_no_worker_wrote_is_told_as_such(data: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as caught:
        ChatFrames(*ABOUT).feed(0, event("token", data))
    assert (caught.value.status, caught.value.code) == (502, "engine_error")

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.gateway.openai.streams import chunks, done, piece, said, start
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.openai.completion_frames import CompletionFrames

ABOUT = ("cmpl-1", 1_700_000_000, "tiny")


def choices(read: list[Any]) -> list[dict[str, Any]]:
    return [choice for chunk in read[:-1] for choice in chunk["choices"]]


def test_a_completion_ends_with_a_reason_and_the_mark() -> None:
    read = said(CompletionFrames(*ABOUT), [start(), piece("Hel"), piece("lo"), done("length")])
    assert read.pop() == "[DONE]"
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1_700_000_000, "model": "tiny"}
    choice = {"index": 0, "logprobs": None, "finish_reason": None}
    assert read == [
        head | {"choices": [choice | {"text": "Hel"}]},
        head | {"choices": [choice | {"text": "lo"}]},
        head | {"choices": [choice | {"text": "", "finish_reason": "length"}]},
    ]


def test_several_prompts_keep_their_indexes_and_echo_their_texts_once() -> None:
    events = [(1, piece(" b")), (0, piece(" a")), (0, piece("!")), (1, done()), (0, done())]
    read = said(CompletionFrames(*ABOUT, ["A", "B"]), events)
    texts = ["", ""]
    for choice in choices(read):
        texts[choice["index"]] += choice["text"]
    assert texts == ["A a!", "B b"]


def test_a_text_without_a_token_is_echoed_all_the_same() -> None:
    read = said(CompletionFrames(*ABOUT, ["A"]), [start(), done()])
    assert [choice["text"] for choice in choices(read)] == ["A", ""]


def test_usage_counts_each_prompt_once() -> None:
    events = [(index, done()) for index in range(4)]  # two prompts, two choices each
    frames = CompletionFrames(*ABOUT, [""] * 4, choices=2, with_usage=True)
    *_, usage, mark = said(frames, events)
    assert mark == "[DONE]"
    assert usage["choices"] == []
    assert (usage["usage"]["prompt_tokens"], usage["usage"]["completion_tokens"]) == (8, 8)


ENTRIES: list[dict[str, Any]] = [
    {"id": 1, "token": "Hé", "logprob": -0.5, "bytes": [], "top_logprobs": [{"token": "Hé", "logprob": -0.5}]},
    {
        "id": 2,
        "token": " x",
        "logprob": -1.5,
        "bytes": [],
        "top_logprobs": [{"token": " y", "logprob": -0.1}, {"token": " x", "logprob": -1.5}],
    },
]


def test_probabilities_have_the_form_of_completions_and_go_on_from_chunk_to_chunk() -> None:
    events = [piece(entry["token"], completion_probabilities=[entry]) for entry in ENTRIES]
    read = said(CompletionFrames(*ABOUT, logprobs=2), [start(), *events, done()])
    first, second, last = choices(read)
    assert first["logprobs"] == {
        "tokens": ["Hé"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"Hé": -0.5}],
        "text_offset": [0],
    }
    assert second["logprobs"] == {
        "tokens": [" x"],
        "token_logprobs": [-1.5],
        "top_logprobs": [{" y": -0.1, " x": -1.5}],
        "text_offset": [2],
    }
    assert last["logprobs"] is None


def test_an_answer_that_begins_anew_or_was_cancelled_ends() -> None:
    frames = CompletionFrames(*ABOUT)
    assert frames.feed(0, piece("a"))
    with pytest.raises(ApiError) as caught:
        frames.feed(0, start("restart"))
    assert caught.value.code == "worker_lost"
    with pytest.raises(ApiError) as caught:
        frames.feed(0, done("cancelled"))
    assert caught.value.code == "cancelled"


def test_an_error_in_mid_answer_is_a_chunk_of_its_own() -> None:
    (error,) = chunks(CompletionFrames(*ABOUT).error(ApiError(502, "engine_crashed", "It went away.")))
    assert error["error"]["message"] == "It went away."

"""Results and streams become what llama-server itself would send."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.text.answers import CompletionFrames, completion_answer, error_body
from velesio_worker.wire.events import StreamEvent

DATA: dict[str, Any] = {"defaults": "engine", "prompt": "Once", "stream": True, "n_predict": 2}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
TIMINGS = {"prompt_n": 1, "predicted_n": 2}


def frames(sent: bytes) -> list[Any]:
    """Read what was sent as a client of llama-server does."""
    blocks = sent.decode().split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") for block in blocks)
    return [orjson.loads(block.removeprefix("data: ")) for block in blocks]


def start(mode: str = "fresh") -> StreamEvent:
    return StreamEvent("1-0", "start", {"type": "completion", "model": "small", "mode": mode})


def token(text: str, **more: Any) -> StreamEvent:
    return StreamEvent("1-1", "token", {"choices": [{"text": text, "index": 0, "finish_reason": None, **more}]})


def done(reason: str = "stop") -> StreamEvent:
    return StreamEvent("1-9", "done", {"finish_reason": reason, "usage": USAGE, "timings": TIMINGS})


def test_an_answer_has_the_text_its_counts_and_why_it_ended() -> None:
    answer = completion_answer(
        0, DATA, {"text": " upon\n", "finish_reason": "length", "usage": USAGE, "timings": TIMINGS}
    )
    assert answer == {
        "index": 0,
        "content": " upon\n",
        "tokens": [],
        "id_slot": -1,
        "stop": True,
        "model": None,
        "tokens_predicted": 2,
        "tokens_evaluated": 1,
        "generation_settings": {"stream": True, "n_predict": 2},
        "prompt": "Once",
        "has_new_line": True,
        "truncated": False,
        "stop_type": "limit",
        "stopping_word": "",
        "timings": TIMINGS,
    }


@pytest.mark.parametrize(("reason", "kind"), [("stop", "eos"), ("length", "limit"), ("cancelled", "none")])
def test_why_an_answer_ended(reason: str, kind: str) -> None:
    assert completion_answer(0, DATA, {"text": "", "finish_reason": reason, "usage": None})["stop_type"] == kind


def test_log_probabilities_stand_in_an_answer() -> None:
    told = [{"token": "a", "logprob": -1.0}]
    answer = completion_answer(0, DATA, {"text": "a", "finish_reason": "stop", "completion_probabilities": told})
    assert answer["completion_probabilities"] == told


def test_a_stream_has_a_frame_for_each_piece_and_one_that_ends_it() -> None:
    of = CompletionFrames([DATA])
    told = [{"token": " upon", "logprob": -1.0}]
    sent = b"".join(
        of.feed(0, event) for event in (start(), token(" upon", completion_probabilities=told), token("\n"), done())
    )
    first, second, last = frames(sent + of.end())
    assert (first["content"], first["stop"], first["completion_probabilities"]) == (" upon", False, told)
    assert (second["content"], second["tokens_predicted"]) == ("\n", 2)
    assert (last["content"], last["stop"], last["stop_type"], last["model"]) == ("", True, "eos", "small")
    assert last["has_new_line"]
    assert (last["tokens_predicted"], last["tokens_evaluated"], last["timings"]) == (2, 1, TIMINGS)


def test_progress_is_not_told() -> None:
    of = CompletionFrames([DATA])
    assert of.feed(0, StreamEvent("1-1", "progress", {"stage": "prompt", "processed": 1, "total": 2})) == b""


def test_frames_of_several_prompts_say_whose_they_are() -> None:
    of = CompletionFrames([DATA, DATA | {"prompt": "Two"}])
    sent = of.feed(1, token("b")) + of.feed(0, token("a")) + of.feed(1, done()) + of.feed(0, done())
    assert [frame["index"] for frame in frames(sent)] == [1, 0, 1, 0]
    assert [frame["prompt"] for frame in frames(sent) if frame["stop"]] == ["Two", "Once"]


def test_a_text_that_begins_anew_after_some_was_sent_is_an_error() -> None:
    of = CompletionFrames([DATA])
    assert of.feed(0, start("restart")) == b""
    of.feed(0, token("a"))
    assert of.feed(0, start("continue")) == b""
    with pytest.raises(ApiError) as caught:
        of.feed(0, start("restart"))
    assert caught.value.status == 502


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ApiError(400, "invalid_request", "no"), "invalid_request_error"),
        (ApiError(400, "context_length_exceeded", "no"), "exceed_context_size_error"),
        (ApiError(401, "invalid_api_key", "no"), "authentication_error"),
        (ApiError(404, "model_not_found", "no"), "not_found_error"),
        (ApiError(503, "no_worker", "no"), "unavailable_error"),
        (ApiError(502, "engine_crashed", "no"), "server_error"),
    ],
)
def test_errors_have_the_servers_form(error: ApiError, kind: str) -> None:
    assert error_body(error) == {"error": {"code": error.status, "message": "no", "type": kind}}
    assert frames(CompletionFrames([DATA]).error(error)) == [error_body(error)]

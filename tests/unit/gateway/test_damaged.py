"""Entries and results that no worker wrote: an error in the dialect's form, never an exception."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, cast

import anyio
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doubles.fleet import CALLER, JobsDouble, done, event, start
from tests.support.examples import examples
from velesio_worker.gateway.anthropic.errors import error_body as anthropic_error
from velesio_worker.gateway.anthropic.frames import MessageFrames, message_of
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.jobs import Jobs
from velesio_worker.gateway.live import Frames, LiveResponse
from velesio_worker.gateway.openai.chat import chat_answer
from velesio_worker.gateway.openai.chat_frames import ChatFrames
from velesio_worker.gateway.openai.completion_frames import CompletionFrames
from velesio_worker.gateway.openai.completions import CompletionBody, completion_answer
from velesio_worker.gateway.openai.embeddings import EmbeddingBody, embedding_answer
from velesio_worker.gateway.openai.errors import error_body as openai_error
from velesio_worker.gateway.openai.images import ImageBody, image_answer
from velesio_worker.gateway.openai.rerank import RerankBody, rerank_answer
from velesio_worker.gateway.responses.frames import ResponseFrames, response_of
from velesio_worker.gateway.responses.request import ResponsesRequest
from velesio_worker.gateway.sdapi import answers as sdapi
from velesio_worker.gateway.sdapi import catalogue
from velesio_worker.gateway.sdapi.fields import Txt2ImgRequest
from velesio_worker.gateway.text import answers as text
from velesio_worker.wire.events import StreamEvent

_NAMES: Final = (
    *("choices", "delta", "content", "text", "tool_calls", "function", "name", "arguments", "index", "id", "logprobs"),
    *("finish_reason", "usage", "timings", "cache_n", "prompt_tokens", "completion_tokens", "prompt_tokens_details"),
    *("message", "reasoning_content", "completion_probabilities", "token", "logprob", "top_logprobs", "warnings"),
    *("mode", "model", "data", "embedding", "results", "relevance_score", "images", "images_stored", "parameters"),
    *("width", "height", "info", "seeds", "error", "code", "cached", "models", "samplers", "upscalers", "vaes"),
)
_LEAVES: Final = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(["", "a", "cancelled", "restart"])
)
_JSON: Final = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=4),
    max_leaves=12,
)
_DATA: Final = st.dictionaries(st.sampled_from(_NAMES), _JSON, max_size=8)
_TOKENS: Final = st.fixed_dictionaries({"choices": st.lists(_DATA, max_size=2) | _JSON})
_EVENTS: Final = st.tuples(st.sampled_from(["start", "token", "progress", "done", "else"]), _DATA | _TOKENS)

RESPONSES: Final = ResponsesRequest(model="m", input="a")
FRAMES: Final[dict[str, Callable[[], Frames]]] = {
    "chat": lambda: ChatFrames("i", 1, "m", 1, with_usage=True),
    "completion": lambda: CompletionFrames("i", 1, "m", logprobs=2, with_usage=True),
    "text": lambda: text.CompletionFrames([{"prompt": "a"}]),
    "responses": lambda: ResponseFrames(RESPONSES),
    "messages": lambda: MessageFrames("m"),
}
ANSWERS: Final[dict[str, Callable[[dict[str, Any]], object]]] = {
    "chat": lambda result: chat_answer("i", 1, "m", [result]),
    "completion": lambda result: completion_answer(
        "i", 1, "m", CompletionBody(model="m", prompt="a", logprobs=2), [""], [result]
    ),
    "embedding": lambda result: embedding_answer(
        "m", EmbeddingBody(model="m", input="a", encoding_format="base64"), result
    ),
    "rerank": lambda result: rerank_answer(
        "i", "m", RerankBody(query="a", documents=["a"], return_documents=True), result
    ),
    "images": lambda result: image_answer(1, ImageBody(prompt="a"), [result]),
    "text": lambda result: text.completion_answer(0, {"prompt": "a"}, result),
    "responses": lambda result: response_of(RESPONSES, result),
    "messages": lambda result: message_of("m", result),
    "sdapi": lambda result: sdapi.image_answer(Txt2ImgRequest(), result),
    "models": catalogue.sd_models,
    "samplers": catalogue.samplers,
    "upscalers": catalogue.upscalers,
}


def answer(frames: Frames, entries: list[StreamEvent]) -> list[dict[str, Any]]:
    """Return what a client is sent of a job with these entries."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await anyio.sleep_forever()

    async def serve() -> None:
        jobs = cast("Jobs", JobsDouble([[[start()], *([entry] for entry in entries), [done(99)]]]))
        with anyio.fail_after(20):
            await LiveResponse(jobs, CALLER, [("completion", {})], frames, anthropic_error)(
                {"type": "http"}, receive, send
            )

    anyio.run(serve)
    return sent


@pytest.mark.parametrize("name", FRAMES)
@examples(30)
@given(st.lists(_EVENTS, max_size=3))
def test_entries_that_no_worker_wrote_are_an_error_in_the_dialects_form(
    name: str, written: list[tuple[str, dict[str, Any]]]
) -> None:
    frames = FRAMES[name]()
    [head, *rest] = answer(frames, [StreamEvent(f"1-{at}", kind, data) for at, (kind, data) in enumerate(written, 1)])
    assert head["status"] in {200, 499, 502}
    assert rest[-1].get("more_body", False) is False
    assert b"internal_error" not in b"".join(message["body"] for message in rest)


@pytest.mark.parametrize("name", FRAMES)
@pytest.mark.parametrize("choices", [5, ["a"], [{"text": 1, "delta": {"content": 1}}], [{"text": [], "delta": []}]])
def test_a_piece_that_is_none_ends_the_answer_behind_what_was_said(name: str, choices: Any) -> None:
    piece = {"text": "Once", "delta": {"content": "Once"}, "index": 0, "finish_reason": None}
    sent = answer(FRAMES[name](), [event("token", 1, choices=[piece]), event("token", 2, choices=choices)])
    said = b"".join(message["body"] for message in sent[1:])
    assert sent[0]["status"] == 200
    assert b"Once" in said
    assert b"The gateway made a mistake" not in said


@pytest.mark.parametrize("name", ANSWERS)
@given(_DATA)
def test_results_that_no_worker_wrote_are_an_error_of_the_engines(name: str, result: dict[str, Any]) -> None:
    with suppress(RefusedError):
        orjson.dumps(told(ANSWERS[name], result))


class RefusedError(Exception):
    """An error that says that the answer cannot be read, or was cancelled."""


def told(answer: Callable[[dict[str, Any]], object], result: dict[str, Any]) -> object:
    try:
        return answer(result)
    except ApiError as error:
        if error.status in {499, 502} and orjson.dumps(openai_error(error)):
            raise RefusedError from None
        raise

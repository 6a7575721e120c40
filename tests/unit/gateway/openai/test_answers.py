from __future__ import annotations

import base64
import struct
from typing import Any

import pytest

from tests.unit.gateway.openai.streams import TIMINGS, USAGE
from tests.unit.gateway.openai.test_completion_frames import ENTRIES
from velesio_worker.gateway.errors import ApiError
from velesio_worker.gateway.openai.chat import chat_answer
from velesio_worker.gateway.openai.completions import CompletionBody, completion_answer
from velesio_worker.gateway.openai.embeddings import EmbeddingBody, as_base64, embedding_answer
from velesio_worker.gateway.openai.errors import error_body
from velesio_worker.gateway.openai.images import ImageBody, image_answer
from velesio_worker.gateway.openai.rerank import RerankBody, rerank_answer

ABOUT = ("chatcmpl-1", 1_700_000_000, "tiny")
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def openai() -> Any:
    """The types of OpenAI's SDK; not at the top: it takes half a second, and each process of a run would pay for it."""
    from openai import types  # noqa: PLC0415

    return types


def result(text: str = "Hi.", **more: Any) -> dict[str, Any]:
    return {"text": text, "finish_reason": "stop", "usage": USAGE, "timings": TIMINGS, **more}


def chat_result(**message: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": "Hi."} | message
    return result(said["content"] or "", message=said)


def test_a_whole_chat_has_all_that_sdks_want() -> None:
    answer = chat_answer(*ABOUT, [chat_result(), chat_result(content="Yo.")])
    read = openai().chat.ChatCompletion.model_validate(answer)
    assert (read.id, read.object, read.created, read.model) == ("chatcmpl-1", "chat.completion", 1_700_000_000, "tiny")
    assert [(one.index, one.message.content, one.finish_reason) for one in read.choices] == [
        (0, "Hi.", "stop"),
        (1, "Yo.", "stop"),
    ]
    assert read.usage is not None
    assert (read.usage.prompt_tokens, read.usage.completion_tokens, read.usage.total_tokens) == (4, 4, 8)
    assert read.usage.prompt_tokens_details is not None
    assert read.usage.prompt_tokens_details.cached_tokens == 3
    assert answer["choices"][0]["logprobs"] is None
    assert answer["choices"][0]["message"].keys() == {"role", "content", "refusal", "annotations"}


def test_a_whole_chat_has_its_calls_and_thoughts() -> None:
    called = chat_result(content="", tool_calls=[CALL, CALL | {"id": ""}], reasoning_content="hm")
    (choice,) = chat_answer(*ABOUT, [called | {"finish_reason": "tool_calls"}])["choices"]
    message = choice["message"]
    assert (message["content"], message["reasoning_content"], choice["finish_reason"]) == (None, "hm", "tool_calls")
    assert message["tool_calls"][0] == CALL
    assert message["tool_calls"][1]["id"].startswith("call_")


def test_a_chat_of_no_words_has_a_text_all_the_same() -> None:
    (choice,) = chat_answer(*ABOUT, [chat_result(content="")])["choices"]
    assert choice["message"]["content"] == ""


def test_a_whole_chat_has_its_probabilities_and_warnings() -> None:
    told = chat_result() | {"logprobs": {"content": [ENTRIES[0]]}, "warnings": ["Not as asked."]}
    answer = chat_answer(*ABOUT, [told])
    assert answer["choices"][0]["logprobs"] == {"content": [ENTRIES[0]], "refusal": None}
    assert answer["warnings"] == ["Not as asked."]
    assert "warnings" not in chat_answer(*ABOUT, [chat_result()])


def test_an_answer_that_was_cancelled_is_no_answer() -> None:
    cancelled = chat_result() | {"finish_reason": "cancelled", "usage": None, "timings": None}
    with pytest.raises(ApiError) as caught:
        chat_answer(*ABOUT, [chat_result(), cancelled])
    assert caught.value.code == "cancelled"


def completion_body(**fields: Any) -> CompletionBody:
    return CompletionBody.model_validate({"model": "tiny", "prompt": "One,"} | fields)


def test_a_whole_completion_has_its_echo_and_counts_each_prompt_once() -> None:
    body = completion_body(prompt=["A", "B"], n=2, echo=True)
    answer = completion_answer(*ABOUT, body, ["A", "A", "B", "B"], [result(str(number)) for number in range(4)])
    read = openai().Completion.model_validate(answer)
    assert [(one.index, one.text, one.finish_reason) for one in read.choices] == [
        (0, "A0", "stop"),
        (1, "A1", "stop"),
        (2, "B2", "stop"),
        (3, "B3", "stop"),
    ]
    assert read.usage is not None
    assert (read.usage.prompt_tokens, read.usage.completion_tokens) == (8, 8)
    assert read.object == "text_completion"


@pytest.mark.parametrize(("logprobs", "top"), [(2, [{"Hé": -0.5}, {" y": -0.1, " x": -1.5}]), (0, None)])
def test_a_whole_completion_has_its_probabilities(logprobs: int, top: Any) -> None:
    told = result("Hé x", completion_probabilities=ENTRIES)
    answer = completion_answer(*ABOUT, completion_body(logprobs=logprobs), [""], [told])
    assert answer["choices"][0]["logprobs"] == {
        "tokens": ["Hé", " x"],
        "token_logprobs": [-0.5, -1.5],
        "top_logprobs": top,
        "text_offset": [0, 2],
    }
    assert openai().Completion.model_validate(answer)


VECTORS = {
    "object": "list",
    "model": "tiny",
    "usage": {"prompt_tokens": 5, "total_tokens": 5},
    "data": [{"embedding": [0.5, -1.0], "index": 1}, {"embedding": [0.1, 2.0], "index": 0}],
}


def test_vectors_come_in_the_order_of_their_texts() -> None:
    body = EmbeddingBody.model_validate({"model": "tiny", "input": ["a", "b"]})
    read = openai().CreateEmbeddingResponse.model_validate(embedding_answer("tiny", body, VECTORS))
    assert [(one.index, one.embedding) for one in read.data] == [(0, [0.1, 2.0]), (1, [0.5, -1.0])]
    assert (read.usage.prompt_tokens, read.usage.total_tokens, read.model) == (5, 5, "tiny")


def test_vectors_as_base64_are_little_endian_floats() -> None:
    body = EmbeddingBody.model_validate({"model": "tiny", "input": ["a", "b"], "encoding_format": "base64"})
    first = embedding_answer("tiny", body, VECTORS)["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(first)) == pytest.approx((0.1, 2.0))
    assert as_base64([1.0]) == "AACAPw=="


@pytest.mark.parametrize(
    ("found", "code"),
    [({"finish_reason": "cancelled"}, "cancelled"), ({"data": [{"embedding": [[1.0]], "index": 0}]}, "engine_error")],
)
def test_what_is_no_vector_is_told_as_such(found: dict[str, Any], code: str) -> None:
    body = EmbeddingBody.model_validate({"model": "tiny", "input": "a"})
    with pytest.raises(ApiError) as caught:
        embedding_answer("tiny", body, found)
    assert caught.value.code == code


RANKED = {
    "model": "tiny",
    "usage": {"prompt_tokens": 9, "total_tokens": 9},
    "results": [{"index": number, "relevance_score": score} for number, score in enumerate([0.1, 0.9, 0.5])],
}


def test_documents_come_in_order_and_with_their_texts_where_they_are_wanted() -> None:
    asked = {"query": "q", "documents": ["a", {"text": "b"}, "c"], "top_n": 2}
    answer = rerank_answer("rerank-1", "tiny", RerankBody.model_validate(asked), RANKED)
    assert answer["results"] == [{"index": 1, "relevance_score": 0.9}, {"index": 2, "relevance_score": 0.5}]
    assert answer["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    told = rerank_answer("r", "tiny", RerankBody.model_validate(asked | {"return_documents": True}), RANKED)
    assert [one["document"] for one in told["results"]] == [{"text": "b"}, {"text": "c"}]


def test_a_rerank_that_was_cancelled_is_none() -> None:
    body = RerankBody.model_validate({"query": "q", "documents": ["a"]})
    with pytest.raises(ApiError):
        rerank_answer("rerank-1", "tiny", body, {"finish_reason": "cancelled"})


def painted(image: str = "cGln", **more: Any) -> dict[str, Any]:
    return {"images": [image], "parameters": {"width": 64, "height": 128}, "seeds": [1], "info": {}, **more}


@pytest.mark.parametrize(
    ("asked", "found", "told"),
    [
        (None, painted(), {"b64_json": "cGln"}),
        ("b64_json", painted(), {"b64_json": "cGln"}),
        ("url", painted(), {"url": "data:image/png;base64,cGln"}),
        ("url", painted("https://s/1.png", images_stored=True), {"url": "https://s/1.png"}),
        (None, painted("https://s/1.png", images_stored=True), {"url": "https://s/1.png"}),
    ],
)
def test_images_come_as_they_are_wanted(asked: str | None, found: dict[str, Any], told: dict[str, str]) -> None:
    body = ImageBody.model_validate({"prompt": "a cat", "n": 2, "response_format": asked})
    answer = image_answer(1_700_000_000, body, [found, found])
    assert answer["data"] == [told, told]
    assert (answer["size"], answer["output_format"], answer["created"]) == ("64x128", "png", 1_700_000_000)
    assert openai().ImagesResponse.model_validate(answer)


def test_images_that_were_cancelled_are_none() -> None:
    body = ImageBody.model_validate({"prompt": "a cat"})
    with pytest.raises(ApiError):
        image_answer(1, body, [painted(), {"images": [], "finish_reason": "cancelled"}])


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "invalid_request_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (500, "server_error"),
        (503, "server_error"),
    ],
)
def test_errors_have_the_form_that_sdks_read(status: int, kind: str) -> None:
    body = error_body(ApiError(status, "word", "A sentence.", param="messages.0"))
    assert body == {"error": {"message": "A sentence.", "type": kind, "param": "messages.0", "code": "word"}}

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.doubles.engine import PROPS, Answer, EngineDouble, document, sse
from tests.support.llama_chunks import CHAT, FIRST_DELTA, chat, chat_end, run
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties, read_properties
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.errors import BadJobError
from velesio_worker.wire.parameters import EmbeddingParameters

pytestmark = pytest.mark.anyio

CAPS = {"supports_tools": False, "supports_tool_calls": False, "supports_reasoning_effort": False}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
CALLED = {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": "{}"}}]}
USER = {"role": "user", "content": "hi"}


def job(**more: Any) -> ChatCompletionParameters:
    return ChatCompletionParameters.model_validate({"messages": [USER]} | more)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"tools": [TOOL]}, ["knows no tools"]),
        ({"tools": [TOOL], "tool_choice": "auto"}, ["knows no tools"]),
        ({"tools": [TOOL], "tool_choice": "none"}, []),
        ({"messages": [CALLED, USER]}, ["knows no tool calls"]),
        ({"reasoning_effort": "high"}, ["knows no reasoning_effort"]),
        ({}, []),
    ],
)
async def test_what_the_chat_template_does_not_know_is_told(
    double: EngineDouble, http: EngineHTTP, asked: dict[str, Any], told: list[str]
) -> None:
    double.answers[CHAT] = [Answer([sse(FIRST_DELTA, chat({"content": "a"}), *chat_end())])]
    for caps in (CAPS, {}, dict.fromkeys(CAPS, True)):
        _, _, done = await run(
            LlamaEngine(http, LlamaProperties("tiny", 2048, 2, template=caps)).generate(job(**asked))
        )
        warnings = done.entry().get("warnings", [])
        assert len(warnings) == (len(told) if caps is CAPS else 0)
        assert all(sign in warning for sign, warning in zip(told, warnings, strict=False))


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
async def test_a_tool_that_must_be_called_and_cannot_is_a_bad_job(http: EngineHTTP, choice: Any) -> None:
    with pytest.raises(BadJobError, match="knows no tools"):
        LlamaEngine(http, LlamaProperties("tiny", 2048, 2, template=CAPS)).generate(
            job(tools=[TOOL], tool_choice=choice)
        )


async def test_the_template_is_part_of_what_a_server_says_of_itself(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers["/props"] = [document(PROPS | {"chat_template_caps": CAPS | {"odd": "x"}})]
    double.answers["/v1/models"] = [document({"data": [{"meta": {}}]})]
    properties = await read_properties(http)
    assert properties is not None
    assert properties.template == CAPS
    assert (await LlamaEngine(http, properties).describe())["chat_template_caps"] == CAPS


@pytest.mark.parametrize("vector", [[0.5] * 6, [[0.5] * 6], base64.b64encode(bytes(24)).decode()])
@pytest.mark.parametrize(("asked", "field"), [("input", "/v1/embeddings"), ("content", "/embedding")])
async def test_dimensions_that_the_vectors_do_not_have_are_refused(
    double: EngineDouble, http: EngineHTTP, vector: Any, asked: str, field: str
) -> None:
    double.answers[field] = [document({"data": [{"embedding": vector}]})]
    engine = LlamaEngine(http, LlamaProperties("tiny", 2048, 2))
    with pytest.raises(BadJobError, match="vectors have 6"):
        await run(engine.generate(EmbeddingParameters.model_validate({asked: "x", "dimensions": 4})))
    _, _, done = await run(engine.generate(EmbeddingParameters.model_validate({asked: "x", "dimensions": 6})))
    assert done.result["data"] == [{"embedding": vector}]


@pytest.mark.parametrize(
    "asked", [{"n_probs": 101}, {"logprobs": True, "top_logprobs": 101}, {"logprobs": True, "top_logprobs": 2**31 - 1}]
)
async def test_more_probabilities_than_the_operator_allows_are_refused(http: EngineHTTP, asked: dict[str, Any]) -> None:
    engine = LlamaEngine(http, LlamaProperties("tiny", 2048, 2))
    with pytest.raises(BadJobError, match="100 at most"):
        engine.generate(job(**asked))
    LlamaEngine(http, LlamaProperties("tiny", 2048, 2), max_logprobs=2**31).generate(job(**asked))

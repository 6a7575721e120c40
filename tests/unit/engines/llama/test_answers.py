"""Jobs that have one answer and write no text: what the server is asked, and what becomes of its answer."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, Final

import anyio
import pytest

from tests.doubles.engine import LOADING, Answer, End, EngineDouble, document
from tests.support.generations import Told, events_of
from tests.support.waiting import until
from velesio_worker.engines.base import Generation
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties
from velesio_worker.wire.errors import (
    BadJobError,
    ContextExceededError,
    EngineCrashedError,
    EngineRefusedError,
    EngineUnavailableError,
    JobError,
)
from velesio_worker.wire.events import Done
from velesio_worker.wire.parameters import (
    AnswerParameters,
    DetokenizeParameters,
    EmbeddingParameters,
    RerankParameters,
    TokenizeParameters,
)
from velesio_worker.wire.template_parameters import ApplyTemplateParameters, CountTokensParameters

pytestmark = pytest.mark.anyio

EMBEDDINGS: Final = "/v1/embeddings"
EMBEDDING: Final = "/embedding"
RERANK: Final = "/v1/rerank"
TOKENIZE: Final = "/tokenize"
DETOKENIZE: Final = "/detokenize"
TEMPLATE: Final = "/apply-template"
COUNT: Final = "/v1/chat/completions/input_tokens"
USER: Final = {"role": "user", "content": "a"}
TOOL: Final = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
FILE: Final = "/models/tiny.gguf"
USAGE: Final = {"prompt_tokens": 4, "total_tokens": 4}

ASKED: Final[list[tuple[str, AnswerParameters, dict[str, Any]]]] = [
    (EMBEDDINGS, EmbeddingParameters(input=["a", "b"], model="tiny"), {"input": ["a", "b"]}),
    (
        EMBEDDINGS,
        EmbeddingParameters(input=[1, 2], encoding_format="base64", dimensions=8, embd_normalize=-1),
        {"input": [1, 2], "encoding_format": "base64", "dimensions": 8, "embd_normalize": -1},
    ),
    (EMBEDDING, EmbeddingParameters(content="a", embd_normalize=0), {"content": "a", "embd_normalize": 0}),
    (
        RERANK,
        RerankParameters(query="a", documents=["b", ""], top_n=1),
        {"query": "a", "documents": ["b", ""], "top_n": 1},
    ),
    (
        TOKENIZE,
        TokenizeParameters(content="naïve 猫", add_special=True, parse_special=False, with_pieces=True),
        {"content": "naïve 猫", "add_special": True, "parse_special": False, "with_pieces": True},
    ),
    (TOKENIZE, TokenizeParameters(content=""), {"content": ""}),
    (DETOKENIZE, DetokenizeParameters(tokens=[1, 2]), {"tokens": [1, 2]}),
    (
        TEMPLATE,
        ApplyTemplateParameters(messages=[USER], chat_template_kwargs={"a": 1}, add_generation_prompt=False),
        {"messages": [USER], "chat_template_kwargs": {"a": 1}, "add_generation_prompt": False},
    ),
    (COUNT, CountTokensParameters(messages=[USER], tools=[TOOL], model="tiny"), {"messages": [USER], "tools": [TOOL]}),
    (
        TOKENIZE,
        CountTokensParameters(prompt="a <|im_end|>"),
        {"content": "a <|im_end|>", "add_special": True, "parse_special": True},
    ),
    (
        TOKENIZE,
        CountTokensParameters(prompt=[1, 2]),
        {"content": [1, 2], "add_special": True, "parse_special": True},
    ),
]

ANSWERED: Final[list[tuple[str, AnswerParameters, Any, dict[str, Any]]]] = [
    (
        EMBEDDINGS,
        EmbeddingParameters(input="a"),
        {"model": FILE, "object": "list", "usage": USAGE, "data": [{"embedding": [0.5], "index": 0}]},
        {"model": "tiny", "object": "list", "usage": USAGE, "data": [{"embedding": [0.5], "index": 0}]},
    ),
    (
        EMBEDDING,
        EmbeddingParameters(content="a"),
        [{"index": 0, "embedding": [[0.5, -0.25]]}],
        {"data": [{"index": 0, "embedding": [[0.5, -0.25]]}]},
    ),
    (
        RERANK,
        RerankParameters(query="a", documents=["b"]),
        {"model": FILE, "object": "list", "usage": USAGE, "results": [{"index": 0, "relevance_score": -0.5}]},
        {"model": "tiny", "object": "list", "usage": USAGE, "results": [{"index": 0, "relevance_score": -0.5}]},
    ),
    (TOKENIZE, TokenizeParameters(content="a"), {"tokens": [29]}, {"tokens": [29]}),
    (
        TOKENIZE,
        TokenizeParameters(content="猫", with_pieces=True),
        {"tokens": [{"id": 1, "piece": [231, 140]}, {"id": 2, "piece": "a"}]},
        {"tokens": [{"id": 1, "piece": [231, 140]}, {"id": 2, "piece": "a"}]},
    ),
    (DETOKENIZE, DetokenizeParameters(tokens=[29]), {"content": "naïve 猫"}, {"content": "naïve 猫"}),
    (TEMPLATE, ApplyTemplateParameters(messages=[USER]), {"prompt": "<user>a"}, {"prompt": "<user>a"}),
    (COUNT, CountTokensParameters(messages=[USER]), {"input_tokens": 31, "object": "x"}, {"tokens": 31}),
    (TOKENIZE, CountTokensParameters(prompt="a b"), {"tokens": [1, 2, 3]}, {"tokens": 3}),
]

EACH: Final = pytest.mark.parametrize(("path", "parameters"), [row[:2] for row in ANSWERED])


def run_of(http: EngineHTTP, parameters: AnswerParameters) -> Generation:
    return LlamaEngine(http, LlamaProperties("tiny", 2048, 2)).generate(parameters)


async def answer(http: EngineHTTP, parameters: AnswerParameters) -> Done:
    """Run a job; its end is all that happens."""
    events: list[Told] = []
    with anyio.fail_after(60):
        async for batch in events_of(run_of(http, parameters)):
            events.extend(batch)
    (done,) = events
    assert isinstance(done, Done)
    return done


@pytest.mark.parametrize(("path", "parameters", "body"), ASKED)
async def test_the_server_is_asked_for_what_the_job_says_and_for_nothing_else(
    double: EngineDouble, http: EngineHTTP, path: str, parameters: AnswerParameters, body: dict[str, Any]
) -> None:
    double.answers[path] = [
        document({"data": [], "results": [], "tokens": [], "content": "", "prompt": "", "input_tokens": 1})
    ]
    await answer(http, parameters)
    (request,) = double.requests
    assert (request.path, request.body) == (path, body)
    assert request.headers["content-type"] == "application/json"


@pytest.mark.parametrize(("path", "parameters", "said", "result"), ANSWERED)
async def test_the_servers_answer_is_the_result_with_the_models_name(
    double: EngineDouble, http: EngineHTTP, path: str, parameters: AnswerParameters, said: Any, result: dict[str, Any]
) -> None:
    double.answers[path] = [document(said)]
    done = await answer(http, parameters)
    assert done.result == result
    assert done.entry() == {"finish_reason": "stop", "usage": result.get("usage"), "timings": None}


def refusal(message: str, code: int, kind: str) -> Answer:
    return document({"error": {"code": code, "message": message, "type": kind}}, code)


@pytest.mark.parametrize(
    ("message", "parameters", "remedy"),
    [
        (
            "This server does not support embeddings. Start it with `--embeddings`",
            EmbeddingParameters(input="a"),
            "LLAMA_ARGS='--embeddings --pooling mean'",
        ),
        (
            "This server does not support embeddings. Start it with `--embeddings`",
            EmbeddingParameters(content="a"),
            "LLAMA_ARGS='--embeddings --pooling mean'",
        ),
        (
            "This server does not support reranking. Start it with `--reranking`",
            RerankParameters(query="a", documents=["b"]),
            "LLAMA_ARGS=--rerank",
        ),
    ],
)
async def test_what_the_server_was_not_started_for_is_said_with_the_setting_that_does_it(
    double: EngineDouble, http: EngineHTTP, message: str, parameters: AnswerParameters, remedy: str
) -> None:
    for path in (EMBEDDINGS, EMBEDDING, RERANK):
        double.answers[path] = [refusal(message, 501, "not_supported_error")]
    with pytest.raises(BadJobError) as caught:
        await answer(http, parameters)
    assert message in str(caught.value)
    assert "data.model" in str(caught.value)
    assert remedy in str(caught.value)


async def test_where_the_server_does_not_count_a_chat_its_prompt_is_counted(
    double: EngineDouble, http: EngineHTTP
) -> None:
    double.answers[COUNT] = [refusal("File Not Found", 404, "not_found_error")]
    double.answers[TEMPLATE] = [document({"prompt": "<s>a</s>"})]
    double.answers[TOKENIZE] = [document({"tokens": [1, 81, 2]})]
    done = await answer(http, CountTokensParameters(messages=[USER], tools=[TOOL]))
    assert done.result == {"tokens": 3}
    assert [(request.path, request.body) for request in double.requests[1:]] == [
        (TEMPLATE, {"messages": [USER], "tools": [TOOL]}),
        (TOKENIZE, {"content": "<s>a</s>", "add_special": True, "parse_special": True}),
    ]


TOO_LONG: Final = {
    "error": {"code": 400, "message": "m", "type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8}
}


@EACH
@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (refusal('"content" must be', 400, "invalid_request_error"), BadJobError, ["must be"]),
        (refusal("File Not Found", 404, "not_found_error"), BadJobError, ["File Not Found"]),
        (refusal("not supported", 501, "not_supported_error"), BadJobError, ["not supported"]),
        (refusal("vector::_M_range_check", 500, "server_error"), BadJobError, ["range_check"]),
        (
            refusal("input (9 tokens) is too large to process. increase the physical batch size", 500, "server_error"),
            ContextExceededError,
            ["9 tokens", "LLAMA_ARGS='--batch-size N --ubatch-size N'"],
        ),
        (document(TOO_LONG, 400), ContextExceededError, ["9 tokens", "CONTEXT_SIZE"]),
        (document(LOADING, 503), EngineUnavailableError, ["Loading model"]),
        (Answer(status=502, document=b"<html>"), EngineRefusedError, ["502"]),
        (Answer(document=b"<html>"), EngineRefusedError, ["no JSON object"]),
        (Answer(document=b""), EngineRefusedError, ["no JSON object"]),
        (document("a"), EngineRefusedError, ["no JSON object"]),
        (document(None), EngineRefusedError, ["no JSON object"]),
    ],
)
async def test_a_refusal_is_told_as_what_it_is(
    double: EngineDouble,
    http: EngineHTTP,
    path: str,
    parameters: AnswerParameters,
    reply: Answer,
    kind: type[JobError],
    words: list[str],
) -> None:
    double.answers[path] = [reply]
    with pytest.raises(JobError) as caught:
        await answer(http, parameters)
    assert type(caught.value) is kind
    assert all(word in str(caught.value) for word in words)


@EACH
@pytest.mark.parametrize("end", [End.CUT, End.RESET])
@pytest.mark.parametrize("chunks", [[], [b'{"tokens": [1,']])
async def test_a_connection_that_is_lost_is_a_crash(
    double: EngineDouble, http: EngineHTTP, path: str, parameters: AnswerParameters, end: End, chunks: list[bytes]
) -> None:
    double.answers[path] = [Answer(chunks, end)]
    with pytest.raises(EngineCrashedError):
        await answer(http, parameters)


@EACH
async def test_a_server_where_nothing_listens_is_unavailable_and_the_job_never_ran(
    free_url: str, path: str, parameters: AnswerParameters
) -> None:
    assert path
    async with EngineHTTP(free_url) as http:
        with pytest.raises(EngineUnavailableError):
            await answer(http, parameters)


@EACH
@pytest.mark.parametrize("end", [End.OPEN, End.SILENT])
async def test_the_server_sees_that_a_job_is_given_up(
    double: EngineDouble, http: EngineHTTP, path: str, parameters: AnswerParameters, end: End
) -> None:
    double.answers[path] = [Answer([b'{"tokens":'] if end is End.OPEN else [], end)]
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(answer, http, parameters)
            await until(lambda: double.requests)
            assert not double.left.is_set()
            group.cancel_scope.cancel()
    await until(double.left.is_set)


async def test_closing_a_run_that_has_its_answer_leaves_the_server_usable(
    double: EngineDouble, http: EngineHTTP
) -> None:
    double.answers[TOKENIZE] = [document({"tokens": [1]})]
    for _ in range(3):
        async with aclosing(events_of(run_of(http, TokenizeParameters(content="a")))) as batches:
            async for _ in batches:
                break
    assert len(double.requests) == 3


@EACH
async def test_a_job_that_is_cut_short_has_nothing_but_the_reason(
    http: EngineHTTP, path: str, parameters: AnswerParameters
) -> None:
    assert path
    done = run_of(http, parameters).cut_short()
    assert (done.result, done.finish_reason) == ({"finish_reason": "cancelled"}, "cancelled")

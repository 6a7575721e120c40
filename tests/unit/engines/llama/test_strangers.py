"""A llama-server that is not what it says: how much of it is read, and what is believed."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import orjson
import pytest

from tests.doubles.engine import PROPS, Answer, End, EngineDouble, document, sse
from tests.support.door import Door
from tests.support.llama_chunks import (
    CHAT,
    COMPLETION,
    FIRST_DELTA,
    TIMINGS,
    chat,
    completion,
    conversation,
    last_piece,
    piece,
    progress,
    run,
)
from velesio_worker.engines.base import Generation
from velesio_worker.engines.http import (
    LIST_BYTES,
    SMALL_BYTES,
    AnswerTooLargeError,
    ConnectionLostError,
    EngineHTTP,
    EngineResponse,
    UnreadableAnswerError,
)
from velesio_worker.engines.llama import budget
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties, read_properties
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.errors import EngineRefusedError, JobError, ResultTooLargeError
from velesio_worker.wire.parameters import EmbeddingParameters
from velesio_worker.wire.text_parameters import CompletionParameters

pytestmark = pytest.mark.anyio

EMBEDDINGS: Final = "/v1/embeddings"
BOTH: Final = pytest.mark.parametrize("make", [completion, conversation])


def head(*lines: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", *lines, "", ""]).encode()


def limited(http: EngineHTTP, largest: int, **parameters: Any) -> Generation:
    engine = LlamaEngine(http, LlamaProperties("tiny", 2048, 2), largest=largest)
    return engine.generate(CompletionParameters.model_validate({"prompt": "hi"} | parameters))


def embedding(http: EngineHTTP, largest: int = LIST_BYTES) -> Generation:
    engine = LlamaEngine(http, LlamaProperties("tiny", 2048, 2), largest=largest)
    return engine.generate(EmbeddingParameters(input="a"))


async def read(response: EngineResponse, limit: int) -> bytes:
    with anyio.fail_after(60):
        return await response.body(limit)


async def test_a_body_that_says_that_it_is_too_large_is_not_begun(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers["/x"] = [Answer([head("Content-Length: 3221225472"), b"["], End.NOISE)]
    with pytest.raises(AnswerTooLargeError):
        await http.get("/x", timeout=20)


async def test_a_body_without_an_end_is_left_at_the_limit(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers["/x"] = [Answer([b"x" * 4000] * 20, End.OPEN)]
    async with http.post("/x", b"{}") as response:
        with pytest.raises(AnswerTooLargeError, match="more than 70000 bytes"):
            await read(response, 70_000)
    with anyio.fail_after(60):
        await double.left.wait()


async def test_a_body_of_just_the_limit_is_read(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers["/x"] = [Answer([b"x" * 100] * 10)]
    async with http.post("/x", b"{}") as response:
        assert await read(response, 1000) == b"x" * 1000


@pytest.mark.parametrize("encoding", ["gzip", "deflate, gzip", "br"])
async def test_what_is_packed_is_not_unpacked(double: EngineDouble, http: EngineHTTP, encoding: str) -> None:
    said = f"Content-Encoding: {encoding}\r\n".encode()
    for path in ("/health", COMPLETION):
        double.answers[path] = [Answer(document=gzip.compress(b'{"status":"ok"}'), headers=said)]
    with pytest.raises(UnreadableAnswerError, match="Content-Encoding"):
        await http.get("/health", timeout=20)
    with pytest.raises(EngineRefusedError, match="Content-Encoding"):
        await run(completion(http))


async def test_identity_is_no_encoding(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers["/x"] = [Answer(document=b"{}", headers=b"Content-Encoding: Identity\r\n")]
    assert await http.get("/x", timeout=20) == (200, {})


@asynccontextmanager
async def dripping(beginning: bytes) -> AsyncGenerator[str, None]:
    """A server that sends a beginning, and then a byte now and then, for ever."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(beginning)
            while True:
                writer.write(b" ")
                await writer.drain()
                await anyio.sleep(0.02)
        except ConnectionError:
            pass
        finally:
            writer.close()

    door = Door(answer)
    await door.open()
    try:
        yield door.url
    finally:
        await door.close()


@pytest.mark.parametrize("beginning", [head("Content-Length: 100000"), b"HTTP/1.1 200 OK\r\nX-A: "])
async def test_a_get_ends_in_time_however_slowly_it_comes(beginning: bytes) -> None:
    async with dripping(beginning) as url, EngineHTTP(url) as http:
        with anyio.fail_after(60), pytest.raises(ConnectionLostError, match=r"within 0\.5 s"):
            await http.get("/health", timeout=0.5)


@pytest.mark.parametrize("path", ["/health", "/props"])
async def test_what_a_server_says_of_itself_is_short(double: EngineDouble, http: EngineHTTP, path: str) -> None:
    double.answers[path] = [document({"status": "x" * SMALL_BYTES})]
    with pytest.raises(ConnectionLostError, match="more than 1048576 bytes"):
        await read_properties(http)


async def test_an_answer_that_is_too_large_ends_its_job_by_name(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[EMBEDDINGS] = [document({"data": [0.5] * 1000})]
    with pytest.raises(ResultTooLargeError) as caught:
        await run(embedding(http, 1000))
    assert caught.value.code == "too_large"


@BOTH
async def test_an_error_that_is_too_large_is_one_all_the_same(
    double: EngineDouble, http: EngineHTTP, make: Callable[[EngineHTTP], Generation]
) -> None:
    body = orjson.dumps({"error": {"message": "A" * 2 * SMALL_BYTES}})
    for path in (COMPLETION, CHAT):
        double.answers[path] = [Answer([body], status=500)]
    with pytest.raises(EngineRefusedError, match="status 500"):
        await run(make(http))


@pytest.mark.parametrize("answer", [[0.5] * 3, [[0.5]]])
async def test_an_error_instead_of_an_answer_that_is_too_large(
    double: EngineDouble, http: EngineHTTP, answer: Any
) -> None:
    double.answers[EMBEDDINGS] = [Answer([orjson.dumps({"error": "A" * 2 * SMALL_BYTES, "data": answer})], status=500)]
    with pytest.raises(EngineRefusedError, match="status 500"):
        await run(embedding(http))


@BOTH
async def test_a_servers_words_are_cut(
    double: EngineDouble, http: EngineHTTP, make: Callable[[EngineHTTP], Generation]
) -> None:
    body = document({"error": {"message": "A" * 100_000}}, 500)
    event = Answer([sse({"error": {"message": "A" * 100_000}})])
    for path in (COMPLETION, CHAT):
        double.answers[path] = [body, event]
    for _ in range(2):
        with pytest.raises(EngineRefusedError) as caught:
            await run(make(http))
        assert 1000 < len(str(caught.value)) < 1200


BIG: Final[dict[str, Any]] = {"content": "x" * 50_000}
PROBABILITIES: Final[dict[str, Any]] = {
    "completion_probabilities": [{"id": 1, "token": "a", "logprob": -0.5, "top_logprobs": []}] * 99
}


@pytest.mark.parametrize("more", [BIG, PROBABILITIES])
async def test_more_than_a_result_may_have_ends_the_job_while_it_is_made(
    double: EngineDouble, http: EngineHTTP, more: dict[str, Any]
) -> None:
    event = sse(piece("a", **more) if more is PROBABILITIES else piece(**more))
    double.answers[COMPLETION] = [Answer([event] * 100, End.OPEN)]
    with pytest.raises(ResultTooLargeError, match="MAX_RESULT_BYTES"), anyio.fail_after(60):
        await run(limited(http, 100_000, max_tokens=10_000))
    with anyio.fail_after(60):
        await double.left.wait()


@pytest.mark.parametrize(
    "said",
    [
        {"content": "x" * 50_000},
        {"reasoning_content": "x" * 50_000},
        {"tool_calls": [{"index": 0, "function": {"arguments": "x" * 50_000}}]},
    ],
)
async def test_more_than_a_chat_may_have_ends_it(double: EngineDouble, http: EngineHTTP, said: dict[str, Any]) -> None:
    double.answers[CHAT] = [Answer([sse(chat(said))] * 100, End.OPEN)]
    engine = LlamaEngine(http, LlamaProperties("tiny", 2048, 2), largest=100_000)
    asked = ChatCompletionParameters(messages=[{"role": "user", "content": "hi"}], max_tokens=10_000)
    with pytest.raises(ResultTooLargeError), anyio.fail_after(60):
        await run(engine.generate(asked))


async def test_the_frame_around_a_text_is_no_part_of_its_result(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[COMPLETION] = [Answer([sse(piece("a"))] * 200 + [sse(last_piece())])]
    _, _, done = await run(limited(http, 1000, max_tokens=200))
    assert done.result["text"] == "a" * 200


@pytest.mark.parametrize("most", [1, 7])
async def test_a_text_ends_with_what_was_asked_for_whatever_the_server_does(
    double: EngineDouble, http: EngineHTTP, most: int
) -> None:
    double.answers[COMPLETION] = [Answer([sse(*[piece("x ")] * 50)], End.OPEN)]
    double.answers[CHAT] = [Answer([sse(FIRST_DELTA, *[chat({"content": "x "})] * 50)], End.OPEN)]
    for make in (completion, conversation):
        with anyio.fail_after(60):
            tokens, _, done = await run(make(http, max_tokens=most))
        assert (done.finish_reason, done.result["text"]) == ("length", "x " * (most + 1))
        assert len([token for token in tokens if token.has_output]) == most + 1


async def test_a_text_with_stop_strings_ends_as_well(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[COMPLETION] = [Answer([sse(*[piece("x ")] * 50)], End.OPEN)]
    with anyio.fail_after(60):
        _, _, done = await run(completion(http, max_tokens=3, stop=["never"]))
    assert (done.finish_reason, done.result["text"]) == ("length", "x " * 4)


async def test_a_text_without_a_limit_ends_too(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[COMPLETION] = [Answer([sse(*[piece("x")] * 4000)] * 100, End.OPEN)]
    with anyio.fail_after(60):
        _, _, done = await run(completion(http, max_tokens=-1))
    assert (done.finish_reason, len(done.result["text"])) == ("length", 2048 * budget.CONTEXTS + 1)


async def test_many_tool_calls_in_one_token_are_no_more_tokens(double: EngineDouble, http: EngineHTTP) -> None:
    calls = [chat({"tool_calls": [{"index": at, "function": {"name": "f", "arguments": "{}"}}]}) for at in range(9)]
    end: list[Any] = [
        chat({}, "tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}},
        b"[DONE]",
    ]
    double.answers[CHAT] = [Answer([sse(*calls, *end)])]
    _, _, done = await run(conversation(http, max_tokens=2))
    assert (done.finish_reason, len(done.result["message"]["tool_calls"])) == ("tool_calls", 9)


async def test_progress_is_told_now_and_then(
    double: EngineDouble, http: EngineHTTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = sse(*(progress(at, 10_000) for at in range(1, 10_001)))
    double.answers[COMPLETION] = [Answer([events + sse(progress(10_000, 10_000)) * 50, sse(piece("a"), last_piece())])]
    monkeypatch.setattr(budget, "PROGRESS_SECONDS", 1000.0)
    _, told, done = await run(completion(http))
    assert [entry.data["processed"] for entry in told] == [*range(1, 11), 10_000]
    assert done.result["text"] == "a"


SLOTS: Final[list[dict[str, Any]]] = [
    {"total_slots": value} for value in (10**9, -5, 0, True, 1025, 4.0, "4", None)
] + [{"default_generation_settings": {"n_ctx": value}} for value in (0, -1, 2**31 + 1, 2**63, 1.5, "9", None, True)]


@pytest.mark.parametrize("wrong", SLOTS)
async def test_slots_and_context_that_cannot_be_are_not_believed(
    double: EngineDouble, http: EngineHTTP, wrong: dict[str, Any]
) -> None:
    double.answers["/props"] = [document(PROPS | wrong)]
    with pytest.raises(EngineRefusedError, match="not llama-server's way"):
        await read_properties(http)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/m/\x1b[31mred\x1b]0;pwn\x07\nforged\u202e.gguf", "\ufffd[31mred\ufffd]0;pwn\ufffd\ufffdforged\ufffd"),
        ("/m/" + "A" * 5000 + ".gguf", "A" * 200),
        ("/m/naïve 猫.gguf", "naïve 猫"),
    ],
)
async def test_a_models_name_is_one_that_people_can_read(
    double: EngineDouble, http: EngineHTTP, path: str, name: str
) -> None:
    double.answers["/props"] = [document(PROPS | {"model_path": path})]
    properties = await read_properties(http)
    assert properties is not None
    assert properties.model == name


@pytest.mark.parametrize("count", ["nan", "abc", "-1e400", "1e999", "inf", "9" * 400, "1_000"])
async def test_a_count_of_work_that_is_no_finite_number_is_none(
    double: EngineDouble, http: EngineHTTP, count: str
) -> None:
    double.answers["/metrics"] = [Answer(document=f"llamacpp:n_decode_total {count}\n".encode())]
    assert await LlamaEngine(http, LlamaProperties("tiny", 2048, 2)).decoded() is None


ODD: Final[list[Any]] = [
    {"content": 5},
    {"content": {"a": [1]}},
    {"choices": [5]},
    {"choices": [{"delta": {"tool_calls": [{"index": "x", "function": {"arguments": 5}}]}}]},
    {"choices": [{"delta": {"content": ["a"]}}]},
]


@BOTH
@pytest.mark.parametrize("event", ODD)
async def test_other_types_than_llama_cpps_are_the_engines_mistake(
    double: EngineDouble, http: EngineHTTP, event: Any, make: Callable[[EngineHTTP], Generation]
) -> None:
    for path in (COMPLETION, CHAT):
        double.answers[path] = [Answer([sse(event)])]
    with pytest.raises(JobError) as caught:
        await run(make(http))
    assert caught.value.code in {"engine_error", "engine_crashed"}  # a field that is not asked for is no answer


@pytest.mark.parametrize("trouble", [TypeError, KeyError, AttributeError, IndexError])
async def test_whatever_reading_an_event_fails_with_is_the_engines_mistake(
    double: EngineDouble, http: EngineHTTP, trouble: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    double.answers[COMPLETION] = [Answer([sse(last_piece())])]
    generation = completion(http)

    def take(_: object) -> None:
        raise trouble

    monkeypatch.setattr(generation, "take", take)
    with pytest.raises(EngineRefusedError, match="not in its usual form"):
        await run(generation)


async def test_counts_and_timings_are_numbers_or_none(double: EngineDouble, http: EngineHTTP) -> None:
    odd = {"a": "x" * 1000, "b": [1], "c": True, "d": 2**64 - 1, "x" * 1000: 1, "e": None}
    end = last_piece(tokens_evaluated=2**64 - 1, tokens_predicted=-9, timings=TIMINGS | odd)
    double.answers[COMPLETION] = [Answer([sse(piece("a"), end)])]
    _, _, done = await run(completion(http))
    assert (done.timings, done.usage) == (
        TIMINGS,
        {"prompt_tokens": None, "completion_tokens": 1, "total_tokens": None},
    )

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

import anyio
import orjson
import pytest

from tests.doubles.engine import LOADING, Answer, End, EngineDouble, document, sse
from tests.support.generations import events_of
from tests.support.llama_chunks import (
    CHAT,
    COMPLETION,
    FIRST_DELTA,
    chat,
    chat_end,
    completion,
    conversation,
    last_piece,
    piece,
    run,
)
from tests.support.waiting import until
from velesio_worker.engines.base import Generation
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama import sse as sse_module
from velesio_worker.engines.llama.refusals import decode_refusal
from velesio_worker.wire.errors import (
    BadJobError,
    ContextExceededError,
    EngineCrashedError,
    EngineRefusedError,
    EngineUnavailableError,
    JobError,
    OutOfMemoryError,
)

pytestmark = pytest.mark.anyio

Make = Callable[[EngineHTTP], Generation]

BOTH = pytest.mark.parametrize(("path", "make"), [(COMPLETION, completion), (CHAT, conversation)])
BEGUN = {COMPLETION: sse(piece("a"), piece("b")), CHAT: sse(FIRST_DELTA, chat({"content": "a"}))}
WHOLE = {
    COMPLETION: sse(piece("a"), last_piece()),
    CHAT: sse(FIRST_DELTA, chat({"content": "a"}), *chat_end()),
}


def error(message: str, kind: str, code: int = 500, **more: Any) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "type": kind, **more}}


TOO_LONG = error("request exceeds", "exceed_context_size_error", 400, n_prompt_tokens=9001, n_ctx=4096)
NO_GRAMMAR = error("failed to parse grammar", "invalid_request_error", 400)
REFUSALS: list[tuple[int, Any, type[JobError], Sequence[str]]] = [
    (400, TOO_LONG, ContextExceededError, ["9001", "4096", "CONTEXT_SIZE"]),
    (400, NO_GRAMMAR, BadJobError, ["failed to parse grammar"]),
    (501, error("no FIM tokens", "not_supported_error", 501), BadJobError, ["no FIM tokens"]),
    (404, error("File Not Found", "not_found_error", 404), BadJobError, ["File Not Found"]),
    (500, error("image input is not supported - hint: …", "server_error"), BadJobError, ["LLAMA_ARGS='--mmproj FILE'"]),
    (503, LOADING, EngineUnavailableError, ["Loading model"]),
    (401, error("Invalid API Key", "authentication_error", 401), EngineRefusedError, ["Invalid API Key"]),
    (500, error("Context size has been exceeded.", "server_error"), ContextExceededError, ["CONTEXT_SIZE"]),
    (500, error("CUDA error: out of memory", "server_error"), OutOfMemoryError, ["out of memory", "GPU_LAYERS"]),
    (500, error("Compute error.", "server_error"), EngineRefusedError, ["Compute error."]),
    (500, {"error": "just words"}, EngineRefusedError, ["just words"]),
    (500, {"error": None}, EngineRefusedError, ["status 500"]),
    (502, ["no", "object"], EngineRefusedError, ["status 502"]),
]


@BOTH
@pytest.mark.parametrize(("status", "body", "kind", "words"), REFUSALS)
async def test_an_error_status_is_told_as_what_it_is(
    double: EngineDouble,
    http: EngineHTTP,
    path: str,
    make: Make,
    status: int,
    body: Any,
    kind: type[JobError],
    words: Sequence[str],
) -> None:
    double.answers[path] = [document(body, status)]
    with pytest.raises(JobError) as caught:
        await run(make(http))
    assert type(caught.value) is kind
    assert all(word in str(caught.value) for word in words)


MISTAKES = [
    "Failed to parse messages: [json.exception.out_of_range.403] key 'text' not found",
    "Failed to parse messages: Missing tool call type: 5",
    "Failed to parse tools: Missing tool type: {}; tools = []",
    'Failed to parse tools: Expected \'tools\' to be an array, got "x"; tools = "x"',
    "[json.exception.type_error.302] type must be string, but is number",
    "vector::_M_range_check: __n (which is 99999999) >= this->size() (which is 49152)",
    "\n------------\nWhile executing CallExpression at line 2, column 89 in source:\nError: Jinja Exception: roles",
    "Unable to generate parser for this template. Automatic parser generation failed: roles",
]


@pytest.mark.parametrize("message", MISTAKES)
def test_a_producers_mistake_that_is_answered_with_status_500_is_a_bad_job(message: str) -> None:
    refused = decode_refusal(500, error(message, "server_error"))
    assert type(refused) is BadJobError
    assert message.splitlines()[-1] not in refused.public


OWN_WORDS: list[tuple[str, type[JobError]]] = [
    ("out of memory", OutOfMemoryError),
    ("CUDA error: out of memory", OutOfMemoryError),
    ("HIP error: out of memory", OutOfMemoryError),
    (
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9.00 MiB on device 0: cudaMalloc failed: out of memory",
        OutOfMemoryError,
    ),
    ("Context size has been exceeded.", ContextExceededError),
    ("request (9 tokens) exceeds the available context size (8 tokens), try increasing it", ContextExceededError),
    ("the request exceeds the available context size. try increasing the context size", ContextExceededError),
    ("input (9 tokens) is larger than the max context size (8 tokens). skipping", ContextExceededError),
    ("input is too large to process. increase the physical batch size", ContextExceededError),
    ("This server does not support embeddings. Start it with `--embeddings`", BadJobError),
    ("audio input is not supported - hint: if this is unexpected, you may need to provide the mmproj", BadJobError),
]


@pytest.mark.parametrize(("words", "kind"), OWN_WORDS)
def test_what_the_server_says_is_told_from_what_it_repeats_of_a_job(words: str, kind: type[JobError]) -> None:
    assert type(decode_refusal(500, error(words, "server_error"))) is kind
    for quoting, wrong in (
        (f"Jinja Exception: {words}", BadJobError),
        (f"got exception: '{words}'", EngineRefusedError),
        (f'unknown role "{words}"', EngineRefusedError),
    ):
        assert type(decode_refusal(500, error(quoting, "server_error"))) is wrong
        refused = decode_refusal(400, error(quoting, "invalid_request_error", 400))
        assert type(refused) is BadJobError
        assert "LLAMA_ARGS" not in str(refused)


@pytest.mark.parametrize("body", [b"", b"<html>502 Bad Gateway</html>", b"\xff\xfe"])
async def test_an_error_that_is_no_json_is_told_by_its_status(
    double: EngineDouble, http: EngineHTTP, body: bytes
) -> None:
    double.answers[COMPLETION] = [Answer(status=502, document=body)]
    with pytest.raises(EngineRefusedError, match="502"):
        await run(completion(http))


LATER = [
    (TOO_LONG, ContextExceededError),
    (NO_GRAMMAR, BadJobError),
    (error("Context size has been exceeded.", "server_error"), ContextExceededError),
    (error("out of memory", "server_error"), OutOfMemoryError),
    (LOADING, EngineUnavailableError),
    (error("Compute error.", "server_error"), EngineRefusedError),
]


@BOTH
@pytest.mark.parametrize(("body", "kind"), LATER)
@pytest.mark.parametrize("old", [False, True], ids=["data", "old-error-line"])
async def test_an_error_in_the_middle_of_a_stream_is_told_as_what_it_is(
    double: EngineDouble,
    http: EngineHTTP,
    path: str,
    make: Make,
    body: dict[str, Any],
    kind: type[JobError],
    *,
    old: bool,
) -> None:
    line = b"error: " + orjson.dumps(body["error"]) + b"\n\n" if old else sse(body)
    double.answers[path] = [Answer([BEGUN[path], line])]
    with pytest.raises(JobError) as caught:
        await run(make(http))
    assert type(caught.value) is kind


@BOTH
@pytest.mark.parametrize("end", [End.WHOLE, End.CUT, End.RESET])
@pytest.mark.parametrize("begun", [False, True])
async def test_a_stream_that_ends_early_is_a_crash(
    double: EngineDouble, http: EngineHTTP, path: str, make: Make, end: End, *, begun: bool
) -> None:
    double.answers[path] = [Answer([BEGUN[path]] if begun else [], end)]
    with anyio.fail_after(60), pytest.raises(EngineCrashedError):
        await run(make(http))


@BOTH
async def test_an_engine_where_nothing_listens_is_unavailable_and_the_job_never_ran(
    free_url: str, path: str, make: Make
) -> None:
    assert path
    async with EngineHTTP(free_url) as http:
        with anyio.fail_after(60), pytest.raises(EngineUnavailableError):
            await run(make(http))


@pytest.mark.parametrize("data", [b"[1]", b"7", b"null", b"<html>"])
async def test_data_that_is_no_object_is_an_error_of_the_engine(
    double: EngineDouble, http: EngineHTTP, data: bytes
) -> None:
    double.answers[COMPLETION] = [Answer([sse(data)])]
    with pytest.raises(EngineRefusedError, match="JSON"):
        await run(completion(http))


async def test_an_endless_event_is_an_error_of_the_engine(
    double: EngineDouble, http: EngineHTTP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse_module, "MAX_EVENT_BYTES", 1000)
    double.answers[COMPLETION] = [Answer([b"data: " + b"x" * 100] * 20, End.OPEN)]
    with anyio.fail_after(60), pytest.raises(EngineRefusedError, match="no event stream"):
        await run(completion(http))
    await until(double.left.is_set)


@BOTH
async def test_one_job_follows_another_though_the_server_closes_after_each(
    double: EngineDouble, http: EngineHTTP, path: str, make: Make
) -> None:
    # llama-server announces keep-alive, yet closes the connection right behind the end of every stream.
    double.answers[path] = [Answer([WHOLE[path]])]
    for _ in range(20):
        _, _, done = await run(make(http))
        assert done.result["text"] == "a"


async def test_many_jobs_run_at_a_time(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[COMPLETION] = [Answer([BEGUN[COMPLETION]], End.OPEN)]
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            for _ in range(120):
                group.start_soon(run, completion(http))
            await until(lambda: len(double.requests) == 120)
            group.cancel_scope.cancel()


@BOTH
async def test_a_job_ends_though_its_answer_does_not(
    double: EngineDouble, http: EngineHTTP, path: str, make: Make
) -> None:
    double.answers[path] = [Answer([WHOLE[path]], End.OPEN)]
    with anyio.fail_after(60):
        _, _, done = await run(make(http))
    assert done.result["text"] == "a"
    await until(double.left.is_set)


@BOTH
async def test_closing_a_run_early_closes_the_connection(
    double: EngineDouble, http: EngineHTTP, path: str, make: Make
) -> None:
    double.answers[path] = [Answer([BEGUN[path]], End.OPEN)]
    generation = make(http)
    async with aclosing(events_of(generation)) as batches:
        async for _ in batches:
            assert not double.left.is_set()
            break
    await until(double.left.is_set)


@BOTH
@pytest.mark.parametrize("end", [End.OPEN, End.SILENT])
async def test_cancelling_a_run_closes_the_connection(
    double: EngineDouble, http: EngineHTTP, path: str, make: Make, end: End
) -> None:
    double.answers[path] = [Answer((), end)]
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            group.start_soon(run, make(http))
            await until(lambda: double.requests)
            assert not double.left.is_set()
            group.cancel_scope.cancel()
    await until(double.left.is_set)


@BOTH
async def test_a_run_that_is_cut_short_keeps_what_it_has(
    double: EngineDouble, http: EngineHTTP, path: str, make: Make
) -> None:
    double.answers[path] = [Answer([BEGUN[path]], End.OPEN)]
    generation = make(http)
    assert generation.cut_short().result["text"] == ""
    async with aclosing(events_of(generation)) as batches:
        async for _ in batches:
            if generation.cut_short().result["text"]:
                break
    done = generation.cut_short()
    assert (done.finish_reason, done.result["finish_reason"]) == ("cancelled", "cancelled")
    assert {"ab": COMPLETION, "a": CHAT}[done.result["text"]] == path

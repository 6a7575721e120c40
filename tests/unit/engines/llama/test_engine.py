from __future__ import annotations

from typing import Any

import anyio
import pytest

from tests.doubles.engine import LOADING, PROPS, Answer, End, EngineDouble, document, sse
from tests.support.generations import events_of
from tests.support.llama_chunks import (
    CHAT,
    COMPLETION,
    FIRST_DELTA,
    TIMINGS,
    USAGE,
    chat,
    chat_end,
    choices,
    completion,
    conversation,
    last_piece,
    piece,
    progress,
    run,
)
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP
from velesio_worker.engines.llama import engine
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties, read_properties
from velesio_worker.wire.errors import BadJobError, EngineRefusedError
from velesio_worker.wire.events import piece_text
from velesio_worker.wire.image_parameters import Txt2ImgParameters

pytestmark = pytest.mark.anyio

COMMENT = b":\n\n"


async def test_a_completion_gives_its_tokens_and_its_result(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[COMPLETION] = [Answer([sse(piece("One")), COMMENT + sse(piece(" two")), sse(last_piece())])]
    tokens, _, done = await run(completion(http))
    assert choices(tokens) == [
        {"text": "One", "index": 0, "finish_reason": None},
        {"text": " two", "index": 0, "finish_reason": None},
    ]
    assert done.result == {"text": "One two", "finish_reason": "stop", "usage": USAGE, "timings": TIMINGS}
    assert (done.finish_reason, done.usage, done.timings) == ("stop", USAGE, TIMINGS)


@pytest.mark.parametrize(("stop_type", "reason"), [("eos", "stop"), ("word", "stop"), ("limit", "length")])
async def test_a_completion_tells_why_it_ended(
    double: EngineDouble, http: EngineHTTP, stop_type: str, reason: str
) -> None:
    double.answers[COMPLETION] = [Answer([sse(piece("a"), last_piece(stop_type))])]
    _, _, done = await run(completion(http))
    assert (done.finish_reason, done.result["finish_reason"]) == (reason, reason)


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls"])
async def test_a_chat_tells_why_it_ended(double: EngineDouble, http: EngineHTTP, reason: str) -> None:
    double.answers[CHAT] = [Answer([sse(FIRST_DELTA, chat({"content": "a"}), *chat_end(reason))])]
    _, _, done = await run(conversation(http))
    assert (done.finish_reason, done.result["finish_reason"]) == (reason, reason)


async def test_a_chat_gives_its_deltas_and_its_message(double: EngineDouble, http: EngineHTTP) -> None:
    deltas = [{"role": "assistant", "content": None}, {"content": "Hi"}, {"content": " there"}]
    double.answers[CHAT] = [Answer([sse(*map(chat, deltas)), sse(*chat_end())])]
    tokens, _, done = await run(conversation(http))
    assert choices(tokens) == [{"finish_reason": None, "index": 0, "delta": delta} for delta in deltas]
    assert done.result == {
        "text": "Hi there",
        "message": {"role": "assistant", "content": "Hi there"},
        "finish_reason": "stop",
        "usage": USAGE,
        "timings": TIMINGS,
    }


async def test_reasoning_is_kept_apart_from_the_text(double: EngineDouble, http: EngineHTTP) -> None:
    deltas = [{"reasoning_content": "Let me"}, {"reasoning_content": " think."}, {"content": "Yes"}]
    double.answers[CHAT] = [Answer([sse(FIRST_DELTA, *map(chat, deltas), *chat_end())])]
    tokens, _, done = await run(conversation(http))
    assert [choice["delta"] for choice in choices(tokens)[1:]] == deltas
    assert done.result["text"] == "Yes"
    assert done.result["message"]["reasoning_content"] == "Let me think."


async def test_tool_calls_are_put_together_from_their_fragments(double: EngineDouble, http: EngineHTTP) -> None:
    fragments: list[dict[str, Any]] = [
        {"index": 0, "id": "c1", "type": "function", "function": {"name": "weather", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"city":'}},
        {"index": 1, "id": "c2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": '"Oslo"}'}},
    ]
    deltas = [{"tool_calls": [fragment]} for fragment in fragments]
    double.answers[CHAT] = [Answer([sse(FIRST_DELTA, *map(chat, deltas), *chat_end("tool_calls"))])]
    tokens, _, done = await run(conversation(http))
    assert [choice["delta"] for choice in choices(tokens)[1:]] == deltas
    assert done.result["message"]["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}},
        {"id": "c2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]
    assert done.result["text"] == ""


async def test_log_probabilities_of_a_chat_are_kept(double: EngineDouble, http: EngineHTTP) -> None:
    entries: list[dict[str, Any]] = [
        {"id": 57, "token": "I", "logprob": -2.25, "top_logprobs": []},
        {"id": 58, "token": "t", "logprob": -1},
    ]
    chunks = [chat({"content": entry["token"]}, logprobs={"content": [entry]}) for entry in entries]
    double.answers[CHAT] = [Answer([sse(FIRST_DELTA, *chunks, *chat_end())])]
    tokens, _, done = await run(conversation(http, logprobs=True))
    assert [choice["logprobs"] for choice in choices(tokens)[1:]] == [{"content": [entry]} for entry in entries]
    assert done.result["logprobs"] == {"content": entries}


async def test_probabilities_of_a_completion_are_kept(double: EngineDouble, http: EngineHTTP) -> None:
    entries: list[dict[str, Any]] = [
        {"id": 29, "token": "-", "logprob": -0.75},
        {"id": 30, "token": "", "bytes": [240, 159], "logprob": -2},
    ]
    chunks = [piece(entry["token"], completion_probabilities=[entry]) for entry in entries]
    last = last_piece(completion_probabilities=entries)  # the last chunk repeats them all
    double.answers[COMPLETION] = [Answer([sse(*chunks, last)])]
    tokens, _, done = await run(completion(http, n_probs=1))
    assert [choice["completion_probabilities"] for choice in choices(tokens)] == [[entry] for entry in entries]
    assert done.result["completion_probabilities"] == entries


@pytest.mark.parametrize(
    ("steps", "cache", "shown"),
    [
        ([0, 100], 0, []),
        ([0, 512, 1000], 0, [512, 1000]),
        ([0, 512, 1024, 1100], 0, [512, 1024, 1100]),
        ([24, 88, 141], 24, [88, 141]),
        ([900, 1000], 900, []),
    ],
    ids=["short", "two-parts", "three-parts", "parts-after-cached", "short-after-cached"],
)
async def test_progress_is_told_of_prompts_that_are_read_in_parts(
    double: EngineDouble, http: EngineHTTP, steps: list[int], cache: int, shown: list[int]
) -> None:
    chunks = [progress(step, steps[-1], cache) for step in steps]
    double.answers[COMPLETION] = [Answer([sse(*chunks, piece("a"), last_piece())])]
    tokens, told, _ = await run(completion(http))
    reports = [one.data for one in told]
    assert [data["processed"] for data in reports if data["processed"] > cache] == shown
    assert len(reports) <= len(shown) + 1
    assert bool(reports) == bool(shown)
    assert all((data["stage"], data["total"]) == ("prompt", steps[-1]) for data in reports)
    assert len(tokens) == 1


async def test_progress_of_a_chat_is_no_delta(double: EngineDouble, http: EngineHTTP) -> None:
    empty = {"role": "assistant", "content": None}
    parts = [chat(empty, prompt_progress={"total": 9, "cache": 0, "processed": step}) for step in (0, 5, 9)]
    double.answers[CHAT] = [Answer([sse(*parts, FIRST_DELTA, chat({"content": "a"}), *chat_end())])]
    tokens, told, _ = await run(conversation(http))
    assert [one.data["processed"] for one in told] == [5, 9]
    assert [choice["delta"] for choice in choices(tokens)] == [empty, {"content": "a"}]


TEXTS = ["Gr", "üß", " 猫🎉", '"\\\n', ""]


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_where_reads_end_changes_nothing(double: EngineDouble, http: EngineHTTP, size: int) -> None:
    whole = COMMENT + sse(*map(piece, TEXTS), last_piece())
    double.answers[COMPLETION] = [Answer([whole[at : at + size] for at in range(0, len(whole), size)])]
    tokens, _, done = await run(completion(http))
    assert [choice["text"] for choice in choices(tokens)] == [text for text in TEXTS if text]
    assert done.result["text"] == "".join(TEXTS)


async def test_bytes_that_are_no_utf_8_become_replacement_characters(double: EngineDouble, http: EngineHTTP) -> None:
    broken = sse(piece("a?b")).replace(b"?", b"\xf0\x9f")
    double.answers[COMPLETION] = [Answer([broken, sse(last_piece())])]
    tokens, _, done = await run(completion(http))
    assert done.result["text"] == "a\ufffdb"
    assert [choice["text"] for choice in choices(tokens)] == ["a\ufffdb"]


async def test_the_texts_of_the_tokens_are_the_text_of_the_result(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[COMPLETION] = [Answer([sse(*map(piece, TEXTS), last_piece(content=" end"))])]
    double.answers[CHAT] = [Answer([sse(FIRST_DELTA, *(chat({"content": text}) for text in TEXTS), *chat_end())])]
    for generation in (completion(http), conversation(http)):
        tokens, _, done = await run(generation)
        assert "".join(map(piece_text, choices(tokens))) == done.result["text"]
        assert done.result["text"].startswith("".join(TEXTS))


async def test_events_come_as_they_are_made(double: EngineDouble, http: EngineHTTP) -> None:
    batches = 0
    double.answers[COMPLETION] = [Answer([sse(piece("a"))] * 50 + [sse(last_piece())])]
    async for _ in events_of(completion(http)):
        batches += 1
    assert batches > 5


async def test_the_documented_defaults_are_sent(double: EngineDouble, http: EngineHTTP) -> None:
    double.answers[COMPLETION] = [Answer([sse(last_piece())])]
    double.answers[CHAT] = [Answer([sse(*chat_end())])]
    await run(completion(http))
    await run(conversation(http, stop=["x"], tools=[{"type": "function", "function": {"name": "f"}}]))
    sampling = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "repeat_penalty": 1.1}
    common = {"stream": True, "return_progress": True}
    assert [request.body for request in double.requests] == [
        {"prompt": "hi", "n_predict": 150, **sampling, **common},
        {
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 150,
            "timings_per_token": True,
            "tools": [{"type": "function", "function": {"name": "f"}}],
            "stream_options": {"include_usage": True},
            **sampling,
            **common,
        },
    ]
    for request in double.requests:
        assert request.headers["content-type"] == "application/json"
        assert "x-conversation-id" not in request.headers  # with it, leaving would not stop the generation


async def test_a_text_engine_runs_no_image_jobs(http: EngineHTTP) -> None:
    engine = LlamaEngine(http, LlamaProperties("tiny", 2048, 2))
    assert engine.model == "tiny"
    with pytest.raises(BadJobError):
        engine.generate(Txt2ImgParameters(prompt="a cat"))


async def test_a_ready_server_says_what_it_is(http: EngineHTTP) -> None:
    assert await read_properties(http) == LlamaProperties(model="tiny.Q4_1", context_length=2048, slots=2)


@pytest.mark.parametrize("path", ["/health", "/props"])
async def test_a_server_that_loads_is_not_ready(double: EngineDouble, http: EngineHTTP, path: str) -> None:
    double.answers[path] = [document(LOADING, 503)]
    assert await read_properties(http) is None


@pytest.mark.parametrize(
    "answer",
    [
        document({"error": {"code": 404}}, 404),
        document({}),
        document([]),
        document({name: value for name, value in PROPS.items() if name != "total_slots"}),
        document(PROPS | {"default_generation_settings": None}),
        document(PROPS | {"model_path": 7}),
        document(PROPS | {"total_slots": "many"}),
        Answer(document=b"<html>"),
    ],
)
async def test_what_is_no_llama_server_is_told(double: EngineDouble, http: EngineHTTP, answer: Answer) -> None:
    double.answers["/props"] = [answer]
    with pytest.raises(EngineRefusedError, match="llama-server"):
        await read_properties(http)


async def test_a_server_that_is_not_there_is_told_from_one_that_loads(free_url: str) -> None:
    async with EngineHTTP(free_url) as http:
        with anyio.fail_after(60), pytest.raises(ConnectionLostError):
            await read_properties(http)


async def test_whether_the_servers_loop_moves_is_seen_without_its_metrics_too(
    monkeypatch: pytest.MonkeyPatch, double: EngineDouble, http: EngineHTTP
) -> None:
    """They are answered at once where they are not offered; the slots are what the loop has to tell."""
    monkeypatch.setattr(engine, "_ANSWER_SECONDS", 0.2)
    server = LlamaEngine(http, LlamaProperties("tiny", 2048, 2))
    double.answers |= {"/metrics": [document({"error": "no"}, 501)], "/slots": [document([])]}
    assert await server.decoded() is None
    double.answers["/slots"] = [Answer(end=End.SILENT)]
    with pytest.raises(TimeoutError):
        await server.decoded()

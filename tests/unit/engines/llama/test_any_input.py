"""Whatever an engine answers, a job has a result that can be written, or an error of the taxonomy."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import product
from typing import Any, Final, cast

import anyio
import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.doubles.engine import PROPS, sse
from tests.support.generations import Token, Told, events_of
from tests.support.llama_chunks import CHAT, COMPLETION, FIRST_DELTA, TIMINGS, USAGE, chat, chat_end, last_piece, piece
from tests.support.tables import table
from tests.unit.wire.test_jobs_any_input import VALUES
from velesio_worker.core.metrics import count_usage, figure
from velesio_worker.engines.base import Generation
from velesio_worker.engines.decoding import decode_json
from velesio_worker.engines.http import ConnectionLostError, EngineHTTP
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties, read_properties
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.errors import EngineCrashedError, EngineRefusedError, JobError, VelesioError
from velesio_worker.wire.events import Done, Progress, StreamEvent
from velesio_worker.wire.parameters import (
    AnswerParameters,
    DetokenizeParameters,
    EmbeddingParameters,
    RerankParameters,
    TokenizeParameters,
)
from velesio_worker.wire.template_parameters import ApplyTemplateParameters, CountTokensParameters
from velesio_worker.wire.text_parameters import CompletionParameters

TOKENIZE: Final = "/tokenize"
DEEP: Final = {f"deep-{depth}": b"[" * depth + b"]" * depth for depth in (150, 199, 230, 300, 1000)}
"""What stands for lists within lists, which orjson reads but does not write."""

ODD: Final[list[Any]] = [None, True, 7, -1, 2**64 - 1, 0.5, "a", "", [], [1], {}, {"a": 1}, [{}], [[]], *DEEP]


class Reply:
    """One answer of an engine."""

    def __init__(self, status: int, body: bytes) -> None:
        self.status = status
        self._body = body

    async def push(self, feed: Callable[[bytes], bool], more: Callable[[], Awaitable[bool]]) -> None:
        if not feed(self._body):
            await more()

    async def body(self, limit: int) -> bytes:
        assert len(self._body) <= limit
        return self._body


class Engine:
    """An engine in this process, with one answer for each path."""

    def __init__(self, answers: Mapping[str, bytes], status: int = 200) -> None:
        self._answers = answers
        self._status = status

    @asynccontextmanager
    async def post(self, path: str, body: bytes) -> AsyncGenerator[Reply, None]:
        assert orjson.loads(body) is not None
        yield Reply(self._status, self._answers[path])

    async def get(  # the real one's
        self,
        path: str,
        *,
        timeout: float,  # noqa: ASYNC109
        limit: int = 2**20,
    ) -> tuple[int, Any]:
        assert timeout
        assert limit >= 2**20
        return self._status, decode_json(self._answers.get(path, b"{}"))

    async def get_text(self, path: str, *, timeout: float) -> tuple[int, str]:  # noqa: ASYNC109 (the real one's)
        assert timeout
        return self._status, self._answers[path].decode()


def llama(answers: Mapping[str, bytes], status: int = 200) -> LlamaEngine:
    return LlamaEngine(cast("EngineHTTP", Engine(answers, status)), LlamaProperties("tiny", 2048, 2))


def dumped(value: object) -> bytes:
    """Write JSON that may be deeper than orjson writes it."""
    written = orjson.dumps(value)
    for name, deep in DEEP.items():
        written = written.replace(b'"%s"' % name.encode(), deep)
    return written


def events(*documents: Any) -> bytes:
    return sse(*(one if isinstance(one, bytes) else dumped(one) for one in documents))


def outcome(generation: Generation) -> Done | JobError:
    """Run a job, do with what it yields what the worker and its readers do, and return how it ends."""
    seen: list[Told] = []

    async def run() -> JobError | None:
        try:
            async for batch in events_of(generation):
                seen.extend(batch)
        except JobError as error:
            return error
        return None

    failure = anyio.run(run)
    if failure is not None:
        assert failure.public
        orjson.dumps([failure.result(), failure.entry(partial=True)])
        use(generation.cut_short())
        return failure
    *earlier, done = seen
    for event in earlier:
        match event:
            case Token():
                assert event.has_output in {True, False}
                told = StreamEvent("1-0", "token", orjson.loads(orjson.dumps({"choices": [event.choice]})))
                assert isinstance(told.text, str)
                assert told.plain in {True, False}
            case Progress():
                orjson.dumps(event.data)
            case _:
                raise AssertionError(event)
    assert isinstance(done, Done)
    use(done)
    return done


def use(done: Done) -> None:
    assert isinstance(done.finish_reason, str)
    assert isinstance(done.usage, dict | None)
    assert isinstance(done.timings, dict | None)
    orjson.dumps([[[[done.result]]], done.entry()])
    count_usage("completion", "tiny", done.result)
    assert figure(done.result.get("usage"), "completion_tokens") >= 0


def completion(after: str = "") -> Callable[[LlamaEngine], Generation]:
    return lambda engine: engine.generate(CompletionParameters(prompt="hi", n_probs=1), after, 2 if after else 0)


def conversation(after: str = "") -> Callable[[LlamaEngine], Generation]:
    parameters = ChatCompletionParameters(messages=[{"role": "user", "content": "hi"}])
    return lambda engine: engine.generate(parameters, after, 2 if after else 0)


PIECE: Final = piece("a", completion_probabilities=[{"id": 1, "token": "a"}])
LAST: Final = last_piece()
WORDS: Final = {"role": "assistant", "content": "a", "reasoning_content": "hm", "tool_calls": [{"index": 0}]}
SAID: Final = chat(WORDS, logprobs={"content": [{}]})
CHOICE: Final = SAID["choices"][0]
COUNTS: Final[dict[str, Any]] = {"choices": [], "usage": USAGE, "timings": TIMINGS}
CALL: Final = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
READING: Final = {"total": 100, "cache": 0, "processed": 50}


def with_field(name: str, value: Any, whole: Mapping[str, Any]) -> dict[str, Any]:
    return {**whole, name: value}


def chunks_with(value: Any) -> list[tuple[str, Callable[[LlamaEngine], Generation], list[Any]]]:
    """Streams in each of which one field, or a whole chunk, is the value."""
    completions = [
        [value],
        *([with_field(name, value, PIECE), LAST] for name in (*PIECE, "error", "prompt_progress")),
        *([PIECE, with_field(name, value, LAST)] for name in LAST),
        *([piece("", prompt_progress=with_field(name, value, READING)), PIECE, LAST] for name in READING),
        *([PIECE, {"error": with_field(name, value, {"message": "no"})}] for name in ("message", "type", "code")),
        [{"error": {"type": "exceed_context_size_error", "n_prompt_tokens": value, "n_ctx": value}}],
        [{"code": value, "message": value}],
    ]
    deltas: list[dict[str, Any]] = [
        *(with_field(name, value, WORDS) for name in (*WORDS, "extra")),
        *({"tool_calls": [with_field(name, value, CALL)]} for name in CALL),
        {"tool_calls": [value]},
        *({"tool_calls": [CALL | {"function": {name: value}}]} for name in ("name", "arguments")),
    ]
    chats: list[list[Any]] = [
        [value],
        *([with_field(name, value, SAID), *chat_end()] for name in (*SAID, "usage", "timings")),
        [{"choices": [value]}, *chat_end()],
        *([{"choices": [with_field(name, value, CHOICE)]}, *chat_end()] for name in (*CHOICE, "text")),
        [chat({"content": "a"}, logprobs={"content": value}), *chat_end()],
        *([FIRST_DELTA, chat(delta), *chat_end()] for delta in deltas),
        *([SAID, chat({}, "stop"), with_field(name, value, COUNTS)] for name in COUNTS),
        *([SAID, chat({}, "stop"), {"choices": [], "usage": with_field(name, value, USAGE)}] for name in USAGE),
    ]
    return [(COMPLETION, completion(), one) for one in completions] + [(CHAT, conversation(), one) for one in chats]


@pytest.mark.parametrize("value", ODD, ids=repr)
def test_a_stream_with_an_odd_field_is_a_result_or_an_error_of_the_engine(value: Any) -> None:
    for path, make, chunks in chunks_with(value):
        outcome(make(llama({path: events(*chunks)})))


@given(VALUES, st.data())
def test_a_stream_with_any_field_is_a_result_or_an_error_of_the_engine(value: Any, data: st.DataObject) -> None:
    path, make, chunks = data.draw(st.sampled_from(chunks_with(value)))
    outcome(make(llama({path: events(*chunks)})))


@given(st.binary(max_size=200), st.sampled_from([(COMPLETION, completion()), (CHAT, conversation())]))
@example(b"data: {\n\n", (COMPLETION, completion()))
def test_any_bytes_are_a_result_or_an_error_of_the_engine(
    body: bytes, job: tuple[str, Callable[[LlamaEngine], Generation]]
) -> None:
    path, make = job
    for status in (200, 500):
        assert isinstance(outcome(make(llama({path: body}, status))), JobError)


@given(VALUES, st.integers(201, 599))
@example({"error": {"message": "Context size has been exceeded.", "type": []}}, 500)
def test_any_refusal_is_an_error_of_the_engine(value: Any, status: int) -> None:
    for path, make in ((COMPLETION, completion()), (CHAT, conversation())):
        for body in (value, {"error": value}, {"error": {"message": value, "type": value}}):
            assert isinstance(outcome(make(llama({path: orjson.dumps(body)}, status))), JobError)


@pytest.mark.parametrize("counted", [*ODD, {"tokens": None}, {"tokens": {}}, {"tokens": 7}])
@pytest.mark.parametrize("make", [completion("Once upon"), conversation("Once upon")])
def test_a_text_that_is_gone_on_from_is_as_long_as_its_pieces_where_the_engine_does_not_count(
    counted: Any, make: Callable[[LlamaEngine], Generation]
) -> None:
    answers = {
        TOKENIZE: dumped(counted),
        COMPLETION: events(piece(" a"), last_piece(tokens_evaluated=9, tokens_predicted=1)),
        CHAT: events(
            chat({"content": " a"}, "stop"), {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}}
        ),
    }
    done = outcome(make(llama(answers)))
    assert isinstance(done, Done)
    assert done.result["text"] == "Once upon a"
    assert done.usage == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


BAD_COUNTS: Final[list[Any]] = [None, True, -1, 2**64 - 1, 0.5, "4", [], {}]


@pytest.mark.parametrize("count", BAD_COUNTS)
def test_without_a_count_from_the_engine_the_pieces_are_the_count(count: Any) -> None:
    uncounted = {"prompt_tokens": None, "completion_tokens": 2, "total_tokens": None}
    last = last_piece(tokens_evaluated=count, tokens_predicted=count)
    usage = {"prompt_tokens": count, "completion_tokens": count}
    said = [FIRST_DELTA, chat({"content": "a"}), chat({"reasoning_content": "b"}), chat({}, "stop")]
    jobs: list[tuple[str, Callable[[LlamaEngine], Generation], list[Any]]] = [
        (COMPLETION, completion(), [piece("a"), piece("b"), last]),
        (CHAT, conversation(), [*said, {"choices": [], "usage": usage}]),
        (CHAT, conversation(), [*said, {"choices": [], "usage": count}]),
        (CHAT, conversation(), said),
    ]
    for path, make, chunks in jobs:
        done = outcome(make(llama({path: events(*chunks)})))
        assert isinstance(done, Done)
        assert done.usage == done.result["usage"] == uncounted


def test_odd_timings_and_progress_cost_nothing() -> None:
    odd: list[Any] = [7, [], "fast", True]
    for value in odd:
        chunks = [piece("", prompt_progress=value), piece("a"), last_piece(timings=value, stop_type=value)]
        done = outcome(completion()(llama({COMPLETION: events(*chunks)})))
        assert isinstance(done, Done)
        assert (done.result["text"], done.timings, done.finish_reason) == ("a", None, "stop")


@pytest.mark.parametrize(
    ("make", "path", "chunk"),
    [
        (completion(), COMPLETION, piece("a") | {"content": 7}),
        (completion(), COMPLETION, piece("a", completion_probabilities=7)),
        (conversation(), CHAT, {"choices": {}}),
        (conversation(), CHAT, {"choices": ["a"]}),
        (conversation(), CHAT, {"choices": [{"delta": "a"}]}),
        (conversation(), CHAT, chat({"content": ["a"]})),
        (conversation(), CHAT, chat({"tool_calls": [{"index": "a"}]})),
        (conversation(), CHAT, chat({"tool_calls": [{"index": 0, "function": {"arguments": {}}}]})),
    ],
)
def test_a_text_that_is_none_is_an_error_of_the_engine(
    make: Callable[[LlamaEngine], Generation], path: str, chunk: Any
) -> None:
    assert type(outcome(make(llama({path: events(chunk)})))) is EngineRefusedError


def test_a_stream_that_says_nothing_of_an_answer_is_a_crash() -> None:
    assert type(outcome(completion()(llama({COMPLETION: events({}, {"banana": 1})})))) is EngineCrashedError


JOBS: Final[Sequence[tuple[str, AnswerParameters]]] = [
    ("/v1/embeddings", EmbeddingParameters(input="a")),
    ("/embedding", EmbeddingParameters(content="a")),
    ("/v1/rerank", RerankParameters(query="a", documents=["b"])),
    ("/tokenize", TokenizeParameters(content="a")),
    ("/detokenize", DetokenizeParameters(tokens=[1])),
    ("/apply-template", ApplyTemplateParameters(messages=[{"role": "user"}])),
    ("/tokenize", CountTokensParameters(prompt="a")),
    ("/v1/chat/completions/input_tokens", CountTokensParameters(messages=[{"role": "user"}])),
]


@table(("path", "parameters", "value"), ((*job, value) for job, value in product(JOBS, ODD)))
def test_an_odd_answer_is_a_result_or_an_error_of_the_engine(
    path: str, parameters: AnswerParameters, value: Any
) -> None:
    good: dict[str, Any] = {"data": [], "results": [], "tokens": [], "content": "", "prompt": "", "input_tokens": 1}
    outcome(llama({path: dumped(value)}).generate(parameters))
    for name in (*good, "usage", "model", "error", "cached", "finish_reason", "timings"):
        outcome(llama({path: dumped(good | {name: value})}).generate(parameters))


BAD: Final[dict[str, Any]] = {
    "data": {},
    "results": {},
    "tokens": {},
    "content": [],
    "prompt": [],
    "input_tokens": True,
}


@pytest.mark.parametrize(("path", "parameters"), [JOBS[0], *JOBS[2:]])
@pytest.mark.parametrize("answer", [{}, BAD, {"error": "no"}])
def test_an_answer_without_what_was_asked_for_is_an_error_of_the_engine(
    path: str, parameters: AnswerParameters, answer: Any
) -> None:
    assert isinstance(outcome(llama({path: orjson.dumps(answer)}).generate(parameters)), EngineRefusedError)


@given(VALUES)
@example({"data": [{"meta": [1]}]})
@example({"data": [7]})
def test_what_a_server_says_of_itself_is_read_or_refused(value: Any) -> None:
    answers = {
        "/health": b"{}",
        "/metrics": b"llamacpp:n_decode_total banana\n",
        "/v1/models": orjson.dumps(value),
        "/props": orjson.dumps({"modalities": value, "chat_template": value}),
    }

    async def ask() -> None:
        with suppress(VelesioError):
            orjson.dumps(await llama(answers).describe())
        assert await llama(answers).decoded() is None

    anyio.run(ask)


@table(
    ("name", "value"),
    product(
        ["model_path", "total_slots", "default_generation_settings"],
        [*ODD, 5000, {"n_ctx": 0.5}, {"n_ctx": -1}, {"n_ctx": 2**64 - 1}],
    ),
)
def test_properties_that_no_server_has_are_refused(name: str, value: Any) -> None:
    good = "total_slots" if value in (7, True) else "model_path" if isinstance(value, str) and value not in DEEP else ""
    http = cast("EngineHTTP", Engine({"/props": dumped(PROPS | {name: value})}))

    async def ask() -> None:
        if name == good and value is not True:
            assert await read_properties(http) is not None
            return
        with pytest.raises((EngineRefusedError, ConnectionLostError)):
            await read_properties(http)

    anyio.run(ask)

"""Going on from a text that an earlier attempt made: when that is sound, and what the server is asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any, Final

import anyio
import orjson
import pytest

from tests.doubles.engine import LOADING, Answer, End, EngineDouble, document, sse
from tests.support.generations import events_of
from tests.support.llama_chunks import (
    CHAT,
    COMPLETION,
    FIRST_DELTA,
    TIMINGS,
    chat,
    choices,
    last_piece,
    piece,
    progress,
    run,
)
from tests.support.waiting import until
from velesio_worker.engines.base import Generation
from velesio_worker.engines.http import EngineHTTP
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties
from velesio_worker.wire.chat_parameters import ChatCompletionParameters
from velesio_worker.wire.errors import (
    BadJobError,
    ContextExceededError,
    EngineCrashedError,
    EngineRefusedError,
    EngineUnavailableError,
    JobError,
    OutOfMemoryError,
)
from velesio_worker.wire.events import StreamEvent, has_output, piece_text
from velesio_worker.wire.jobs import Job, parse_job
from velesio_worker.wire.text_parameters import CompletionParameters

TOKENIZE: Final = "/tokenize"
USER: Final = {"role": "user", "content": "hi"}
BEGUN: Final = "Once upon"
SAMPLING: Final = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "repeat_penalty": 1.1}

Make = Callable[..., Generation]


def job(type_: str, data: dict[str, Any], **fields: Any) -> Job:
    return parse_job(orjson.dumps({"id": "a", "type": type_, "data": data} | fields), max_bytes=10_000)


def completion_job(*, stream: bool = True, on_crash: str = "continue", **data: Any) -> Job:
    return job("completion", {"prompt": "hi", "stream": stream} | data, on_crash=on_crash)


def chat_job(*, stream: bool = True, on_crash: str = "continue", **data: Any) -> Job:
    return job("chat_completion", {"messages": [USER], "stream": stream} | data, on_crash=on_crash)


def assistant(**fields: Any) -> list[dict[str, Any]]:
    return [USER, {"role": "assistant"} | fields]


PICTURE: Final = [{"type": "text", "text": "?"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
CALL: Final = {"id": "c1", "type": "function", "function": {"name": "time", "arguments": "{}"}}


@pytest.mark.parametrize(
    "sound",
    [
        completion_job(),
        completion_job(grammar="", n_probs=0),
        completion_job(seed=7, stop=["x"], logit_bias=[[1, 2]], lora=[{"id": 0, "scale": 1}], id_slot=1, max_tokens=1),
        chat_job(),
        chat_job(tools=[], tool_choice="none", logprobs=False, top_logprobs=0, chat_template_kwargs={"a": 1}),
        chat_job(response_format={"type": "text"}),
        chat_job(messages=[{"role": "user", "content": PICTURE}]),
        chat_job(messages=assistant(content="Sure: ")),
        chat_job(messages=assistant(content=None)),
        chat_job(messages=assistant()),
        chat_job(messages=assistant(content="Sure: ", tool_calls=[])),
        chat_job(messages=[*assistant(content=None, tool_calls=[CALL]), {"role": "tool", "content": "noon"}]),
    ],
    ids=repr,
)
def test_a_streamed_text_job_whose_text_is_all_there_is_goes_on(sound: Job) -> None:
    assert sound.mode_after_loss == "continue"


@pytest.mark.parametrize(
    "unsound",
    [
        completion_job(grammar='root ::= "a"'),
        completion_job(json_schema={"type": "object"}),
        completion_job(json_schema={}),
        completion_job(n_probs=1),
        chat_job(grammar='root ::= "a"'),
        chat_job(json_schema={"type": "object"}),
        chat_job(n_probs=2),
        chat_job(tools=[{"type": "function", "function": {"name": "f"}}]),
        chat_job(logprobs=True),
        chat_job(top_logprobs=3),
        chat_job(response_format={"type": "json_object"}),
        chat_job(response_format={"type": "json_schema", "json_schema": {"schema": {}}}),
        chat_job(messages=assistant(content=[{"type": "text", "text": "Sure: "}])),
        chat_job(messages=assistant(content=None, tool_calls=[CALL])),
        completion_job(stream=False),
        chat_job(stream=False),
        completion_job(on_crash="restart"),
        chat_job(on_crash="restart"),
        job("txt2img", {"prompt": "a cat"}),
    ],
    ids=repr,
)
def test_any_other_job_begins_anew(unsound: Job) -> None:
    assert unsound.mode_after_loss == "restart"


@pytest.mark.parametrize(
    ("fields", "allowed"),
    [
        ({}, 3),
        ({"max_attempts": 7}, 7),
        ({"on_crash": "restart", "max_attempts": 2}, 2),
        ({"on_crash": "fail"}, 1),
        ({"on_crash": "fail", "max_attempts": 5}, 1),
    ],
)
def test_a_job_that_is_to_fail_when_it_is_lost_has_one_attempt(fields: dict[str, Any], allowed: int) -> None:
    assert job("completion", {"prompt": "hi"}, **fields).attempts_allowed == allowed


def entry(*choices_: dict[str, Any], event: str = "token") -> StreamEvent:
    return StreamEvent("1-1", event, {"choices": list(choices_)})


@pytest.mark.parametrize(
    ("event", "plain"),
    [
        (entry({"text": "a", "index": 0}), True),
        (entry({"delta": {"role": "assistant", "content": None}}), True),
        (entry({"delta": {"content": "a"}}), True),
        (entry({"delta": {"content": "a", "reasoning_content": None, "tool_calls": []}}), True),
        (entry({"delta": {}}), True),
        (entry({"delta": None}), True),
        (entry(), True),
        (StreamEvent("1-1", "token", {}), True),
        (entry({"delta": {"reasoning_content": "hm"}}), False),
        (entry({"delta": {"content": "a", "reasoning_content": "hm"}}), False),
        (entry({"delta": {"tool_calls": [CALL]}}), False),
        (entry({"delta": {"unheard_of": 1}}), False),
        (entry({"delta": {"content": "a"}}, {"delta": {"reasoning_content": "hm"}}), False),
        (entry({"delta": {"reasoning_content": "hm"}}, event="progress"), True),
        (StreamEvent("1-0", "start", {"mode": "fresh"}), True),
        (StreamEvent("1-9", "done", {"finish_reason": "stop"}), True),
    ],
    ids=repr,
)
def test_an_entry_is_plain_if_it_adds_nothing_but_text(event: StreamEvent, plain: bool) -> None:  # noqa: FBT001
    assert event.plain is plain


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"text": "a"}, True),
        ({"text": ""}, False),
        ({"delta": {"role": "assistant", "content": None}}, False),
        ({"delta": {"role": "assistant"}}, False),
        ({"delta": {"role": "assistant", "content": ""}}, False),
        ({"delta": {"role": "assistant", "content": "a"}}, True),
        ({"delta": {"reasoning_content": "hm"}}, True),
        ({"delta": {"tool_calls": [CALL]}}, True),
    ],
)
def test_the_role_alone_is_no_output(choice: dict[str, Any], expected: bool) -> None:  # noqa: FBT001
    assert has_output(choice) is expected


ENGINE: Final = LlamaProperties("tiny", 2048, 2)


def completion(http: EngineHTTP, after: str = BEGUN, pieces: int = 0, **parameters: Any) -> Generation:
    whole = {"prompt": "hi", "stream": True} | parameters
    return LlamaEngine(http, ENGINE).generate(CompletionParameters.model_validate(whole), after, pieces)


def conversation(http: EngineHTTP, after: str = BEGUN, pieces: int = 0, **parameters: Any) -> Generation:
    whole = {"messages": [USER], "stream": True} | parameters
    return LlamaEngine(http, ENGINE).generate(ChatCompletionParameters.model_validate(whole), after, pieces)


ENDS: Final[dict[str, list[Any]]] = {
    COMPLETION: [piece(" a"), piece(" time"), last_piece(tokens_evaluated=9)],
    CHAT: [
        FIRST_DELTA,
        chat({"content": " a"}),
        chat({"content": " time"}),
        chat({}, "stop"),
        {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 2}, "timings": TIMINGS},
        b"[DONE]",
    ],
}
"""Two tokens more, made from nine, which is what the server counts."""

LIMIT: Final = {COMPLETION: "n_predict", CHAT: "max_tokens"}

TWO: Final = {COMPLETION: " a time", CHAT: " a"}
"""What the first two chunks of each hold."""

BOTH = pytest.mark.parametrize(("path", "make"), [(COMPLETION, completion), (CHAT, conversation)])


def script(double: EngineDouble, path: str, *, tokens: int = 3, end: Sequence[Any] | None = None) -> None:
    """Have the double count ``tokens`` in the text so far, and go on from it."""
    double.answers[TOKENIZE] = [document({"tokens": list(range(tokens))})]
    double.answers[path] = [Answer([sse(one) for one in (ENDS[path] if end is None else end)])]


def asked(double: EngineDouble) -> list[tuple[str, Any]]:
    return [(request.path, request.body) for request in double.requests]


@pytest.mark.anyio
class TestGoingOn:
    async def test_a_completion_is_asked_for_what_follows_prompt_and_text(
        self, double: EngineDouble, http: EngineHTTP
    ) -> None:
        script(double, COMPLETION)
        await run(completion(http, max_tokens=10, seed=7, stop=["x"]))
        rest = {"seed": 7, "timings_per_token": True, "stream": True, "return_progress": True}
        assert asked(double) == [
            (TOKENIZE, {"content": "Once upon"}),
            (COMPLETION, {"prompt": "hiOnce upon", "n_predict": 7, **SAMPLING, **rest}),
        ]

    async def test_a_chat_is_asked_for_the_rest_of_the_assistants_message(
        self, double: EngineDouble, http: EngineHTTP
    ) -> None:
        script(double, CHAT)
        await run(conversation(http, max_tokens=10, seed=7))
        rest = {"stream": True, "stream_options": {"include_usage": True}, "return_progress": True, "seed": 7}
        assert asked(double) == [
            (TOKENIZE, {"content": "Once upon"}),
            (
                CHAT,
                {
                    "messages": [USER, {"role": "assistant", "content": "Once upon"}],
                    "max_tokens": 7,
                    **SAMPLING,
                    **rest,
                },
            ),
        ]

    @pytest.mark.parametrize(
        ("last", "grown"),
        [
            ({"role": "assistant", "content": " Sure: "}, {"role": "assistant", "content": " Sure: Once upon "}),
            ({"role": "assistant", "content": None}, {"role": "assistant", "content": "Once upon "}),
            ({"role": "assistant"}, {"role": "assistant", "content": "Once upon "}),
            (
                {"name": "bard", "role": "assistant", "content": "Sure:"},
                {"name": "bard", "role": "assistant", "content": "Sure:Once upon "},
            ),
        ],
    )
    async def test_a_message_that_the_producer_began_for_the_assistant_grows(
        self, double: EngineDouble, http: EngineHTTP, last: dict[str, Any], grown: dict[str, Any]
    ) -> None:
        script(double, CHAT)
        messages = [{"role": "system", "content": "be brief"}, USER, last]
        generation = conversation(http, "Once upon ", messages=messages)
        _, _, done = await run(generation)
        assert asked(double)[1][1]["messages"] == [*messages[:2], grown]
        assert messages[-1] == last, "the job itself stays as it is"
        assert done.result["text"] == "Once upon  a time", "what the producer wrote is no output"

    async def test_an_assistants_message_further_up_stays_as_it_is(
        self, double: EngineDouble, http: EngineHTTP
    ) -> None:
        script(double, CHAT)
        messages = [*assistant(content="Sure: "), USER]
        await run(conversation(http, messages=messages))
        assert asked(double)[1][1]["messages"] == [*messages, {"role": "assistant", "content": "Once upon"}]

    @BOTH
    async def test_the_result_has_the_whole_text_and_the_tokens_only_what_is_new(
        self, double: EngineDouble, http: EngineHTTP, path: str, make: Make
    ) -> None:
        script(double, path)
        tokens, _, done = await run(make(http))
        assert "".join(map(piece_text, choices(tokens))) == " a time"
        assert (done.result["text"], done.finish_reason) == ("Once upon a time", "stop")
        if path == CHAT:
            assert done.result["message"] == {"role": "assistant", "content": "Once upon a time"}

    @BOTH
    async def test_tokens_made_before_count_as_completion_and_not_as_prompt(
        self, double: EngineDouble, http: EngineHTTP, path: str, make: Make
    ) -> None:
        script(double, path, tokens=3)
        _, _, done = await run(make(http))
        usage = {"prompt_tokens": 6, "completion_tokens": 5, "total_tokens": 11}
        assert (done.usage, done.result["usage"]) == (usage, usage)
        assert (done.timings, done.result["timings"]) == (TIMINGS, TIMINGS)

    @BOTH
    async def test_a_prompt_is_never_counted_below_nothing(
        self, double: EngineDouble, http: EngineHTTP, path: str, make: Make
    ) -> None:
        script(double, path, tokens=20)
        _, _, done = await run(make(http, max_tokens=30))
        assert done.usage is not None
        assert done.usage["prompt_tokens"] == 0
        assert done.usage["total_tokens"] == done.usage["completion_tokens"]

    @BOTH
    @pytest.mark.parametrize(("before", "left"), [(1, 9), (9, 1)])
    async def test_only_so_many_tokens_are_asked_for_as_are_left(
        self, double: EngineDouble, http: EngineHTTP, path: str, make: Make, before: int, left: int
    ) -> None:
        script(double, path, tokens=before)
        tokens, _, _ = await run(make(http, max_tokens=10))
        assert asked(double)[1][1][LIMIT[path]] == left
        assert "".join(map(piece_text, choices(tokens))) == " a time"

    @BOTH
    @pytest.mark.parametrize(("pieces", "left"), [(2, 7), (3, 7), (4, 6), (9, 1)])
    async def test_a_text_has_as_many_tokens_as_it_came_in_pieces_at_least(
        self, double: EngineDouble, http: EngineHTTP, path: str, make: Make, pieces: int, left: int
    ) -> None:
        script(double, path, tokens=3)
        _, _, done = await run(make(http, BEGUN, pieces, max_tokens=10))
        assert asked(double)[1][1][LIMIT[path]] == left
        assert done.usage is not None
        assert done.usage["completion_tokens"] == 10 - left + 2

    @BOTH
    async def test_a_text_that_came_in_all_the_pieces_that_are_allowed_is_whole(
        self, double: EngineDouble, http: EngineHTTP, path: str, make: Make
    ) -> None:
        script(double, path, tokens=3)
        tokens, _, done = await run(make(http, BEGUN, 10, max_tokens=10))
        assert (tokens, done.result["text"], done.finish_reason) == ([], BEGUN, "length")

    @BOTH
    @pytest.mark.parametrize("before", [10, 11])
    async def test_a_text_that_is_whole_gets_no_token_more(
        self, double: EngineDouble, http: EngineHTTP, path: str, make: Make, before: int
    ) -> None:
        script(double, path, tokens=before)
        tokens, told, done = await run(make(http, max_tokens=10))
        assert [where for where, _ in asked(double)] == [TOKENIZE]
        assert (tokens, told) == ([], [])
        assert (done.finish_reason, done.result["finish_reason"]) == ("length", "length")
        assert done.result["text"] == BEGUN
        assert done.usage == {"prompt_tokens": None, "completion_tokens": before, "total_tokens": None}
        assert done.result["usage"] == done.usage
        if path == CHAT:
            assert done.result["message"] == {"role": "assistant", "content": BEGUN}

    @BOTH
    async def test_without_a_text_nothing_is_counted_and_all_is_asked_for(
        self, double: EngineDouble, http: EngineHTTP, path: str, make: Make
    ) -> None:
        script(double, path)
        _, _, done = await run(make(http, "", max_tokens=10))
        ((where, body),) = asked(double)
        assert where == path
        assert body[LIMIT[path]] == 10
        assert body.get("prompt", "hi") == "hi"
        assert body.get("messages", [USER]) == [USER]
        assert done.result["text"] == " a time"
        assert done.usage == {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11}

    @BOTH
    @pytest.mark.parametrize(
        "text", ["Grüß dich ", " 猫🎉", "e\u0301", "\n\n\t ", '"\\', "\u200d", "\x00", "\ufffd", "٣"]
    )
    async def test_the_text_is_gone_on_from_to_the_letter(
        self, double: EngineDouble, http: EngineHTTP, path: str, make: Make, text: str
    ) -> None:
        script(double, path)
        _, _, done = await run(make(http, text))
        (_, counted), (_, body) = asked(double)
        assert counted == {"content": text}
        sent = body["prompt"].removeprefix("hi") if path == COMPLETION else body["messages"][-1]["content"]
        assert sent == text
        assert done.result["text"] == text + " a time"

    async def test_progress_of_the_longer_prompt_is_told(self, double: EngineDouble, http: EngineHTTP) -> None:
        script(double, COMPLETION, end=[*(progress(step, 1000) for step in (0, 512, 1000)), *ENDS[COMPLETION]])
        _, told, _ = await run(completion(http))
        assert [one.data["processed"] for one in told] == [512, 1000]

    @BOTH
    async def test_a_run_that_is_cut_short_keeps_what_it_went_on_from(
        self, double: EngineDouble, http: EngineHTTP, path: str, make: Make
    ) -> None:
        script(double, path)
        double.answers[path] = [Answer([sse(*ENDS[path][:2])], End.OPEN)]
        generation = make(http)
        assert generation.cut_short().result["text"] == BEGUN
        with anyio.fail_after(60):
            async with aclosing(events_of(generation)) as batches:
                async for _ in batches:
                    if generation.cut_short().result["text"] == BEGUN + TWO[path]:
                        break
        done = generation.cut_short()
        assert done.result["text"] == BEGUN + TWO[path]
        assert (done.finish_reason, done.result["finish_reason"]) == ("cancelled", "cancelled")

    @BOTH
    async def test_a_run_can_be_cut_short_for_another_reason(self, http: EngineHTTP, path: str, make: Make) -> None:
        done = make(http).cut_short("length")
        assert (done.finish_reason, done.result["finish_reason"]) == ("length", "length")
        assert done.result["text"] == BEGUN
        assert done.usage is not None
        assert done.usage["prompt_tokens"] is None
        assert ("message" in done.result) is (path == CHAT)

    @BOTH
    async def test_stopping_while_the_text_is_counted_leaves_the_server(
        self, double: EngineDouble, http: EngineHTTP, path: str, make: Make
    ) -> None:
        double.answers[TOKENIZE] = [Answer((), End.SILENT)]
        with anyio.fail_after(60):
            async with anyio.create_task_group() as group:
                group.start_soon(run, make(http))
                await until(lambda: double.requests)
                group.cancel_scope.cancel()
        await until(double.left.is_set)
        assert [where for where, _ in asked(double)] == [TOKENIZE]
        assert path not in double.answers


INCOMPATIBLE: Final = {"message": "Assistant response prefill is incompatible with enable_thinking."}
REFUSALS: list[tuple[int, Any, type[JobError]]] = [
    (400, {"error": INCOMPATIBLE | {"code": 400, "type": "invalid_request_error"}}, BadJobError),
    (400, {"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8}}, ContextExceededError),
    (404, {"error": {"message": "File Not Found", "type": "not_found_error"}}, BadJobError),
    (500, {"error": {"message": "Compute error.", "type": "server_error"}}, EngineRefusedError),
    (500, {"error": {"message": "out of memory", "type": "server_error"}}, OutOfMemoryError),
    (503, LOADING, EngineUnavailableError),
]


@pytest.mark.anyio
@BOTH
@pytest.mark.parametrize("where", ["tokenize", "generate"])
@pytest.mark.parametrize(("status", "body", "kind"), REFUSALS, ids=[kind.__name__ for _, _, kind in REFUSALS])
async def test_a_refusal_is_told_as_what_it_is(
    double: EngineDouble,
    http: EngineHTTP,
    path: str,
    make: Make,
    where: str,
    status: int,
    body: Any,
    kind: type[JobError],
) -> None:
    script(double, path)
    double.answers[TOKENIZE if where == "tokenize" else path] = [document(body, status)]
    with pytest.raises(JobError) as caught:
        await run(make(http))
    assert type(caught.value) is kind
    assert len(double.requests) == (1 if where == "tokenize" else 2)


@pytest.mark.anyio
@BOTH
@pytest.mark.parametrize("end", [End.CUT, End.RESET])
async def test_a_server_that_goes_away_while_it_goes_on_is_a_crash(
    double: EngineDouble, http: EngineHTTP, path: str, make: Make, end: End
) -> None:
    script(double, path, tokens=3)
    double.answers[path] = [Answer([sse(*ENDS[path][:2])], end)]
    with anyio.fail_after(60), pytest.raises(EngineCrashedError):
        await run(make(http, max_tokens=10))


@pytest.mark.anyio
@pytest.mark.parametrize("end", [End.CUT, End.RESET])
async def test_a_server_that_goes_away_while_it_counts_is_a_crash(
    double: EngineDouble, http: EngineHTTP, end: End
) -> None:
    double.answers[TOKENIZE] = [Answer((), end)]
    with anyio.fail_after(60), pytest.raises(EngineCrashedError):
        await run(completion(http))


@pytest.mark.anyio
async def test_where_nothing_listens_the_run_never_began(free_url: str) -> None:
    async with EngineHTTP(free_url) as http:
        with anyio.fail_after(60), pytest.raises(EngineUnavailableError):
            await run(completion(http))


@pytest.mark.anyio
async def test_tokens_that_became_fewer_when_read_again_do_not_eat_up_the_prompt(
    double: EngineDouble, http: EngineHTTP
) -> None:
    # a prompt of 4 tokens; the text was made in 5 tokens, but is 2 when it is read again: the server evaluates 6
    script(double, COMPLETION, tokens=2, end=[piece(" a"), last_piece(tokens_evaluated=6, tokens_predicted=1)])
    _, _, done = await run(completion(http, BEGUN, 5, max_tokens=10))
    assert done.usage == {"prompt_tokens": 4, "completion_tokens": 6, "total_tokens": 10}

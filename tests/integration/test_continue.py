"""A job that was interrupted goes on from what its stream holds, or begins anew; in the end its text is whole."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest

from tests.doubles.engine import Answer, End, document, sse
from tests.support.llama_chunks import CHAT, COMPLETION, FIRST_DELTA, chat, chat_end, piece
from tests.support.redis_side import Side, take_over
from tests.support.servers import Topology
from tests.support.text_bench import (
    ANEW,
    FRESH,
    GO_ON,
    ONCE,
    PATIENCE,
    QUIET,
    ROLE,
    TOKENIZE,
    USER,
    Bench,
    cut,
    delta,
    refused,
    text,
    whole,
    write,
)
from tests.support.waiting import until
from velesio_worker import job_stream as stream_module
from velesio_worker.client import Client, JobRestartedError, subscriber
from velesio_worker.execution.executor import Executor
from velesio_worker.execution.published import Published, read_published
from velesio_worker.wire.errors import EngineUnavailableError

pytestmark = pytest.mark.anyio
topologies = pytest.mark.topologies
THOUGHT = delta(reasoning_content="hm")
CALL = delta(tool_calls=[{"index": 0, "id": "c1"}])


STREAMS: list[tuple[str, Sequence[Sequence[tuple[str, Any]]], Published]] = [
    ("nothing", [], Published("", 0, begun=False, plain=True)),
    ("a start", [[FRESH]], Published("", 0, begun=False, plain=True)),
    ("one attempt", [[FRESH, text("a"), text(" b")]], Published("a b", 2, begun=True, plain=True)),
    (
        "letters of several bytes",
        [[FRESH, text("Grü"), text("ß 猫🎉 ")]],
        Published("Grüß 猫🎉 ", 2, begun=True, plain=True),
    ),
    ("progress", [[FRESH, ("progress", {"stage": "prompt"}), text("a")]], Published("a", 1, begun=True, plain=True)),
    ("a chat", [[FRESH, ROLE, delta(content="a"), delta(content="b")]], Published("ab", 2, begun=True, plain=True)),
    (
        "several choices",
        [[FRESH, ("token", {"choices": [{"text": "a"}, {"text": "b"}]})]],
        Published("ab", 1, begun=True, plain=True),
    ),
    (
        "gone on",
        [[FRESH, text("a")], [GO_ON, text("b")], [GO_ON], [GO_ON, text("c")]],
        Published("abc", 3, begun=True, plain=True),
    ),
    ("begun anew", [[FRESH, text("a")], [ANEW, text("b")]], Published("b", 1, begun=True, plain=True)),
    ("begun anew and lost at once", [[FRESH, text("a")], [ANEW]], Published("", 0, begun=False, plain=True)),
    (
        "begun anew between",
        [[FRESH, text("a")], [GO_ON, text("b")], [ANEW, text("c")], [GO_ON, text("d")]],
        Published("cd", 2, begun=True, plain=True),
    ),
    (
        "begun anew within an attempt",
        [[FRESH, text("a")], [GO_ON, ANEW, text("b")]],
        Published("b", 1, begun=True, plain=True),
    ),
    ("thoughts", [[FRESH, ROLE, THOUGHT, delta(content="a")]], Published("a", 1, begun=True, plain=False)),
    ("a tool call", [[FRESH, ROLE, CALL]], Published("", 0, begun=True, plain=False)),
    (
        "thoughts gone on from",
        [[FRESH, THOUGHT], [GO_ON, delta(content="a")]],
        Published("a", 1, begun=True, plain=False),
    ),
    (
        "thoughts that are void",
        [[FRESH, THOUGHT], [ANEW, delta(content="a")]],
        Published("a", 1, begun=True, plain=True),
    ),
    ("an end", [[FRESH, text("a"), ("done", {"finish_reason": "stop"})]], Published("a", 1, begun=True, plain=True)),
    (
        "an error",
        [[FRESH, text("a"), ("error", {"error": "no", "code": "timeout"})]],
        Published("a", 1, begun=True, plain=True),
    ),
]


@pytest.mark.parametrize("page", [512, 2])
@pytest.mark.parametrize(("attempts", "expected"), [row[1:] for row in STREAMS], ids=[row[0] for row in STREAMS])
async def test_what_a_stream_holds_is_what_was_said_since_it_was_last_begun(
    side: Side,
    commands: Any,
    monkeypatch: pytest.MonkeyPatch,
    attempts: Sequence[Sequence[tuple[str, Any]]],
    expected: Published,
    page: int,
) -> None:
    monkeypatch.setattr(subscriber, "READ_ENTRIES", page)
    for number, entries in enumerate(attempts, start=1):
        await write(side, number, *entries)
    assert await read_published(commands, "a") == expected


TOO_LONG: Final = document({"error": {"type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8}}, 400)
ONCE_CHAT: Final = [FRESH, ROLE, delta(content="Once"), delta(content=" upon")]


@topologies
async def test_a_job_that_was_interrupted_goes_on_where_its_text_ends(bench: Bench) -> None:
    await bench.submit()
    await bench.lose(*ONCE)
    bench.double.answers[COMPLETION] = [whole(" a", " time")]
    await bench.run()
    (event, begun), *tokens, (last, end) = await bench.entries(2)
    assert (event, begun["mode"], begun["attempt"], begun["worker"], begun["model"]) == (
        "start",
        "continue",
        2,
        "w1",
        "tiny",
    )
    assert tokens == [text(" a"), text(" time")]
    assert (last, end["finish_reason"]) == ("done", "stop")
    result = await bench.result()
    assert (result["text"], await bench.text()) == ("Once upon a time", "Once upon a time")
    assert result["usage"] == end["usage"] == {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
    assert bench.prompts() == ["hiOnce upon"]
    assert await bench.letters() == []


async def test_a_chat_goes_on_and_its_role_is_said_once(bench: Bench) -> None:
    await bench.submit("chat_completion")
    await bench.lose(*ONCE_CHAT)
    bench.double.answers[CHAT] = [
        Answer([sse(FIRST_DELTA, chat({"content": " a"}), chat({"content": ""}), *chat_end())])
    ]
    await bench.run()
    _, *tokens, (last, _) = await bench.entries(2)
    assert (tokens, last) == ([delta(content=" a")], "done")
    result = await bench.result()
    assert (result["text"], await bench.text()) == ("Once upon a", "Once upon a")
    assert result["message"] == {"role": "assistant", "content": "Once upon a"}
    assert bench.double.requests[1].body["messages"] == [USER, {"role": "assistant", "content": "Once upon"}]


async def test_a_chat_of_which_nothing_is_published_says_its_role(bench: Bench) -> None:
    await bench.submit("chat_completion")
    await bench.lose(FRESH)
    bench.double.answers[CHAT] = [Answer([sse(FIRST_DELTA, chat({"content": "Hi"}), *chat_end())])]
    await bench.run()
    assert (await bench.entries(2))[1:-1] == [ROLE, delta(content="Hi")]
    assert bench.asked() == [CHAT]


@topologies
async def test_a_job_that_is_interrupted_again_and_again_is_whole_in_the_end(bench: Bench, commands: Any) -> None:
    await commands.script_flush()  # so the first entries take a second try, and the job is handed back only then
    await bench.submit(max_attempts=4)
    bench.double.answers[COMPLETION] = [cut("Once"), cut(" upon"), cut(), whole(" a", " time")]
    for _ in range(3):
        await bench.run()
        assert await bench.waits()
    await bench.run()
    assert bench.prompts() == ["hi", "hiOnce", "hiOnce upon", "hiOnce upon"]
    assert await bench.modes() == ["fresh", "continue", "continue", "continue"]
    assert ((await bench.result())["text"], await bench.text()) == ("Once upon a time", "Once upon a time")
    assert bench.source.complaints == ["lost", "lost", "lost"]


async def test_a_reader_sees_one_text_over_all_attempts(bench: Bench, redis_url: str) -> None:
    await bench.submit()
    bench.double.answers[COMPLETION] = [cut("Once", " upon"), whole(" a", " time")]
    pieces: list[str] = []

    async def read() -> None:
        async with Client(redis_url) as client:
            async for one in client.text("a"):
                pieces.append(one)  # noqa: PERF401 (as they come)

    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await bench.run()
            await bench.run()
    assert pieces == ["Once", " upon", " a", " time"]


async def test_a_text_that_was_whole_already_ends_as_it_is(bench: Bench) -> None:
    await bench.submit(data={"max_tokens": 2})
    await bench.lose(*ONCE)
    bench.counted(1)  # what came in two pieces can be one token when it is read again
    bench.double.answers[COMPLETION] = [whole("x")]
    await bench.run()
    assert [event for event, _ in await bench.entries(2)] == ["start", "done"]
    result = await bench.result()
    assert (result["text"], result["finish_reason"], await bench.text()) == ("Once upon", "length", "Once upon")


@pytest.mark.parametrize(("field", "value"), [("on_crash", "restart"), ("data", {"n_probs": 1})])
async def test_a_job_that_cannot_or_shall_not_go_on_begins_anew(bench: Bench, field: str, value: Any) -> None:
    await bench.submit(**{field: value})
    await bench.lose(*ONCE)
    bench.double.answers[COMPLETION] = [whole("Twice")]
    await bench.run()
    assert await bench.modes() == ["fresh", "restart"]
    assert bench.asked() == [COMPLETION]
    assert bench.prompts() == ["hi"]
    assert ((await bench.result())["text"], await bench.text()) == ("Twice", "Twice")


async def test_a_job_that_is_not_streamed_begins_anew(bench: Bench) -> None:
    await bench.submit(stream=False)
    await bench.lose(FRESH)
    bench.double.answers[COMPLETION] = [whole("Twice")]
    await bench.run()
    assert [event for event, _ in await bench.entries(2)] == ["start", "done"]
    assert await bench.modes() == ["fresh", "restart"]
    assert (await bench.result())["text"] == "Twice"


@pytest.mark.parametrize("more", [THOUGHT, CALL])
async def test_a_text_that_is_not_all_there_is_begins_anew(bench: Bench, more: tuple[str, Any]) -> None:
    await bench.submit("chat_completion")
    await bench.lose(*ONCE_CHAT, more)
    bench.double.answers[CHAT] = [Answer([sse(FIRST_DELTA, chat({"content": "Twice"}), *chat_end())])]
    await bench.run()
    (_, first), (event, second), *tokens, (last, _) = await bench.entries(2)
    assert (first["mode"], event, second["mode"]) == ("continue", "start", "restart")
    assert (tokens, last) == ([ROLE, delta(content="Twice")], "done"), "the role is said anew, too"
    assert bench.asked() == [CHAT]
    assert bench.double.requests[0].body["messages"] == [USER]
    assert ((await bench.result())["text"], await bench.text()) == ("Twice", "Twice")


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        (CHAT, refused("Assistant response prefill is incompatible with enable_thinking.")),
        (CHAT, refused("Compute error.", "server_error", 500)),
        (TOKENIZE, refused("File Not Found", "not_found_error", 404)),
    ],
)
async def test_an_engine_that_refuses_to_go_on_has_the_job_begun_anew(bench: Bench, path: str, answer: Answer) -> None:
    await bench.submit("chat_completion")
    await bench.lose(*ONCE_CHAT)
    good = Answer([sse(FIRST_DELTA, chat({"content": "Twice"}), *chat_end())])
    bench.double.answers[CHAT] = [answer, good] if path == CHAT else [good]
    if path == TOKENIZE:
        bench.double.answers[TOKENIZE] = [answer]
    await bench.run()
    (_, first), (event, second), *tokens, (last, _) = await bench.entries(2)
    assert (first["mode"], event, second["mode"]) == ("continue", "start", "restart")
    assert (tokens, last) == ([ROLE, delta(content="Twice")], "done")
    assert bench.double.requests[-1].body["messages"] == [USER]
    assert bench.double.requests[-1].body["max_tokens"] == 20
    assert ((await bench.result())["text"], await bench.text()) == ("Twice", "Twice")
    assert bench.source.complaints == []


@topologies
async def test_a_job_that_began_anew_within_an_attempt_is_told_to_who_reads_its_text(
    bench: Bench, redis_url: str
) -> None:
    await bench.submit()
    await bench.lose(*ONCE)
    bench.double.answers[COMPLETION] = [refused("no"), whole("Twice")]
    await bench.run()
    async with Client(redis_url) as client:
        with anyio.fail_after(PATIENCE), pytest.raises(JobRestartedError):
            async for _ in client.text("a"):
                pass


async def test_an_engine_that_refuses_the_job_itself_too_has_the_last_word(bench: Bench) -> None:
    await bench.submit()
    await bench.lose(*ONCE)
    bench.double.answers[COMPLETION] = [refused("no prefill"), refused("no such thing")]
    await bench.run()
    *_, (event, error) = await bench.entries(2)
    assert await bench.modes() == ["fresh", "continue", "restart"]
    assert (event, error["code"], error["partial"]) == ("error", "bad_job", False)
    assert "no such thing" in (await bench.result())["error"]


async def test_without_a_text_a_refusal_is_the_jobs_end(bench: Bench) -> None:
    await bench.submit()
    await bench.lose(FRESH)
    bench.double.answers[COMPLETION] = [refused("no"), whole("Twice")]
    await bench.run()
    assert await bench.modes() == ["fresh", "continue"]
    assert ((await bench.result())["code"], bench.asked()) == ("bad_job", [COMPLETION])


MIDWAY: Final = {"error": {"message": "Compute error.", "type": "server_error"}}


async def test_an_engine_that_fails_once_it_has_gone_on_is_the_jobs_end(bench: Bench) -> None:
    await bench.submit()
    await bench.lose(*ONCE)
    bench.double.answers[COMPLETION] = [Answer([sse(piece(" a")), sse(MIDWAY)]), whole("Twice")]
    await bench.run()
    assert await bench.modes() == ["fresh", "continue"]
    *_, token, (event, error) = await bench.entries(2)
    assert (token, event, error["code"], error["partial"]) == (text(" a"), "error", "engine_error", True)
    assert await bench.text() == "Once upon a"
    assert bench.asked() == [TOKENIZE, COMPLETION]


async def test_the_role_alone_is_no_going_on(bench: Bench) -> None:
    await bench.submit("chat_completion", max_attempts=2)
    await bench.lose(*ONCE_CHAT)
    good = Answer([sse(FIRST_DELTA, chat({"content": "Twice"}), *chat_end())])
    bench.double.answers[CHAT] = [Answer([sse(FIRST_DELTA), sse(MIDWAY)]), good]
    await bench.run()
    assert await bench.modes() == ["fresh", "continue", "restart"]
    assert ((await bench.result())["text"], await bench.text()) == ("Twice", "Twice")


async def test_the_role_alone_is_no_part_of_the_text(bench: Bench) -> None:
    await bench.submit("chat_completion", max_attempts=1)
    bench.double.answers[CHAT] = [Answer([sse(FIRST_DELTA)], End.CUT)]
    await bench.run()
    *_, token, (event, error) = await bench.entries(1)
    assert (token, event, error["code"], error["partial"]) == (ROLE, "error", "engine_crashed", False)


async def test_a_text_that_fills_the_context_is_as_long_as_can_be(bench: Bench) -> None:
    await bench.submit()
    await bench.lose(*ONCE)
    bench.double.answers[COMPLETION] = [TOO_LONG]
    await bench.run()
    assert await bench.modes() == ["fresh", "continue"]
    *_, (event, end) = await bench.entries(2)
    assert (event, end["finish_reason"]) == ("done", "length")
    result = await bench.result()
    assert (result["text"], result["finish_reason"], await bench.text()) == ("Once upon", "length", "Once upon")
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}  # of nine tokens two are the text's
    assert (result["usage"], end["usage"]) == (usage, usage)


async def test_a_text_that_fills_the_context_of_a_server_without_numbers_is_counted_all_the_same(bench: Bench) -> None:
    await bench.submit()
    await bench.lose(*ONCE)
    bench.counted(3)
    bench.double.answers[COMPLETION] = [refused("Context size has been exceeded.", "server_error", 500)]
    await bench.run()
    result = await bench.result()
    assert (result["text"], result["finish_reason"]) == ("Once upon", "length")
    assert result["usage"] == {"prompt_tokens": None, "completion_tokens": 3, "total_tokens": None}


async def test_a_text_that_cannot_be_counted_goes_on_by_the_pieces_that_it_came_in(bench: Bench) -> None:
    await bench.submit(data={"max_tokens": 10})
    await bench.lose(*ONCE)
    bench.double.answers[TOKENIZE] = [document({"banana": 1})]
    bench.double.answers[COMPLETION] = [whole(" a")]
    await bench.run()
    assert (await bench.result())["text"] == "Once upon a"
    assert bench.double.requests[-1].body["n_predict"] == 8


async def test_a_chat_that_fills_the_context_has_its_message(bench: Bench) -> None:
    await bench.submit("chat_completion")
    await bench.lose(*ONCE_CHAT)
    bench.double.answers[CHAT] = [TOO_LONG]
    await bench.run()
    result = await bench.result()
    assert (result["message"], result["finish_reason"]) == ({"role": "assistant", "content": "Once upon"}, "length")


async def test_a_prompt_that_does_not_fit_is_an_error_and_no_length(bench: Bench) -> None:
    await bench.submit()
    await bench.lose(FRESH)
    bench.double.answers[COMPLETION] = [TOO_LONG]
    await bench.run()
    *_, (event, error) = await bench.entries(2)
    assert (event, error["code"], error["partial"]) == ("error", "context_exceeded", False)


async def test_a_context_that_is_used_up_on_the_way_is_an_error(bench: Bench) -> None:
    await bench.submit()
    await bench.lose(*ONCE)
    full = {"error": {"message": "Context size has been exceeded.", "type": "server_error"}}
    bench.double.answers[COMPLETION] = [Answer([sse(piece(" a")), sse(full)])]
    await bench.run()
    *_, (event, error) = await bench.entries(2)
    assert (event, error["code"], error["partial"]) == ("error", "context_exceeded", True)


@pytest.mark.parametrize(
    ("fields", "before", "pieces", "partial"),
    [
        ({}, ONCE, [], True),
        ({}, ONCE, [" a"], True),
        ({}, [FRESH], [], False),
        ({}, [FRESH], ["Once"], True),
        ({"on_crash": "restart"}, ONCE, [], False),
        ({"on_crash": "restart"}, ONCE, ["Twice"], True),
        ({"stream": False}, [FRESH], ["Once"], False),
    ],
    ids=["gone-on", "gone-on-further", "nothing", "begun", "void", "begun-anew", "not-streamed"],
)
async def test_an_error_says_whether_the_stream_holds_a_part_of_the_text(
    bench: Bench, fields: dict[str, Any], before: list[tuple[str, Any]], pieces: list[str], *, partial: bool
) -> None:
    await bench.submit(max_attempts=2, **fields)
    await bench.lose(*before)
    bench.double.answers[COMPLETION] = [cut(*pieces)]
    await bench.run()
    *_, (event, error) = await bench.entries(2)
    assert (event, error["code"], error["partial"]) == ("error", "engine_crashed", partial)
    assert bool(await bench.text()) is partial


@topologies
async def test_the_last_attempt_that_is_lost_ends_the_job_and_buries_it(bench: Bench) -> None:
    await bench.submit(max_attempts=2)
    bench.double.answers[COMPLETION] = [cut("Once"), cut(" upon")]
    await bench.run()
    assert (await bench.waits(), await bench.result(), await bench.letters()) == (True, {}, [])
    await bench.run()
    assert not await bench.waits()
    *_, (event, error) = await bench.entries(2)
    assert (event, error["code"], error["retryable"], error["partial"]) == ("error", "engine_crashed", True, True)
    assert await bench.result() == {"error": error["error"], "code": "engine_crashed"}
    (letter,) = await bench.letters()
    assert (letter["worker"], letter["payload"]) == ("w1", bench.payload.decode())
    assert letter["reason"] == f"{error['error']} It was the last of 2 attempts."
    assert bench.source.complaints == ["lost", "lost"]


async def test_an_attempt_that_was_handed_back_in_good_order_leaves_the_others_theirs(bench: Bench) -> None:
    await bench.submit(max_attempts=2)
    claim = await bench.claim()
    await write(bench.side, 1, *ONCE)
    await bench.side.claims.hand_back(claim.held, in_good_order=True)
    bench.double.answers[COMPLETION] = [cut(" a"), cut(" time")]
    await bench.run()
    assert (await bench.waits(), await bench.result()) == (True, {}), "one is left"
    await bench.run()
    assert await bench.modes() == ["fresh", "continue", "continue"]
    assert ((await bench.result())["code"], len(await bench.letters())) == ("engine_crashed", 1)


async def test_a_job_that_shall_fail_when_it_is_lost_is_not_buried(bench: Bench) -> None:
    await bench.submit(on_crash="fail", max_attempts=5)
    bench.double.answers[COMPLETION] = [cut("Once")]
    await bench.run()
    *_, (event, error) = await bench.entries(1)
    assert (event, error["code"], error["partial"]) == ("error", "engine_crashed", True)
    assert ((await bench.result())["code"], await bench.waits(), await bench.letters()) == ("engine_crashed", False, [])


@pytest.mark.parametrize("answer", [refused("no"), refused("out of memory", "server_error", 500)])
async def test_a_job_that_fails_for_its_own_sake_is_neither_repeated_nor_buried(bench: Bench, answer: Answer) -> None:
    await bench.submit(max_attempts=1)
    bench.double.answers[COMPLETION] = [answer]
    await bench.run()
    assert "error" in await bench.result()
    assert (await bench.waits(), await bench.letters(), bench.source.complaints) == (False, [], [])


async def test_an_engine_that_is_not_there_costs_no_attempt(bench: Bench) -> None:
    await bench.submit(max_attempts=1)
    bench.double.answers[COMPLETION] = [whole("Once")]
    bench.source.unavailable = EngineUnavailableError("llama-server was replaced.")
    for _ in range(3):
        await bench.run()
        assert (await bench.waits(), await bench.result()) == (True, {})
    bench.source.unavailable = None
    await bench.run()
    assert (await bench.result())["text"] == "Once"
    assert bench.source.complaints == ["lost"] * 3


SILENT: Final = Answer((), End.SILENT)


@asynccontextmanager
async def watched(bench: Bench, stall: float) -> AsyncGenerator[Executor, None]:
    """An executor that gives an engine so many seconds to say something."""
    bench.stall = stall
    executor = bench.executor()
    async with anyio.create_task_group() as group:
        group.start_soon(executor.watch)
        yield executor
        group.cancel_scope.cancel()


@pytest.mark.parametrize("path", [COMPLETION, TOKENIZE])
@pytest.mark.parametrize("answer", [SILENT, QUIET], ids=["silent", "quiet"])
async def test_an_engine_that_sends_nothing_is_left_and_told_on(bench: Bench, path: str, answer: Answer) -> None:
    await bench.submit(max_attempts=3)
    await bench.lose(*ONCE)
    bench.double.answers[path] = [answer]
    async with watched(bench, 0.6) as executor:
        await bench.run(executor)
        assert bench.source.complaints == ["sent nothing for 0.6 s"]
        await until(bench.double.left.is_set)
        assert await bench.waits()
    bench.counted(2)
    bench.double.answers[COMPLETION] = [whole(" time")]
    await bench.run()
    so_far = "Once upon a" if (path, answer) == (COMPLETION, QUIET) else "Once upon"
    assert bench.prompts()[-1] == f"hi{so_far}"
    assert ((await bench.result())["text"], await bench.text()) == (f"{so_far} time", f"{so_far} time")
    assert await bench.modes() == ["fresh", "continue", "continue"]


@pytest.mark.parametrize("on_crash", ["continue", "fail"])
async def test_the_last_attempt_on_an_engine_that_sends_nothing_ends_the_job(bench: Bench, on_crash: str) -> None:
    await bench.submit(max_attempts=1, on_crash=on_crash)
    bench.double.answers[COMPLETION] = [SILENT]
    async with watched(bench, 0.3) as executor:
        await bench.run(executor)
    *_, (event, error) = await bench.entries(1)
    assert (event, error["code"], error["retryable"], error["partial"]) == ("error", "engine_stalled", True, False)
    assert "STALL_SECONDS" in error["error"]
    assert (await bench.result())["code"] == "engine_stalled"
    reasons = [letter["reason"] for letter in await bench.letters()]
    assert len(reasons) == (0 if on_crash == "fail" else 1)
    assert all(reason.startswith(error["error"]) for reason in reasons)
    assert bench.source.complaints == ["sent nothing for 0.3 s"]


async def test_an_engine_is_not_blamed_for_a_redis_that_takes_nothing(
    bench: Bench, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "JOB_ENTRIES", 2)
    await bench.submit(max_attempts=1)
    bench.double.answers[COMPLETION] = [whole("a", "b", "c", "d", "e")]
    async with watched(bench, 0.8) as executor, anyio.create_task_group() as group:
        claim = await bench.claim()
        with topology.taking_no_writes():
            group.start_soon(executor.run, claim)
            await until(lambda: bench.asked() == [COMPLETION])
            await anyio.sleep(2)
            assert executor.claims() == [claim], "it is neither over nor stopped"
        with anyio.fail_after(PATIENCE):
            await executor.idle()
    assert (await bench.result())["text"] == "abcde"
    assert bench.source.complaints == []


async def test_a_run_that_goes_on_can_be_cancelled_and_keeps_all_of_the_text(bench: Bench) -> None:
    await bench.submit()
    await bench.lose(*ONCE)
    bench.double.answers[COMPLETION] = [QUIET]
    executor = bench.executor()
    async with anyio.create_task_group() as group:
        group.start_soon(bench.run, executor)
        with anyio.fail_after(PATIENCE):
            while await bench.text() != "Once upon a":
                await anyio.sleep(0.01)
        executor.cancel("b")
        executor.fence("a", 1)
        assert len(executor.claims()) == 1, "another job's, or another attempt's, end is not this one's"
        executor.cancel("a")
    result = await bench.result()
    assert (result["text"], result["finish_reason"], await bench.text()) == ("Once upon a", "cancelled", "Once upon a")


@topologies
async def test_a_run_that_is_fenced_says_and_stores_nothing_more(bench: Bench, commands: Any) -> None:
    await bench.submit()
    await bench.lose(*ONCE)
    bench.double.answers[COMPLETION] = [QUIET]
    executor = bench.executor()
    async with anyio.create_task_group() as group:
        group.start_soon(bench.run, executor)
        with anyio.fail_after(PATIENCE):
            while await bench.text() != "Once upon a":
                await anyio.sleep(0.01)
        await take_over(bench.side, commands, bench.payload)
        executor.fence("a", 2)
    assert [event for event, _ in await bench.entries(2)] == ["start", "token"]
    assert (await bench.result(), await bench.waits(), await bench.letters()) == ({}, False, [])
    assert await commands.hget("{result:a}:job", "owner") == b"w2", "what became of the job is the new owner's to say"


@topologies
@pytest.mark.parametrize("claim", [{"attempt": 7}, {"owner": "w2"}, {"owner": "w2", "slot": "text-0", "attempt": 3}])
async def test_a_run_whose_job_its_hash_gives_to_nobody_that_has_it_is_answered(
    bench: Bench, commands: Any, claim: dict[str, Any]
) -> None:
    await bench.submit()
    await bench.side.scripts.beat(bench.side.keys, "w2", 60, {"state": "test"})
    bench.double.answers[COMPLETION] = [QUIET]
    executor = bench.executor()
    async with anyio.create_task_group() as group:
        group.start_soon(bench.run, executor)
        with anyio.fail_after(PATIENCE):
            while await bench.text() != " a":
                await anyio.sleep(0.01)
        await commands.hset("{result:a}:job", mapping=claim)
        executor.fence("a", 1)
    result = await bench.result()
    assert (result["code"], "{result:a}:job" in result["error"]) == ("internal", True)
    assert [event for event, _ in await bench.entries(1)] == ["start", "token", "error"]


@topologies
async def test_an_answer_that_the_hash_gives_to_nobody_that_has_the_job_is_stored(bench: Bench, commands: Any) -> None:
    await bench.submit()
    bench.double.answers[COMPLETION] = [whole("Once")]
    claim = await bench.claim()
    await commands.hset("{result:a}:job", mapping={"attempt": "x", "owner": "w9", "finished_by": "w1:1"})
    await bench.executor().run(claim)
    assert (await bench.result())["text"] == "Once"
    assert [event for event, _ in await bench.entries(1)] == ["start", "token", "done"]
    assert not await commands.exists(bench.side.slot().key)


async def test_what_others_wrote_as_an_earlier_attempt_is_not_gone_on_from(bench: Bench, commands: Any) -> None:
    await commands.hset("{result:a}:job", mapping={"attempt": 1, "base": 0, "returned": 0})
    await commands.xadd("stream:a", {"event": "start", "data": '{"mode": "fresh"}'}, id="1-0")
    await commands.xadd("stream:a", {"event": "token", "data": '{"choices": [{"text": "INJECTED"}]}'}, id="1-1")
    bench.double.answers[COMPLETION] = [whole("Once")]
    await bench.submit()
    await bench.run()
    assert (await bench.result())["text"] == "Once"


async def test_a_worker_that_stops_hands_its_runs_back_and_they_go_on_elsewhere(bench: Bench) -> None:
    await bench.submit(max_attempts=1)
    bench.double.answers[COMPLETION] = [QUIET, whole(" time")]
    executor = bench.executor()
    async with anyio.create_task_group() as group:
        group.start_soon(bench.run, executor)
        with anyio.fail_after(PATIENCE):
            while await bench.text() != " a":
                await anyio.sleep(0.01)
        executor.stop(within=PATIENCE)
    assert (await bench.waits(), await bench.result()) == (True, {})
    await bench.run()
    assert (await bench.result())["text"] == " a time"
    assert await bench.modes() == ["fresh", "continue"]

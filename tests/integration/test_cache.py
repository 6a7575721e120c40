"""The prompt cache in the real Redis: whose answers are kept, how, and how they are given again."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from tests.doubles.engine import Answer, End, document, sse
from tests.support.generations import events_of
from tests.support.llama_chunks import CHAT, COMPLETION, FIRST_DELTA, TIMINGS, chat, chat_end, last_piece, piece
from tests.support.servers import Topology
from tests.support.text_bench import ONCE, ROLE, Bench, Source, cut, delta, refused, text, whole
from tests.support.waiting import until
from velesio_worker.core.settings import CacheMode
from velesio_worker.engines.base import Traits
from velesio_worker.engines.llama.engine import LlamaEngine, LlamaProperties
from velesio_worker.execution import cache as cache_module
from velesio_worker.execution.cache import CACHE_SECONDS, LARGEST, Kept, PromptCache, Replay
from velesio_worker.job_stream import JobStream
from velesio_worker.wire.events import Done
from velesio_worker.wire.jobs import Job, parse_job

pytestmark = pytest.mark.anyio

KEY: Final = "prompt_cache:" + 64 * "0"
ENTRIES: Final[list[dict[str, Any]]] = [
    {"choices": [{"text": "Gr", "index": 0, "finish_reason": None}]},
    {"choices": [{"text": "ü猫", "index": 0, "finish_reason": None, "completion_probabilities": [{"logprob": -0.25}]}]},
]
DONE: Final = Done({"text": "Grü猫", "finish_reason": "stop"}, "stop", {"total_tokens": 3}, {"predicted_ms": 0.1})
KEPT: Final = Kept("tiny", ENTRIES, DONE)
OFF, DETERMINISTIC, ALL = CacheMode.OFF, CacheMode.DETERMINISTIC, CacheMode.ALL


def job(type_: str = "completion", data: dict[str, Any] | None = None, **fields: Any) -> Job:
    whole_job = {"id": "a", "type": type_, "data": {"prompt": "hi"} if data is None else data}
    return parse_job(json.dumps(whole_job | fields).encode(), max_bytes=10_000)


def completion(cache: bool | None = None, **data: Any) -> Job:  # noqa: FBT001 (the job's own field)
    return job(data={"prompt": "hi"} | data, cache=cache)


@pytest.mark.parametrize(
    ("wish", "modes"),
    [
        (completion(), {ALL}),
        (completion(temperature=0), {DETERMINISTIC, ALL}),
        (completion(seed=0), {DETERMINISTIC, ALL}),
        (completion(seed=-1), {ALL}),
        (completion(seed=-1, temperature=0), {DETERMINISTIC, ALL}),
        (completion(temperature=0.01), {ALL}),
        (completion(cache=True), {OFF, DETERMINISTIC, ALL}),
        (completion(cache=True, temperature=0), {OFF, DETERMINISTIC, ALL}),
        (completion(cache=False), set[CacheMode]()),
        (completion(cache=False, seed=7), set[CacheMode]()),
        (job("chat_completion", {"messages": [{"role": "user", "content": "hi"}]}), {ALL}),
        (
            job("infill", {"input_prefix": "a", "input_suffix": "b", "temperature": 0}),
            {DETERMINISTIC, ALL},
        ),
        (job("embedding", {"input": "hi"}), {DETERMINISTIC, ALL}),
        (job("rerank", {"query": "hi", "documents": ["ho"]}), {DETERMINISTIC, ALL}),
        (job("embedding", {"input": "hi"}, cache=False), set[CacheMode]()),
        (job("tokenize", {"content": "hi"}, cache=True), set[CacheMode]()),
        (job("detokenize", {"tokens": [1]}, cache=True), set[CacheMode]()),
        (job("health_check", {}, cache=True), set[CacheMode]()),
        (job("txt2img", {"prompt": "a cat", "seed": 1}, cache=True), set[CacheMode]()),
    ],
)
def test_which_answers_are_kept_is_the_jobs_to_say_then_the_workers(wish: Job, modes: set[CacheMode]) -> None:
    nobody: Any = None
    assert {mode for mode in CacheMode if PromptCache(nobody, mode).wants(wish)} == modes


@pytest.mark.topologies
async def test_an_answer_is_found_as_it_was_kept_and_says_so(commands: Any) -> None:
    cache = PromptCache(commands, ALL)
    assert await cache.find(KEY) is None
    await cache.keep(KEY, KEPT)
    found = await cache.find(KEY)
    assert found is not None
    assert (found.model, found.tokens) == ("tiny", ENTRIES)
    assert found.done.result == DONE.result | {"cached": True}
    assert found.done.entry() == DONE.entry() | {"cached": True}
    assert "cached" not in DONE.result


async def test_an_answer_is_kept_for_two_hours(commands: Any) -> None:
    await PromptCache(commands, ALL).keep(KEY, KEPT)
    assert CACHE_SECONDS == 7200
    assert 7100 <= await commands.ttl(KEY) <= 7200


async def test_an_answer_that_is_too_large_is_not_kept(commands: Any) -> None:
    cache = PromptCache(commands, ALL)
    room = LARGEST - len(cache_bytes(""))
    await cache.keep(KEY, Kept("tiny", [], Done({"text": "x" * (room + 1)}, "stop")))
    assert not await commands.exists(KEY)
    await cache.keep(KEY, Kept("tiny", [], Done({"text": "x" * room}, "stop")))
    assert await commands.strlen(KEY) == LARGEST


def cache_bytes(content: str) -> bytes:
    """An answer without pieces as it stands in Redis."""
    done: dict[str, Any] = {
        "result": {"text": content},
        "finish_reason": "stop",
        "usage": None,
        "timings": None,
        "unsaid": [],
    }
    return json.dumps({"model": "tiny", "tokens": [], "done": done}, separators=(",", ":")).encode()


def damaged(**fields: Any) -> bytes:
    """An answer of which some fields are not what they should be; None leaves one out."""
    good = json.loads(cache_bytes("a"))
    for name, value in fields.items():
        part = good["done"] if name in good["done"] else good
        part[name] = value
        if value == "gone":
            del part[name]
    return json.dumps(good).encode()


async def test_what_the_damage_is_done_to_is_good_itself(commands: Any) -> None:
    await commands.set(KEY, damaged())
    assert await PromptCache(commands, ALL).find(KEY) is not None


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"{",
        b"\x00\xff",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"{}",
        cache_bytes("a")[:-3],
        *(damaged(**{name: "gone"}) for name in ("model", "tokens", "done", "result", "finish_reason")),
        damaged(model=7),
        damaged(tokens={}),
        damaged(tokens=[7]),
        damaged(tokens=[{}]),
        damaged(tokens=[{"choices": []}]),
        damaged(tokens=[{"choices": ["a"]}]),
        damaged(tokens=[{"choices": {"text": "a"}}]),
        damaged(done=[]),
        damaged(result="a"),
        damaged(finish_reason=None),
        damaged(usage=[1]),
        damaged(timings="fast"),
    ],
)
async def test_what_is_damaged_is_a_miss(commands: Any, stored: bytes) -> None:
    await commands.set(KEY, stored)
    assert await PromptCache(commands, ALL).find(KEY) is None


async def test_what_is_damaged_is_not_quoted_in_the_log(commands: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await commands.set(KEY, damaged(result="the ANSWER", tokens=[{"choices": ["the ANSWER"]}]))
    assert await PromptCache(commands, ALL).find(KEY) is None
    (line,) = [line for line in caplog.messages if "the prompt cache was not read" in line]
    assert "tokens" in line
    assert "ANSWER" not in line


async def test_what_is_no_string_is_a_miss_and_stays(commands: Any) -> None:
    await commands.lpush(KEY, "a")
    assert await PromptCache(commands, ALL).find(KEY) is None
    assert await commands.llen(KEY) == 1


class Broken:
    """A client whose commands fail."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def get(self, *_: Any) -> Any:
        raise self._error

    async def set(self, *_: Any, **__: Any) -> Any:
        raise self._error


class Mute:
    """A client whose commands never end."""

    async def get(self, *_: Any) -> Any:
        await anyio.sleep_forever()

    async def set(self, *_: Any, **__: Any) -> Any:
        await anyio.sleep_forever()


@pytest.mark.parametrize(
    "client",
    [Broken(RedisConnectionError("no")), Broken(RedisTimeoutError("slow")), Mute()],
    ids=["unreachable", "slow", "mute"],
)
async def test_trouble_with_redis_is_a_miss(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "REPLY_SECONDS", 0.1)
    cache = PromptCache(client, ALL)
    with anyio.fail_after(60):
        await cache.keep(KEY, KEPT)
        assert await cache.find(KEY) is None


async def test_a_redis_that_takes_no_writes_keeps_nothing(commands: Any, topology: Topology) -> None:
    cache = PromptCache(commands, ALL)
    with topology.taking_no_writes():
        await cache.keep(KEY, KEPT)
        assert await cache.find(KEY) is None


# From here on: what the executor makes of it.


@pytest.fixture
def caching(bench: Bench) -> Bench:
    bench.cache_mode = DETERMINISTIC
    return bench


async def again(bench: Bench, commands: Any, type_: str = "completion", **fields: Any) -> None:
    """Submit a job like the one before, under its id, and run it."""
    await commands.delete("result:a", "stream:a", "{result:a}:job")
    await bench.submit(type_, **fields)
    await bench.run()


async def told(bench: Bench) -> list[tuple[str, Any]]:
    """What the stream holds between its start and its end."""
    return [(event, data) for event, data in await bench.entries(1) if event not in {"start", "done"}]


STREAMS: Final = [(True, True), (True, False), (False, True), (False, False)]


@pytest.mark.topologies
async def test_a_second_job_is_answered_from_the_cache(caching: Bench, commands: Any) -> None:
    caching.double.answers[COMPLETION] = [whole("Gr", "ü猫")]
    await caching.submit(data={"temperature": 0})
    await caching.run()
    first, first_entries = await caching.result(), await told(caching)
    await again(caching, commands, data={"temperature": 0})
    assert caching.asked() == [COMPLETION], "the engine ran once"
    assert await told(caching) == first_entries == [text("Gr"), text("ü猫")]
    assert await caching.result() == first | {"cached": True}
    (_, begun), *_, (event, end) = await caching.entries(1)
    assert (begun["mode"], begun["model"], begun["attempt"]) == ("fresh", "tiny", 1)
    assert (event, end["cached"], end["usage"]) == ("done", True, first["usage"])
    assert caching.source.leased == [None], "nobody waits for an engine that is not needed"


@pytest.mark.parametrize(("first", "second"), STREAMS)
async def test_whether_a_job_is_streamed_is_its_own_affair(
    caching: Bench, commands: Any, *, first: bool, second: bool
) -> None:
    caching.double.answers[CHAT] = [
        Answer([sse(FIRST_DELTA, chat({"content": "H"}), chat({"content": "i"}), *chat_end())])
    ]
    await caching.submit("chat_completion", stream=first, data={"seed": 7})
    await caching.run()
    result = await caching.result()
    await again(caching, commands, "chat_completion", stream=second, data={"seed": 7})
    assert caching.asked() == [CHAT]
    assert await caching.result() == result | {"cached": True}
    assert await told(caching) == ([ROLE, delta(content="H"), delta(content="i")] if second else [])


async def test_an_answer_without_pieces_is_given_again(caching: Bench, commands: Any) -> None:
    caching.double.answers["/v1/embeddings"] = [document({"data": [{"embedding": [0.1, -1e-07], "index": 0}]})]
    for number in range(2):
        await commands.delete("result:a", "stream:a", "{result:a}:job")
        await caching.push("embedding", {"input": "hi"})
        await caching.run()
        cached = {"cached": True} if number else {}
        assert await caching.result() == {"data": [{"embedding": [0.1, -1e-07], "index": 0}]} | cached
    assert caching.asked() == ["/v1/embeddings"]


@pytest.mark.parametrize(
    ("mode", "one", "other"),
    [
        (OFF, {"data": {"temperature": 0}}, {"data": {"temperature": 0}}),
        (DETERMINISTIC, {}, {}),
        (DETERMINISTIC, {"data": {"seed": 1}}, {"data": {"seed": 2}}),
        (DETERMINISTIC, {"data": {"seed": 1}, "cache": False}, {"data": {"seed": 1}}),
        (DETERMINISTIC, {"data": {"seed": 1}}, {"data": {"seed": 1}, "cache": False}),
        (ALL, {}, {"data": {"model": "other"}}),
    ],
)
async def test_a_job_that_is_not_the_same_or_must_not_be_cached_runs(
    caching: Bench, commands: Any, mode: CacheMode, one: dict[str, Any], other: dict[str, Any]
) -> None:
    caching.cache_mode = mode
    caching.double.answers[COMPLETION] = [whole("Once"), whole("Twice")]
    await caching.submit(**one)
    await caching.run()
    await again(caching, commands, **other)
    assert (await caching.result())["text"] == "Twice"
    assert "cached" not in await caching.result()


async def test_a_job_that_wants_it_is_cached_though_the_worker_keeps_nothing(caching: Bench, commands: Any) -> None:
    caching.cache_mode = OFF
    caching.double.answers[COMPLETION] = [whole("Once"), whole("Twice")]
    await caching.submit(cache=True)
    await caching.run()
    await again(caching, commands, cache=True)
    assert (await caching.result())["text"] == "Once"


async def test_nothing_is_cached_while_it_is_not_known_which_model_it_is(caching: Bench, commands: Any) -> None:
    caching.source.known_as = None
    caching.double.answers[COMPLETION] = [whole("Once"), whole("Twice")]
    await caching.submit(data={"seed": 1})
    await caching.run()
    await again(caching, commands, data={"seed": 1})
    assert (await caching.result())["text"] == "Twice"
    assert not await commands.keys("prompt_cache:*")


@pytest.mark.parametrize("answer", [refused("no"), cut("Once")])
async def test_a_failure_is_not_kept(caching: Bench, commands: Any, answer: Answer) -> None:
    caching.double.answers[COMPLETION] = [answer]
    await caching.submit(data={"seed": 1}, max_attempts=1)
    await caching.run()
    assert "error" in await caching.result()
    assert not await commands.keys("prompt_cache:*")


async def test_half_an_answer_is_not_kept(caching: Bench, commands: Any) -> None:
    caching.double.answers[COMPLETION] = [Answer([sse(piece("Once"))], End.OPEN)]
    executor = caching.executor()
    await caching.submit(data={"seed": 1})
    async with anyio.create_task_group() as group:
        group.start_soon(caching.run, executor)
        await until(lambda: caching.double.requests)
        executor.cancel("a")
    assert (await caching.result())["finish_reason"] == "cancelled"
    assert not await commands.keys("prompt_cache:*")


async def test_a_text_of_two_attempts_is_neither_kept_nor_looked_up(caching: Bench, commands: Any) -> None:
    await caching.submit(data={"seed": 1})
    await caching.lose(*ONCE)
    caching.double.answers[COMPLETION] = [whole(" a")]
    await caching.run()
    assert (await caching.result())["text"] == "Once upon a"
    assert not await commands.keys("prompt_cache:*")


async def test_a_job_that_was_interrupted_goes_on_though_the_cache_knows_better(caching: Bench, commands: Any) -> None:
    caching.double.answers[COMPLETION] = [whole("Twice"), whole(" a")]
    await caching.submit(data={"seed": 1})
    await caching.run()
    await commands.delete("result:a", "stream:a", "{result:a}:job")
    await caching.submit(data={"seed": 1})
    await caching.lose(*ONCE)
    await caching.run()
    assert (await caching.result())["text"] == "Once upon a"


async def test_a_damaged_answer_costs_the_time_to_make_it_again_and_no_more(caching: Bench, commands: Any) -> None:
    caching.double.answers[COMPLETION] = [whole("Once"), whole("Twice")]
    await caching.submit(data={"seed": 1})
    await caching.run()
    (key,) = await commands.keys("prompt_cache:*")
    await commands.set(key, damaged(tokens=[{"choices": []}]))
    await again(caching, commands, data={"seed": 1})
    assert (await caching.result())["text"] == "Twice"
    assert 0 < await commands.ttl(key) <= CACHE_SECONDS, "the damaged one was replaced"


@pytest.mark.parametrize(("pieces", "kept"), [(10, True), (10_000, False)])
async def test_an_answer_with_too_many_pieces_is_not_kept(
    caching: Bench, commands: Any, pieces: int, *, kept: bool
) -> None:
    long = b"".join([sse(piece("x" * 60))] * pieces)
    caching.double.answers[COMPLETION] = [Answer([long, sse(last_piece())])]
    await caching.submit(data={"seed": 1, "max_tokens": pieces}, stream=False)
    await caching.run()
    assert len((await caching.result())["text"]) == 60 * pieces
    assert bool(await commands.keys("prompt_cache:*")) is kept


async def test_the_timings_of_a_cached_answer_are_those_of_the_run_that_made_it(caching: Bench, commands: Any) -> None:
    caching.double.answers[COMPLETION] = [whole("Once")]
    for _ in range(2):
        await again(caching, commands, data={"seed": 1})
    assert (await caching.result())["timings"] == TIMINGS


CUT_SHORT: Final = [
    ("completion", [piece("Gr"), piece("üß")]),
    ("chat_completion", [FIRST_DELTA, chat({"content": "Gr"}), chat({"content": "üß"})]),
]


@pytest.fixture
def moments(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[JobStream], Awaitable[None]]]:
    """What happens while a run waits for room in its stream, once each; with an entry to a batch of a replay."""
    planned: list[Callable[[JobStream], Awaitable[None]]] = []
    room = JobStream.room

    async def planned_room(stream: JobStream) -> None:
        if planned:
            await planned.pop(0)(stream)
        await room(stream)

    monkeypatch.setattr(JobStream, "room", planned_room)
    monkeypatch.setattr(cache_module, "REPLAY_PIECES", 1, raising=False)
    return planned


async def flushed(stream: JobStream) -> None:
    await stream.flushed()


@pytest.mark.parametrize(("type_", "chunks"), CUT_SHORT, ids=["completion", "chat"])
async def test_a_cancel_in_the_middle_of_a_cached_answer_keeps_what_was_published(
    caching: Bench,
    commands: Any,
    moments: list[Callable[[JobStream], Awaitable[None]]],
    type_: str,
    chunks: list[dict[str, Any]],
) -> None:
    ends = [last_piece()] if type_ == "completion" else chat_end()
    caching.double.answers[COMPLETION if type_ == "completion" else CHAT] = [Answer([sse(*chunks, *ends)])]
    await again(caching, commands, type_, data={"seed": 1})
    executor = caching.executor()

    async def cancelled(_: JobStream) -> None:
        executor.cancel("a")
        await anyio.sleep_forever()

    await commands.delete("result:a", "stream:a", "{result:a}:job")
    await caching.submit(type_, data={"seed": 1})
    moments += [flushed] * (len(chunks) - 2) + [cancelled]
    await caching.run(executor)
    result = await caching.result()
    assert (result["text"], await caching.text()) == ("Gr", "Gr")
    assert (result["finish_reason"], result["usage"], result["timings"]) == ("cancelled", None, None)
    assert result.get("message") == ({"role": "assistant", "content": "Gr"} if type_ == "chat_completion" else None)


async def test_an_embedding_that_is_cut_short_in_the_cache_has_nothing() -> None:
    replay = Replay(Kept("tiny", [], Done({"data": [{"embedding": [0.5]}]}, "stop")))
    assert replay.cut_short().result == {"finish_reason": "cancelled"}
    assert [batch async for batch in events_of(replay)][-1] == [Done({"data": [{"embedding": [0.5]}]}, "stop")]


async def test_a_stream_that_is_deleted_in_the_middle_of_a_cached_answer_ends_the_job(
    caching: Bench, commands: Any, moments: list[Callable[[JobStream], Awaitable[None]]]
) -> None:
    caching.double.answers[COMPLETION] = [whole("a", "b", "c", "d")]
    await again(caching, commands, data={"seed": 1})

    async def deleted(stream: JobStream) -> None:
        await stream.flushed()
        await commands.delete("stream:a")

    await commands.delete("result:a", "stream:a", "{result:a}:job")
    await caching.submit(data={"seed": 1})
    moments += [deleted, flushed]
    await caching.run()
    assert not await caching.waits(), "a job that nobody wants any more is not run on the GPU"
    assert caching.asked() == [COMPLETION]
    result = await caching.result()
    assert result["finish_reason"] == "cancelled"
    assert "abcd".startswith(result["text"])


async def test_an_answer_is_kept_with_the_name_of_the_model_that_made_it(caching: Bench, commands: Any) -> None:
    class Switching(Source):
        """The default model is switched while the job runs."""

        @asynccontextmanager
        async def ensure(self, *args: Any, **options: Any) -> AsyncGenerator[Any, None]:
            async with super().ensure(*args, **options) as engine:
                yield engine
            self.model = "banana"

    caching.source = Switching(LlamaEngine(caching.http, LlamaProperties("tiny", 2048, 2)))
    caching.double.answers[COMPLETION] = [whole("Once")]
    await caching.submit(data={"seed": 1})
    await caching.run()
    (key,) = await commands.keys("prompt_cache:*")
    assert json.loads(await commands.get(key))["model"] == "tiny"


@pytest.mark.parametrize(
    "broken",
    [
        {"text": 7},
        {"text": ["a"]},
        {"delta": []},
        {"delta": {"content": 7}},
        {"delta": {"tool_calls": {}}},
        {"delta": {"tool_calls": [{"index": "a"}]}},
        {"delta": {"tool_calls": [{"function": 1}]}},
    ],
)
async def test_pieces_that_no_engine_sends_are_a_miss(commands: Any, broken: dict[str, Any]) -> None:
    await commands.set(KEY, damaged(tokens=[{"choices": [broken]}]))
    assert await PromptCache(commands, ALL).find(KEY) is None


async def test_an_answer_of_an_engine_that_was_exchanged_meanwhile_is_not_kept(caching: Bench, commands: Any) -> None:
    class Exchanged(Source):
        """Somebody else puts another in the engine's place while the job runs."""

        traits = Traits(foreign=True)

        async def identity(self, model: str | None) -> str | None:
            return "beta" if len(caching.double.requests) > exchanged_after else await super().identity(model)

    caching.source = Exchanged(LlamaEngine(caching.http, LlamaProperties("tiny", 2048, 2)))
    caching.double.answers[COMPLETION] = [whole("Once")]
    exchanged_after = 0
    await caching.submit(data={"seed": 1})
    await caching.run()
    assert (await caching.result())["text"] == "Once"
    assert await commands.keys("prompt_cache:*") == []
    exchanged_after = 2
    await commands.delete("result:a", "stream:a", "{result:a}:job")
    await caching.submit(data={"seed": 1})
    await caching.run()
    assert len(await commands.keys("prompt_cache:*")) == 1, "one that stayed the same is believed"

"""Subscribers read everything once, from any point, and never hang on a job that is over."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import pytest

from tests.support.redis_side import Side
from velesio_worker.client import Client, JobRestartedError, subscriber
from velesio_worker.queue.connection import connect
from velesio_worker.queue.outage import Outage
from velesio_worker.wire.errors import BadJobError, ContextExceededError, JobError
from velesio_worker.wire.events import StreamEvent

pytestmark = [pytest.mark.anyio, pytest.mark.topologies]


def token(text: str) -> bytes:
    return json.dumps({"choices": [{"text": text, "index": 0, "finish_reason": None}]}).encode()


DONE = b'{"finish_reason":"stop","usage":null,"timings":null}'


async def write(side: Side, *entries: tuple[str, bytes], job_id: str = "a", attempt: int = 1) -> None:
    stream = side.publisher.open(job_id, attempt)
    for event, data in entries:
        stream.put(event, data)
    await stream.flushed()


async def collect(client: Client, after: str = "0-0") -> list[StreamEvent]:
    with anyio.fail_after(60):
        return [event async for event in client.events("a", after)]


async def test_a_subscriber_that_comes_first_waits_and_reads_all(side: Side, redis_url: str) -> None:
    events: list[StreamEvent] = []
    async with Client(redis_url) as client, anyio.create_task_group() as group:

        async def read() -> None:
            events.extend(await collect(client))

        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        await write(side, ("start", b"{}"), ("token", token("a")), ("token", token("b")), ("done", DONE))
    assert [(event.id, event.event) for event in events] == [
        ("1-0", "start"),
        ("1-1", "token"),
        ("1-2", "token"),
        ("1-3", "done"),
    ]


async def test_any_entry_is_a_point_to_resume_from(side: Side, redis_url: str) -> None:
    await write(side, ("start", b"{}"), ("token", token("a")), ("token", token("b")), ("done", DONE))
    async with Client(redis_url) as client:
        whole = await collect(client)
        for position, event in enumerate(whole):
            assert await collect(client, event.id) == whole[position + 1 :]


async def test_a_stream_that_has_expired_ends_with_what_the_result_says(commands: Any, redis_url: str) -> None:
    await commands.set("result:a", '{"text": "x", "finish_reason": "length", "usage": {"total_tokens": 3}}')
    async with Client(redis_url) as client:
        (event,) = await collect(client, "1-7")
        assert (event.id, event.event, event.data["finish_reason"]) == ("1-8", "done", "length")
        assert event.data["usage"] == {"total_tokens": 3}
        await commands.set("result:a", '{"error": "too long", "code": "context_exceeded"}')
        (event,) = await collect(client)
        assert (event.event, event.data["code"]) == ("error", "context_exceeded")


async def test_a_job_that_runs_while_it_is_looked_whether_it_is_over_is_read_whole(
    side: Side, commands: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = 0

    async def runs_between(found: Callable[..., Awaitable[Any]], *asked: Any) -> Any:
        nonlocal looked
        looked += 1
        answer = await found(*asked)
        if looked == 1:
            await write(side, ("start", b"{}"), ("token", token("a")), ("done", DONE))
            await commands.set("result:a", '{"text": "a"}')
        return answer

    async with connect(redis_url, name="test") as redis:
        for place, name in ((redis, "get"), (subscriber, "last_entry")):
            found: Callable[..., Awaitable[Any]] = getattr(place, name)
            monkeypatch.setattr(place, name, partial(runs_between, found))
        with anyio.fail_after(60):
            events = [event async for event in subscriber.subscribe(redis, "a", outage=Outage(redis_url))]
    assert looked
    assert [event.event for event in events] == ["start", "token", "done"]


async def test_text_yields_pieces_and_raises_the_jobs_error(side: Side, redis_url: str) -> None:
    error = b'{"error":"too long","code":"context_exceeded","retryable":false,"partial":true}'
    await write(side, ("start", b"{}"), ("token", token("a")), ("token", token("b")), ("error", error))
    pieces: list[str] = []
    async with Client(redis_url) as client:
        with pytest.raises(ContextExceededError, match="too long"):  # noqa: PT012 (raised by the loop itself)
            async for piece in client.text("a"):
                pieces.append(piece)  # noqa: PERF401 (what came before the error counts)
    assert pieces == ["a", "b"]


async def test_text_of_a_job_that_is_not_streamed_is_its_result(side: Side, commands: Any, redis_url: str) -> None:
    await commands.set("result:a", '{"text": "whole"}')
    await write(side, ("start", b"{}"), ("done", DONE))
    async with Client(redis_url) as client:
        assert [piece async for piece in client.text("a")] == ["whole"]


async def test_text_says_that_a_job_began_again(side: Side, redis_url: str) -> None:
    await write(side, ("start", b'{"mode": "fresh"}'), ("token", token("a")))
    await write(side, ("start", b'{"mode": "restart"}'), ("token", token("b")), ("done", DONE), attempt=2)
    async with Client(redis_url) as client:
        with pytest.raises(JobRestartedError):
            async for _ in client.text("a"):
                pass


async def test_a_result_is_waited_for_and_a_wait_can_end(side: Side, commands: Any, redis_url: str) -> None:
    async with Client(redis_url) as client:
        with pytest.raises(TimeoutError):
            await client.result("a", timeout=0.1)
        async with anyio.create_task_group() as group:

            async def finish() -> None:
                await commands.set("result:a", '{"text": "x"}')
                await write(side, ("start", b"{}"), ("done", DONE))

            group.start_soon(finish)
            assert await client.result("a", timeout=60) == {"text": "x"}
        await commands.set("result:a", '{"error": "no", "code": "bad_job"}')
        with pytest.raises(BadJobError):
            await client.result("a")


async def test_submitting_pushes_the_protocols_job(commands: Any, redis_url: str) -> None:
    before = time.time()
    async with Client(redis_url, queue_name="q") as client:
        job_id = await client.submit("completion", {"prompt": "hi"}, timeout=3, worker="w")
        with pytest.raises(BadJobError):
            await client.submit("completion", {}, job_id="not an id")
    (payload,) = await commands.lrange("q", 0, -1)
    job = json.loads(payload)
    assert before - 0.001 <= job.pop("created_at") <= time.time() + 0.001
    assert job == {
        "id": job_id,
        "type": "completion",
        "data": {"prompt": "hi"},
        "timeout": 3,
        "worker": "w",
    }


async def test_cancelling_sets_the_flag_and_rings_the_bell(commands: Any, redis_url: str) -> None:
    async with Client(redis_url) as client:
        await client.cancel("a")
        assert await commands.get("{result:a}:cancel") == b"1"
        assert not await commands.exists("{result:a}:job"), "which is the workers' alone"
        assert [fields for _, fields in await commands.xrange("{llama_queue}:control")] == [{b"cancel": b"a"}]


@pytest.mark.parametrize("stored", [b"no JSON", b"[1]", b"", b'{"error": 7}', b'{"finish_reason": []}', b"\xff"])
async def test_a_result_that_no_worker_wrote_is_an_error_to_its_reader(
    commands: Any, redis_url: str, stored: bytes
) -> None:
    await commands.set("result:a", stored)
    async with Client(redis_url) as client:
        (last,) = [event async for event in client.events("a")]
        assert (last.event, last.data["code"]) == ("error", "internal")
        with pytest.raises(JobError, match="none that a worker wrote"):
            await client.result("a")
